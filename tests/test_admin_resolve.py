"""Staff say what became of a lost order, and end a pause: with a confirmation, and a trace."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from giftcards.models import Order, ProviderState
from giftcards.statuses import Status
from tests.builders import TYPE, make_order
from tests.pages import messages, order_page, read, sign_in, text

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


def lost_order(**values: Any) -> Order:
    return make_order(
        Status.UNCONFIRMED,
        reference="web-1042",
        sent_at=timezone.now(),
        candidates=CANDIDATES,
        problem="The answer was lost.",
        **values,
    )


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

    def test_somebody_was_first(self, staff: Client) -> None:
        """The provider's order belongs to another of ours by now."""
        order = lost_order()
        chosen = CANDIDATES[0]["id"]
        make_order(provider_order_id=chosen)
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
