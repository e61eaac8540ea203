"""Revealing a code: permissions, identity checks, records, and the response."""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, ClassVar

import django
import pytest
from django.contrib import admin
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth import authenticate, get_user_model, login
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.signals import user_login_failed
from django.core import mail
from django.core.exceptions import PermissionDenied
from django.core.mail.backends.locmem import EmailBackend
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import path
from django.utils import timezone

from giftcards.conf import conf
from giftcards.keys.keyring import generate_key
from giftcards.keys.secrecy import CardSecret
from giftcards.models import Card, CardReveal, Order
from tests.builders import receive
from tests.fakes.storage import WITHOUT_SCRIPT
from tests.leaks import Mailbox, raw_database, secrets_on, traces
from tests.pages import (
    LIST,
    PASSWORD,
    REASON,
    ask_address,
    change_proof,
    codes_on,
    count_queries,
    errors,
    let_pass,
    order_page,
    person,
    read,
    reveal,
    reveal_address,
    rows,
    sign_in,
    text,
)
from tests.stage import failing, in_threads, use_keys
from tests.stage import messages as logged

pytest_plugins = ["tests.stage_fixtures"]
# Django 6 expects addresses. Older versions accept only pairs.
MANAGERS = ["samir@example.com" if django.VERSION >= (6,) else ("Samir", "samir@example.com")]

pytestmark = pytest.mark.django_db

CODE = "CANARY-CODE-4711"
SERIAL = "CANARY-SERIAL-8812"
OTHER = CardSecret("CANARY-CODE-9999", "CANARY-SERIAL-7777")
REVEALS = "/admin/giftcards/cardreveal/"


@pytest.fixture
def order() -> Order:
    return receive("web-1042", OTHER, CardSecret(CODE, SERIAL))


@pytest.fixture
def card(order: Order) -> Card:
    return order.cards.get(position=2)


def name_of(browser: Client) -> str:
    user = get_user_model().objects.get(pk=browser.session["_auth_user_id"])
    return str(user.get_username())


def asks_for(html: str) -> list[str]:
    return re.findall(r'<input type="(?:text|password)" name="(\w+)"', html)


# Permissions.


def test_a_code_and_its_serial_are_revealed_to_who_may(card: Card) -> None:
    html = read(reveal(person(), card))
    assert codes_on(html) == [CODE, SERIAL]
    assert "9999" not in text(html)
    assert "7777" not in text(html)
    assert str(OTHER.value) not in html
    assert str(OTHER.serial) not in html
    assert "gAAAA" not in html


def test_a_card_without_a_serial_is_revealed_without_one(order: Order) -> None:
    card = receive("web-1", CardSecret("<b>'\"&", "")).cards.get()
    html = read(reveal(person(), card))
    assert codes_on(html) == ["<b>'\"&"]
    assert "<b>" not in html
    assert "Serial" not in html


def test_other_verbs_than_post_are_not_allowed(card: Card) -> None:
    browser = person()
    for verb in ("get", "head", "put", "patch", "delete", "options"):
        response = getattr(browser, verb)(reveal_address(card))
        assert (response.status_code, response["Allow"]) == (405, "POST"), verb
    assert not CardReveal.objects.exists()


def test_nothing_is_revealed_to_who_is_not_signed_in_by_a_forged_form_or_of_no_card(
    card: Card,
) -> None:
    for browser in (Client(), sign_in("view_order", "reveal_card", staff=False)):
        for address in (reveal_address(card), ask_address(card)):
            response = browser.post(address, {"reason": REASON})
            assert response.status_code == 302
            assert response["Location"].startswith("/admin/login/?next=")
    assert reveal(person(enforce_csrf_checks=True), card).status_code == 403
    assert not CardReveal.objects.exists()
    # A missing card gets the same response as one that the person may not reveal.
    card.pk += 1
    assert reveal(person(), card).status_code == 403
    assert person().get(ask_address(card)).status_code == 403


@pytest.mark.parametrize(
    "permissions",
    [
        ("view_order", "find_card", "check_order", "resolve_order", "view_card", "add_order"),
        ("reveal_card", "find_card"),
        ("view_order", "view_cardreveal"),
    ],
)
def test_revealing_needs_its_permission_and_that_to_see_the_order(
    card: Card, permissions: tuple[str, ...]
) -> None:
    browser = person(*permissions)
    assert reveal(browser, card).status_code == 403
    assert browser.get(ask_address(card)).status_code == 403
    assert not CardReveal.objects.exists()


