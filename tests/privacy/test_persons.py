"""A customer's data is exported in readable words and erased without a trace. The books stay."""

from __future__ import annotations

import json
import re
import stat
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.conf import settings
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth import get_user_model
from django.contrib.contenttypes.models import ContentType
from django.utils import timezone

from giftcards.books.models import LedgerEntry
from giftcards.books.reports import report
from giftcards.delivery.models import CardLink, Delivery, LinkVisit
from giftcards.engine.storing_cards import Arrival, store_cards
from giftcards.exceptions import ReferenceConflict
from giftcards.fulfilment import change_customer, place_order
from giftcards.management.commands import giftcards_customer
from giftcards.models import (
    Acknowledgement,
    Card,
    CardReveal,
    CustomerChange,
    CustomerRefund,
    Note,
    Order,
    StatusChange,
)
from giftcards.privacy.erasure import SharedNumber, erase, find_orders
from giftcards.privacy.export import describe
from giftcards.privacy.person import ERASED, Person, Traces
from giftcards.rules.problems import Problem
from giftcards.settlement import record_refund
from giftcards.statuses import Status
from giftcards.text.spelling import dialled
from tests.builders import CARDS, LINE, make_guide_order
from tests.conftest import Call
from tests.leaks import stored_texts, traces_of
from tests.pages import order_page, read, sign_in

pytestmark = pytest.mark.django_db

EMAIL, NAME, PHONE = "Amina.B@example.dz", "Amina Benkhelifa", "0555 12-34 56"
# The spellings of the person's details in different rows.
SPELLINGS = (EMAIL, EMAIL.lower(), NAME, PHONE, "0555123456", "555123456", "+213555123456")
PERSON = {"customer_email": EMAIL, "customer_name": NAME, "customer_phone": PHONE}
OTHER = {
    "customer_email": "karim@example.dz",
    "customer_name": "Karim",
    "customer_phone": "0666 77 88 99",
}


# The tables in which a person may be named.
WITH_PEOPLE = (
    "giftcards_order", "giftcards_orderterm", "giftcards_customerchange", "giftcards_statuschange",
    "giftcards_acknowledgement", "giftcards_note", "giftcards_customerrefund",
    "giftcards_cardreveal", "giftcards_delivery_delivery", "giftcards_delivery_cardlink",
    "giftcards_delivery_linkvisit", "django_admin_log",
)  # fmt: skip


def make_bought(**values: Any) -> Order:
    """Return a settled and refunded order, with the person's details in every possible place."""
    user = get_user_model().objects.get_or_create(username="staff")[0]
    order = make_guide_order(
        Status.PARTIALLY_FILLED,
        **{
            "sale_price": Decimal(600),
            "group": f"cart of {EMAIL.lower()}",
            "metadata": {"buyer": {"name": NAME}},
            "customer_language": "fr",
            **PERSON,
            **values,
        },
    )
    store_cards([Arrival(order, CARDS[:3])])
    refund = record_refund(
        order,
        amount=1200,
        reference=f"to {PHONE}",
        method=f"by hand to {NAME}",
        comment="she came to the shop",
        by=EMAIL,
    )
    details = [
        Problem("refused", {"message": f"{NAME} is blocked", "reason": "no_price"}).as_dict()
    ]
    change = StatusChange.objects.create(
        order=order, from_status="HANDLING", to_status="PARTIALLY_FILLED", details=details
    )
    ticked = {"code": "disputed", "parameters": {"by": "staff", "detail": EMAIL}}
    Order.objects.filter(pk=order.pk).update(
        problems=[
            {**ticked, "acknowledged_by": "staff", "acknowledged_at": timezone.now().isoformat()}
        ]
    )
    Acknowledgement.objects.create(order=order, by="staff", **ticked)
    before = {name: f"{value}." for name, value in PERSON.items()}
    CustomerChange.objects.create(order=order, by="staff", reason=f"{NAME} called", **before)
    Note.objects.add(order, f"Called 0555123456.\n{NAME.split()[0]} is angry.", by="staff")
    CardReveal.objects.create(card=order.cards.first(), user=user, reason=f"for {NAME}")
    _log(order, f"Paid back to {NAME}, {EMAIL}.")
    message = Delivery.objects.create(
        order=order,
        change=change,
        kind="partly",
        address=EMAIL,
        language="fr",
        key=f"key {order.pk}",
        status="queued",
        message_id=f"<1@{EMAIL}>",
        requested_by="staff",
        reason=f"{NAME} asked",
    )
    link = CardLink.objects.create(
        order=order, origin="staff", delivery=message, reason=f"{NAME} asked at the counter"
    )
    LinkVisit.objects.create(
        link=link, what="opened", address="192.0.2.7", agent="Amina's phone", user=EMAIL.lower()
    )
    LogEntry.objects.create(
        user=user,
        content_type=ContentType.objects.get_for_model(Delivery),
        object_id=message.pk,
        object_repr=EMAIL,
        action_flag=CHANGE,
        change_message=f"Sent again to {EMAIL}.",
    )
    assert refund.has_changed
    order.refresh_from_db()
    return order


def _log(order: Order, text: str) -> None:
    LogEntry.objects.create(
        user=get_user_model().objects.get(username="staff"),
        content_type=ContentType.objects.get_for_model(order),
        object_id=order.pk,
        object_repr=str(order),
        action_flag=CHANGE,
        change_message=text,
    )


