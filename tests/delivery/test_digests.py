"""Digests for staff: who gets them, when, with which contents, and after a failure."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any, ClassVar

import pytest
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, Permission
from django.contrib.contenttypes.models import ContentType
from django.core import mail
from django.core.mail import EmailMultiAlternatives
from django.db import connection
from django.utils import timezone, translation

from giftcards.books.models import LedgerEntry
from giftcards.delivery import digests, tasks
from giftcards.delivery.channels import Channel, Limits, Message, SlowDown
from giftcards.delivery.conf import StaffPerson
from giftcards.delivery.digest_items import told_conditions
from giftcards.delivery.models import CardLink, Delivery, DeliveryStatus, LinkVisit, StaffDigest
from giftcards.delivery.staff import permissions_of
from giftcards.management.groups import ensure_roles, role_permissions
from giftcards.models import ApiKey, Card, Order, ProviderState
from giftcards.models.provider import configured_key
from giftcards.models.staff_records import REFUSED_REVEAL
from giftcards.rules.problems import Problem
from giftcards.rules.roles import ROLES
from giftcards.settlement import record_refund
from giftcards.statuses import Status
from tests.books.wire import note_ledger
from tests.builders import make_guide_order, make_order
from tests.delivery import story
from tests.delivery.mails import ADDRESS, give_up, let_pass, make_message, note_tick
from tests.fakes.mail import DROP, REFUSING, SILENT, UNCOUNTING, Fault, MailServer

pytestmark = pytest.mark.django_db

BOSS = "boss@shop.example"
SUPPORT = {"address": "support@shop.example", "role": "Gift card support"}
BOOKS = {"address": "books@shop.example", "role": "Gift card accountant"}
TROUBLE = Problem("late", {})
Listed = Callable[..., None]
ADMIN = "https://shop.example/admin/giftcards"


@pytest.fixture
def listed(settings: Any) -> Listed:
    """Return a function that makes people recipients of digests since an hour ago."""

    def listed(*people: Any, **others: Any) -> None:
        configured = {"STAFF_EMAILS": list(people), **others}
        settings.GIFTCARDS_DELIVERY = {**settings.GIFTCARDS_DELIVERY, **configured}
        digests.send_due(Limits())
        mail.outbox.clear()
        let_pass(minutes=60)

    return listed


@pytest.fixture(autouse=True)
def _worker() -> None:
    ProviderState.objects.current()
    note_tick()


def ago(**span: float) -> Any:
    return timezone.now() - timedelta(**span)


def settled(status: Status, reference: str, **values: Any) -> Order:
    return make_guide_order(status, reference=reference, finalized_at=ago(minutes=2), **values)


def sent() -> list[EmailMultiAlternatives]:
    """Send the digests that are due, and return them."""
    mail.outbox.clear()
    count = digests.send_due(Limits())
    assert count == len(mail.outbox)
    return list(mail.outbox)  # type: ignore[arg-type]


def html_of(digest: EmailMultiAlternatives) -> str:
    [(html, kind)] = digest.alternatives
    assert kind == "text/html"
    return str(html)


def test_a_digest_names_each_kind_of_order_with_a_count_and_a_link(listed: Listed) -> None:
    listed(BOSS)
    settled(Status.PARTIALLY_FILLED, "web-1")
    settled(Status.PARTIALLY_FILLED, "web-2")
    settled(Status.REFUNDED, "web-3")
    settled(Status.REJECTED, "web-4")
    settled(Status.FULFILLED, "web-5")
    make_guide_order(Status.HANDLING, reference="web-6", problems=[TROUBLE])
    make_guide_order(Status.DELAYED, reference="web-7")
    make_order(Status.UNCONFIRMED, reference="web-8", problems=[Problem("answer_lost")])
    [digest] = sent()
    assert digest.to == [BOSS]
    assert digest.from_email == "Shop <shop@shop.example>"
    assert digest.subject == "The Shop: 1 order with a problem, 1 unconfirmed order and more"
    for text in (digest.body, html_of(digest)):
        for headline in (
            "4 orders with missing cards",
            "1 delayed order",
            "1 unconfirmed order",
        ):
            assert headline in text
        assert "web-5" not in text
        for reference in ("web-1", "web-2", "web-3", "web-4", "web-6", "web-7", "web-8"):
            key = Order.objects.get(reference=reference).pk
            assert reference in text
            assert f"{ADMIN}/order/{key}/change/" in text
        assert f"{ADMIN}/order/?attention=other" in text


def test_an_order_whose_missing_cards_are_ordered_again_needs_nobody(listed: Listed) -> None:
    listed(BOSS)
    for status in (Status.PARTIALLY_FILLED, Status.REFUNDED, Status.REJECTED):
        settled(status, f"web-{status}", reordered_amount=0)
    assert sent() == []


def test_an_order_without_all_its_cards_counts_until_its_customer_is_paid_back_or_for_a_day(
    listed: Listed,
) -> None:
    listed(BOSS)
    order = settled(Status.REFUNDED, "web-1", sale_price=600)
    settled(Status.REJECTED, "web-2")
    [digest] = sent()
    assert digest.subject == "The Shop: 2 orders with missing cards"
    let_pass(days=1)
    assert sent() == []
    assert StaffDigest.objects.get().told == {"cards_missing": [order.pk]}
    order.refresh_from_db()
    assert order.open_amount
    record_refund(order, amount=order.open_amount, reference="R1")
    let_pass(minutes=1)
    note_tick()
    assert sent() == []
    assert StaffDigest.objects.get().told == {}


def test_no_code_address_or_name_of_a_customer_is_in_a_digest(listed: Listed) -> None:
    listed(BOSS)
    order = settled(
        Status.PARTIALLY_FILLED,
        "web-1",
        customer_email="lina@example.com",
        customer_name="Lina Haddad",
        customer_phone="+213555",
    )
    Card.objects.create(
        order=order, position=1, sealed="CANARY-SEALED", value_fingerprint="-", key_fingerprint="k"
    )
    unsent(order, address="lina@example.com")
    [digest] = sent()
    for text in (digest.subject, digest.body, html_of(digest), str(StaffDigest.objects.get().told)):
        assert not any(
            word in text for word in ("lina@example.com", "Lina Haddad", "+213555", "CANARY")
        )


def test_somebody_who_is_new_is_told_what_is_wrong_now(listed: Listed) -> None:
    settled(Status.REFUNDED, "web-1")
    settled(Status.REFUNDED, "web-2", reordered_amount=0)
    listed(BOSS, SUPPORT)
    # A person who is listed again counts as new.
    listed(BOSS)
    assert [row.address for row in StaffDigest.objects.all()] == [BOSS]
    make_guide_order(Status.DELAYED, reference="web-3")
    listed(SUPPORT)
    StaffDigest.objects.all().delete()
    [digest] = sent()
    assert digest.to == [SUPPORT["address"]]
    assert digest.subject == "The Shop: 1 order with missing cards, 1 delayed order"
    assert "web-2" not in digest.body


def test_a_digest_is_sent_if_something_is_new_and_tells_all_that_is_wrong(listed: Listed) -> None:
    listed(BOSS)
    settled(Status.REFUNDED, "web-1")
    make_guide_order(Status.HANDLING, reference="web-2", problems=[TROUBLE])
    assert len(sent()) == 1
    let_pass(minutes=31)
    assert sent() == []
    make_guide_order(Status.HANDLING, reference="web-3", problems=[TROUBLE])
    let_pass(minutes=31)
    [digest] = sent()
    assert digest.subject == "The Shop: 2 orders with problems"
    for text in (digest.body, html_of(digest)):
        places = [text.index(word) for word in ("web-3", "web-2", "Reported before", "web-1")]
        assert places == sorted(places)


def test_between_two_digests_pass_thirty_minutes(listed: Listed) -> None:
    listed(BOSS)
    settled(Status.REFUNDED, "web-1")
    assert len(sent()) == 1
    let_pass(minutes=29)
    settled(Status.REJECTED, "web-2")
    assert sent() == []
    let_pass(minutes=1)
    assert len(sent()) == 1


def test_an_order_that_needs_a_person_again_is_news_again(listed: Listed) -> None:
    listed(BOSS)
    order = make_guide_order(Status.HANDLING, reference="web-1", problems=[TROUBLE])
    assert len(sent()) == 1
    Order.objects.update(**order.problem_columns(new=[]) | {"needs_attention": False})
    let_pass(minutes=31)
    assert sent() == []
    Order.objects.update(**order.problem_columns(new=[TROUBLE]))
    let_pass(minutes=1)
    [digest] = sent()
    assert "web-1" in digest.body


def test_more_than_a_few_orders_are_counted_and_the_first_ones_named(listed: Listed) -> None:
    listed(BOSS)
    for number in range(8):
        settled(Status.REJECTED, f"web-{number}")
    [digest] = sent()
    assert digest.subject == "The Shop: 8 orders with missing cards"
    assert digest.body.count("/change/") == 5
    assert "and 3 other orders" in digest.body
    assert "and 3 other orders" in html_of(digest)


def test_beyond_a_thousand_is_said_without_counting_on(
    listed: Listed, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("watch.conditions", "watch.core_conditions"):
        monkeypatch.setattr(f"giftcards.{module}.MOST", 2)
    listed(BOSS)
    for number in range(4):
        make_guide_order(Status.HANDLING, reference=f"web-{number}", problems=[TROUBLE])
    [digest] = sent()
    assert digest.subject == "The Shop: 2 orders with problems (at least)"


class TestStates:
    def test_a_refused_key_is_told_at_once_then_daily_and_its_end_once(
        self, listed: Listed
    ) -> None:
        listed(BOSS)
        refuse_key()
        [digest] = sent()
        assert digest.subject == "The Shop: requests to the provider are paused"
        assert "Contact your developer." in digest.body
        assert "manage.py" not in digest.body
        let_pass(hours=23)
        note_tick()
        assert sent() == []
        let_pass(hours=2)
        assert len(sent()) == 1
        ApiKey.objects.resume()
        let_pass(minutes=31)
        [digest] = sent()
        assert digest.subject == "The Shop: Requests to the provider are no longer paused"
        assert "Resolved" in digest.body
        let_pass(minutes=31)
        assert sent() == []
        refuse_key()
        let_pass(minutes=1)
        assert len(sent()) == 1

    def test_an_outage_is_told_once_nothing_has_succeeded_for_minutes(self, listed: Listed) -> None:
        listed(BOSS)
        ProviderState.objects.update(outages=9)
        assert sent() == []
        ProviderState.objects.update(succeeded_at=ago(minutes=6))
        let_pass(minutes=1)
        [digest] = sent()
        assert digest.subject == "The Shop: requests to the provider are failing"

    def test_stopped_background_work_is_told_by_whoever_sends_messages(
        self, listed: Listed
    ) -> None:
        listed(BOSS)
        ProviderState.objects.update(last_tick_at=ago(minutes=9), swept_at=ago(minutes=9))
        [digest] = sent()
        assert digest.subject == "The Shop: background work has stopped"
        assert "have not reported for more than 3 minutes" in digest.body

    def test_a_low_balance_is_told_in_figures_to_those_who_may_see_costs(
        self, listed: Listed, settings: Any
    ) -> None:
        settings.GIFTCARDS = {**settings.GIFTCARDS, "LOW_BALANCE": 5_000}
        listed(BOOKS, SUPPORT)
        ProviderState.objects.update(balance=Decimal("1234.50"))
        make_guide_order(Status.HANDLING)
        make_guide_order(
            Status.PENDING, quantity=10, price_at_placing=Decimal(490), due_at=ago(minutes=-1)
        )
        [digest] = sent()
        assert digest.to == [BOOKS["address"]]
        plain = digest.body.translate(dict.fromkeys((0x2066, 0x2067, 0x2068, 0x2069)))
        assert "1,234.50\u00a0DA" in plain
        assert "which is below 5,000\u00a0DA" in plain
        assert (
            "that have not been sent yet cost 4,900\u00a0DA. This is more than the balance" in plain
        )

    def test_what_the_ledger_lacks_is_told_to_those_who_may_see_costs_until_it_ends(
        self, listed: Listed
    ) -> None:
        listed(BOOKS, SUPPORT)
        lacking = make_guide_order(
            Status.PARTIALLY_FILLED, reference="web-1", is_credited=False, finalized_at=ago(days=1)
        )
        differs = Problem("credit_differs", {"expected": "980.00", "amount": "0.00"})
        Order.objects.filter(pk=lacking.pk).update(**lacking.problem_columns(new=[differs]))
        unknown = LedgerEntry.objects.create(
            provider_id="odd", type="ORDER", amount=Decimal("-490.50"), time=ago(minutes=30)
        )
        note_ledger(read_until=timezone.now(), gap=Decimal(-100), breaks=1)
        by_address = {digest.to[0]: digest for digest in sent()}
        digest = by_address[BOOKS["address"]]
        plain = digest.body.translate(dict.fromkeys((0x2066, 0x2067, 0x2068, 0x2069)))
        for text in (
            "1 refund that the provider has not credited to the balance",
            f"{ADMIN}/order/{lacking.pk}/change/",
            f"{ADMIN}/order/?ledger=credits_missing&attention=needed",
            "The total is 980\u00a0DA.",
            "1 entry in the provider's ledger without a matching order",
            f"{ADMIN}_books/ledgerentry/?period=week&order=unknown",
            "The total is 490.50\u00a0DA.",
            "he provider's ledger does not explain the balance",
            "The balance has changed by -100 DA without an entry that explains it.",
        ):
            assert text in plain
        # Support is told about the order, but not about the money.
        assert by_address[SUPPORT["address"]].subject == "The Shop: 1 order with a problem"
        unknown.delete()
        Order.objects.filter(pk=lacking.pk).update(is_credited=True)
        note_ledger(gap=0, breaks=0)
        let_pass(minutes=31)
        [digest] = sent()
        for text in (
            "The provider has credited back all promised refunds.",
            "now have a matching order.",
            "explains the balance again.",
        ):
            assert text in digest.body

    def test_messages_that_wait_are_told_with_their_number_and_since_when(
        self, listed: Listed
    ) -> None:
        listed(BOSS)
        order = make_guide_order(Status.FULFILLED, reference="web-1")
        message(order, status=DeliveryStatus.RETRYING, created_at=ago(minutes=4))
        assert sent() == []
        Delivery.objects.update(created_at=ago(minutes=40))
        let_pass(minutes=1)
        [digest] = sent()
        assert digest.subject == "The Shop: 1 message to a customer could not be sent yet"
        assert "The oldest message has been waiting since" in digest.body
        Delivery.objects.update(status=DeliveryStatus.SENT, next_attempt_at=None)
        let_pass(minutes=31)
        [digest] = sent()
        assert "Messages to customers can be sent again." in digest.body


class TestOfTheLastDay:
    def test_messages_that_failed_are_told_by_the_orders_however_they_were_marked(
        self, listed: Listed
    ) -> None:
        listed(BOSS)
        order = make_guide_order(Status.FULFILLED, reference="web-1")
        unsent(order, key="1")
        unsent(order, key="2")
        bounced = message(make_guide_order(Status.FULFILLED, reference="web-2"), key="3")
        Delivery.objects.filter(pk=bounced.pk).update(status=DeliveryStatus.FAILED)
        Delivery.objects.filter(pk=bounced.pk).update(failed_at=ago(minutes=1))
        [digest] = sent()
        assert digest.subject == "The Shop: 3 messages that customers did not receive"
        assert f"{ADMIN}_delivery/delivery/?customers=untold-lately" in digest.body
        assert "others" not in digest.body
        assert "web-1" in digest.body
        assert "web-2" in digest.body

    def test_what_went_wrong_on_the_customers_page_is_told_to_who_may_help(
        self, listed: Listed
    ) -> None:
        listed(SUPPORT, BOOKS)
        order = make_guide_order(Status.FULFILLED, reference="web-1")
        link = CardLink.objects.create(order=order, origin=CardLink.Origin.MESSAGE)
        visit = {"link": link, "at": ago(minutes=1)}
        LinkVisit.objects.create(**visit, what="locked")
        LinkVisit.objects.create(**visit, what="revealed", unreadable=2)
        LinkVisit.objects.create(**visit, what="revealed", unreadable=2)
        LinkVisit.objects.create(**visit, what="revealed")
        LinkVisit.objects.create(**visit, what="opened")
        [digest] = sent()
        assert digest.to == [SUPPORT["address"]]
        assert "1 link locked after wrong PINs" in digest.body.lower().replace("pins", "PINs")
        assert "1 order with cards that cannot be decrypted" in digest.body

    @pytest.mark.parametrize("model", [Card, CardLink])
    def test_codes_and_links_over_the_limit_are_told_to_managers_only(
        self, listed: Listed, model: Any
    ) -> None:
        manager = {"address": BOSS, "role": "Gift card manager"}
        listed(manager, SUPPORT, BOOKS)
        entry = LogEntry.objects.create(
            user=get_user_model().objects.create(username="nosy"),
            content_type=ContentType.objects.get_for_model(model),
            object_repr=REFUSED_REVEAL,
            action_flag=CHANGE,
        )
        LogEntry.objects.filter(pk=entry.pk).update(action_time=ago(minutes=1))
        [digest] = sent()
        assert digest.to == [BOSS]
        assert digest.subject == "The Shop: 1 attempt to reveal more codes than allowed"
        assert f"{ADMIN}/cardreveal/" in digest.body


def message(order: Order, **values: Any) -> Delivery:
    values = {"kind": "delivered", "address": "lina@example.com", "language": "en"} | values
    values.setdefault("key", f"key {order.pk}")
    return Delivery.objects.create(order=order, **values)


def unsent(order: Order, **values: Any) -> Delivery:
    failed = {"status": DeliveryStatus.FAILED, "failed_at": ago(minutes=1)}
    return message(order, **failed, next_attempt_at=None, **values)


@pytest.mark.parametrize(
    ("language", "subject", "direction"),
    [("en", "orders with missing cards", "ltr"), ("ar", "", "rtl"), ("fr", "", "ltr")],
)
def test_each_person_is_told_in_their_language_and_its_direction(
    listed: Listed, language: str, subject: str, direction: str
) -> None:
    listed({"address": BOSS, "language": language})
    settled(Status.REJECTED, "web-1")
    settled(Status.REJECTED, "web-2")
    [digest] = sent()
    assert subject in digest.subject
    assert f'<html lang="{language}" dir="{direction}">' in html_of(digest)


def test_every_item_concerns_a_role_and_every_role_is_told_of_something() -> None:
    granted = {f"giftcards.{codename}" for of_role in ROLES.values() for codename in of_role}
    needed = {condition.permission for condition in told_conditions().values()}
    assert needed <= granted
    for role, codenames in ROLES.items():
        may = permissions_of(StaffPerson("x@shop.example", "en", role))
        concerned = set(filter(may, needed))
        assert concerned
        assert concerned == needed & {f"giftcards.{codename}" for codename in codenames}
    assert all(map(permissions_of(StaffPerson("x@shop.example", "en", None)), needed))


def sign_up(email: str, *, name: str = "stranger", **values: Any) -> Any:
    return get_user_model().objects.create(username=name, email=email, **values)


class TestPermissions:
    """The app reads a person's permissions from the database each time it sends a digest."""

    @pytest.fixture
    def account(self) -> Any:
        ensure_roles(role_permissions())
        user = sign_up("Support@shop.example", name="amina", is_staff=True)
        user.groups.add(Group.objects.get(name=SUPPORT["role"]))
        return user

    @pytest.mark.parametrize("entry", [SUPPORT, SUPPORT["address"]], ids=["role", "address alone"])
    @pytest.mark.parametrize(
        ("change", "is_told"),
        [
            (lambda _user: None, True),
            (lambda user: user.groups.clear(), False),
            (lambda user: get_user_model().objects.update(is_active=False), False),
            (lambda user: user.groups.get().permissions.clear(), False),
            (lambda user: user.delete(), True),
        ],
        ids=["as it was", "role taken away", "deactivated", "group empty", "no account"],
    )
    def test_the_account_is_asked_when_a_digest_is_sent(
        self, change: Callable[[Any], Any], is_told: bool, entry: Any, account: Any, listed: Listed
    ) -> None:
        listed(entry)
        settled(Status.REJECTED, "web-1")
        change(account)
        assert bool(sent()) is is_told

    @pytest.mark.parametrize("is_active", [True, False], ids=["active", "inactive"])
    @pytest.mark.parametrize("entry", [SUPPORT, SUPPORT["address"]], ids=["role", "address alone"])
    def test_a_customer_who_signs_up_with_an_address_of_staff_silences_nobody(
        self, entry: Any, is_active: bool, listed: Listed
    ) -> None:
        listed(entry)
        sign_up("Support@shop.example", is_active=is_active)
        settled(Status.REJECTED, "web-1")
        [digest] = sent()
        assert digest.subject == "The Shop: 1 order with missing cards"

    @pytest.mark.parametrize("is_active", [True, False], ids=["active", "inactive"])
    def test_a_customers_account_gives_no_permission_that_staff_lack(
        self, account: Any, is_active: bool, listed: Listed
    ) -> None:
        listed(SUPPORT["address"])
        account.groups.clear()
        sign_up(account.email, is_active=is_active, is_superuser=True)
        settled(Status.REJECTED, "web-1")
        assert sent() == []

    def test_what_a_shop_takes_from_a_group_is_told_to_nobody_of_that_role(
        self, account: Any, listed: Listed
    ) -> None:
        account.delete()
        listed(SUPPORT, BOOKS)
        settled(Status.REJECTED, "web-1")
        group = Group.objects.get(name=SUPPORT["role"])
        group.permissions.remove(Permission.objects.get(codename="view_order"))
        assert [digest.to for digest in sent()] == [[BOOKS["address"]]]

    def test_of_two_accounts_with_one_address_the_one_in_use_counts(
        self, account: Any, listed: Listed, settings: Any
    ) -> None:
        settings.GIFTCARDS = {**settings.GIFTCARDS, "LOW_BALANCE": 5_000}
        sign_up(account.email, name="before", is_active=False, is_staff=True, is_superuser=True)
        listed(account.email)
        settled(Status.REJECTED, "web-1")
        ProviderState.objects.update(balance=1)
        [digest] = sent()
        assert digest.subject == "The Shop: 1 order with missing cards"