def test_the_page_of_the_order_leads_who_may_to_a_question_that_shows_no_code(
    order: Order, card: Card
) -> None:
    browser = person()
    link = f'href="{ask_address(card)}"'
    html = read(browser.get(order_page(order)))
    assert link in html
    assert 'aria-label="Reveal card 2"' in html
    assert link not in read(person("view_order", "find_card").get(order_page(order)))
    html = read(browser.get(ask_address(card)))
    assert asks_for(html) == ["reason"]
    assert f'action="{reveal_address(card)}"' in html
    assert secrets_on(html) == []
    assert not CardReveal.objects.exists()


# The question before a reveal.


ONE_LINE = (
    "Enter one line of text, without control characters or characters that change the text"
    " direction."
)


@pytest.mark.parametrize(
    ("reason", "complaint"),
    [
        ("", "This field is required."),
        ("   ", "This field is required."),
        ("x" * 201, "Ensure this value has at most 200 characters (it has 201)."),
        *((text, ONE_LINE) for text in ("a\nb", "\u202eabc")),
    ],
)
def test_a_code_is_not_revealed_without_a_usable_reason(
    card: Card, reason: str, complaint: str
) -> None:
    html = read(reveal(person(), card, reason))
    assert errors(html) == [complaint]
    assert "<title>Error: Reveal card 2" in html
    assert secrets_on(html) == []
    assert not CardReveal.objects.exists()


# Proof of identity.


def test_after_ten_minutes_the_password_is_asked_for(card: Card) -> None:
    browser = person()
    let_pass(browser, 601)
    assert asks_for(read(browser.get(ask_address(card)))) == ["reason", "password"]
    html = read(reveal(browser, card))
    assert asks_for(html) == ["reason", "password"]
    assert errors(html) == ["This field is required."]
    assert f'value="{REASON}"' in html
    assert secrets_on(html) == []
    assert not CardReveal.objects.exists()


def test_the_right_password_reveals_and_holds_for_ten_minutes(card: Card) -> None:
    browser = person()
    let_pass(browser, 601)
    assert codes_on(read(reveal(browser, card, password=PASSWORD))) == [CODE, SERIAL]
    assert asks_for(read(browser.get(ask_address(card)))) == ["reason"]
    assert codes_on(read(reveal(browser, card))) == [CODE, SERIAL]
    let_pass(browser, 601)
    assert codes_on(read(reveal(browser, card))) == []
    # The password counts even though the reason is missing.
    assert asks_for(read(reveal(browser, card, "", password=PASSWORD))) == ["reason"]
    assert codes_on(read(reveal(browser, card))) == [CODE, SERIAL]


@contextmanager
def failures() -> Iterator[list[str]]:
    """Yield the names of the users who failed to prove their identity."""
    seen: list[str] = []

    def see(credentials: Any, request: Any, **_named: Any) -> None:
        assert request.META["REMOTE_ADDR"] == "127.0.0.1"
        seen.append(credentials["username"])

    user_login_failed.connect(see)
    yield seen
    user_login_failed.disconnect(see)


@pytest.mark.parametrize("password", ["wrong", PASSWORD.strip(), PASSWORD.upper(), "CANARY-KEY"])
def test_a_wrong_password_reveals_nothing_and_is_told_to_the_site(
    card: Card, password: str
) -> None:
    browser = person()
    let_pass(browser, 601)
    with failures() as seen:
        html = read(reveal(browser, card, password=password))
    assert errors(html) == ["Your identity could not be confirmed. Try again."]
    assert asks_for(html) == ["reason", "password"]
    assert secrets_on(html) == []
    assert seen == [name_of(browser)]
    assert not CardReveal.objects.exists()
    assert codes_on(read(reveal(browser, card))) == []


class LockingBackend(ModelBackend):
    """A lock-out like that of django-axes: after five wrong passwords, the right one fails, too."""

    failures = 0

    def authenticate(self, request: Any, **credentials: Any) -> Any:
        if type(self).failures >= 5:
            raise PermissionDenied
        user = super().authenticate(request, **credentials)
        type(self).failures += user is None
        return user


class CountingBackend(ModelBackend):
    tried: ClassVar[list[str]] = []

    def authenticate(self, request: Any, **credentials: Any) -> Any:
        self.tried.append(credentials["password"])
        return super().authenticate(request, **credentials)


class ForeignBackend(ModelBackend):
    """A backend that accepts the right password, but returns a different user."""

    def authenticate(self, request: Any, **credentials: Any) -> Any:
        user = super().authenticate(request, **credentials)
        return user and get_user_model().objects.create_user("somebody else")


def test_the_lock_out_of_the_site_is_respected(card: Card, settings: Any) -> None:
    settings.AUTHENTICATION_BACKENDS = [f"{__name__}.LockingBackend"]
    LockingBackend.failures = 4
    browser = person()
    let_pass(browser, 601)
    for password in ("wrong", PASSWORD):
        html = read(reveal(browser, card, password=password))
        assert errors(html) == ["Your identity could not be confirmed. Try again."]
    assert not CardReveal.objects.exists()