def run_erasure(text: str = EMAIL) -> list[str]:
    person = Person.of(text)
    return erase(person, find_orders(person)[0]).erased


class TestErasing:
    def test_no_trace_of_the_person_is_left_in_any_table_or_log(self) -> None:
        order = make_bought()
        places = traces_of(*SPELLINGS)
        # Before the erasure, each of these tables contains the person's details.
        assert {place.partition(".")[0] for place in places} == set(WITH_PEOPLE)
        assert run_erasure() == [order.reference]
        assert traces_of(*SPELLINGS, "amina", "192.0.2.7") == set()

    @pytest.mark.parametrize("page", ["privacy.md", "privacy.fr.md"])
    def test_the_pages_name_all_tables_that_have_old_rows_afterwards(self, page: str) -> None:
        text = (settings.BASE_DIR / "docs" / page).read_text()
        listed = re.search(r"VACUUM FULL\n([\w,\s]+);", text)
        assert listed
        assert set(listed[1].replace(",", " ").split()) == {*WITH_PEOPLE, "giftcards_card"}

    def test_the_books_are_the_same_afterwards_to_the_centime(self) -> None:
        order = make_bought()
        make_bought(**OTHER)
        LedgerEntry.objects.create(
            provider_id="L1", type="ORDER", amount=-1470, time=timezone.now(), order=order
        )
        day = timezone.localdate()
        period = day - timedelta(days=2), day + timedelta(days=2)
        columns = ("pk", "status", "quantity", "fulfilled_quantity", "sale_amount", "open_amount")
        columns += (
            "paid_back_amount",
            "finalized_at",
            "is_credited",
            "reference",
            "price_per_card",
        )
        before = report(*period), list(Order.objects.order_by("pk").values(*columns))
        sums = ("amount", "state", "executed_at")
        money = list(CustomerRefund.objects.order_by("pk").values(*sums))
        ledger = list(LedgerEntry.objects.values())
        assert before[0].total.orders == 2
        run_erasure()
        assert (report(*period), list(Order.objects.order_by("pk").values(*columns))) == before
        assert list(CustomerRefund.objects.order_by("pk").values(*sums)) == money
        assert list(LedgerEntry.objects.values()) == ledger
        assert Card.objects.count() == 6

    def test_another_customer_is_left_alone(self) -> None:
        make_bought()
        texts = (*OTHER.values(), "she came to the shop", "is angry")
        other = make_bought(**OTHER, metadata={"note": "VIP"}, group="cart 7")
        own = make_guide_order(Status.PARTIALLY_FILLED, group="cart 7", sale_price=6, **PERSON)
        record_refund(own, amount=12, reference="VIR-1", method="transfer")
        kept = list(Order.objects.filter(pk=other.pk).values())
        cards = list(Card.objects.filter(order=other).values())
        run_erasure()
        assert list(Order.objects.filter(pk=other.pk).values()) == kept
        assert list(Card.objects.filter(order=other).values()) == cards
        assert all(traces_of(text) for text in texts)
        # Values that do not identify the person are kept as well.
        own.refresh_from_db()
        refund = own.refunds.get()
        assert (own.group, refund.reference, refund.method) == ("cart 7", "VIR-1", "transfer")

    def test_the_codes_are_destroyed_and_the_links_withdrawn(self) -> None:
        order = make_bought()
        run_erasure()
        order.refresh_from_db()
        assert order.codes_destroyed_at is not None
        assert all(card.is_destroyed for card in order.cards.all())
        assert CardLink.objects.get().revoked_at is not None
        message = Delivery.objects.get()
        assert (message.status, message.next_attempt_at) == ("cancelled", None)
        # The address, the language and the id of a message are personal data as well.
        assert (message.address, message.language, message.message_id) == ("", "", "")

    def test_a_message_that_is_being_sent_is_not_sent_again(self) -> None:
        make_bought()
        message = Delivery.objects.get()
        until = timezone.now() + timedelta(minutes=1)
        assert Delivery.objects.claim(message, until=until)
        run_erasure()
        assert not Delivery.objects.conclude(message, status="retrying")
        assert not Delivery.objects.due(timezone.now() + timedelta(days=1)).exists()

    def test_an_address_until_a_correction_is_erased_wherever_it_is_written(self) -> None:
        order = make_guide_order(Status.FULFILLED, **{**PERSON, "customer_email": "typo@else.dz"})
        Note.objects.add(order, "Mailed TYPO@else.dz.", by="staff")
        get_user_model().objects.get_or_create(username="staff")
        _log(order, "typo@else.dz bounced.")
        _log(make_guide_order(), "Who is typo@else.dz?")
        change_customer(order, email=EMAIL, by="staff", reason="bounced")
        assert {place.partition(".")[0] for place in traces_of("typo@else.dz")} == {
            "django_admin_log", "giftcards_customerchange", "giftcards_note",
        }  # fmt: skip
        assert run_erasure() == [order.reference]
        assert traces_of("typo@else.dz", *SPELLINGS) == set()
        assert order.customer_changes.get().by == "staff"

    def test_names_of_staff_and_what_happened_stay_in_the_history(self) -> None:
        order = make_bought()
        _log(order, "Revealed card 1.")
        run_erasure()
        assert LogEntry.objects.filter(change_message="Revealed card 1.").exists()
        order.refresh_from_db()
        [entry] = order.problems
        assert (entry["code"], entry["parameters"]["by"]) == ("disputed", "staff")
        assert order.notes.get().by == "staff"
        assert order.changes.get().details[0]["code"] == "refused"

    @pytest.mark.parametrize(
        ("name", "account", "is_left"),
        [
            (NAME, {"is_staff": True}, True),
            (EMAIL, {"is_staff": True}, True),
            (NAME, None, True),
            (NAME, {"is_staff": False}, False),
            (EMAIL, {"is_staff": False}, False),
            (EMAIL, None, False),
        ],
        ids=[
            *("name of staff", "address of staff", "name without an account"),
            *("name of a customer", "address of a customer", "address without an account"),
        ],
    )
    def test_who_acted_stays_if_it_was_staff_even_of_the_name_of_the_person(
        self, name: str, account: dict[str, Any] | None, is_left: bool
    ) -> None:
        order = make_bought()
        if account is not None:
            get_user_model().objects.create(username=name, **account)
        order.customer_changes.update(by=name)
        acted = dict.fromkeys(("created_by", "cancelled_by"), name)
        order.refunds.update(**acted)
        order.deliveries.update(requested_by=name)
        order.card_links.update(created_by=name, revoked_by=name)
        details = {"code": "staff_reordered", "parameters": {"by": name}}
        order.changes.update(details=[details])
        parameters = {"parameters": {"by": name}, "acknowledged_by": name}
        Order.objects.filter(pk=order.pk).update(problems=[{"code": "disputed", **parameters}])
        run_erasure()
        order.refresh_from_db()
        refund, link = order.refunds.get(), order.card_links.get()
        found = [
            order.customer_changes.get().by,
            *(getattr(refund, column) for column in acted),
            order.deliveries.get().requested_by,
            *(link.created_by, link.revoked_by),
            *order.changes.get().details[0]["parameters"].values(),
            *(order.problems[0]["parameters"]["by"], order.problems[0]["acknowledged_by"]),
        ]
        assert found == [name if is_left else ERASED] * 9

    @pytest.mark.parametrize("is_staff", [True, False], ids=["staff", "customer"])
    def test_a_visit_of_staff_keeps_its_name(self, is_staff: bool) -> None:
        order = make_bought()
        get_user_model().objects.create(username=EMAIL.lower(), is_staff=is_staff)
        run_erasure()
        visit = LinkVisit.objects.get(link__order=order)
        assert (visit.user, visit.address) == (EMAIL.lower() if is_staff else "", None)

    @pytest.mark.parametrize(
        ("person", "text"),
        [
            ({"customer_phone": "card"}, "Revealed card 1."),
            ({"customer_name": "Card", "customer_phone": "1"}, "Revealed card 1."),
            ({"customer_phone": "2026"}, "Paid back on 2026-11-29."),
            ({"customer_phone": "0555 123456"}, "Transfer 7700555123456 to the bank."),
            ({"customer_phone": "0555 123456"}, "Called 0555 123456 78."),
            ({"customer_phone": "n@x"}, "Sent to karim@example.dz."),
            ({"customer_email": "b@example.dz"}, "Sent to karim.b@example.dz."),
            ({"customer_email": "b@example.dz"}, "Sent to b@example.dz.com."),
        ],
    )
    def test_what_the_log_says_of_others_stays(self, person: dict[str, str], text: str) -> None:
        get_user_model().objects.create(username="staff")
        make_guide_order(
            Status.FULFILLED, **{"customer_name": NAME, "customer_email": EMAIL, **person}
        )
        _log(make_guide_order(Status.FULFILLED, **OTHER), text)
        assert run_erasure(person.get("customer_email", EMAIL))
        assert LogEntry.objects.get().change_message == text

    @pytest.mark.parametrize(
        "text",
        ["To 'amina.b@example.dz'.", "+213555123456 called", "Two\n0555 12 34 56 - 2 cards",
         "<Amina.B@Example.dz>", "0661223344 / 0555 12 34 56"],
    )  # fmt: skip
    def test_an_address_or_number_is_erased_from_the_log_of_others(self, text: str) -> None:
        get_user_model().objects.create(username="staff")
        for phone in (PHONE, "+213555123456", "0555 12 34 56"):
            make_guide_order(Status.FULFILLED, **{**PERSON, "customer_phone": phone})
        _log(make_guide_order(Status.FULFILLED, **OTHER), text)
        run_erasure()
        assert LogEntry.objects.get().change_message == ERASED

    def test_a_short_name_is_no_trace_inside_another_word(self) -> None:
        order = make_guide_order(Status.FULFILLED, customer_name="Ali", group="the alias of ali")
        traces = Traces(Person(), [order])
        entry = {"reason": "ali", "by": "ali", "texts": ["invalid", "to Ali: no", "x_ali"]}
        assert traces.erased(entry) == {
            "reason": ERASED, "by": "ali", "texts": ["invalid", ERASED, ERASED],
        }  # fmt: skip
        assert not traces.are_in("alias")
        nobody = Traces(Person(), [make_guide_order(Status.FULFILLED)])
        assert not any(map(nobody.are_in, ("", "a", "0555123456")))

    def test_the_page_of_an_erased_order_tells_its_story_without_the_person(self) -> None:
        order = make_bought()
        run_erasure()
        html = read(sign_in(superuser=True).get(order_page(order)))
        assert "Called" not in html
        assert ERASED in html
        assert not any(spelling.casefold() in html.casefold() for spelling in SPELLINGS)

    def test_placing_an_erased_order_again_buys_nothing(self) -> None:
        order = make_guide_order(Status.FULFILLED, reference="web-1", **PERSON)
        run_erasure()
        with pytest.raises(ReferenceConflict):
            place_order(**LINE, reference="web-1", **PERSON)
        assert list(Order.objects.all()) == [order]

    def test_a_reference_that_names_the_person_stays_and_is_told(self) -> None:
        make_guide_order(Status.FULFILLED, reference=f"web-{EMAIL}", **PERSON)
        person = Person.of(EMAIL)
        assert erase(person, find_orders(person)[0]).telling == [f"web-{EMAIL}"]

    def test_an_erasure_that_dies_goes_on_with_the_orders_that_are_left(self) -> None:
        orders = [make_bought() for _number in range(3)]
        person = Person.of(EMAIL)

        def die(order: Order, _roles: Any) -> None:
            # What is recorded about an order is rolled back together with its erasure.
            if order != orders[0]:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            erase(person, find_orders(person)[0], record=die)
        assert run_erasure() == [order.reference for order in orders[1:]]
        assert traces_of(*SPELLINGS) == set()

    def test_an_erasure_that_is_ended_goes_on_with_the_orders_that_are_left(self) -> None:
        orders = [make_bought() for _number in range(3)]
        person, turns = Person.of(EMAIL), iter([True, True, False])
        done = erase(person, find_orders(person)[0], should_continue=lambda: next(turns))
        assert done.erased == [order.reference for order in orders[:2]]
        assert run_erasure() == [orders[2].reference]
        assert traces_of(*SPELLINGS) == set()

    def test_of_two_erasures_at_once_one_erases_an_order(self) -> None:
        order = make_bought()
        person = Person.of(EMAIL)
        seen = [find_orders(person)[0] for _process in range(2)]
        assert erase(person, seen[0]).erased == [order.reference]
        order.refresh_from_db()
        assert erase(person, seen[1], record=lambda *_: pytest.fail("Recorded.")).erased == []
        assert Order.objects.get().customer_erased_at == order.customer_erased_at

    def test_an_order_about_which_something_begins_meanwhile_is_kept(self) -> None:
        order = make_bought()
        person = Person.of(EMAIL)
        orders, _others = find_orders(person)
        order.dispute(by="staff", cards=[1])
        assert erase(person, orders).kept == {order.reference: "problem"}
        order.refresh_from_db()
        assert order.customer_email == EMAIL


