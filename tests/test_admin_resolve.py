"""Staff say what became of a lost order, and end a pause: with a confirmation, and a trace."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from giftcards.models import Order, ProviderState
from giftcards.recording import record_answers
from giftcards.statuses import Status
from tests.builders import FULFILLED, PRODUCT, TYPE, claim, make_order
from tests.pages import element, errors, messages, order_page, read, sign_in, text

pytestmark = pytest.mark.django_db

CANDIDATES = [
    {
        "id": f"6901616fe9e88196b4eb64b{number}",
        "created_at": "2025-10-29T01:00:00+00:00",
        "status": "FULFILLED",
        "quantity": 5,
        "product": "507f1f77bcf86cd799439011",
        "type": TYPE,
    }
    for number in (3, 4)
]
STATES = "/admin/giftcards/providerstate/"


# An id that is not among the candidates, as the provider's dashboard shows it.
TYPED = "6901616fe9e88196b4eb64b9"


def lost_order(**values: Any) -> Order:
    usual = {
        "reference": "web-1042",
        "sent_at": timezone.now(),
        "candidates": CANDIDATES,
        "problem": "The answer was lost.",
    }
    return make_order(Status.UNCONFIRMED, **{**usual, **values})


def typing(provider_id: str, outcome: str = "adopt-other") -> dict[str, str]:
    """What the form sends when somebody has typed an id, and made sure."""
    return {"outcome": outcome, "provider_order_id": provider_id, "is_sure": "on"}


def page(order: Order) -> str:
    return reverse("admin:giftcards_order_resolve", args=[order.pk])


@pytest.fixture
def staff() -> Client:
    return sign_in("view_order", "change_order")


class TestResolving:
    def test_the_way_there(self, staff: Client) -> None:
        order = lost_order()
        assert page(order) in read(staff.get(order_page(order)))
        shown = text(read(staff.get(page(order))))
        assert "What became of the order web-1042?" in shown
        shown = shown.replace("\u2068", "").replace("\u2069", "")
        for row in CANDIDATES:
            assert f"It is the provider's order {row['id']} of Oct. 29, 2025, 2 a.m.: 5 × " in shown

    def test_adopting_a_candidate(self, staff: Client) -> None:
        order = lost_order()
        chosen = CANDIDATES[1]["id"]
        response = staff.post(page(order), {"outcome": f"adopt:{chosen}", "is_sure": "on"})
        assert response.url == order_page(order)
        order.refresh_from_db()
        assert (order.status, order.provider_order_id) == (Status.HANDLING, chosen)
        assert (order.candidates, order.problem) == ([], "")
        [change] = order.changes.all()
        assert change.source == "staff"
        assert change.detail == f"user0: it is the provider's order {chosen}."
        assert change.detail in LogEntry.objects.get().change_message

    @pytest.mark.parametrize(
        ("outcome", "status", "words"),
        [
            ("send-again", Status.PENDING, "user0: it was not placed; send it again."),
            ("reject", Status.REJECTED, "user0: it was not placed; reject it."),
        ],
    )
    def test_it_was_not_placed(
        self, staff: Client, outcome: str, status: Status, words: str
    ) -> None:
        order = lost_order()
        staff.post(page(order), {"outcome": outcome, "is_sure": "on"})
        order.refresh_from_db()
        assert order.status == status
        assert [change.detail for change in order.changes.all()] == [words]

    @pytest.mark.parametrize(
        "data",
        [
            {"outcome": "send-again"},
            {"is_sure": "on"},
            {"outcome": "adopt:another", "is_sure": "on"},
        ],
    )
    def test_nothing_without_a_choice_and_a_confirmation(
        self, staff: Client, data: dict[str, str]
    ) -> None:
        order = lost_order()
        read(staff.post(page(order), data))
        order.refresh_from_db()
        assert order.status == Status.UNCONFIRMED

    @pytest.mark.parametrize("name", ["provider_order_id", "provider_alias"])
    def test_somebody_was_first(self, staff: Client, name: str) -> None:
        """The provider's order is another of ours by now, under one name or the other."""
        order = lost_order()
        chosen = CANDIDATES[0]["id"]
        make_order(**{name: chosen})
        response = staff.post(
            page(order), {"outcome": f"adopt:{chosen}", "is_sure": "on"}, follow=True
        )
        assert messages(read(response)) == [
            "Somebody or something else was first: look at the timeline."
        ]
        order.refresh_from_db()
        assert order.status == Status.UNCONFIRMED

    def test_only_lost_orders(self, staff: Client) -> None:
        order = make_order()
        assert "resolve" not in read(staff.get(order_page(order)))
        assert staff.get(page(order)).status_code == 403

    def test_only_with_permission(self) -> None:
        order = lost_order()
        viewer = sign_in("view_order")
        assert "resolve" not in read(viewer.get(order_page(order)))
        assert viewer.post(page(order), {"outcome": "reject", "is_sure": "on"}).status_code == 403
        assert Client().get(page(order)).status_code == 302


