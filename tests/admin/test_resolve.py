"""Staff decide about a lost order or undo a wrong match, with a confirmation and a record."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests
from django.contrib.admin.models import LogEntry
from django.core import signing
from django.db import connection
from django.db.models import QuerySet
from django.test import Client
from django.utils import timezone
from django_q.models import OrmQ

from giftcards.engine.recording import record_answers
from giftcards.engine.recovering import adopt, declare_absent
from giftcards.models import Order, ProviderState, StatusChange
from giftcards.rules.problems import Problem
from giftcards.statuses import Status
from tests.builders import FULFILLED, PRODUCT, TYPE, claim, details, make_guide_order, problems
from tests.pages import (
    LATE,
    element,
    errors,
    hidden,
    messages,
    order_page,
    plain,
    read,
    rows,
    sign_in,
    text,
)
from tests.stage import PROVIDER, Wire, spend_budget

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

# An ID from the provider's dashboard that is not among the candidates.
TYPED = "6901616fe9e88196b4eb64b9"
STAFF = StatusChange.Source.STAFF


def candidates(**changes: Any) -> list[dict[str, Any]]:
    """Return two orders at the provider that may match ours."""
    row = {
        "created_at": timezone.now().isoformat(),
        "status": "FULFILLED",
        "quantity": 5,
        "product": PRODUCT,
        "type": TYPE,
    }
    return [{**row, "id": f"6901616fe9e88196b4eb64b{number}", **changes} for number in (3, 4)]


def lost_order(**values: Any) -> Order:
    usual = {
        "reference": "web-1042",
        "sent_at": timezone.now(),
        "claim": "first",
        "candidates": candidates(),
        "problems": [Problem("answer_lost"), Problem("choose", {"count": 2})],
    }
    return make_guide_order(Status.UNCONFIRMED, **{**usual, **values})


def page(order: Order, name: str = "resolve") -> str:
    return order_page(order, name)


def choose(browser: Client, order: Order, outcome: str, typed: str = "", **more: str) -> Any:
    """Open the page, submit a choice with the confirmation ticked, and return the response."""
    token = hidden(read(browser.get(page(order))))["state_token"]
    choice = {"outcome": outcome, "provider_order_id": typed, "is_sure": "on", "state_token": token}
    return browser.post(page(order), {**choice, **more})


def tell(wire: Wire, name: str = TYPED, **changes: Any) -> None:
    """Let the provider describe the ID as an order like ours, except for ``changes``."""
    order = {
        "_id": name,
        "status": "HANDLING",
        "quantity": 5,
        "product": PRODUCT,
        "type": TYPE,
        "time": timezone.now().isoformat(),
    }
    data = {key: value for key, value in {**order, **changes}.items() if value is not None}
    wire.get(f"{PROVIDER}/v3/gift-cards/check-order/{name}", json={"success": True, "data": data})


def asked(wire: Wire) -> int:
    return len([call for call in wire.calls if "check" in str(call.request.url).lower()])


def compared(html: str) -> list[list[str]]:
    return rows(html, "giftcards-comparison")[1:]


def confirm(
    browser: Client, order: Order, comparison: str, *, follow: bool = False, **more: str
) -> Any:
    """Confirm on the comparison page."""
    form = {"seen": hidden(comparison)["seen"], **more}
    return browser.post(page(order, "adopt"), form, follow=follow)


def decisions() -> QuerySet[LogEntry]:
    """Return the admin's log entries, except those about questions to the provider."""
    return LogEntry.objects.exclude(change_message__startswith="Looked up ")


def assert_nothing_happened(order: Order) -> None:
    order.refresh_from_db()
    assert (order.status, order.provider_order_id) == (Status.UNCONFIRMED, None)
    assert not order.changes.exists()
    assert not decisions().exists()


def assert_adopted(order: Order, name: str, decision: Problem) -> None:
    order.refresh_from_db()
    assert (order.status, order.provider_order_id) == (Status.HANDLING, name)
    assert (order.candidates, order.problems) == ([], [])
    [change] = order.changes.all()
    assert (change.source, details(change)) == ("staff", [decision])
    assert str(decision) in decisions().get().change_message
    # The next check asks the provider about the order.
    assert claim(order) == [order]