TOO_MANY_WRONG = (
    "Too many wrong passwords have been entered since you signed in. Sign out, and sign in again."
)


def test_after_a_few_wrong_passwords_a_session_takes_none_and_its_owner_goes_on_elsewhere(
    card: Card, caplog: pytest.LogCaptureFixture
) -> None:
    stolen = person(name="amina")
    let_pass(stolen, 601)
    for number in range(4):
        html = read(reveal(stolen, card, password=f"wrong-{number}"))
        assert errors(html) == ["Your identity could not be confirmed. Try again."]
    with failures() as seen:
        for password in ("wrong-5", PASSWORD):
            assert errors(read(reveal(stolen, card, password=password))) == [TOO_MANY_WRONG]
    # The app refuses these passwords, so the site does not count them.
    assert seen == []
    assert not CardReveal.objects.exists()
    warning = "amina entered a wrong password to prove their identity."
    assert logged(caplog) == [warning] * 4
    entries = LogEntry.objects.filter(object_repr="Wrong password")
    assert [entry.user.get_username() for entry in entries] == ["amina"] * 4
    assert not any("wrong-" in entry.change_message for entry in entries)
    # The limit applies to one session. In another session, the right password works.
    elsewhere = Client()
    assert elsewhere.login(username="amina", password=PASSWORD)
    let_pass(elsewhere, 601)
    assert codes_on(read(reveal(elsewhere, card, password=PASSWORD))) == [CODE, SERIAL]
    # The first session accepts the right password again a day later.
    entries.update(action_time=timezone.now() - timedelta(hours=25))
    assert codes_on(read(reveal(stolen, card, password=PASSWORD))) == [CODE, SERIAL]


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("shared_database")
def test_passwords_at_the_same_time_do_not_exceed_the_limit(settings: Any) -> None:
    card = receive("web-1042", CardSecret(CODE, SERIAL)).cards.get()
    settings.AUTHENTICATION_BACKENDS = [f"{__name__}.CountingBackend"]
    browser = person()
    let_pass(browser, 601)
    CountingBackend.tried = []

    session = browser.cookies["sessionid"].value

    def guess() -> list[str]:
        thief = Client()
        thief.cookies["sessionid"] = session
        return errors(read(reveal(thief, card, password="wrong")))

    wrong, too_many = ["Your identity could not be confirmed. Try again."], [TOO_MANY_WRONG]
    assert sorted(in_threads(8, guess)) == [*[too_many] * 4, *[wrong] * 4]
    assert len(CountingBackend.tried) == 4


def test_a_password_that_makes_one_somebody_else_proves_nothing(card: Card, settings: Any) -> None:
    browser = person()
    let_pass(browser, 601)
    usual = "django.contrib.auth.backends.ModelBackend"
    settings.AUTHENTICATION_BACKENDS = [f"{__name__}.ForeignBackend", usual]
    html = read(reveal(browser, card, password=PASSWORD))
    assert errors(html) == ["Your identity could not be confirmed. Try again."]


class ByNetwork(ModelBackend):
    """Single sign-on: the server identifies the person, and no password is typed."""

    def authenticate(self, request: Any, **credentials: Any) -> Any:  # type: ignore[override]
        return get_user_model().objects.get(username=request.headers["x-person"])


class Directory(ModelBackend):
    """A backend that checks passwords outside the database, for example with LDAP."""

    def authenticate(self, request: Any, **credentials: Any) -> Any:  # type: ignore[override]
        if credentials.get("password") != IN_DIRECTORY:
            return None
        return get_user_model().objects.get(username=credentials["username"])


@pytest.mark.parametrize("method", ["get", "post"])
def test_who_is_signed_in_by_the_web_server_has_proven_nothing(
    card: Card, settings: Any, method: str
) -> None:
    browser = Client(REMOTE_USER=name_of(person()))
    settings.MIDDLEWARE = [
        *settings.MIDDLEWARE, "django.contrib.auth.middleware.RemoteUserMiddleware",
    ]  # fmt: skip
    settings.AUTHENTICATION_BACKENDS = ["django.contrib.auth.backends.RemoteUserBackend"]
    # Any request can start the session.
    getattr(browser, method)("/admin/")
    response = reveal(browser, card)
    assert browser.session["_auth_user_backend"].endswith("RemoteUserBackend")
    assert asks_for(read(response)) == ["reason", "password"]
    assert not CardReveal.objects.exists()


def sign_in_by_sso(request: HttpRequest, backend: str) -> HttpResponse:
    """Log in the way SAML and OIDC with ``form_post`` do, often with one of Django's backends."""
    user = get_user_model().objects.get(username=request.headers["x-person"])
    login(request, user, backend=BACKENDS[backend])
    return HttpResponse("Welcome.")