def test_hostile_references_and_shop_names_stay_text(listed: Listed, settings: Any) -> None:
    listed(BOSS, SHOP_NAME="<b>Shop</b> & Co")
    settled(Status.REJECTED, "<script>alert(1)</script>")
    [digest] = sent()
    assert digest.subject == "<b>Shop</b> & Co: 1 order with missing cards"
    assert "<script>alert(1)</script>" in digest.body
    assert "<script>" not in html_of(digest)
    assert "<b>" not in html_of(digest)
    assert digest.message()["Auto-Submitted"] == "auto-generated"


def test_without_the_address_of_the_shop_there_are_no_links(listed: Listed, settings: Any) -> None:
    listed(BOSS)
    settings.GIFTCARDS_DELIVERY = {"STAFF_EMAILS": [BOSS]}
    settled(Status.REJECTED, "web-1")
    [digest] = sent()
    assert "web-1" in digest.body
    assert "http" not in digest.body
    assert "href" not in html_of(digest)


class TestFailures:
    @pytest.fixture(autouse=True)
    def _news(self, listed: Listed) -> None:
        listed(BOSS, SUPPORT)
        settled(Status.REJECTED, "web-1")

    @pytest.mark.parametrize(
        ("backend", "name"), [(REFUSING, "ConnectionRefusedError"), (SILENT, "NotTaken")]
    )
    def test_a_digest_that_cannot_be_sent_is_noted_without_words_and_tried_again(
        self,
        send_through: Callable[..., None],
        caplog: pytest.LogCaptureFixture,
        backend: str,
        name: str,
    ) -> None:
        send_through(backend)
        with caplog.at_level(logging.INFO):
            # There is one call for each person, because after a failure the others wait for the
            # next call.
            assert [digests.send_due(Limits()) for _person in range(2)] == [0, 0]
        digest = StaffDigest.objects.get(address=BOSS)
        assert (digest.failures, digest.is_failing) == (1, True)
        assert digest.error.startswith(f"{name} at ")
        assert "CANARY-WORDS" not in caplog.text + digest.error
        assert "web-1" not in caplog.text + digest.error
        assert [round(wait) for wait in waits(lambda: digests.send_due(Limits()))] == [60] * 6
        digest.refresh_from_db()
        assert digest.failures == 7
        send_through("django.core.mail.backends.locmem.EmailBackend")
        let_pass(minutes=2)
        assert len(sent()) == 2
        digest.refresh_from_db()
        assert (digest.failures, digest.error) == (0, "")
        assert digest.sent_at is not None

    def test_a_digest_is_sent_if_the_backend_does_not_count(
        self, send_through: Callable[..., None]
    ) -> None:
        send_through(UNCOUNTING)
        assert digests.send_due(Limits()) == 2
        assert not StaffDigest.objects.filter(failures__gt=0).exists()

    def test_while_mail_is_down_each_look_tries_one_digest_and_the_chat_is_told(
        self, send_through: Callable[..., None], listed: Listed, chat: list[Message]
    ) -> None:
        StaffDigest.objects.all().delete()
        send_through(REFUSING)
        people = [BOSS, SUPPORT, {"address": "-100", "channel": "chat"}]
        listed(*people, CHANNELS=[CHAT])
        assert [message.address for message in chat] == ["-100"]
        assert dict(StaffDigest.objects.values_list("address", "failures")) == {BOSS: 1, "-100": 0}

    def test_a_template_that_is_broken_fails_one_digest_and_not_the_process(
        self, settings: Any, tmp_path: Any
    ) -> None:
        folder = tmp_path / "giftcards_delivery" / "digest"
        folder.mkdir(parents=True)
        (folder / "mail.txt").write_text("{% nonsense %}")
        [templates] = settings.TEMPLATES
        settings.TEMPLATES = [{**templates, "DIRS": [tmp_path]}]
        assert sent() == []
        assert StaffDigest.objects.get(address=BOSS).error.startswith("TemplateSyntaxError at ")

    def test_a_shop_replaces_a_template(self, settings: Any, tmp_path: Any) -> None:
        folder = tmp_path / "giftcards_delivery" / "digest"
        folder.mkdir(parents=True)
        (folder / "subject.txt").write_text("[{{ items|length }}]\n{{ title }}\n")
        [templates] = settings.TEMPLATES
        settings.TEMPLATES = [{**templates, "DIRS": [tmp_path]}]
        assert sent()[0].subject == "[1] 1 order with missing cards"