@pytest.fixture
def staff() -> Client:
    return sign_in("view_order", "resolve_order")


class TestResolving:
    def test_the_page_of_a_lost_order_leads_to_one_that_offers_the_candidates(
        self, staff: Client
    ) -> None:
        order = lost_order(candidates=candidates(created_at="2025-10-29T01:00:00+00:00"))
        shown = read(staff.get(order_page(order)))
        assert f'href="{page(order)}">What happened to this order?</a>' in shown
        shown = plain(text(read(staff.get(page(order)))))
        assert "What happened to this order?" in shown
        assert "Reference: web-1042 Product: " in shown
        for row in order.candidates:
            assert f"This is the provider's order {row['id']} from 29 Oct 2025 02:00: 5 × " in shown

    @pytest.mark.parametrize(
        ("outcome", "status", "code"),
        [
            ("send-again", Status.PENDING, "staff_send_again"),
            ("reject", Status.REJECTED, "staff_rejected"),
        ],
    )
    def test_a_lost_order_that_was_not_placed_can_be_resent_or_rejected(
        self,
        staff: Client,
        outcome: str,
        status: Status,
        code: str,
        django_capture_on_commit_callbacks: Any,
    ) -> None:
        order = lost_order()
        with django_capture_on_commit_callbacks(execute=True):
            response = choose(staff, order, outcome, "no id at all")
        assert response.url == order_page(order)
        assert messages(read(staff.get(response.url))) == ["Recorded."]
        order.refresh_from_db()
        assert order.status == status
        decision = Problem(code, {"by": "user0"})
        assert details(order.changes.get()) == [decision]
        assert LogEntry.objects.get().change_message == str(decision)
        assert OrmQ.objects.count() == 1

    @pytest.mark.parametrize(
        ("outcome", "typed", "is_sure"),
        [
            ("send-again", "", ""),
            ("", "", "on"),
            ("adopt:another", "", "on"),
            ("adopt-other", "", "on"),
            ("adopt-other", " \u00a0", "on"),
            ("", TYPED, "on"),
            ("adopt-other", TYPED, ""),
        ],
    )
    def test_a_choice_its_id_and_a_confirmation_are_all_needed(
        self, staff: Client, outcome: str, typed: str, is_sure: str
    ) -> None:
        order = lost_order()
        html = read(choose(staff, order, outcome, typed, is_sure=is_sure))
        assert len(errors(html)) == 1
        assert "Please correct the error below." in text(html)
        assert_nothing_happened(order)

    def test_only_lost_orders_can_be_resolved(self, staff: Client) -> None:
        order = make_guide_order()
        assert "resolve" not in read(staff.get(order_page(order)))
        for response in (
            staff.get(page(order), follow=True),
            staff.post(page(order), {"outcome": "reject", "is_sure": "on"}, follow=True),
        ):
            assert messages(read(response)) == [LATE]
        assert not order.changes.exists()


