"""System checks of the settings for messages to customers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from urllib.parse import urlsplit

import django
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004
from django.http.request import split_domain_port, validate_host
from django.urls import NoReverseMatch, reverse
from django.utils.module_loading import import_string

from giftcards.checks import check_path, find
from giftcards.conf import conf as core
from giftcards.delivery.conf import WITH_CARDS, Mode, conf
from giftcards.exceptions import ConfigurationError

# The id of the message for each ``SettingProblem.kind``.
IDS: Mapping[str, str] = {
    "unknown": "giftcards_delivery.E001",
    "type": "giftcards_delivery.E002",
    "range": "giftcards_delivery.E003",
    "mode": "giftcards_delivery.E004",
    "base_url": "giftcards_delivery.E005",
    "insecure": "giftcards_delivery.E006",
    "text": "giftcards_delivery.E007",
    "path": "giftcards_delivery.E008",
    "staff": "giftcards_delivery.E009",
}
# The hosts that Django allows if DEBUG is on and ALLOWED_HOSTS is empty.
_DEVELOPMENT = (".localhost", "127.0.0.1", "[::1]")
# The maximum length of a channel's name, which is the length of the database column.
_LONGEST_NAME = 40
_SMTP = "django.core.mail.backends.smtp.EmailBackend"
# Mail backends that do not deliver messages.
_PRETENDING = {f"django.core.mail.backends.{name}.EmailBackend" for name in ("console", "dummy")}


def check_settings(**_: object) -> list[CheckMessage]:
    found: list[CheckMessage] = [
        Error(problem.message, hint=problem.hint, id=IDS[problem.kind])
        for problem in conf.problems()
    ]
    return found or [message for check in (_check_paths, _check_channels) for message in check()]


def check_sending(**_: object) -> list[CheckMessage]:
    """Check the settings that sending needs, unless all messages are off."""
    found: list[CheckMessage] = []
    for check in (_check_links, _check_host, _check_days, _check_mail):
        with suppress(ConfigurationError):  # reported by check_settings
            found += [] if conf.is_off else list(check())
    return found


def _check_paths() -> Iterator[CheckMessage]:
    paths = [("GIFTCARDS_DELIVERY['PIN']", conf.pin)] if conf.pin else []
    paths += [("GIFTCARDS_DELIVERY['CHANNELS']", path) for path in conf.channels]
    for setting, path in paths:
        yield from check_path(setting, path, id="giftcards_delivery.E010")


def _check_channels() -> Iterator[CheckMessage]:
    classes = [(path, find(path)) for path in conf.channels]
    names = [(path, getattr(found, "name", None)) for path, found in classes if callable(found)]
    for path, name in names:
        if not (isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME):
            yield Error(
                f"The channel {path} has no name, or its name has more than {_LONGEST_NAME}"
                " characters.",
                hint="Set the attribute 'name' of the class to a short text.",
                id="giftcards_delivery.E012",
            )
    counts = Counter(name for _, name in names if isinstance(name, str))
    for name in (name for name, count in counts.items() if count > 1):
        yield Error(
            f"Several channels in GIFTCARDS_DELIVERY['CHANNELS'] have the name {name!r}. The"
            " app would use only one of them.",
            hint="Give each channel a unique name, and list each channel once.",
            id="giftcards_delivery.E011",
        )
    for name in {person.channel for person in conf.staff_emails} - counts.keys() - {"mail"}:
        yield Error(
            f"GIFTCARDS_DELIVERY['STAFF_EMAILS'] uses the channel {name!r}, which is not in"
            " 'CHANNELS'.",
            hint="Add the channel to GIFTCARDS_DELIVERY['CHANNELS'], or correct its name.",
            id="giftcards_delivery.E015",
        )


def _check_links() -> Iterator[CheckMessage]:
    if all(conf.mode[kind] != Mode.LINK for kind in WITH_CARDS):
        return
    if not conf.shop_url:
        yield Error(
            "GIFTCARDS_DELIVERY['SHOP_URL'] is not set, so messages cannot link to the cards.",
            hint="Set it to the address of your shop, for example https://shop.example, or set"
            " 'MODE' to 'codes' or 'off'.",
            id="giftcards_delivery.E013",
        )
    # Workers need the URLs, too: they write the messages.
    try:
        reverse("giftcards_delivery:cards", args=["token"])
    except (NoReverseMatch, AttributeError):
        yield Error(
            "The page for customers has no URL, so messages cannot link to the cards.",
            hint="Add path('cards/', include('giftcards.delivery.urls')) to ROOT_URLCONF.",
            id="giftcards_delivery.E014",
        )


def _check_host() -> Iterator[CheckMessage]:
    """Check that ``ALLOWED_HOSTS`` contains the host in ``SHOP_URL``.

    Links use this host. If the host is missing, Django treats each visit to a link as an error, and
    mails the secret token in the link to ``ADMINS``.
    """
    host, _port = split_domain_port(urlsplit(conf.shop_url).netloc.lower())
    hosts = settings.ALLOWED_HOSTS or (_DEVELOPMENT if settings.DEBUG else ())
    if host and not validate_host(host, hosts):
        yield Warning(
            f"The host of GIFTCARDS_DELIVERY['SHOP_URL'] is {host}, which is not in"
            " ALLOWED_HOSTS. Django would refuse every click of a customer, and report it as"
            " an error that contains the token of the link.",
            hint=f"Add {host!r} to ALLOWED_HOSTS, or correct the address.",
            id="giftcards_delivery.W004",
        )


def _check_days() -> Iterator[CheckMessage]:
    kept, link = core.codes_kept_days, conf.link_days
    # The check is needed in every mode. Staff can hand over links, and a message about many cards
    # has a link.
    if conf.shop_url and kept is not None and kept < link:
        yield Warning(
            f"Messages say that links to cards work for {link:g} days, but the codes are"
            f" destroyed {kept:g} days after the order has settled. Customers would be"
            " promised codes that no longer exist.",
            hint=f"Set GIFTCARDS_DELIVERY['LINK_DAYS'] to at most {kept:g}, or"
            f" GIFTCARDS['CODES_KEPT_DAYS'] to at least {link:g}.",
            id="giftcards_delivery.W003",
        )


def _check_mail() -> Iterator[CheckMessage]:
    names = (getattr(find(path), "name", None) for path in conf.channels)
    if "mail" not in names:
        return
    backend, timeout, where = _mailer()
    if backend in _PRETENDING and not settings.DEBUG:
        yield Warning(
            f"The mail backend {backend} does not deliver any messages. The app would believe"
            " that customers had received them.",
            hint="Use the backend of your mail server or mail provider.",
            id="giftcards_delivery.W002",
        )
    if timeout is None and _is_smtp(backend):
        yield Warning(
            "The mail settings have no time-out. If the mail server hangs, each message"
            " would take a minute, and leave a thread and a connection behind.",
            hint=f"Set {where} to 10 seconds.",
            id="giftcards_delivery.W001",
        )


def _mailer() -> tuple[str, object, str]:
    """Return the mail backend, and the time-out setting's value and name."""
    mailers = getattr(settings, "MAILERS", None) if django.VERSION >= (6, 1) else None
    if not mailers:
        return settings.EMAIL_BACKEND, settings.EMAIL_TIMEOUT, "EMAIL_TIMEOUT"
    mailer = mailers.get("default", {})
    timeout = mailer.get("OPTIONS", {}).get("timeout")
    return mailer.get("BACKEND", _SMTP), timeout, "MAILERS['default']['OPTIONS']['timeout']"


def _is_smtp(backend: str) -> bool:
    found = find(backend)
    return isinstance(found, type) and issubclass(found, import_string(_SMTP))
