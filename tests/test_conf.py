"""``settings.GIFTCARDS``: which values are refused, with which texts, and what attributes give."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import astuple, is_dataclass
from decimal import Decimal
from itertools import product
from typing import Any

import pytest
from django.utils.encoding import force_bytes

from giftcards.conf import (
    LONGEST_TASK,
    LOOP_SECONDS,
    REQUEST_TIMEOUT,
    ReorderRule,
    SettingProblem,
    SettingsDict,
    conf,
    problems,
    require,
)
from giftcards.delivery.conf import conf as delivery_conf
from giftcards.exceptions import ConfigurationError
from tests.stage import ROOT

KEY = "sk-CANARY-ca11ab1e"
# The keys are the same in each run because they are in the names of tests. They do not protect
# anything.
KEYS = tuple(base64.urlsafe_b64encode(bytes(range(n, n + 32))).decode() for n in range(200))
OLD, NEW = KEYS[7], KEYS[77]
MINIMUM: dict[str, Any] = {"API_KEY": KEY, "ENCRYPTION_KEYS": [NEW, OLD]}

NUMBERS = {
    "POLL_INTERVAL": (0.1, 60, "a number from 0.1 to 60"),
    "POLL_TIMEOUT": (1, 86_400, "a number from 1 to 86400"),
    "LATE_WATCH_HOURS": (0, 8_760, "a number from 0 to 8760"),
    "REQUESTS_PER_MINUTE": (1, 6_000, "a whole number from 1 to 6000"),
    "SEND_TIMEOUT": (1, 604_800, "a number from 1 to 604800"),
    "CATALOGUE_INTERVAL": (0, 604_800, "a number from 0 to 604800"),
    "REFUND_DAYS": (1, 365, "a whole number from 1 to 365"),
    "REVEALS_PER_HOUR": (1, 10_000, "a whole number from 1 to 10000"),
    "CODES_KEPT_DAYS": (1, 36_500, "a number from 1 to 36500"),
}
WHOLE = {name for name, (*_, wanted) in NUMBERS.items() if "whole" in wanted}
PASTE = "Paste the key from the provider's dashboard as one line, without spaces."
HOST_ONLY = "Use only a scheme and a host, for example https://api.oneclickdz.com."
GENERATE = "Run `manage.py giftcards_generate_key`, and add the printed key to the list."
CORRECT = "Correct the value, or remove the setting to use the default."
URL_NAME = "Use the name of a URL, for example 'staff:prove'."
RULE = "Use a dotted path, for example 'shop.rules.review'."


@pytest.fixture(autouse=True)
def _shop(settings: Any) -> None:
    settings.GIFTCARDS = MINIMUM


def change(settings: Any, **values: Any) -> None:
    settings.GIFTCARDS = MINIMUM | values


def assert_refused(setting: str, kind: str, message: str, hint: str) -> None:
    """Assert that only this is wrong, and that reading the setting raises the same sentence."""
    assert list(problems()) == [SettingProblem(setting, kind, message, hint)]
    sentence = f"{message} {hint}"
    with pytest.raises(ConfigurationError) as refused:
        require("REFUND_DAYS", setting)
    assert str(refused.value) == sentence
    with pytest.raises(ConfigurationError) as refused:
        getattr(conf, setting.lower())
    assert str(refused.value) == sentence
    for other in conf.declared:
        if other != setting:
            getattr(conf, other.lower())
            require(other)


# Valid settings


def test_settings_that_are_not_given_have_their_defaults() -> None:
    assert list(problems()) == []
    assert {key.lower(): getattr(conf, key.lower()) for key in conf.declared} == {
        "api_key": KEY,
        "base_url": "https://api.oneclickdz.com",
        "encryption_keys": (NEW, OLD),
        "poll_interval": 5.0,
        "poll_timeout": 300.0,
        "late_watch_hours": 72.0,
        "requests_per_minute": 60,
        "send_timeout": 3600.0,
        "send_reference": False,
        "review_order": None,
        "queue_task": None,
        "reorder_missing": None,
        "catalogue_interval": 3600.0,
        "pricing": None,
        "low_balance": None,
        "reauthenticate": None,
        "password_backends": (),
        "reveals_per_hour": 30,
        "refund_days": None,
        "codes_kept_days": None,
        "metrics_token": None,
    }
    require(*conf.declared)


@pytest.mark.parametrize(
    ("app_conf", "given"), [(conf, MINIMUM), (delivery_conf, {})], ids=["giftcards", "delivery"]
)
def test_none_written_out_means_what_a_default_of_none_means(
    settings: Any, app_conf: SettingsDict, given: dict[str, Any]
) -> None:
    optional = [
        key
        for key, setting in app_conf.declared.items()
        if setting.default is None and not setting.required
    ]
    assert optional
    setattr(settings, app_conf.dict_name, given)
    defaults = [getattr(app_conf, key.lower()) for key in optional]
    setattr(settings, app_conf.dict_name, {**given, **dict.fromkeys(optional)})
    assert list(app_conf.problems()) == []
    assert [getattr(app_conf, key.lower()) for key in optional] == defaults


def test_settings_are_read_each_time_they_are_used(settings: Any) -> None:
    change(settings, POLL_INTERVAL=2, REFUND_DAYS=3, BASE_URL="https://provider.example/")
    assert conf.poll_interval == 2.0
    assert conf.refund_days == 3
    assert conf.base_url == "https://provider.example"
    settings.GIFTCARDS = MINIMUM
    assert conf.poll_interval == 5.0


@pytest.mark.parametrize(
    ("name", "value", "change_it", "expected"),
    [
        ("ENCRYPTION_KEYS", [NEW], lambda keys: keys.append(OLD), (NEW, OLD)),
        ("ENCRYPTION_KEYS", [NEW], lambda keys: keys.__setitem__(0, OLD), (OLD,)),
        ("REORDER_MISSING", {"times": 2, "hours": 6}, lambda it: it.update(times=3), (3, 6.0)),
    ],
)
def test_a_change_within_a_value_is_noticed(
    settings: Any, name: str, value: Any, change_it: Callable[[Any], None], expected: Any
) -> None:
    change(settings, **{name: value})
    before = getattr(conf, name.lower())
    assert getattr(conf, name.lower()) is before
    change_it(value)
    after = getattr(conf, name.lower())
    assert (astuple(after) if is_dataclass(after) else after) == expected


def test_the_longest_task_is_the_loop_and_one_order_half_sent() -> None:
    assert LONGEST_TASK == LOOP_SECONDS + 2 * REQUEST_TIMEOUT + 10


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_in_their_range_are_accepted_and_converted_to_one_type(
    settings: Any, name: str
) -> None:
    for value in (*NUMBERS[name][:2], 7):
        change(settings, **{name: value})
        read = getattr(conf, name.lower())
        assert (list(problems()), read) == ([], value)
        assert type(read) is (int if name in WHOLE else float)


@pytest.mark.parametrize(
    "url",
    [
        "https://api.oneclickdz.com", "https://api.oneclickdz.com/",
        "HTTPS://API.ONECLICKDZ.COM:8443", "https://[2001:db8::1]:8443", "https://192.0.2.7",
        "http://localhost", "http://LOCALHOST:8378/", "http://127.0.0.1:8378", "http://127.8.9.10",
        "http://[::1]:8378",
    ],
)  # fmt: skip
def test_valid_base_urls_are_accepted(settings: Any, url: str) -> None:
    change(settings, BASE_URL=url)
    assert list(problems()) == []
    assert conf.base_url == url.rstrip("/")


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("ENCRYPTION_KEYS", KEYS, KEYS),
        ("LOW_BALANCE", 1, Decimal(1)),
        *(("LOW_BALANCE", it, it) for it in (Decimal("0.01"), Decimal("999999999999.99"))),
        *((name, "shop.rules.it", "shop.rules.it") for name in ("PRICING", "REVIEW_ORDER")),
        ("REAUTHENTICATE", "staff:prove", "staff:prove"),
        ("PASSWORD_BACKENDS", ["shop.ldap.Backend"], ("shop.ldap.Backend",)),
        ("SEND_REFERENCE", True, True),
        ("REORDER_MISSING", {"times": 2, "hours": 6}, ReorderRule(2, 6.0)),
    ],
    ids=str,
)
def test_a_valid_value_is_accepted_and_read(
    settings: Any, name: str, value: Any, read: Any
) -> None:
    change(settings, **{name: value})
    assert list(problems()) == []
    assert getattr(conf, name.lower()) == read
    assert type(getattr(conf, name.lower())) is type(read)


# Invalid settings


@pytest.mark.parametrize(
    ("value", "kind", "complaint"),
    [
        ({"margin_percent": 10}, "type", "must be a string."),
        (10, "type", "must be a string."),
        ("price", "path", "is not a dotted path."),
    ],
)
def test_a_wrong_rule_for_prices_is_refused(
    settings: Any, value: Any, kind: str, complaint: str
) -> None:
    change(settings, PRICING=value)
    hint = "Use a dotted path, for example 'shop.prices.price'."
    assert_refused("PRICING", kind, f"GIFTCARDS['PRICING'] {complaint}", hint)


NO_AMOUNT = "an amount: a whole number or a Decimal"
ABOVE_0 = "an amount greater than 0 and at most 999999999999.99"


@pytest.mark.parametrize(
    ("value", "kind", "wanted"),
    [
        *product(["5000", 5000.0, True, float("nan")], ["type"], [NO_AMOUNT]),
        *product([0, -1, 10**12, *map(Decimal, ("NaN", "sNaN", "inf"))], ["range"], [ABOVE_0]),
    ],
)
def test_a_low_balance_that_is_no_amount_or_out_of_range_is_refused(
    settings: Any, value: Any, kind: str, wanted: str
) -> None:
    change(settings, LOW_BALANCE=value)
    assert_refused("LOW_BALANCE", kind, f"GIFTCARDS['LOW_BALANCE'] must be {wanted}.", CORRECT)


@pytest.mark.parametrize("blank", [None, "", (), []])
@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("API_KEY", "Set it to the key from the provider's dashboard."),
        ("ENCRYPTION_KEYS", GENERATE),
    ],
)
def test_missing_settings_are_named(settings: Any, name: str, hint: str, blank: Any) -> None:
    message = f"GIFTCARDS[{name!r}] is not set."
    change(settings, **{name: blank})
    assert_refused(name, f"no_{name.lower()}", message, hint)
    settings.GIFTCARDS = {key: value for key, value in MINIMUM.items() if key != name}
    assert_refused(name, f"no_{name.lower()}", message, hint)


def test_without_giftcards_settings_both_required_ones_are_missing(settings: Any) -> None:
    del settings.GIFTCARDS
    assert [problem.kind for problem in problems()] == ["no_api_key", "no_encryption_keys"]
    assert conf.poll_interval == 5.0


@pytest.mark.parametrize("value", [None, [], [("API_KEY", KEY)], "", KEY, 0])
def test_giftcards_settings_that_are_not_a_dict_are_refused(settings: Any, value: Any) -> None:
    settings.GIFTCARDS = value
    message, hint = "GIFTCARDS must be a dict.", "See the settings page of the documentation."
    assert list(problems()) == [SettingProblem("", "type", message, hint)]
    for key in conf.declared:
        with pytest.raises(ConfigurationError) as refused:
            getattr(conf, key.lower())
        assert str(refused.value) == f"{message} {hint}"
    require()


@pytest.mark.parametrize(("name", "shown"), [("API-KEY", "API-KEY"), ("", ""), (5, "5")])
def test_an_unknown_setting_is_reported_and_disturbs_no_other(
    settings: Any, name: Any, shown: str
) -> None:
    settings.GIFTCARDS = MINIMUM | {name: 1}
    assert list(problems()) == [
        SettingProblem(
            shown,
            "unknown",
            f"GIFTCARDS has a setting {shown!r} that does not exist.",
            "The settings are API_KEY, BASE_URL, ENCRYPTION_KEYS, POLL_INTERVAL, POLL_TIMEOUT,"
            " LATE_WATCH_HOURS, REQUESTS_PER_MINUTE, SEND_TIMEOUT, SEND_REFERENCE,"
            " REVIEW_ORDER, QUEUE_TASK, REORDER_MISSING, CATALOGUE_INTERVAL, PRICING,"
            " LOW_BALANCE, REAUTHENTICATE, PASSWORD_BACKENDS, REFUND_DAYS, REVEALS_PER_HOUR,"
            " METRICS_TOKEN, CODES_KEPT_DAYS.",
        )
    ]
    require(*conf.declared)
    assert conf.poll_interval == 5.0


@pytest.mark.parametrize(
    ("name", "hint", "value"),
    [
        *product(["API_KEY"], [PASTE], [0, False, 5, b"bytes", ["a"], {}]),
        *product(["BASE_URL"], [HOST_ONLY], [None, 5, b"https://a.example", ["https://a.example"]]),
        *product(["REAUTHENTICATE"], [URL_NAME], [True, 5, b"prove", ["prove"]]),
        *product(["REVIEW_ORDER"], [RULE], [True, 5, b"shop.rules.review", ["shop.rules.review"]]),
    ],
)
def test_a_setting_that_is_no_text_is_refused(
    settings: Any, name: str, hint: str, value: Any
) -> None:
    change(settings, **{name: value})
    assert_refused(name, "type", f"GIFTCARDS[{name!r}] must be a string.", hint)


@pytest.mark.parametrize(
    ("value", "kind", "complaint"),
    [
        ("shop.ldap.Backend", "type", "{} must be a list of strings."),
        (None, "type", "{} must be a list of strings."),
        ([5], "type", "A backend in {} must be a string."),
        (["Backend"], "path", "A backend in {} is not a dotted path."),
    ],
)
def test_backends_that_are_no_list_of_paths_are_refused(
    settings: Any, value: Any, kind: str, complaint: str
) -> None:
    change(settings, PASSWORD_BACKENDS=value)
    [problem] = problems()
    message = complaint.format("GIFTCARDS['PASSWORD_BACKENDS']")
    assert (problem.kind, problem.message) == (kind, message)


@pytest.mark.parametrize("value", ["", "review", "shop.", ".review", "shop rules.review", "a.1b"])
def test_a_rule_that_is_no_dotted_path_is_refused(settings: Any, value: str) -> None:
    change(settings, REVIEW_ORDER=value)
    assert_refused("REVIEW_ORDER", "path", "GIFTCARDS['REVIEW_ORDER'] is not a dotted path.", RULE)


@pytest.mark.parametrize(
    "value", [" ", f"{KEY} ", f" {KEY}", f"{KEY}\n", f"{KEY}\r\nX: 1", "a\tb", "clé", "a\0", "\x7f"]
)
def test_an_api_key_that_does_not_fit_into_a_header_is_refused(settings: Any, value: str) -> None:
    change(settings, API_KEY=value)
    message = "GIFTCARDS['API_KEY'] cannot be used as an HTTP header."
    assert_refused("API_KEY", "api_key", message, PASTE)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("https://api.\N{CYRILLIC SMALL LETTER O}neclickdz.com", "CYRILLIC SMALL LETTER O"),
        ("https://api.oneclickdz.com\u200b", "ZERO WIDTH SPACE"),
        ("https://\u202eapi.oneclickdz.com", "RIGHT-TO-LEFT OVERRIDE"),
    ],
)
def test_a_base_url_with_a_letter_that_looks_like_another_is_refused_by_its_name(
    settings: Any, value: str, name: str
) -> None:
    change(settings, BASE_URL=value)
    message = f"GIFTCARDS['BASE_URL'] has a character that is not ASCII: {name}."
    hint = f"{HOST_ONLY} Write domain names in other scripts in their xn--… form."
    assert_refused("BASE_URL", "base_url", message, hint)


@pytest.mark.parametrize(
    "value",
    [
        "", "api.oneclickdz.com", "//api.oneclickdz.com", "ftp://api.oneclickdz.com", "https://",
        "https:///v3", "https://:443", "https://api.oneclickdz.com/v3",
        "https://api.oneclickdz.com//", "https://api.oneclickdz.com?",
        "https://api.oneclickdz.com?key=1", "https://api.oneclickdz.com#",
        "https://api.oneclickdz.com#a", "https://user@api.oneclickdz.com",
        "https://user:word@api.oneclickdz.com", "https://@api.oneclickdz.com",
        "https://api.oneclickdz.com:0", "https://api.oneclickdz.com:99999",
        "https://api.oneclickdz.com:port", "https://api.oneclickdz.com\n",
        "https://api.onec\tlickdz.com", " https://api.oneclickdz.com",
        "https://api oneclickdz.com", "https://api.oneclickdz.com\\", "https://[::1",
        "https://[not-an-address]", "https://[v1.a]", "http://192.0.2.7/v3",
    ],
)  # fmt: skip
def test_a_base_url_that_is_no_address_of_a_host_is_refused(settings: Any, value: str) -> None:
    change(settings, BASE_URL=value)
    message = "GIFTCARDS['BASE_URL'] is not the address of an HTTP service."
    assert_refused("BASE_URL", "base_url", message, HOST_ONLY)


@pytest.mark.parametrize(
    "value",
    [
        "http://api.oneclickdz.com",
        "HTTP://api.oneclickdz.com",
        "http://127.0.0.1.example.com",
        "http://localhost.example.com",
        "http://0.0.0.0",
        "http://10.0.0.1",
        "http://[2001:db8::1]",
    ],
)
def test_an_unencrypted_base_url_is_refused_except_for_this_machine(
    settings: Any, value: str
) -> None:
    change(settings, BASE_URL=value)
    assert_refused(
        "BASE_URL",
        "insecure",
        "GIFTCARDS['BASE_URL'] would send the API key and the card codes unencrypted.",
        "Use https://, or http:// with an address of this machine.",
    )


@pytest.mark.parametrize("value", [NEW, NEW.encode(), {NEW}, {NEW: 1}, 5, False])
def test_encryption_keys_that_are_no_list_are_refused(settings: Any, value: Any) -> None:
    change(settings, ENCRYPTION_KEYS=value)
    message = "GIFTCARDS['ENCRYPTION_KEYS'] must be a list of Fernet keys."
    assert_refused("ENCRYPTION_KEYS", "type", message, GENERATE)


@pytest.mark.parametrize("value", [OLD.encode(), None, 5])
def test_an_encryption_key_that_is_no_text_is_refused(settings: Any, value: Any) -> None:
    change(settings, ENCRYPTION_KEYS=[NEW, value])
    message = "Key 2 of GIFTCARDS['ENCRYPTION_KEYS'] must be a string."
    assert_refused("ENCRYPTION_KEYS", "type", message, GENERATE)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "put-your-key-here",
        OLD[:-1],
        OLD + "\n",
        " " + OLD,
        OLD[:-2],
        OLD + OLD,
        OLD.replace("H", "é"),
        f"{OLD},{NEW}",
        base64.urlsafe_b64encode(bytes(32)).decode(),
        base64.urlsafe_b64encode(b"secret" * 5 + b"se").decode(),
        base64.urlsafe_b64encode(bytes(range(31))).decode(),
        base64.urlsafe_b64encode(bytes(range(33))).decode(),
    ],
)
def test_an_encryption_key_that_is_no_fernet_key_is_refused(settings: Any, value: str) -> None:
    change(settings, ENCRYPTION_KEYS=[NEW, value])
    message = "Key 2 of GIFTCARDS['ENCRYPTION_KEYS'] is not a Fernet key."
    assert_refused("ENCRYPTION_KEYS", "encryption_key", message, GENERATE)


def test_an_encryption_key_given_twice_is_refused_however_it_is_written(settings: Any) -> None:
    # The last character before the padding has four unused bits.
    again = OLD[:-2] + chr(ord(OLD[-2]) + 1) + "="
    assert base64.urlsafe_b64decode(again) == base64.urlsafe_b64decode(OLD)
    for repeated in (OLD, again):
        change(settings, ENCRYPTION_KEYS=[OLD, NEW, repeated])
        message = "Key 3 of GIFTCARDS['ENCRYPTION_KEYS'] is in the list twice."
        assert_refused("ENCRYPTION_KEYS", "repeated_key", message, "Remove the second one.")


SECRET_KEY = "a secret key of more than thirty-two characters"


@pytest.mark.parametrize("secret_key", [SECRET_KEY, SECRET_KEY.encode()])
@pytest.mark.parametrize("recipe", [lambda key: key[:32], lambda key: hashlib.sha256(key).digest()])
def test_a_sealing_key_made_from_the_secret_key_is_refused(
    settings: Any, recipe: Any, secret_key: Any
) -> None:
    settings.SECRET_KEY = secret_key
    derived = base64.urlsafe_b64encode(recipe(force_bytes(secret_key))).decode()
    change(settings, ENCRYPTION_KEYS=[derived, NEW])
    assert_refused(
        "ENCRYPTION_KEYS",
        "derived_key",
        (
            "Key 1 of GIFTCARDS['ENCRYPTION_KEYS'] is derived from SECRET_KEY. If somebody"
            " learns SECRET_KEY, they can also read the card codes. If you change SECRET_KEY,"
            " the codes are lost."
        ),
        ("Run `manage.py giftcards_generate_key`, and put the printed key in front of this key."),
    )
    # This follows the hint; old cards can still be decrypted.
    change(settings, ENCRYPTION_KEYS=[NEW, derived])
    assert list(problems()) == []


def test_settings_can_be_checked_before_there_is_a_secret_key(settings: Any) -> None:
    settings.SECRET_KEY = ""
    assert list(problems()) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *product(NUMBERS, ["", "5", b"5", True, False, [], {}, 5j, Decimal(5), object()]),
        *product(["REQUESTS_PER_MINUTE"], [60.0, 0.5, float("nan"), float("inf")]),
        *((name, None) for name in NUMBERS if name not in {"CODES_KEPT_DAYS", "REFUND_DAYS"}),
    ],
)
def test_numbers_of_a_wrong_type_are_refused(settings: Any, name: str, value: Any) -> None:
    change(settings, **{name: value})
    message = f"GIFTCARDS[{name!r}] must be {NUMBERS[name][2]}."
    assert_refused(name, "type", message, CORRECT)


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_outside_their_range_are_refused(settings: Any, name: str) -> None:
    minimum, maximum, wanted = NUMBERS[name]
    values = [-1, minimum - 1, maximum + 1, 10**400]
    if name not in WHOLE:
        values += [-0.01, minimum - 0.01, maximum + 0.01, 1e308]
        values += [float("nan"), float("inf"), float("-inf")]
    if minimum > 0:
        values += [0]
    for value in values:
        change(settings, **{name: value})
        assert_refused(name, "range", f"GIFTCARDS[{name!r}] must be {wanted}.", CORRECT)


@pytest.mark.parametrize("value", [None, 0, 1, "", "False", "no", []])
def test_a_switch_that_is_not_true_or_false_is_refused(settings: Any, value: Any) -> None:
    change(settings, SEND_REFERENCE=value)
    message = "GIFTCARDS['SEND_REFERENCE'] must be True or False."
    assert_refused("SEND_REFERENCE", "type", message, "Write the value without quotes.")


# Reporting mistakes without secrets


def test_all_mistakes_in_the_settings_are_reported_at_once(settings: Any) -> None:
    settings.GIFTCARDS = {"API_KEY": "a b", "NEW": 1, "REFUND_DAYS": 0, "POLL_INTERVAL": 0}
    assert [(problem.setting, problem.kind) for problem in problems()] == [
        ("NEW", "unknown"),
        ("API_KEY", "api_key"),
        ("ENCRYPTION_KEYS", "no_encryption_keys"),
        ("POLL_INTERVAL", "range"),
        ("REFUND_DAYS", "range"),
    ]
    with pytest.raises(ConfigurationError, match=r"^GIFTCARDS\['REFUND_DAYS'\] must be"):
        require("BASE_URL", "REFUND_DAYS", "API_KEY")
    require("BASE_URL", "POLL_TIMEOUT")


def test_requiring_a_setting_that_does_not_exist_raises_key_error() -> None:
    with pytest.raises(KeyError):
        require("API_KEYS")


def test_no_problem_with_the_settings_tells_a_secret(settings: Any) -> None:
    half = OLD[:20]
    told = ""
    for values in (
        {"API_KEY": f"{KEY} {KEY}"},
        {"API_KEY": KEY.encode()},
        {"API_KEY": [KEY]},
        {"ENCRYPTION_KEYS": OLD},
        {"ENCRYPTION_KEYS": [half]},
        {"ENCRYPTION_KEYS": [OLD.encode()]},
        {"ENCRYPTION_KEYS": [OLD, OLD]},
        {"BASE_URL": f"https://{KEY}@api.oneclickdz.com"},
        {"BASE_URL": f"https://api.oneclickdz.com?key={KEY}"},
    ):
        change(settings, **values)
        (problem,) = problems()
        told += f"{problem} {problem!r}"
    assert KEY not in told
    assert half not in told


def test_importing_the_settings_module_needs_no_settings() -> None:
    code = (
        "import giftcards.conf, giftcards.checks, giftcards.apps, sys;"
        "assert not {'giftcards.models', 'django_q'} & set(sys.modules)"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    subprocess.run(command, cwd=ROOT, env={}, check=True, timeout=60)


def test_secret_settings_have_a_masked_repr(settings: Any) -> None:
    assert conf.api_key == settings.GIFTCARDS["API_KEY"]
    assert list(conf.encryption_keys) == list(settings.GIFTCARDS["ENCRYPTION_KEYS"])
    assert {repr(secret) for secret in (conf.api_key, *conf.encryption_keys)} == {"<masked>"}


@pytest.mark.parametrize(
    "value", [{}, {"times": 2}, {"times": 2, "hours": 6, "minutes": 1}, [2, 6], (2, 6), True, 2]
)
def test_a_rule_for_missing_cards_needs_two_numbers(settings: Any, value: Any) -> None:
    change(settings, REORDER_MISSING=value)
    message = "GIFTCARDS['REORDER_MISSING'] must be a dict with 'times' and 'hours'."
    assert_refused(
        "REORDER_MISSING", "type", message, "Write the setting like {'times': 2, 'hours': 6}."
    )


@pytest.mark.parametrize(
    ("changed", "kind", "wanted"),
    [
        *product([{"times": 0}, {"times": 11}], ["range"], ["a whole number from 1 to 10"]),
        *product([{"times": 1.5}, {"times": True}], ["type"], ["a whole number from 1 to 10"]),
        *product([{"hours": 0}, {"hours": 73}], ["range"], ["a number from 0.1 to 72"]),
        *product([{"hours": "6"}, {"hours": None}], ["type"], ["a number from 0.1 to 72"]),
    ],
)
def test_a_rule_for_missing_cards_has_limits(
    settings: Any, changed: dict[str, Any], kind: str, wanted: str
) -> None:
    change(settings, REORDER_MISSING={"times": 2, "hours": 6, **changed})
    [name] = changed
    message = f"GIFTCARDS['REORDER_MISSING']['{name}'] must be {wanted}."
    assert_refused("REORDER_MISSING", kind, message, CORRECT)