class TestAccount:
    """A customer who is identified by an account."""

    @pytest.fixture
    def amina(self) -> Any:
        return get_user_model().objects.create(username="amina-1984")

    def test_all_orders_of_the_account_are_the_customers_under_any_address(
        self, amina: Any
    ) -> None:
        bought = [
            make_bought(user=amina),
            make_guide_order(Status.FULFILLED, user=amina, customer_email="work@example.dz"),
            make_guide_order(Status.FULFILLED, user=amina),
        ]
        guest = make_guide_order(Status.FULFILLED, **PERSON)
        other = get_user_model().objects.create(username="karim")
        make_guide_order(Status.FULFILLED, user=other, **OTHER)
        assert find_orders(Person.of_user(amina)) == (bought, [guest])
        assert find_orders(Person.of_user(other))[1] == []

    def test_an_address_does_not_take_along_the_other_orders_of_its_account(
        self, amina: Any
    ) -> None:
        mine = make_guide_order(Status.FULFILLED, user=amina, **PERSON)
        others = [
            make_guide_order(Status.FULFILLED, user=amina, **values) for values in (OTHER, {})
        ]
        # Staff have to decide about these orders.
        assert find_orders(Person.of(EMAIL)) == ([mine], others)

    def test_an_order_that_names_only_an_account_belongs_to_nobody_else(self, amina: Any) -> None:
        order = make_guide_order(Status.FULFILLED, user=amina)
        Delivery.objects.create(order=order, kind="delivered", address=EMAIL, key=uuid4().hex)
        assert find_orders(Person.of(EMAIL)) == ([], [order])

    def test_the_recipient_of_a_gift_is_not_its_customers_account(self, amina: Any) -> None:
        order = make_guide_order(Status.FULFILLED, user=amina, recipient_email=EMAIL)
        roles = {
            person: [role.label for role in Person.roles_in(who, order)]
            for person, who in {"account": Person.of_user(amina), "mail": Person.of(EMAIL)}.items()
        }
        assert roles == {"account": ["customer"], "mail": ["recipient"]}
        erase(Person.of(EMAIL), [order])
        order.refresh_from_db()
        assert order.user == amina

    def test_no_trace_of_the_account_is_left(self, amina: Any) -> None:
        order = make_bought(user=amina, group="cart of amina-1984")
        order.customer_changes.update(by="amina-1984")
        LinkVisit.objects.update(user="amina-1984")
        person = Person.of_user(amina)
        names = (*SPELLINGS, "amina-1984")
        assert "giftcards_customerchange.by" in traces_of("amina-1984")
        assert erase(person, find_orders(person)[0]).erased == [order.reference]
        assert traces_of(*names) == set()
        order.refresh_from_db()
        assert order.user is None
        assert find_orders(person) == ([], [])

    def test_the_export_names_the_account(self, amina: Any) -> None:
        order = make_guide_order(Status.FULFILLED, user=amina)
        [bought] = describe(Person.of_user(amina), [order], language="en")["Orders"]
        assert bought["Account"] == "amina-1984"

    def test_the_command_takes_the_user_name(self, amina: Any, call: Call, tmp_path: Path) -> None:
        make_bought(user=amina)
        path = tmp_path / "amina.json"
        args = ("--user", "amina-1984", "--export", str(path), "--erase", "--yes")
        outcome = call("giftcards_customer", *args)
        assert (outcome.code, outcome.err) == (0, "")
        assert EMAIL in path.read_text()
        assert traces_of(*SPELLINGS) == set()

    @pytest.mark.parametrize(
        "args", [("--user", "nobody", "--erase"), (EMAIL, "--user", "amina-1984", "--erase")]
    )
    def test_the_command_refuses_a_name_of_nobody_and_two_ways_at_once(
        self, amina: Any, call: Call, args: tuple[str, ...]
    ) -> None:
        make_bought(user=amina)
        assert call("giftcards_customer", *args, "--yes").code == 2
        assert traces_of(EMAIL)