class TestTypingAnId:
    """The provider's list does not show the order; its dashboard does."""

    def test_the_field(self, staff: Client) -> None:
        html = read(staff.get(page(lost_order())))
        assert "It is the order at the provider with this id:" in text(html)
        [field] = re.findall(r"<input[^>]*provider_order_id[^>]*>", html)
        for attribute in ('type="text"', 'dir="ltr"', 'autocomplete="off"', 'spellcheck="false"'):
            assert attribute in field
        # Required with one of the choices only, and a browser knows no such thing. Nor may it cut
        # what is pasted: the beginning of an id is another id.
        assert "required" not in field
        assert "maxlength" not in field

    @pytest.mark.parametrize("candidates", [[], CANDIDATES])
    def test_what_to_look_for(self, staff: Client, candidates: list[Any]) -> None:
        sent_at = datetime(2025, 10, 29, 1, 2, 3, tzinfo=UTC)
        order = lost_order(sent_at=sent_at, candidates=candidates, quantity=7)
        shown = text(read(staff.get(page(order))))
        assert f"Product: {PRODUCT} Type: {TYPE} Quantity: 7" in shown
        assert "Sent: Oct. 29, 2025 02:02:03 (CET)" in shown
        look = "Look in the provider's dashboard for an order of this product, type and quantity"
        assert (look in shown) == (not candidates)
        assert ("may be this one are offered below" in shown) == bool(candidates)

    @pytest.mark.parametrize("candidates", [[], CANDIDATES])
    @pytest.mark.parametrize("typed", [TYPED, f" \t{TYPED}\u00a0\n", "a", "Z9_-" * 25])
    def test_adopting(self, staff: Client, typed: str, candidates: list[Any]) -> None:
        order = lost_order(candidates=candidates)
        response = staff.post(page(order), typing(typed))
        assert response.url == order_page(order)
        order.refresh_from_db()
        assert (order.status, order.provider_order_id) == (Status.HANDLING, typed.strip())
        assert (order.candidates, order.problem) == ([], "")
        # The next check asks about it.
        assert claim(order) == [order]
        [change] = order.changes.all()
        assert change.source == "staff"
        assert change.detail == f"user0: it is the provider's order {typed.strip()}."
        assert change.detail in LogEntry.objects.get().change_message

    @pytest.mark.parametrize("typed", ["", " \u00a0"])
    def test_missing(self, staff: Client, typed: str) -> None:
        order = lost_order()
        html = read(staff.post(page(order), typing(typed)))
        assert errors(html) == ["This field is required."]
        assert "Please correct the error below." in text(html)
        self.assert_nothing_happened(order)

    def test_missing_altogether(self, staff: Client) -> None:
        order = lost_order()
        html = read(staff.post(page(order), {"outcome": "adopt-other", "is_sure": "on"}))
        assert errors(html) == ["This field is required."]
        self.assert_nothing_happened(order)

    @pytest.mark.parametrize(
        "typed",
        ["690161 6fe9", "../orders", f"#{TYPED}", "a" * 101, "\u0661\u0662", "é", "a\0", "a\nb"],
    )
    def test_malformed(self, staff: Client, typed: str) -> None:
        order = lost_order()
        html = read(staff.post(page(order), typing(typed)))
        assert errors(html) == ["Use letters, digits, “_” and “-” only, at most 100 in all."]
        self.assert_nothing_happened(order)

    def test_an_error_is_beside_its_field_and_the_choices_are_kept(self, staff: Client) -> None:
        html = read(staff.post(page(lost_order()), typing("no id")))
        assert "<title>Error: " in html
        [field] = re.findall(r"<input[^>]*provider_order_id[^>]*>", html)
        assert 'value="no id"' in field
        assert 'aria-invalid="true"' in field
        [described_by] = re.findall(r'aria-describedby="([^"]*)"', field)
        beside = element(html, "giftcards-choice-field errors", "div")
        assert f'id="{described_by}"' in beside
        assert field in beside
        assert len(re.findall(r"<input[^>]*\bchecked\b", html)) == 2

    @pytest.mark.parametrize("name", ["provider_order_id", "provider_alias"])
    def test_taken_by_another_order(self, staff: Client, name: str) -> None:
        order = lost_order()
        make_order(reference="web-<7>", **{name: TYPED})
        html = read(staff.post(page(order), typing(f"{TYPED} ")))
        assert errors(html) == ["This is your order \u2068web-<7>\u2069 already."]
        assert "web-&lt;7&gt;" in html
        self.assert_nothing_happened(order)

    def test_taken_in_between(self, staff: Client) -> None:
        order = lost_order()

        def taking(execute: Any, sql: str, *arguments: Any) -> Any:
            """The row is written: another process has just given the id to its own order."""
            is_ours = sql.startswith("UPDATE") and "giftcards_order" in sql.partition(" SET ")[0]
            if is_ours and Order.objects.count() == 1:
                make_order(provider_order_id=TYPED)
            return execute(sql, *arguments)

        with connection.execute_wrapper(taking):
            response = staff.post(page(order), typing(TYPED))
        assert messages(read(staff.get(response.url))) == [
            "Somebody or something else was first: look at the timeline."
        ]
        self.assert_nothing_happened(order)

    @pytest.mark.parametrize("typed", ["no id", "a" * 101, "a\0", "taken", TYPED])
    @pytest.mark.parametrize(
        ("outcome", "status", "provider_id"),
        [
            (f"adopt:{CANDIDATES[0]['id']}", Status.HANDLING, CANDIDATES[0]["id"]),
            ("send-again", Status.PENDING, None),
            ("reject", Status.REJECTED, None),
        ],
    )
    def test_ignored_with_the_other_choices(
        self, staff: Client, outcome: str, status: Status, provider_id: str | None, typed: str
    ) -> None:
        order = lost_order()
        make_order(provider_order_id="taken")
        assert staff.post(page(order), typing(typed, outcome)).status_code == 302
        order.refresh_from_db()
        assert (order.status, order.provider_order_id) == (status, provider_id)

    def test_an_id_alone_is_no_choice(self, staff: Client) -> None:
        order = lost_order()
        html = read(staff.post(page(order), {"provider_order_id": TYPED, "is_sure": "on"}))
        assert errors(html) == ["This field is required."]
        self.assert_nothing_happened(order)

    def test_nothing_without_a_confirmation(self, staff: Client) -> None:
        order = lost_order()
        data = {"outcome": "adopt-other", "provider_order_id": TYPED}
        html = read(staff.post(page(order), data))
        assert errors(html) == ["This field is required."]
        assert "is_sure" in element(html, "errors", "div")
        self.assert_nothing_happened(order)

    def test_only_with_permission(self) -> None:
        order = lost_order()
        assert sign_in("view_order").post(page(order), typing(TYPED)).status_code == 403
        assert Client().post(page(order), typing(TYPED)).status_code == 302
        self.assert_nothing_happened(order)

    def test_the_page_holds_no_code(self, staff: Client) -> None:
        order = lost_order()
        other = make_order(provider_order_id=TYPED)
        record_answers([(claim(other)[0], FULFILLED)], now=timezone.now())
        card = other.cards.get(position=1)
        for response in (staff.get(page(order)), staff.post(page(order), typing(TYPED))):
            html = read(response)
            for hidden in (card.value, card.serial, card.sealed, "CANARY"):
                assert hidden not in html

    @staticmethod
    def assert_nothing_happened(order: Order) -> None:
        order.refresh_from_db()
        assert (order.status, order.provider_order_id) == (Status.UNCONFIRMED, None)
        assert not order.changes.exists()
        assert not LogEntry.objects.exists()