def waits(attempt: Callable[[], object]) -> list[float]:
    """Return the seconds from each of six attempts to the next one."""
    found = []
    for _attempt in range(6):
        let_pass(hours=1)
        attempt()
        at = StaffDigest.objects.order_by("failures").last().retry_at  # type: ignore[union-attr]
        found.append((at - timezone.now()).total_seconds())
    return found


class TestAfterAnOutageOfMail:
    """The mail server is down when there is something to report."""

    @pytest.fixture(autouse=True)
    def _outage(self, listed: Listed, server: MailServer) -> None:
        listed(BOSS)
        settled(Status.REJECTED, "web-1")
        server.plan = lambda _number: Fault("connect", DROP)
        look()
        assert (StaffDigest.objects.get().failures, server.connections) == (1, 1)

    def test_a_digest_is_tried_each_minute_until_it_is_out(self, server: MailServer) -> None:
        for _minute in range(5):
            look()
            let_pass(minutes=1, seconds=1)
            look()
        assert server.connections == 6
        server.plan = lambda _number: None
        let_pass(minutes=1, seconds=1)
        look()
        [received] = server.received
        assert "web-1" in story.part(received.mail, "plain")
        assert StaffDigest.objects.get().failures == 0

    def test_something_newly_urgent_is_told_at_once(self, server: MailServer) -> None:
        server.plan = lambda _number: None
        make_message()
        let_pass(minutes=2)
        look()
        assert [received.recipient for received in server.received] == [ADDRESS, BOSS]
        refuse_key()
        let_pass(minutes=1)
        look()
        assert "are paused" in server.received[2].mail["Subject"]
        ApiKey.objects.resume()
        let_pass(minutes=1)
        look()
        refuse_key()
        let_pass(minutes=1)
        look()
        # A problem that ends and begins again waits for its turn.
        assert len(server.received) == 3

    @pytest.mark.parametrize(
        ("reply", "minutes"),
        [
            ("550 5.1.1 No such user", [5, 30, 60, 60, 60, 60]),
            ("450 4.2.1 Greylisted", [5, 30, 60, 60, 60, 60]),
        ],
    )
    def test_an_address_that_is_refused_gets_longer_pauses_unless_something_urgent_comes(
        self, reply: str, minutes: list[int], server: MailServer
    ) -> None:
        server.plan = lambda _number: Fault("rcpt", reply)
        assert [round(wait / 60) for wait in waits(look)] == minutes
        before = server.connections
        let_pass(minutes=2)
        look()
        assert server.connections == before
        refuse_key()
        for _minute in range(3):
            let_pass(minutes=2)
            look()
        assert server.connections == before + 1

    def test_a_refused_address_holds_up_nobody(self, server: MailServer, listed: Listed) -> None:
        first = server.connections + 1
        fault = Fault("rcpt", "550 5.1.1 No such user")
        server.plan = lambda number: fault if number == first else None
        StaffDigest.objects.all().delete()
        listed(BOSS, SUPPORT)
        assert [received.recipient for received in server.received] == [SUPPORT["address"]]
        assert StaffDigest.objects.get(address=BOSS).failures == 1

    def test_a_server_that_does_not_answer_is_asked_again_after_a_quarter_of_an_hour(
        self, server: MailServer
    ) -> None:
        server.plan = lambda _number: Fault("data", DROP)
        assert [round(wait / 60) for wait in waits(look)] == [15] * 6

    def test_what_happened_while_mail_was_down_for_days_is_told(self, server: MailServer) -> None:
        give_up(make_message(), 60)
        let_pass(days=3)
        note_tick()
        server.plan = lambda _number: None
        look()
        [received] = server.received
        text = story.part(received.mail, "plain")
        assert "web-1" in text
        assert "1 message that a customer did not receive" in text
        # Once it has been reported, it is over.
        let_pass(minutes=31)
        look()
        assert StaffDigest.objects.get().told == {}