class TestFinding:
    def test_each_of_several_numbers_leads_to_other_orders(self) -> None:
        both = {**PERSON, "customer_phone": "0555 12 34 56 / 0661 22 33 44"}
        mine = make_guide_order(Status.FULFILLED, **both)
        others = [
            make_guide_order(Status.FULFILLED, customer_phone=phone)
            for phone in ("0555123456", "+213661223344")
        ]
        assert find_orders(Person.of(EMAIL)) == ([mine], others)

    @pytest.mark.parametrize(
        ("address", "typed"),
        [
            (EMAIL.upper(), EMAIL),
            ("ＡＭＩＮＡ.b@example.dz", EMAIL),
            ("+213555123456", PHONE),
            ("tel 0555 12.34.56", "555123456"),
            (f"{'a' * 64}@{'b' * 185}.dz", f"{'A' * 64}@{'b' * 185}.dz"),
        ],
    )
    def test_a_message_to_the_person_is_found_however_its_address_is_written(
        self, address: str, typed: str
    ) -> None:
        order = make_guide_order(Status.FULFILLED, **OTHER)
        Delivery.objects.create(order=order, kind="delivered", address=address, key="1")
        Delivery.objects.create(order=order, kind="delivered", address="@handle", key="2")
        assert find_orders(Person.of(typed)) == ([], [order])

    @pytest.mark.parametrize(
        "typed", ["amina.b@EXAMPLE.dz", " Amina.B@example.dz ", "+213 555 12 34 56",
                  "00213555123456", "0555.12.34.56", "٠٥٥٥١٢٣٤٥٦", "+213 (0) 555 123 456"]
    )  # fmt: skip
    def test_a_customer_is_found_however_the_address_or_number_is_written(self, typed: str) -> None:
        order = make_guide_order(Status.FULFILLED, **PERSON)
        make_guide_order(Status.FULFILLED, **OTHER)
        make_guide_order(Status.FULFILLED)
        assert find_orders(Person.of(typed)) == ([order], [])

    @pytest.mark.parametrize("typed", ["", "Amina", "123", "amina555123456", "-"])
    def test_what_is_neither_an_address_nor_a_number_means_nobody(self, typed: str) -> None:
        make_guide_order(Status.FULFILLED)
        person = Person.of(typed)
        assert not person
        assert find_orders(person) == ([], [])

    def test_the_number_of_another_country_is_not_taken_for_an_algerian_one(self) -> None:
        assert dialled("+33 6 12 34 56 78") == "33612345678"
        assert dialled("06 12 34 56 78") == "213612345678"

    @pytest.mark.parametrize(
        "stored",
        ["555123456", "555 12 34 56", "0555/12.34.56", "Tel. 0555 12 34 56",
         "0555123456 (WhatsApp)", "0555 12 34 56 / 0661 22 33 44", "0661223344,0555123456",
         "661 22 33 44 ; 555 12 34 56",
         "+33 6 12 34 56 78\n0555 12 34 56", "Mobile/WhatsApp: 0555123456", "0555 12 34 56, apt 12"]
    )  # fmt: skip
    def test_a_number_is_found_however_the_order_has_it(self, stored: str) -> None:
        order = make_guide_order(Status.FULFILLED, customer_phone=stored)
        assert find_orders(Person.of("0555 12 34 56")) == ([order], [])

    @pytest.mark.parametrize(
        ("stored", "typed"),
        [
            # A foreign number of nine digits with its country code is not an Algerian number
            # without the zero.
            ("+672312345", "0672312345"),
            ("00672312345", "0672312345"),
            ("455123456", "0455123456"),
            ("55512345", "055512345"),
            ("5551234567", "05551234567"),
            # The digits around a separator inside one number are not a number of their own.
            ("+49 8031/12345678", "12345678"),
            ("0555/123456", "123456"),
            ("0555 12 34 56, 16000 Algiers 123456", "123456"),
            ("0555 12 34 56 / 0661 22 33 44", "0555 12 34 44"),
            ("0555 12 34 56 / 57", "0555 12 34 57"),
        ],
    )
    def test_a_number_does_not_find_the_order_of_another_one(self, stored: str, typed: str) -> None:
        make_guide_order(Status.FULFILLED, customer_phone=stored)
        assert find_orders(Person.of(typed)) == ([], [])

    def test_a_number_that_several_addresses_share_finds_the_orders_of_nobody(self) -> None:
        amina = make_guide_order(Status.FULFILLED, **PERSON)
        karim = make_guide_order(Status.FULFILLED, **{**OTHER, "customer_phone": "+213555123456"})
        make_guide_order(Status.FULFILLED, customer_phone=PHONE)
        with pytest.raises(SharedNumber) as caught:
            find_orders(Person.of(PHONE))
        assert caught.value.addresses == 2
        assert caught.value.references == (amina.reference, karim.reference)
        assert not any(part in repr(caught.value) for part in (EMAIL, "karim"))

    @pytest.mark.parametrize(
        ("typed", "orders"),
        [
            # A number that occurs with one address only finds all its orders, including those
            # without an address.
            *(
                (typed, [PERSON, {"customer_email": f" {EMAIL.upper()}"}, {"customer_email": ""}])
                for typed in (PHONE, "0555 12 34 56 / 0661 22 33 44")
            ),
            # An address with several numbers also finds all its orders, and an order with two
            # numbers is found by each of them.
            (EMAIL, [PERSON, {"customer_phone": "0661 22 33 44"}, {"customer_phone": ""}]),
            *(
                (typed, [{"customer_email": "", "customer_phone": "0555 123456 / 0661 22 33 44"}])
                for typed in ("0555123456", "661 22 33 44", "0661 22 33 44 / 0555 12 34 56")
            ),
        ],
    )
    def test_all_orders_of_an_address_or_number_are_found(
        self, typed: str, orders: list[dict[str, str]]
    ) -> None:
        one = {"customer_email": EMAIL, "customer_phone": PHONE}
        made = [make_guide_order(Status.FULFILLED, **one | values) for values in orders]
        assert find_orders(Person.of(typed)) == (made, [])

    def test_an_order_with_the_address_in_the_place_of_the_number_is_not_mixed_up(self) -> None:
        make_guide_order(Status.FULFILLED, **PERSON)
        make_guide_order(Status.FULFILLED, customer_email="karim@example.dz", customer_phone=EMAIL)
        with pytest.raises(SharedNumber):
            find_orders(Person.of(EMAIL))

    def test_orders_under_another_address_or_number_are_told_and_not_touched(self) -> None:
        own = make_guide_order(Status.FULFILLED, **PERSON)
        family = make_guide_order(
            Status.FULFILLED, customer_email="said@example.dz", customer_phone="+213555123456"
        )
        assert find_orders(Person.of(EMAIL)) == ([own], [family])
        own.customer_phone = f"{PHONE} (WhatsApp)"
        own.save()
        assert find_orders(Person.of(EMAIL)) == ([own], [family])
        run_erasure()
        family.refresh_from_db()
        assert family.customer_email == "said@example.dz"

    def test_an_order_that_was_corrected_is_told_to_who_asks_with_the_address_before(self) -> None:
        """The earlier address may belong to a stranger, who has no right to the codes."""
        own = make_guide_order(Status.FULFILLED, customer_email="typo@else.dz")
        order = make_guide_order(Status.FULFILLED, customer_email="Typo@else.dz")
        change_customer(order, email=EMAIL)
        assert find_orders(Person.of("typo@else.dz")) == ([own], [order])
        # The corrected order has had both addresses, so the other order may be the same person's.
        assert find_orders(Person.of(EMAIL)) == ([order], [own])

    def test_an_order_without_addresses_and_messages_is_doubtful_after_a_correction(self) -> None:
        """The removed address may be a stranger's, who must not have the codes destroyed."""
        order = make_guide_order(Status.FULFILLED, customer_email="typo@else.dz")
        change_customer(order, email="")
        assert find_orders(Person.of("typo@else.dz")) == ([], [order])

    def test_an_order_that_names_nobody_is_that_of_whom_its_message_went_to(self) -> None:
        unnamed = make_guide_order(Status.FULFILLED)
        other = make_guide_order(Status.FULFILLED, **OTHER)
        for order in (unnamed, other):
            Delivery.objects.create(
                order=order, kind="delivered", address=EMAIL.lower(), key=str(order.pk)
            )
        assert find_orders(Person.of(EMAIL)) == ([unnamed], [other])

    def test_an_order_that_names_nobody_is_of_whom_all_its_messages_went_to(self) -> None:
        order = make_guide_order(Status.FULFILLED)
        # An erased message no longer shows where it was sent.
        for address in (EMAIL, EMAIL.upper(), ""):
            Delivery.objects.create(order=order, kind="delivered", address=address, key=uuid4().hex)
        assert find_orders(Person.of(EMAIL)) == ([order], [])
        # If the messages went to several addresses, the order belongs to none of them.
        other = "friend@example.dz"
        Delivery.objects.create(order=order, kind="delivered", address=other, key=uuid4().hex)
        for address in (EMAIL, other):
            assert find_orders(Person.of(address)) == ([], [order])
            assert run_erasure(address) == []

    def test_batches_go_through_all_rows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("giftcards.privacy.person._BATCH", 2)
        orders = [make_guide_order(Status.FULFILLED, **PERSON) for _number in range(5)]
        assert find_orders(Person.of(EMAIL))[0] == orders