def sign_in_by_password(request: HttpRequest) -> HttpResponse:
    """Log in with the shop's own form."""
    password = request.POST["login-password"]
    user = authenticate(request, username=request.headers["x-person"], password=password)
    if user is not None:
        login(request, user)
    return HttpResponse("Welcome.")


urlpatterns = [
    path("admin/", admin.site.urls),
    path("sso/<backend>/", sign_in_by_sso),
    path("sign-in/", sign_in_by_password),
]
OF_DJANGO = "django.contrib.auth.backends.ModelBackend"
# The backends, in the sequence in which Django tries them.
BACKENDS = {
    "ModelBackend": OF_DJANGO,
    "Directory": f"{__name__}.Directory",
    "ByNetwork": f"{__name__}.ByNetwork",
}
NO_PASSWORD = (
    "You have to confirm your identity, but your account has no password on this site. Ask your"
    " developer to add a page where you can confirm your identity without a password."
)
IN_DIRECTORY = "CANARY-KEY in the directory"


@pytest.fixture
def _backends(settings: Any, set_conf: Any) -> None:
    settings.AUTHENTICATION_BACKENDS = list(BACKENDS.values())
    set_conf(PASSWORD_BACKENDS=[BACKENDS["Directory"]])


@pytest.mark.urls("tests.admin.test_reveal")
@pytest.mark.usefixtures("_backends")
@pytest.mark.parametrize(
    ("address", "form", "fields"),
    [
        ("/sso/ByNetwork/", None, ["reason", "password"]),
        ("/sso/ByNetwork/", {"SAMLResponse": "CANARY"}, ["reason", "password"]),
        ("/sso/ModelBackend/", {"SAMLResponse": "CANARY"}, ["reason", "password"]),
        ("/sso/ModelBackend/", {"id_token": "CANARY", "password": "x"}, ["reason", "password"]),
        ("/sso/Directory/", {"SAMLResponse": "CANARY"}, ["reason", "password"]),
        ("/sign-in/", {"login-password": PASSWORD}, []),
        ("/sign-in/", {"login-password": IN_DIRECTORY}, []),
    ],
    ids=[
        *("by a link", "by POST", "as by Django", "as by Django with a wrong password"),
        *("as by a listed backend", "with the password", "with that of a listed backend"),
    ],
)
def test_signing_in_is_a_proof_only_if_the_password_was_checked(
    card: Card, address: str, form: Any, fields: list[str]
) -> None:
    browser = Client(headers={"X-Person": name_of(person())})
    answer = browser.get(address) if form is None else browser.post(address, form)
    assert answer.status_code == 200
    assert asks_for(read(reveal(browser, card))) == fields


@pytest.mark.urls("tests.admin.test_reveal")
@pytest.mark.usefixtures("_backends")
@pytest.mark.parametrize("is_first", [False, True], ids=["asked last", "asked first"])
@pytest.mark.parametrize(
    ("password", "is_proof"), [("wrong", False), ("", False), (PASSWORD, True)]
)
def test_a_backend_that_looks_at_no_password_makes_none_right(
    card: Card, settings: Any, password: str, is_proof: bool, is_first: bool
) -> None:
    browser = Client(headers={"X-Person": name_of(person())})
    if is_first:
        settings.AUTHENTICATION_BACKENDS = [*reversed(BACKENDS.values())]
    browser.post("/sso/ByNetwork/")
    assert bool(codes_on(read(reveal(browser, card, password=password)))) is is_proof


@pytest.mark.urls("tests.admin.test_reveal")
@pytest.mark.usefixtures("_backends")
@pytest.mark.parametrize("password", ["!", ""], ids=["unusable", "empty"])
def test_who_has_no_password_reads_what_to_do_and_who_has_one_elsewhere_is_asked_for_it(
    card: Card, password: str
) -> None:
    name = name_of(person())
    get_user_model().objects.filter(username=name).update(password=password)
    browser = Client(headers={"X-Person": name})
    browser.post("/sso/ByNetwork/", {"SAMLResponse": "CANARY"})
    for answer in (browser.get(ask_address(card)), reveal(browser, card, password=password)):
        html = read(answer, status=403)
        assert NO_PASSWORD in text(html)
        assert asks_for(html) == []
        assert secrets_on(html) == []
    browser.post("/sso/Directory/")
    assert asks_for(read(browser.get(ask_address(card)))) == ["reason", "password"]
    assert codes_on(read(reveal(browser, card, password=IN_DIRECTORY))) == [CODE, SERIAL]


