"""A gift concerns two people: each of them is exported and erased without the other."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from giftcards.delivery.models import CardLink, Delivery, LinkVisit
from giftcards.delivery.queueing import kinds_that_fit
from giftcards.engine.reordering import reorder_missing
from giftcards.engine.storing_cards import Arrival, store_cards
from giftcards.fulfilment import change_customer
from giftcards.models import CustomerChange, Note, Order
from giftcards.privacy.erasure import erase, find_orders
from giftcards.privacy.person import Person
from giftcards.settlement import record_refund
from giftcards.statuses import Status
from tests.builders import CARDS, make_guide_order
from tests.conftest import Call
from tests.leaks import traces_of

pytestmark = pytest.mark.django_db

BUYER, RECIPIENT, TYPO = "amina.b@example.dz", "lina.k@example.com", "lina.k@exmaple.com"
CUSTOMER = {
    "customer_email": BUYER,
    "customer_name": "Amina Benkhelifa",
    "customer_phone": "0555 12 34 56",
    "customer_language": "fr",
}
GIFT = {
    "recipient_email": TYPO,
    "recipient_name": "Lina Kaci",
    "gift_message": "For you, from your aunt",
}
OF_BUYER = ("amina.b", "benkhelifa", "0555 12 34 56")
OF_RECIPIENT = ("lina.k", "kaci", "198.51.100.9", "lina's phone")
OF_BOTH = ("your aunt",)


def make_gift(reference: str = "web-1", **values: Any) -> Order:
    """Return a paid, delivered, partly refunded and corrected gift. Both people were notified."""
    order = make_guide_order(
        Status.PARTIALLY_FILLED,
        **{"reference": reference, "sale_price": 600, **CUSTOMER, **GIFT, **values},
    )
    store_cards([Arrival(order, CARDS[:3])])
    record_refund(order, amount=1200, reference="R1", comment="to her CCP")
    change_customer(order, recipient_email=RECIPIENT, by="staff", reason="Kaci's address")
    Note.objects.add(order, "Kaci called. Benkhelifa paid.", by="staff")
    values = {"order": order, "status": "sent", "next_attempt_at": None, "language": "en"}
    gift = Delivery.objects.create(
        kind="gift", address=RECIPIENT, key=f"g {order.pk}", reason="Benkhelifa asked", **values
    )
    Delivery.objects.create(kind="receipt", address=BUYER, key=f"r {order.pk}", **values)
    link = CardLink.objects.create(order=order, origin="message", delivery=gift)
    LinkVisit.objects.create(
        link=link, what="revealed", address="198.51.100.9", agent="Lina's phone", key=f"{order.pk}"
    )
    order.refresh_from_db()
    return order


def erase_person(address: str) -> list[str]:
    person = Person.of(address)
    return erase(person, find_orders(person)[0]).erased


@pytest.fixture
def export(tmp_path: Path, call: Call) -> Any:
    def run(address: str) -> tuple[str, str]:
        path = tmp_path / f"{address}.json"
        outcome = call("giftcards_customer", address, "--export", str(path), "--language", "en")
        assert (outcome.code, outcome.err) == (0, "")
        return path.read_text().casefold(), outcome.out

    return run


@pytest.fixture
def order() -> Order:
    return make_gift()


class TestFinding:
    @pytest.mark.parametrize("address", [BUYER, RECIPIENT, RECIPIENT.upper()])
    def test_an_order_is_that_of_its_customer_and_of_its_recipient(self, address: str) -> None:
        order = make_gift()
        make_guide_order(Status.FULFILLED, recipient_email="sami@example.com")
        assert find_orders(Person.of(address)) == ([order], [])
        # The order that had this address before the correction is only listed as doubtful.
        assert find_orders(Person.of(TYPO)) == ([], [order])

    def test_the_recipients_of_one_buyer_are_not_told_to_be_one_person(self) -> None:
        """The search for a recipient does not list the buyer's other order as a doubtful one."""
        mine = make_gift()
        other = make_guide_order(Status.FULFILLED, recipient_email="sami@example.com", **CUSTOMER)
        assert find_orders(Person.of(RECIPIENT)) == ([mine], [])
        assert find_orders(Person.of("sami@example.com")) == ([other], [])
        assert find_orders(Person.of(BUYER)) == ([mine, other], [])
        assert find_orders(Person.of(CUSTOMER["customer_phone"])) == ([mine, other], [])

    def test_a_gift_of_a_customer_without_an_address_is_not_the_recipients_purchase(self) -> None:
        order = make_gift(customer_email="", customer_phone="")
        Delivery.objects.filter(kind="receipt").delete()
        person = Person.of(RECIPIENT)
        assert find_orders(person) == ([order], [])
        assert [role.label for role in person.roles_in(order)] == ["recipient"]


class TestExport:
    def test_the_customer_gets_what_is_theirs(self, export: Any) -> None:
        make_gift()
        text, said = export(BUYER)
        for part in (*OF_BUYER, *OF_BOTH, "600.00", "to her ccp", "receipt for a gift"):
            assert part in text
        # Only the notes of staff name the recipient, and staff check these before.
        shown = text.replace("kaci called", "").replace("kaci's address", "")
        assert not [part for part in OF_RECIPIENT if part in shown]
        assert said.startswith("1 order of this customer.\n")

    def test_the_recipient_gets_what_is_theirs(self, export: Any) -> None:
        make_gift()
        text, said = export(RECIPIENT)
        for part in (*OF_RECIPIENT, *OF_BOTH, TYPO, '"gifts"', "cards shown"):
            assert part in text
        shown = text.replace("benkhelifa asked", "")
        for part in (*OF_BUYER, "1200.00", "600.00", "credited", "r1", "called"):
            assert part not in shown
        assert said.startswith("1 order of this person, including 1 gift.\n")
        # Neither file contains a code.
        text += export(BUYER)[0]
        assert not [card for card in CARDS if card.value.casefold() in text or card.serial in text]

    def test_who_is_both_gets_both(self, export: Any) -> None:
        order = make_gift(customer_email=RECIPIENT)
        text = export(RECIPIENT)[0]
        found = json.loads(text)
        assert [len(found[name]) for name in ("orders", "gifts")] == [1, 1]
        assert found["gifts"][0]["reference"] == order.reference