class TestExport:
    @pytest.fixture
    def exported(self, tmp_path: Path, call: Call) -> Any:
        def run(*args: str, name: str = "amina.json") -> Any:
            outcome = call("giftcards_customer", EMAIL, "--export", str(tmp_path / name), *args)
            assert (outcome.code, outcome.err) == (0, "")
            return json.loads((tmp_path / name).read_text())

        return run

    def test_it_has_everything_in_words_of_the_customer(self, exported: Any) -> None:
        make_bought()
        text = json.dumps(exported("--language", "en"), ensure_ascii=False)
        for part in (
            EMAIL, NAME, PHONE, "she came to the shop", "Called 0555123456.", "for " + NAME,
            "Corrections of customer details", f"{EMAIL}.",
            "192.0.2.7", "Amina's phone", "Partly delivered", "1200.00 ", "Messages to customers",
            "Links to cards", '"buyer"', "The provider refused the order", f"{NAME} is blocked",
        ):  # fmt: skip
            assert part in text

    def test_its_times_have_the_zone_of_the_site_even_if_stored_ones_have_none(
        self, exported: Any, settings: Any
    ) -> None:
        settings.USE_TZ = False
        make_guide_order(Status.FULFILLED, **PERSON)
        assert exported("--language", "en")["Created on"].endswith("+01:00")

    def test_it_is_in_the_language_of_the_customer_unless_another_is_given(
        self, exported: Any
    ) -> None:
        make_bought()
        assert "Livrée en partie" in json.dumps(exported(), ensure_ascii=False)
        arabic = json.dumps(exported("--language", "ar", name="ar.json"), ensure_ascii=False)
        assert "مُسلَّم جزئيًا" in arabic

    def test_it_has_no_code_no_cost_and_no_name_of_staff(self, exported: Any) -> None:
        make_bought(fulfilled_amount=Decimal("1470.00"))
        text = json.dumps(exported("--language", "en"))
        secrets = [part for card in CARDS for part in (card.value, card.serial)]
        for hidden in (*secrets, "1470.00", "490.00", '"staff', "staff noted"):
            assert hidden not in text

    def test_it_is_a_new_file_that_only_the_owner_may_read(
        self, tmp_path: Path, call: Call, exported: Any
    ) -> None:
        make_bought()
        exported()
        path = tmp_path / "amina.json"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        before = path.read_text()
        again = call("giftcards_customer", EMAIL, "--export", str(path), "--erase", "--yes")
        assert again.code == 2
        assert "already exists. Nothing was written or erased." in again.err
        assert path.read_text() == before
        assert traces_of(EMAIL)

    def test_nothing_is_erased_if_the_file_cannot_be_written(
        self, tmp_path: Path, call: Call
    ) -> None:
        make_bought()
        path = str(tmp_path / "missing" / "amina.json")
        outcome = call("giftcards_customer", EMAIL, "--export", path, "--erase", "--yes")
        assert outcome.code == 1
        assert "could not be written (No such file or directory). Nothing was erased" in outcome.err
        assert traces_of(EMAIL)