def test_a_password_that_is_hashed_anew_signs_nobody_out(card: Card, settings: Any) -> None:
    browser = person()
    let_pass(browser, 601)
    settings.PASSWORD_HASHERS = [
        "django.contrib.auth.hashers.ScryptPasswordHasher",
        *settings.PASSWORD_HASHERS,
    ]
    assert codes_on(read(reveal(browser, card, password=PASSWORD))) == [CODE, SERIAL]
    assert codes_on(read(reveal(browser, card))) == [CODE, SERIAL]


NEW_PASSWORD = "x7-new-long"


def test_a_proof_ends_with_its_password_and_one_changed_with_the_old_one_is_a_proof(
    card: Card,
) -> None:
    browser = person()
    new = {"new_password1": NEW_PASSWORD, "new_password2": NEW_PASSWORD}
    answer = browser.post("/admin/password_change/", {"old_password": PASSWORD, **new})
    assert answer.status_code == 302
    assert asks_for(read(browser.get(ask_address(card)))) == ["reason", "password"]
    assert codes_on(read(reveal(browser, card, password=NEW_PASSWORD))) == [CODE, SERIAL]


def set_own_password(screen: Client, name: str) -> None:
    key = get_user_model().objects.get(username=name).pk
    address = f"/admin/auth/user/{key}/password/"
    given = {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD, "usable_password": "true"}
    assert screen.post(address, given).status_code == 302


def add_user(screen: Client, name: str) -> None:
    given = {"username": name, "password1": NEW_PASSWORD, "password2": NEW_PASSWORD}
    assert (
        screen.post("/admin/auth/user/add/", given | {"usable_password": "true"}).status_code == 302
    )
    get_user_model().objects.filter(username=name).update(is_staff=True, is_superuser=True)


@pytest.mark.parametrize(
    ("name", "do"),
    [("karim", set_own_password), ("lina", set_own_password), ("new", add_user)],
    ids=["their own", "a colleague's", "a new user's"],
)
def test_a_password_that_was_set_without_the_old_one_is_no_proof_for_an_hour(
    card: Card, name: str, do: Callable[[Client, str], None]
) -> None:
    """A person at a user manager's unlocked screen could set a password and then use it."""
    for each in ("karim", "lina"):
        get_user_model().objects.create_superuser(each, password=PASSWORD)
    screen, other = Client(), Client()
    assert screen.login(username="karim", password=PASSWORD)
    let_pass(screen, 601)
    do(screen, name)
    assert other.login(username=name, password=NEW_PASSWORD)
    for browser in [screen, other] if name == "karim" else [other]:
        for _time in range(2):
            html = read(reveal(browser, card, password=NEW_PASSWORD))
            assert errors(html) == [
                "This password was set in the admin less than an hour ago, without the old"
                " password. It cannot be used to confirm your identity yet. Try again later."
            ]
            assert asks_for(html) == ["reason", "password"]
        assert errors(read(reveal(browser, card, password="wrong"))) == [
            "Your identity could not be confirmed. Try again."
        ]
    assert not CardReveal.objects.exists()
    LogEntry.objects.update(action_time=timezone.now() - timedelta(minutes=61))
    assert codes_on(read(reveal(other, card, password=NEW_PASSWORD))) == [CODE, SERIAL]
    again = Client()
    assert again.login(username=name, password=NEW_PASSWORD)
    assert codes_on(read(reveal(again, card))) == [CODE, SERIAL]


def test_other_changes_of_a_user_take_no_proof(card: Card) -> None:
    browser = person()
    user = get_user_model().objects.get(username=name_of(browser))
    changed = '[{"changed": {"fields": ["Email address"]}}]'
    LogEntry.objects.log_actions(user.pk, [user], CHANGE, changed)
    assert codes_on(read(reveal(browser, card))) == [CODE, SERIAL]
    let_pass(browser, 601)
    assert codes_on(read(reveal(browser, card, password=PASSWORD))) == [CODE, SERIAL]


def test_the_proof_of_another_person_counts_for_nothing(card: Card) -> None:
    browser, other = person(), person()
    change_proof(browser, by=other.session["giftcards_proof"]["by"])
    assert codes_on(read(reveal(browser, card))) == []
    # A session from a version of the app that did not record proofs has none.
    session = browser.session
    del session["giftcards_proof"]
    session.save()
    assert asks_for(read(reveal(browser, card))) == ["reason", "password"]


@pytest.mark.parametrize(
    ("age", "is_proof"), [(590, True), (601, False), (-1, True), (-6, False), (-60, False)]
)
def test_a_proof_counts_for_ten_minutes_also_of_a_host_that_is_a_little_ahead(
    card: Card, age: int, is_proof: bool
) -> None:
    browser = person()
    let_pass(browser, age)
    assert bool(codes_on(read(reveal(browser, card)))) is is_proof


def test_sessions_of_customers_hold_no_proof() -> None:
    get_user_model().objects.create_user("customer", password=PASSWORD)
    browser = Client()
    assert browser.login(username="customer", password=PASSWORD)
    assert "giftcards_proof" not in browser.session