def look() -> None:
    """Send what is due, as a worker does."""
    tasks.deliver()


def refuse_key() -> None:
    key = configured_key()
    assert key
    ApiKey.objects.refuse(key, detail="HTTP 401.")


class TestCause:
    """The provider stopped answering a moment ago, too recently to be reported by itself."""

    @pytest.fixture(autouse=True)
    def _silence(self, listed: Listed) -> None:
        listed(BOSS, SUPPORT, BOOKS)
        until = ago(seconds=-10)
        ProviderState.objects.update(
            outages=3, pause="outage", paused_at=ago(minutes=1), paused_until=until
        )

    def test_the_first_digest_of_an_outage_names_the_cause_beside_the_orders(self) -> None:
        assert sent() == []
        make_order(Status.UNCONFIRMED, reference="web-1", problems=[Problem("answer_lost")])
        let_pass(minutes=1)
        both = sent()
        assert [digest.to[0] for digest in both] == [BOSS, SUPPORT["address"]]
        for digest in both:
            title = "The Shop: requests to the provider are failing, 1 unconfirmed order"
            assert digest.subject == title
            assert "The provider does not answer." in digest.body
        # The outage is not reported again when it has lasted for minutes.
        ProviderState.objects.update(succeeded_at=ago(minutes=6), paused_until=ago(seconds=-10))
        let_pass(minutes=5)
        note_sign()
        assert sent() == []
        ProviderState.objects.update(succeeded_at=timezone.now(), outages=0, pause="")
        let_pass(minutes=31)
        assert {digest.subject for digest in sent()} == {
            "The Shop: The provider is answering again"
        }

    def test_a_failure_or_two_are_no_cause(self) -> None:
        ProviderState.objects.update(outages=2)
        make_order(Status.UNCONFIRMED, reference="web-1", problems=[Problem("answer_lost")])
        let_pass(minutes=1)
        assert {digest.subject for digest in sent()} == {"The Shop: 1 unconfirmed order"}