class TestCommand:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        """The path for the exported data of a customer who has bought something."""
        make_bought()
        return tmp_path / "amina.json"

    def test_it_exports_and_then_erases(self, path: Path, call: Call) -> None:
        outcome = call("giftcards_customer", EMAIL, "--export", str(path), "--erase", "--yes")
        assert (outcome.code, outcome.err) == (0, "")
        assert "The customer of 1 order was erased." in outcome.out
        assert EMAIL in path.read_text()
        assert traces_of(*SPELLINGS) == set()
        again = call("giftcards_customer", EMAIL, "--erase", "--yes")
        assert (again.code, "No order of this customer was found." in again.err) == (1, True)

    @pytest.mark.parametrize(
        ("reason", "status", "values"),
        [
            ("it is open", Status.HANDLING, {}),
            ("it has a problem that has not been acknowledged", Status.FULFILLED,
             {"problems": [Problem("disputed", {"by": "staff"})]}),
            ("money is still owed to the customer", Status.REFUNDED, {"sale_price": Decimal(600)}),
        ],
    )  # fmt: skip
    def test_it_erases_nothing_while_one_order_is_not_done(
        self, call: Call, reason: str, status: Status, values: Any
    ) -> None:
        make_bought()
        make_guide_order(status, reference="web-7", **PERSON, **values)
        before = sorted(stored_texts())
        outcome = call("giftcards_customer", PHONE, "--erase", "--yes")
        assert outcome.code == 1
        assert f"Order web-7 is kept: {reason}." in outcome.err
        assert sorted(stored_texts()) == before

    def test_it_writes_no_file_while_one_order_is_not_done(
        self, call: Call, tmp_path: Path
    ) -> None:
        make_guide_order(Status.HANDLING, reference="web-7", **PERSON)
        path = tmp_path / "amina.json"
        args = ("--export", str(path), "--erase", "--yes", "--json")
        outcome = call("giftcards_customer", EMAIL, *args)
        assert outcome.code == 1
        assert json.loads(outcome.out)["kept"] == {"web-7": "open"}
        assert not path.exists()
        assert call("giftcards_customer", EMAIL, "--export", str(path)).code == 0

    def test_a_trial_says_what_would_be_done_and_changes_nothing(
        self, path: Path, call: Call
    ) -> None:
        before = sorted(stored_texts())
        args = (EMAIL, "--erase", "--dry-run", "--export", str(path))
        outcome = call("giftcards_customer", *args)
        assert (outcome.code, outcome.err) == (0, "")
        assert outcome.out == (
            "1 order of this customer.\n"
            "The customer can be erased: the data in 1 order would be erased.\n"
            f"{path} would be written.\n"
        )
        assert not path.exists()
        assert sorted(stored_texts()) == before

    def test_a_trial_tells_that_the_file_is_there_already(self, path: Path, call: Call) -> None:
        path.write_text("kept")
        args = (EMAIL, "--erase", "--dry-run", "--export", str(path))
        outcome = call("giftcards_customer", *args)
        assert (outcome.code, "already exists." in outcome.err) == (2, True)
        assert "Nothing stands in the way" not in outcome.out
        assert path.read_text() == "kept"

    @pytest.mark.parametrize("options", [(), ("--erase", "--yes")])
    def test_a_number_that_several_addresses_share_is_refused(
        self, call: Call, tmp_path: Path, options: tuple[str, ...]
    ) -> None:
        make_bought(reference="web-1")
        make_bought(**{**OTHER, "customer_phone": "+213555123456"}, reference="web-2")
        before = sorted(stored_texts())
        path = tmp_path / "amina.json"
        outcome = call("giftcards_customer", PHONE, "--export", str(path), *options)
        assert (outcome.code, outcome.out) == (2, "")
        assert outcome.err.strip() == (
            "The orders that were found have 2 different e-mail addresses, which may belong to"
            " different people:"
            " web-1, web-2. Nothing was written or erased. The pages of the orders in the admin"
            " show the addresses. Run the command once for each address instead."
        )
        assert not path.exists()
        assert sorted(stored_texts()) == before
        assert call("giftcards_customer", EMAIL, "--export", str(path)).code == 0
        assert "karim" not in path.read_text()

    def test_an_order_whose_messages_went_to_several_is_told_and_keeps_its_codes(
        self, call: Call, tmp_path: Path
    ) -> None:
        order = make_guide_order(Status.PARTIALLY_FILLED, reference="web-1")
        store_cards([Arrival(order, CARDS[:3])])
        for address in (EMAIL, "friend@example.dz"):
            Delivery.objects.create(order=order, kind="delivered", address=address, key=uuid4().hex)
        path = tmp_path / "friend.json"
        args = ("friend@example.dz", "--export", str(path), "--erase", "--yes")
        outcome = call("giftcards_customer", *args)
        assert outcome.code == 1
        assert outcome.out == (
            "0 orders of this customer.\n"
            "Not included: 1 order with a further address, number or account: web-1. If"
            " these details belong to the same customer, run the command for them, too.\n"
        )
        assert "No order of this customer was found. Nothing was done." in outcome.err
        assert not path.exists()
        assert not any(card.is_destroyed for card in order.cards.all())

    def test_without_a_terminal_it_exports_and_erases_only_with_yes(
        self, path: Path, call: Call
    ) -> None:
        outcome = call("giftcards_customer", EMAIL, "--export", str(path), "--erase")
        assert (outcome.code, "add --yes" in outcome.err) == (2, True)
        assert traces_of(EMAIL)
        assert not path.exists()

    @pytest.mark.parametrize(("typed", "code"), [("0555123457", 2), ("", 2), (None, 2), (PHONE, 0)])
    def test_at_a_terminal_the_number_has_to_be_typed_again(
        self, path: Path, call: Call, monkeypatch: pytest.MonkeyPatch, typed: str | None, code: int
    ) -> None:
        class Terminal:
            def isatty(self) -> bool:
                return True

            def readline(self) -> str:
                return "" if typed is None else f"{typed}\n"

        monkeypatch.setattr(giftcards_customer.sys, "stdin", Terminal())
        args = ("--erase", "--export", str(path))
        assert call("giftcards_customer", "+213 555123456", *args).code == code
        assert bool(traces_of(EMAIL)) == (code != 0)
        assert path.exists() == (code == 0)

    @pytest.mark.parametrize(
        "args",
        [
            ("nobody", "--erase"),
            (EMAIL,),
            (EMAIL, "--yes"),
            (EMAIL, "--dry-run"),
            ("12", "--erase"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, call: Call, args: tuple[str, ...]) -> None:
        make_bought()
        assert call("giftcards_customer", *args).code == 2
        assert traces_of(EMAIL)

    def test_its_json_has_counts_and_references_and_no_word_about_the_person(
        self, call: Call
    ) -> None:
        make_bought(reference="web-1")
        make_guide_order(Status.FULFILLED, reference="web-2", customer_phone=PHONE)
        outcome = call("giftcards_customer", EMAIL, "--erase", "--yes", "--json")
        assert json.loads(outcome.out) == {
            "orders": 1, "erased": 1, "kept": {}, "named_by_reference": [], "others": ["web-2"],
        }  # fmt: skip
        assert not any(part in outcome.out for part in SPELLINGS)