class TestPostedLate:
    """A page that was opened before the order changed can no longer decide about it."""

    @staticmethod
    def lose_again(order: Order) -> None:
        """Let another attempt be made, whose answer is lost as well."""
        assert declare_absent(order, send_again=True, source=STAFF)
        assert order.move(Status.PLACING, source=StatusChange.Source.PLACING, claim="second")
        assert order.move(Status.UNCONFIRMED, source=StatusChange.Source.PLACING)

    @pytest.mark.parametrize("outcome", ["send-again", "reject", "adopt-other"])
    def test_a_choice_about_an_earlier_attempt_is_refused(
        self, staff: Client, outcome: str, wire: Wire
    ) -> None:
        order = lost_order(candidates=[])
        token = hidden(read(staff.get(page(order))))["state_token"]
        self.lose_again(order)
        stale = {
            "outcome": outcome,
            "provider_order_id": TYPED,
            "is_sure": "on",
            "state_token": token,
        }
        response = staff.post(page(order), stale, follow=True)
        assert messages(read(response)) == [LATE]
        order.refresh_from_db()
        assert (order.status, order.changes.count()) == (Status.UNCONFIRMED, 3)
        assert asked(wire) == 0
        assert not LogEntry.objects.exists()

    def test_a_comparison_for_an_earlier_attempt_or_another_order_is_refused(
        self, staff: Client, wire: Wire
    ) -> None:
        order, other = lost_order(candidates=[]), lost_order(reference="web-1043")
        tell(wire)
        comparison = read(choose(staff, order, "adopt-other", TYPED))
        self.lose_again(order)
        for each in (order, other):
            assert messages(read(confirm(staff, each, comparison, follow=True))) == [LATE]
            each.refresh_from_db()
            assert each.provider_order_id is None
        assert_nothing_happened(other)

    @pytest.mark.parametrize("token", ["", "x", "é", None], ids=["", "x", "é", "other candidates"])
    def test_a_form_about_something_else_is_refused(self, staff: Client, token: str | None) -> None:
        order = lost_order()
        if token is None:
            token = hidden(read(staff.get(page(order))))["state_token"]
            Order.objects.update(candidates=candidates()[:1])
        choice = {"outcome": "send-again", "is_sure": "on", "state_token": token}
        assert messages(read(staff.post(page(order), choice, follow=True))) == [LATE]
        assert_nothing_happened(order)

    def test_of_two_choices_about_a_lost_order_at_the_same_moment_one_wins(
        self, staff: Client
    ) -> None:
        order = lost_order()
        rival = [Order.objects.get()]

        def deciding(execute: Any, sql: str, *arguments: Any) -> Any:
            """Let another process decide about the order just before the row is written."""
            is_ours = sql.startswith("UPDATE") and "giftcards_order" in sql.partition(" SET ")[0]
            if is_ours and rival:
                assert declare_absent(rival.pop(), send_again=False, source=STAFF)
            return execute(sql, *arguments)

        with connection.execute_wrapper(deciding):
            response = choose(staff, order, "send-again")
        assert messages(read(staff.get(response.url))) == [LATE]
        order.refresh_from_db()
        assert (order.status, order.changes.count()) == (Status.REJECTED, 1)