class TestErasing:
    def test_of_the_customer_nothing_is_left_and_the_recipient_keeps_the_gift(self) -> None:
        order = make_gift()
        link = CardLink.objects.get()
        assert erase_person(BUYER) == [order.reference]
        assert traces_of(*OF_BUYER, *OF_BOTH) == set()
        order.refresh_from_db()
        assert (order.recipient_email, order.recipient_name) == (RECIPIENT, "Lina Kaci")
        # The customer's language was used for the recipient until then.
        assert order.recipient_language == "fr"
        assert order.codes_destroyed_at is None
        assert not any(card.is_destroyed for card in order.cards.all())
        link.refresh_from_db()
        assert (link.revoked_at, link.visits.get().agent) == (None, "Lina's phone")
        assert dict(Delivery.objects.values_list("kind", "address")) == {
            "gift": RECIPIENT, "receipt": "",
        }  # fmt: skip
        assert CustomerChange.objects.get().recipient_email == TYPO

    def test_of_the_recipient_nothing_is_left_and_the_customer_keeps_the_order(
        self, settings: Any
    ) -> None:
        settings.GIFTCARDS_DELIVERY = {}
        order = make_gift()
        assert erase_person(RECIPIENT) == [order.reference]
        assert traces_of(*OF_RECIPIENT, *OF_BOTH) == set()
        order.refresh_from_db()
        assert {name: getattr(order, name) for name in CUSTOMER} == CUSTOMER
        assert all(card.is_destroyed for card in order.cards.all())
        assert CardLink.objects.get().revoked_at is not None
        assert dict(Delivery.objects.values_list("kind", "address")) == {
            "gift": "", "receipt": BUYER,
        }  # fmt: skip
        assert kinds_that_fit(order) == ["paid_back"]

    @pytest.mark.parametrize("first", [BUYER, RECIPIENT])
    def test_one_after_the_other_leaves_nothing(self, order: Order, first: str) -> None:
        for address in sorted((BUYER, RECIPIENT), key=lambda address: address != first):
            assert erase_person(address) == [order.reference]
        assert traces_of(*OF_BUYER, *OF_RECIPIENT, *OF_BOTH) == set()
        assert all(card.is_destroyed for card in order.cards.all())

    @pytest.mark.parametrize(("address", "kind"), [(BUYER, "receipt"), (RECIPIENT, "gift")])
    def test_only_messages_to_the_erased_person_are_not_sent_any_more(
        self, address: str, kind: str
    ) -> None:
        make_gift()
        Delivery.objects.update(status="queued", next_attempt_at=timezone.now())
        erase_person(address)
        open_ones = {message.kind: message.is_open for message in Delivery.objects.all()}
        assert open_ones == {each: each != kind for each in ("receipt", "gift")}

    @pytest.mark.parametrize("address", [BUYER, RECIPIENT])
    def test_nobody_is_erased_while_the_gift_waits_for_its_time(
        self, call: Call, address: str
    ) -> None:
        """An erased customer cannot be notified, and an erased recipient cannot get the gift."""
        order = make_gift(deliver_at=timezone.now() + timedelta(hours=1))
        outcome = call("giftcards_customer", address, "--erase", "--yes")
        assert outcome.code == 1
        assert "Order web-1 is kept: its gift has not been delivered yet." in outcome.err
        change_customer(order, deliver_at=timezone.now())
        assert call("giftcards_customer", address, "--erase", "--yes").code == 0

    def test_money_that_is_owed_to_the_customer_does_not_keep_the_recipient(
        self, call: Call
    ) -> None:
        make_gift(sale_price=700)
        outcome = call("giftcards_customer", RECIPIENT, "--erase", "--yes")
        assert (outcome.code, outcome.err) == (0, "")
        assert outcome.out.endswith("The recipient of 1 gift was erased.\n")
        assert "is kept: money is still owed" in call(
            "giftcards_customer", BUYER, "--erase", "--yes"
        ).err  # fmt: skip

    def test_an_order_that_was_corrected_to_somebody_else_meanwhile_is_left_alone(self) -> None:
        order = make_gift()
        person = Person.of(RECIPIENT)
        orders, _others = find_orders(person)
        change_customer(order, recipient_email="sami@example.com")
        assert erase(person, orders).erased == []
        assert Order.objects.get().recipient_email == "sami@example.com"

    def test_missing_cards_of_an_erased_recipient_are_the_customers(self) -> None:
        """The customer has paid for these cards, and the erased recipient does not expect them."""
        order = make_guide_order(
            Status.PARTIALLY_FILLED,
            recipient_email=RECIPIENT,
            deliver_at=timezone.now() - timedelta(days=1),
            **CUSTOMER,
        )
        erase_person(RECIPIENT)
        order.refresh_from_db()
        again = reorder_missing(order, by="staff")
        assert (again.is_gift, again.customer_email) == (False, BUYER)