# What is recorded.


@pytest.mark.parametrize(
    ("told", "address"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("2001:DB8::0:1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("", None),
        ("unix:", None),
        ("203.0.113.9, 10.0.0.1", None),
    ],
)
def test_the_address_is_what_the_server_tells_if_it_is_one(
    card: Card, told: str, address: str | None
) -> None:
    browser = person()
    response = browser.post(
        reveal_address(card),
        {"reason": REASON},
        REMOTE_ADDR=told,
        headers={"x-forwarded-for": "198.51.100.1"},
    )
    assert codes_on(read(response)) == [CODE, SERIAL]
    assert CardReveal.objects.get().address == address


def test_no_table_session_log_message_or_page_holds_the_code_or_password_afterwards(
    order: Order, card: Card, caplog: pytest.LogCaptureFixture
) -> None:
    browser = person()
    let_pass(browser, 601)
    with caplog.at_level(logging.DEBUG):
        response = reveal(browser, card, password=PASSWORD)
        assert codes_on(read(response)) == [CODE, SERIAL]
    assert traces(caplog.text) == []
    assert [found for value in raw_database() for found in traces(value)] == []
    assert traces(repr(dict(browser.session))) == []
    assert traces(str(browser.cookies)) == []
    assert traces(response.serialize_headers()) == []
    for address in (order_page(order), ask_address(card), f"{LIST}{order.pk}/history/", "/admin/"):
        html = read(browser.get(address))
        assert traces(html) == []
        assert "messagelist" not in html


# Errors and simultaneous changes.


@pytest.mark.parametrize("table", ["giftcards_cardreveal", "django_admin_log"])
def test_nothing_is_shown_if_the_trace_cannot_be_written(
    card: Card, table: str, caplog: pytest.LogCaptureFixture
) -> None:
    browser = person()
    with failing("INSERT", table):
        html = read(reveal(browser, card), 503)
    assert (
        "The code is not shown because your request could not be recorded. Try again later."
    ) in text(html)
    assert secrets_on(html) == []
    assert not CardReveal.objects.exists()
    assert not LogEntry.objects.exists()
    assert logged(caplog) == [
        "Card 2 of order web-1042 was not revealed, because the request could not be recorded."
    ]
    assert traces(caplog.text) == []


@pytest.mark.parametrize("keys", [[], [generate_key()]], ids=["none", "another"])
def test_a_card_that_cannot_be_opened_gives_a_sentence_and_staff_are_told(
    card: Card, settings: Any, keys: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    use_keys(settings, *keys)
    response = reveal(person(), card)
    html = read(response)
    assert "This card cannot be decrypted." in text(html)
    assert codes_on(html) == []
    assert secrets_on(html) == []
    assert "Refresh" not in response
    assert logged(caplog) == ["Card 2 of order web-1042 cannot be revealed."]
    assert CardReveal.objects.get().reason == REASON


def test_a_card_that_changes_meanwhile_is_shown_as_it_was_or_as_it_is(order: Order) -> None:
    """The provider may report the serial at the moment of the reveal."""
    card = receive("web-1", CardSecret(CODE, "")).cards.get()
    later = conf.keyring().seal(CardSecret(CODE, SERIAL), place=card.place)
    row = Card.objects.filter(pk=card.pk)
    browser = person()
    changes = []

    def change(execute: Any, sql: str, *args: Any) -> Any:
        if not changes and "giftcards_cardreveal" in sql:
            changes.append(sql)
            row.update(**later._asdict())
        return execute(sql, *args)

    with connection.execute_wrapper(change):
        html = read(reveal(browser, card))
    assert changes
    assert codes_on(html) in ([CODE], [CODE, SERIAL])
    assert codes_on(read(reveal(browser, card))) == [CODE, SERIAL]


# The hourly limit.


@pytest.fixture
def limited(set_conf: Callable[..., None], settings: Any) -> None:
    set_conf(REVEALS_PER_HOUR=2)
    settings.MANAGERS = MANAGERS


TOO_MANY = (
    "You have revealed codes or corrected addresses 2 times in the last hour. Try again later."
)
TOLD = "The site managers have been notified."


@pytest.mark.usefixtures("limited")
@pytest.mark.parametrize("has_managers", [True, False])
def test_one_code_too_many_for_an_hour_is_refused_and_told_once(
    card: Card,
    settings: Any,
    caplog: pytest.LogCaptureFixture,
    django_capture_on_commit_callbacks: Any,
    has_managers: bool,
) -> None:
    if not has_managers:
        settings.MANAGERS = []
    browser = person()
    for _click in range(2):
        reveal(browser, card)
    with django_capture_on_commit_callbacks(execute=True):
        response = reveal(browser, card)
        html = read(response, 429)
        read(reveal(browser, card), 429)
    assert TOO_MANY in text(html)
    assert (TOLD in text(html)) == has_managers
    assert secrets_on(html) == []
    assert "Refresh" not in response
    assert CardReveal.objects.count() == 2
    refused = LogEntry.objects.get(object_repr="Reveal, refused")
    assert refused.change_message == "Tried to reveal more than 2 codes within an hour."
    if has_managers:
        [told] = mail.outbox
        assert told.to == ["samir@example.com"]
        assert told.subject == "[Django] Many gift card codes were revealed"
        assert name_of(browser) in told.body
        assert "for order web-1042" in told.body
        assert traces(str(told.message())) == []
    else:
        assert mail.outbox == []
        [logged_error] = [entry for entry in caplog.records if entry.levelname == "ERROR"]
        assert logged_error.getMessage() == (
            f"{name_of(browser)} tried to reveal more than 2 codes within an hour."
            " No e-mail is sent, because MANAGERS is empty."
        )


@pytest.mark.usefixtures("limited")
def test_the_limit_is_that_of_one_person_and_counts_no_wrong_passwords(card: Card) -> None:
    browser, other = person(), person()
    let_pass(browser, 601)
    for password in ("wrong",) * 3 + (PASSWORD,) * 3:
        answer = reveal(browser, card, password=password)
    assert answer.status_code == 429
    assert CardReveal.objects.count() == 2
    assert codes_on(read(reveal(other, card))) == [CODE, SERIAL]


@pytest.mark.usefixtures("limited")
def test_an_hour_later_codes_are_revealed_again_and_managers_are_told_again(
    card: Card, django_capture_on_commit_callbacks: Any
) -> None:
    browser = person()
    with django_capture_on_commit_callbacks(execute=True):
        for _click in range(3):
            reveal(browser, card)
    hour = timedelta(hours=1)
    first = CardReveal.objects.earliest("pk")
    CardReveal.objects.filter(pk=first.pk).update(at=first.at - hour)
    LogEntry.objects.update(action_time=timezone.now() - hour)
    with django_capture_on_commit_callbacks(execute=True):
        assert codes_on(read(reveal(browser, card))) == [CODE, SERIAL]
        read(reveal(browser, card), 429)
    assert len(mail.outbox) == 2


@pytest.mark.usefixtures("limited")
def test_a_refusal_stands_though_the_mail_cannot_be_sent(
    card: Card,
    django_capture_on_commit_callbacks: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("no mail today")

    monkeypatch.setattr(EmailBackend, "send_messages", fail)
    browser = person()
    with django_capture_on_commit_callbacks(execute=True):
        for _click in range(2):
            reveal(browser, card)
        html = read(reveal(browser, card), 429)
    assert f"{TOO_MANY} {TOLD}" in text(html)
    assert "no mail today" in caplog.text


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("shared_database")
def test_of_many_reveals_at_once_no_more_than_allowed_are_shown(
    set_conf: Callable[..., None], settings: Any
) -> None:
    """The requests share one session, like a second click, another window or a script."""
    set_conf(REVEALS_PER_HOUR=3)
    settings.MANAGERS = MANAGERS
    card = receive("web-1042", CardSecret(CODE, SERIAL)).cards.get()
    first = person()
    assert codes_on(read(reveal(first, card))) == [CODE, SERIAL]
    session = first.cookies["sessionid"].value

    def click() -> int:
        browser = Client()
        browser.cookies["sessionid"] = session
        response = reveal(browser, card)
        assert (codes_on(response.content.decode()) == [CODE, SERIAL]) == (
            response.status_code == 200
        )
        return int(response.status_code)

    assert sorted(in_threads(6, click), key=str) == [200] * 2 + [429] * 4
    assert CardReveal.objects.count() == 3
    assert LogEntry.objects.filter(change_message="Revealed card 1.").count() == 3
    assert LogEntry.objects.filter(object_repr="Reveal, refused").count() == 1
    assert len(mail.outbox) == 1


@pytest.mark.django_db(transaction=True)
def test_the_trace_is_committed_before_the_code_is_shown_whatever_the_site_does(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = receive("web-1042", CardSecret(CODE, SERIAL)).cards.get()
    browser = person()
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)
    settings.STORAGES = {**settings.STORAGES, "staticfiles": {"BACKEND": WITHOUT_SCRIPT}}
    browser.raise_request_exception = False
    assert reveal(browser, card).status_code == 500
    assert CardReveal.objects.count() == 1


# The response.


def test_the_answer_isolates_the_code_is_not_kept_and_goes_away_after_a_minute(
    order: Order, card: Card
) -> None:
    response = reveal(person(headers={"accept-language": "ar"}), card)
    isolated = f'<bdi dir="ltr" class="giftcards-secret" id="giftcards-code">{CODE}</bdi>'
    assert isolated in read(response)
    kept = response["Cache-Control"].split(", ")
    assert {"no-store", "private"} <= set(kept)
    assert response["Refresh"] == f"60; url={order_page(order)}"
    assert response["Referrer-Policy"] == "same-origin"


def test_the_pages_need_no_inline_script_or_style(card: Card) -> None:
    browser = person()
    let_pass(browser, 601)
    for html in (
        read(browser.get(ask_address(card))),
        read(reveal(browser, card, password=PASSWORD)),
    ):
        assert re.findall(r"<script(?![^>]*\bsrc=)[^>]*>", html) == []
        assert re.findall(r"<style|\sstyle=|\son\w+=|javascript:", html) == []


def test_the_error_mail_about_a_page_that_cannot_be_rendered_holds_no_code_or_password(
    card: Card, settings: Any
) -> None:
    settings.STORAGES = {**settings.STORAGES, "staticfiles": {"BACKEND": WITHOUT_SCRIPT}}
    browser = person(raise_request_exception=False)
    let_pass(browser, 601)
    mailbox = Mailbox()
    logging.getLogger("django.request").addHandler(mailbox)
    try:
        html = read(reveal(browser, card, password=PASSWORD), 500)
    finally:
        logging.getLogger("django.request").removeHandler(mailbox)
    (report,) = mailbox.mails
    assert "Missing staticfiles manifest entry" in report
    assert "revealing.py" in report
    assert traces(report) == traces(html) == []
    # The error has no template frames, whose variables could contain the code.
    with pytest.raises(ValueError, match="Missing") as caught:
        reveal(person(), card)
    frames = [frame.f_code.co_filename for frame, _line in traceback.walk_tb(caught.tb)]
    assert any("revealing.py" in name for name in frames)
    assert not any("template" in name for name in frames)


def test_the_number_of_queries_is_known(card: Card) -> None:
    browser = person()
    read(reveal(browser, card))
    with CaptureQueriesContext(connection) as captured:
        read(reveal(browser, card))
    assert len(captured) <= 13, "\n".join(query["sql"] for query in captured)


# The list of what was revealed.


def test_the_list_shows_who_revealed_what_when_and_why(order: Order, card: Card) -> None:
    browser, before = person(), timezone.now()
    evil = "<script>alert(1)</script>"
    reveal(browser, card, evil)
    made = CardReveal.objects.get()
    assert (made.user.get_username(), made.card) == (name_of(browser), card)
    assert before <= made.at <= timezone.now()
    reader = person("view_cardreveal", "view_order")
    html = read(reader.get(REVEALS))
    heading, row = rows(html, 'id="result_list"')
    assert [name.casefold() for name in heading] == [
        "when", "by", "order", "card", "address", "reason",
    ]  # fmt: skip
    assert row[0].endswith(f" {timezone.localtime(made.at):%H:%M:%S}")
    assert row[1:] == [name_of(browser), "web-1042", "card 2", "127.0.0.1", evil]
    assert f'href="{order_page(order)}"' in html
    assert secrets_on(html) == []
    assert "&lt;script&gt;alert(1)" in html
    assert "<script>alert" not in html


def test_the_list_is_for_looking_only_and_needs_its_permission(card: Card) -> None:
    reveal(person(), card)
    row = CardReveal.objects.get()
    boss = sign_in(superuser=True)
    assert person().get(REVEALS).status_code == 403
    assert boss.get(f"{REVEALS}add/").status_code == 403
    assert boss.post(f"{REVEALS}{row.pk}/delete/", {"post": "yes"}).status_code == 403
    assert boss.post(f"{REVEALS}{row.pk}/change/", {"reason": "none"}).status_code == 403
    html = read(boss.get(f"{REVEALS}{row.pk}/change/"))
    assert REASON in html
    assert "submit-row" not in html or 'name="_save"' not in html
    assert CardReveal.objects.get().reason == REASON


def test_the_reason_is_for_who_may_look_at_revealed_codes(order: Order, card: Card) -> None:
    reveal(person(), card)
    page = order_page(order)
    assert REASON in read(person("view_order", "view_cardreveal").get(page))
    html = read(person("view_order", "reveal_card").get(page))
    assert "revealed the code of card" in html
    assert REASON not in html


def test_the_number_of_queries_of_the_list_does_not_grow(card: Card) -> None:
    browser, reader = person(), person("view_cardreveal", "view_order")
    reveal(browser, card)
    few = count_queries(reader, REVEALS)
    for number in range(5):
        reveal(person(), receive(f"web-{number}", CardSecret(f"C-{number}", "")).cards.get())
    assert count_queries(reader, REVEALS) == few