class TestAdopting:
    """The app asks the provider about an ID; staff compare the answer and confirm."""

    def test_a_candidate_that_fits_is_adopted_after_one_confirmation(
        self, staff: Client, wire: Wire
    ) -> None:
        order = lost_order()
        chosen = order.candidates[1]["id"]
        card = {"value": "CANARY-1", "serial": "CANARY-2"}
        tell(wire, chosen, cards=[card] * 5)
        html = read(choose(staff, order, f"adopt:{chosen}"))
        assert_nothing_happened(order)
        entry = LogEntry.objects.get()
        assert entry.change_message == f"Looked up the provider's order {chosen}."
        assert entry.object_id == str(order.pk)
        seen = signing.loads(hidden(html)["seen"], salt="giftcards.admin.adopt")
        assert "CANARY" not in html + str(seen)
        expected = [(PRODUCT, PRODUCT, ""), (TYPE, TYPE, ""), ("5", "5", "")]
        assert [(row[1], row[2], row[3]) for row in compared(html)[:3]] == expected
        assert compared(html)[4][1:] == ["Unconfirmed", "HANDLING", ""]
        assert "is_sure" not in html
        assert confirm(staff, order, html).url == order_page(order)
        decision = Problem("staff_adopted", {"by": "user0", "provider_order_id": chosen})
        assert_adopted(order, chosen, decision)
        assert asked(wire) == 1

    @pytest.mark.parametrize("offered", [False, True])
    @pytest.mark.parametrize("typed", [TYPED, f" \t{TYPED}\u00a0\n", "a", "Z9_-" * 25])
    def test_a_typed_id_that_fits_is_adopted_after_one_confirmation(
        self, staff: Client, wire: Wire, typed: str, offered: bool
    ) -> None:
        order = lost_order(candidates=candidates() if offered else [])
        tell(wire, typed.strip())
        confirm(staff, order, read(choose(staff, order, "adopt-other", typed)))
        names = {"by": "user0", "provider_order_id": typed.strip()}
        assert_adopted(order, typed.strip(), Problem("staff_adopted", names))

    def choose_unlike(
        self, staff: Client, wire: Wire, changes: dict[str, Any], how: str
    ) -> tuple[Order, str, str]:
        """Choose an ID that differs from the order; return the order, the ID and the page."""
        named = {name: value or "" for name, value in changes.items()}
        order = lost_order(candidates=candidates(**named) if how == "candidate" else [])
        name = order.candidates[0]["id"] if how == "candidate" else TYPED
        tell(wire, name, **changes)
        outcome = f"adopt:{name}" if how == "candidate" else "adopt-other"
        return order, name, read(choose(staff, order, outcome, TYPED))

    def adopt_at_the_second_yes(self, staff: Client, order: Order, html: str) -> None:
        for _time in range(2):
            html = read(confirm(staff, order, html))
            assert errors(html) == ["This field is required."]
            assert_nothing_happened(order)
        confirm(staff, order, html, is_sure="on")

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"product": "other"}, ["other", "different"]),
            ({"type": "type_002"}, ["type_002", "different"]),
        ],
    )
    @pytest.mark.parametrize("how", ["typed", "candidate"])
    def test_an_id_that_does_not_fit_is_adopted_only_if_the_person_insists(
        self, staff: Client, wire: Wire, changes: dict[str, Any], told: list[str], how: str
    ) -> None:
        order, name, html = self.choose_unlike(staff, wire, changes, how)
        assert told in [row[2:] for row in compared(html)]
        assert "The provider's order does not match the order that was sent." in text(html)
        assert "You cannot change your choice after your order has settled" in text(html)
        self.adopt_at_the_second_yes(staff, order, html)
        decision = Problem("staff_insisted", {"by": "user0", "provider_order_id": name})
        assert_adopted(order, name, decision)
        assert order.is_insisted
        assert asked(wire) == 1

    def test_an_id_that_another_key_knows_is_adopted_only_if_the_person_insists(
        self, staff: Client, wire: Wire
    ) -> None:
        order = lost_order()
        Order.objects.update(sent_with="of another key")
        tell(wire)
        html = read(choose(staff, order, "adopt-other", TYPED))
        expected = ["the key that the order was sent with", "the key in use now", "different"]
        assert compared(html)[4][1:] == expected
        self.adopt_at_the_second_yes(staff, order, html)
        decision = Problem("staff_insisted", {"by": "user0", "provider_order_id": TYPED})
        assert_adopted(order, TYPED, decision)
        order.refresh_from_db()
        # The provider's answers about the order still have to match it.
        assert not order.is_insisted

    @pytest.mark.parametrize("changes", [{"product": None}, {"quantity": None}])
    @pytest.mark.parametrize("how", ["typed", "candidate"])
    def test_an_id_of_which_not_all_is_told_is_adopted_at_the_second_yes_and_stays_compared(
        self, staff: Client, wire: Wire, changes: dict[str, Any], how: str
    ) -> None:
        order, name, html = self.choose_unlike(staff, wire, changes, how)
        assert ["", "not reported"] in [row[2:] for row in compared(html)]
        assert "The provider's details are incomplete." in text(html)
        self.adopt_at_the_second_yes(staff, order, html)
        decision = Problem("staff_adopted", {"by": "user0", "provider_order_id": name})
        assert_adopted(order, name, decision)
        # The person has not confirmed that the product may be different.
        assert not order.is_insisted

    @pytest.mark.parametrize("how", ["typed", "candidate"])
    def test_an_id_of_another_quantity_is_refused(
        self, staff: Client, wire: Wire, how: str
    ) -> None:
        order, _name, html = self.choose_unlike(staff, wire, {"quantity": 1}, how)
        assert messages(html) == [
            (
                "The provider's order has a quantity of 1, but your order has a quantity of"
                " 5, so they are different orders."
            )
        ]
        assert_nothing_happened(order)

    @pytest.mark.parametrize("is_known", [True, False], ids=["in part", "not at all"])
    def test_what_an_answer_leaves_out_is_compared_as_listed(
        self, staff: Client, wire: Wire, is_known: bool
    ) -> None:
        order = lost_order()
        name = order.candidates[0]["id"]
        if is_known:
            tell(wire, name, product=None, type=None, status="FULFILLED")
        else:
            self.refuse(wire, name, 404, "NOT_FOUND")
        html = read(choose(staff, order, f"adopt:{name}"))
        assert "is_sure" not in html
        assert compared(html)[0][2] == PRODUCT
        confirm(staff, order, html)
        order.refresh_from_db()
        assert order.provider_order_id == name

    @staticmethod
    def refuse(wire: Wire, name: str, status: int, code: str) -> None:
        error = {"success": False, "error": {"code": code, "message": "no"}}
        answer: dict[str, Any] = {"status": status, "json": error}
        if not status:
            answer = {"body": requests.ConnectionError("no")}
        wire.get(f"{PROVIDER}/v3/gift-cards/check-order/{name}", **answer)

    @pytest.mark.parametrize(
        ("status", "code", "message"),
        [
            (404, "NOT_FOUND", "The provider has no order with this ID. Nothing was done."),
            (401, "INVALID_ACCESS_TOKEN", "Requests to the provider are paused. Nothing was done."),
            (503, "SERVICE_UNAVAILABLE", "The provider could not be reached. Nothing was done."),
            (0, "", "The provider could not be reached. Nothing was done."),
        ],
    )
    def test_no_order_is_adopted_without_an_answer_about_the_id(
        self, staff: Client, wire: Wire, status: int, code: str, message: str
    ) -> None:
        order = lost_order()
        self.refuse(wire, TYPED, status, code)
        html = read(choose(staff, order, "adopt-other", TYPED))
        assert messages(html) == [message]
        # The same page is shown again, with the typed ID.
        assert f'value="{TYPED}"' in html
        assert_nothing_happened(order)

    @pytest.mark.parametrize(
        ("why", "message"),
        [
            ("paused", "Requests to the provider are paused. Nothing was done."),
            ("budget", "There are too many other requests to the provider. Try again in a minute."),
            ("no key", "This server has no API key and cannot look up the ID at the provider."),
        ],
    )
    def test_adopting_asks_nothing_while_that_is_not_possible(
        self, staff: Client, wire: Wire, settings: Any, why: str, message: str
    ) -> None:
        order = lost_order()
        if why == "paused":
            until = timezone.now() + timedelta(minutes=5)
            ProviderState.objects.pause(ProviderState.Pause.RATE, detail="Slow.", until=until)
        elif why == "budget":
            spend_budget()
        else:
            settings.GIFTCARDS = {**settings.GIFTCARDS, "API_KEY": ""}
        html = read(choose(staff, order, "adopt-other", TYPED))
        assert messages(html)[0].startswith(message)
        assert len(wire.calls) == 0
        assert_nothing_happened(order)

    @pytest.mark.parametrize("name", ["provider_order_id", "provider_alias"])
    def test_an_id_whose_answer_names_another_order_of_ours_is_refused(
        self, staff: Client, wire: Wire, name: str
    ) -> None:
        order = lost_order()
        make_guide_order(reference="web-7", **{name: "other-id"})
        tell(wire, TYPED, _id="other-id")
        html = read(choose(staff, order, "adopt-other", TYPED))
        assert plain(messages(html)[0]) == "This ID already belongs to your order web-7."
        assert_nothing_happened(order)

    def test_an_id_taken_while_the_comparison_was_open_is_refused(
        self, staff: Client, wire: Wire
    ) -> None:
        order = lost_order()
        tell(wire)
        html = read(choose(staff, order, "adopt-other", TYPED))
        make_guide_order(reference="web-7", provider_order_id=TYPED)
        response = confirm(staff, order, html)
        assert plain(messages(read(staff.get(response.url)))[0]) == (
            "This ID already belongs to your order web-7."
        )
        assert_nothing_happened(order)

    def test_an_id_taken_at_the_moment_of_the_confirmation_is_refused(
        self, staff: Client, wire: Wire
    ) -> None:
        order = lost_order()
        tell(wire)
        html = read(choose(staff, order, "adopt-other", TYPED))

        def taking(execute: Any, sql: str, *arguments: Any) -> Any:
            """Let another process give the ID to its own order just before the row is written."""
            is_ours = sql.startswith("UPDATE") and "giftcards_order" in sql.partition(" SET ")[0]
            if is_ours and Order.objects.count() == 1:
                make_guide_order(reference="web-7", provider_order_id=TYPED)
            return execute(sql, *arguments)

        with connection.execute_wrapper(taking):
            response = confirm(staff, order, html)
        # In the test, both writes share one transaction, so the other order was rolled back as
        # well.
        assert messages(read(staff.get(response.url))) == [LATE]
        assert_nothing_happened(order)

    @pytest.mark.parametrize("forged", ["", "x", "unsigned", "of somebody else", "too old"])
    def test_only_a_recent_comparison_of_ones_own_can_be_confirmed(
        self, staff: Client, wire: Wire, forged: str, monkeypatch: Any
    ) -> None:
        order = lost_order()
        tell(wire)
        seen = hidden(read(choose(staff, order, "adopt-other", TYPED)))["seen"]
        if forged == "too old":
            monkeypatch.setattr(signing.time, "time", lambda: timezone.now().timestamp() + 901)
        elif forged == "of somebody else":
            staff = sign_in("view_order", "resolve_order")
        else:
            seen = signing.dumps({"id": TYPED}) if forged == "unsigned" else forged
        response = staff.post(page(order, "adopt"), {"seen": seen})
        assert response.url == page(order)
        assert messages(read(staff.get(response.url))) == [
            "This page was open for too long, so nothing was done. Please choose again."
        ]
        assert_nothing_happened(order)