def note_sign() -> None:
    """Record that a worker has run just now."""
    ProviderState.objects.update(last_tick_at=timezone.now(), swept_at=timezone.now())


def test_a_row_that_another_process_has_claimed_is_left_to_it(listed: Listed) -> None:
    """Both processes read the row before either of them claims it."""
    listed(BOSS)
    settled(Status.REJECTED, "web-1")
    inner: list[int] = []

    def interfere(execute: Any, sql: str, *args: Any) -> Any:
        """Another process sends the digest after this one has read the row."""
        result = execute(sql, *args)
        if sql.startswith("SELECT") and "staffdigest" in sql and not inner:
            inner.append(0)
            inner.append(digests.send_due(Limits()))
        return result

    with connection.execute_wrapper(interfere):
        assert digests.send_due(Limits()) == 0
    assert inner == [0, 1]
    assert len(mail.outbox) == 1


def test_a_claim_of_a_process_that_died_ends(listed: Listed) -> None:
    listed(BOSS)
    settled(Status.REJECTED, "web-1")
    StaffDigest.objects.update(next_attempt_at=timezone.now() + timedelta(minutes=2))
    assert sent() == []
    let_pass(minutes=2)
    assert len(sent()) == 1


def test_a_clock_that_was_set_back_silences_nobody(listed: Listed) -> None:
    listed(BOSS)
    ahead = timezone.now() + timedelta(days=400)
    StaffDigest.objects.update(next_attempt_at=ahead, covers_until=ahead, sent_at=ahead)
    settled(Status.REJECTED, "web-1")
    assert len(sent()) == 1