class TestState:
    @pytest.fixture
    def paused(self) -> ProviderState:
        ProviderState.objects.pause(
            ProviderState.Pause.ACCESS, detail="Refused.", until=None, key="a key"
        )
        return ProviderState.objects.current()

    def test_in_words(self, paused: ProviderState) -> None:
        shown = text(read(sign_in("view_providerstate").get(STATES)))
        assert paused.explain() in shown
        assert "No worker has run yet: start `manage.py qcluster`." in shown

    def test_resuming(self, paused: ProviderState) -> None:
        manager = sign_in("view_providerstate", "change_providerstate")
        choice = {"action": "resume", "_selected_action": "1"}
        response = manager.post(STATES, choice, follow=True)
        assert messages(read(response)) == ["Calls to the provider go on."]
        paused.refresh_from_db()
        assert paused.pause == ""
        response = manager.post(STATES, choice, follow=True)
        assert messages(read(response)) == ["Calls to the provider were not paused."]

    def test_only_with_permission(self, paused: ProviderState) -> None:
        viewer = sign_in("view_providerstate")
        viewer.post(STATES, {"action": "resume", "_selected_action": "1"})
        paused.refresh_from_db()
        assert paused.pause == "access"
        for address in ("add/", "1/delete/"):
            assert viewer.get(f"{STATES}{address}").status_code == 403