class TestTypingAnId:
    """Typing an ID: the provider's list lacks the order, but its dashboard shows it."""

    def test_the_id_field_has_no_length_limit_and_is_not_required(self, staff: Client) -> None:
        html = read(staff.get(page(lost_order())))
        assert "This is the provider's order with the following ID:" in text(html)
        [field] = re.findall(r"<input[^>]*provider_order_id[^>]*>", html)
        for attribute in ('type="text"', 'dir="ltr"', 'autocomplete="off"', 'spellcheck="false"'):
            assert attribute in field
        # The field is required for only one of the choices, which HTML cannot express. A length
        # limit could cut off a pasted ID, and the beginning of an ID is a different ID.
        assert "required" not in field
        assert "maxlength" not in field

    @pytest.mark.parametrize("offered", [False, True])
    def test_the_page_says_what_to_look_for_in_the_dashboard(
        self, staff: Client, offered: bool
    ) -> None:
        sent_at = datetime(2025, 10, 29, 1, 2, 3, tzinfo=UTC)
        rows = candidates() if offered else []
        order = lost_order(sent_at=sent_at, candidates=rows, quantity=7)
        shown = text(read(staff.get(page(order))))
        assert f"Product: {PRODUCT} Type: {TYPE} Quantity: 7" in shown
        assert "Sent: 29 Oct 2025 02:02:03 (CET)" in shown
        look = "Look in the provider's dashboard for an order with this product, type and quantity"
        assert (look in shown) == (not offered)
        assert ("you can choose one of the provider's orders" in shown) == offered

    @pytest.mark.parametrize(
        "typed",
        ["690161 6fe9", "../orders", f"#{TYPED}", "a" * 101, "\u0661\u0662", "é", "a\0", "a\nb"],
    )
    def test_a_malformed_id_is_refused(self, staff: Client, typed: str) -> None:
        order = lost_order()
        html = read(choose(staff, order, "adopt-other", typed))
        assert errors(html) == ["Use at most 100 characters: letters, digits, “_” and “-”."]
        assert_nothing_happened(order)

    def test_an_error_in_the_resolve_form_is_beside_its_field_and_keeps_choices(
        self, staff: Client
    ) -> None:
        html = read(choose(staff, lost_order(), "adopt-other", "no id"))
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
    def test_a_typed_id_that_another_order_has_is_refused_without_asking(
        self, staff: Client, name: str, wire: Wire
    ) -> None:
        order = lost_order()
        make_guide_order(reference="web-<7>", **{name: TYPED})
        html = read(choose(staff, order, "adopt-other", f"{TYPED} "))
        assert messages(html) == ["This ID already belongs to your order ⁨web-<7>⁩."]
        assert "web-&lt;7&gt;" in html
        assert asked(wire) == 0
        assert_nothing_happened(order)

    def test_the_page_for_typing_an_id_holds_no_code(self, staff: Client) -> None:
        order = lost_order()
        other = make_guide_order(provider_order_id=TYPED)
        record_answers([(claim(other)[0], FULFILLED)], now=timezone.now())
        card = other.cards.get(position=1)
        for response in (staff.get(page(order)), choose(staff, order, "adopt-other", TYPED)):
            html = read(response)
            for secret in (card.value, card.serial, card.sealed, "CANARY"):
                assert secret not in html