class TestTick:
    def test_nobody_listed_takes_no_query(self, django_assert_num_queries: Any) -> None:
        with django_assert_num_queries(0):
            assert digests.send_due(Limits()) == 0


CHAT = f"{__name__}.Chat"


class Chat(Channel):
    """A channel of the shop for staff only."""

    name = "chat"
    heard: ClassVar[list[Message]] = []

    def send(self, message: Message) -> None:
        assert translation.get_language() == message.language
        self.heard.append(message)


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> list[Message]:
    """Return the messages that the chat has received."""
    heard: list[Message] = []
    monkeypatch.setattr(Chat, "heard", heard)
    return heard


class TestChannels:
    @pytest.fixture(autouse=True)
    def _listed(self, listed: Listed) -> None:
        shown = {"address": "-100", "channel": "chat", "language": "fr", "role": SUPPORT["role"]}
        listed(shown, CHANNELS=[CHAT], MODE="off")

    def test_a_chat_is_told_in_its_language_what_its_role_may_know(
        self, chat: list[Message], settings: Any
    ) -> None:
        settings.GIFTCARDS = {**settings.GIFTCARDS, "LOW_BALANCE": 5_000}
        ProviderState.objects.update(balance=1)
        settled(Status.REJECTED, "web-1")
        assert digests.send_due(Limits()) == 1
        [message] = chat
        assert (message.kind, message.reference, message.address) == ("digest", "", "-100")
        assert message.language == "fr"
        assert message.short == f"{message.subject} {message.link}"
        assert message.link.startswith(ADMIN)
        assert "web-1" in message.text
        assert "web-1" in message.html
        assert len(message.id) == 32
        assert "solde" not in message.text
        assert mail.outbox == []

    def test_a_chat_is_told_once_in_a_period(self, chat: list[Message]) -> None:
        settled(Status.REJECTED, "web-1")
        assert digests.send_due(Limits()) == 1
        let_pass(minutes=29)
        settled(Status.REJECTED, "web-2")
        assert digests.send_due(Limits()) == 0
        let_pass(minutes=2)
        assert digests.send_due(Limits()) == 1
        assert chat[0].id != chat[1].id

    def test_an_error_of_a_channel_is_logged_without_words_and_tried_again(
        self, chat: list[Message], caplog: pytest.LogCaptureFixture, monkeypatch: Any
    ) -> None:
        def fail(*_: Any) -> None:
            raise SlowDown(1_800)

        settled(Status.REJECTED, "web-1")
        with caplog.at_level(logging.INFO), monkeypatch.context() as patch:
            patch.setattr(Chat, "send", fail)
            assert digests.send_due(Limits()) == 0
        assert "SlowDown at " in caplog.text
        assert "-100" not in caplog.text
        let_pass(minutes=29)
        assert digests.send_due(Limits()) == 0
        let_pass(minutes=2)
        assert digests.send_due(Limits()) == 1
        assert "web-1" in chat[0].text

    def test_a_channel_that_is_not_there_fails_one_digest(
        self, chat: list[Message], settings: Any
    ) -> None:
        settings.GIFTCARDS_DELIVERY = {**settings.GIFTCARDS_DELIVERY, "CHANNELS": []}
        settled(Status.REJECTED, "web-1")
        assert digests.send_due(Limits()) == 0
        assert StaffDigest.objects.get().error.startswith("KeyError at ")