class TestReleasing:
    @pytest.fixture
    def order(self) -> Order:
        order = lost_order()
        assert adopt(order, TYPED, source=STAFF)
        return order

    def test_a_released_order_is_lost_again_and_leaves_a_trace(
        self, staff: Client, order: Order
    ) -> None:
        address = page(order, "release")
        assert address in read(staff.get(order_page(order)))
        html = read(staff.get(address))
        assert f"Your order was linked to the provider's order {TYPED}." in text(html)
        # A check while the page is open does not prevent the release.
        claim(order)
        assert errors(read(staff.post(address, hidden(html)))) == ["This field is required."]
        order.refresh_from_db()
        assert order.provider_order_id == TYPED
        response = staff.post(address, {**hidden(html), "is_sure": "on"})
        assert response.url == order_page(order)
        order.refresh_from_db()
        assert (order.status, order.provider_order_id) == (Status.UNCONFIRMED, None)
        decision = Problem("staff_released", {"by": "user0", "provider_order_id": TYPED})
        assert problems(order) == [decision]
        assert LogEntry.objects.get().change_message == str(decision)
        shown = read(staff.get(order_page(order)))
        assert decision.text in text(shown)
        assert page(order) in shown

    @pytest.mark.parametrize(
        "change", [{"provider_order_id": "another"}, {"fulfilled_quantity": 1}]
    )
    def test_an_order_that_is_another_meanwhile_or_of_which_cards_came_is_not_released(
        self, staff: Client, order: Order, change: dict[str, Any]
    ) -> None:
        address = page(order, "release")
        form = hidden(read(staff.get(address)))
        Order.objects.update(**change)
        response = staff.post(address, {**form, "is_sure": "on"}, follow=True)
        assert messages(read(response)) == [LATE]
        order.refresh_from_db()
        assert order.provider_order_id is not None
        if "fulfilled_quantity" in change:
            assert "release" not in read(staff.get(order_page(order)))
            assert messages(read(staff.get(address, follow=True))) == [LATE]


@pytest.mark.django_db(transaction=True)
def test_the_provider_is_asked_outside_any_transaction(
    staff: Client, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)
    order = lost_order(candidates=[])
    inside = []

    def answer(_request: Any) -> tuple[int, dict[str, str], str]:
        inside.append(connection.in_atomic_block)
        return 404, {}, ""

    wire.add_callback("GET", f"{PROVIDER}/v3/gift-cards/check-order/{TYPED}", answer)
    wire.add_callback("GET", f"{PROVIDER}/v3/gift-cards/checkOrder/{TYPED}", answer)
    choose(staff, order, "adopt-other", TYPED)
    assert inside == [False, False]
