"""The provider's page: whether gift cards can be bought now, and if not, what to do about it."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
import responses
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.db.models import F
from django.test import Client
from django.utils import timezone
from django_q.models import OrmQ, Schedule

from giftcards.admin import OrderAdmin, ProviderStateAdmin
from giftcards.admin.frame.sections import Fact, Section
from giftcards.conf import conf
from giftcards.engine.gateway import Gateway
from giftcards.engine.task_queue import ensure_schedule
from giftcards.exceptions import AccessDenied
from giftcards.fulfilment import place_order
from giftcards.keys.keyring import Keyring, generate_key, key_fingerprint
from giftcards.models import ApiKey, Order, ProviderState, StatusChange
from giftcards.simulator import Simulator
from giftcards.statuses import Status
from giftcards.watch import overview
from tests.builders import PARTIAL, make_order, settle
from tests.pages import (
    count_queries,
    element,
    hidden,
    messages,
    order_page,
    plain,
    read,
    sign_in,
    text,
)
from tests.stage import (
    PLACE,
    PSN,
    ago,
    check_url,
    record_order,
    refuse_key,
    run_sweep,
    secrets_of,
    spend_budget,
    without_list,
)

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

PAGE = "/admin/giftcards/providerstate/"
DEVELOPER = ("view_providerstate", "resume_provider")
RESUME = f"{PAGE}resume/"
GO_ON = "Requests to the provider have resumed."
ANOTHER = (
    "Requests did not resume because a new pause started in the meantime. Check the new pause"
    " first."
)


@pytest.fixture
def viewer() -> Client:
    return sign_in("view_providerstate")


@pytest.fixture
def manager() -> Client:
    return sign_in(*DEVELOPER)


def section(html: str, name: str) -> str:
    return element(html, f'aria-labelledby="giftcards-{name}"', "section")


def facts(html: str, name: str) -> dict[str, str]:
    """Return the texts of a section of the page, by label."""
    pairs = re.findall(r"<dt>(.*?)</dt>\s*<dd.*?>(.*?)</dd>", section(html, name), re.DOTALL)
    return {text(label): plain(text(value)) for label, value in pairs}


def table(html: str, name: str) -> list[list[str]]:
    """Return the texts of the rows in a section's table."""
    found = re.findall(r"<tr>(.*?)</tr>", section(html, name), re.DOTALL)[1:]
    return [
        [plain(text(cell)) for cell in re.findall(r"<td.*?</td>", row, re.DOTALL)] for row in found
    ]


def press(browser: Client, **form: str) -> list[str]:
    """Press the button with the shown form or another ``form``, and return the messages."""
    form = form or {"state_token": hidden(read(browser.get(PAGE)))["state_token"]}
    return messages(read(browser.post(RESUME, form, follow=True)))


class TestPage:
    def test_a_new_shop_is_told_that_no_worker_has_run(self, viewer: Client) -> None:
        html = read(viewer.get(PAGE))
        assert facts(html, "connection") == {
            "Requests to the provider": "in service",
            "Last answer": "never",
            "Last failure": "never",
            "Requests in the last minute": "0 of 1200",
        }
        assert facts(html, "worker") == {
            "State": "Background work has not started yet. Contact your developer.",
            "Schedule": "There is no schedule for the background work. Contact your developer.",
            "Last run": "never",
            "Next run": "never",
            "Daily work last completed": "never",
            "Orders last checked": "never",
        }
        assert "None." in text(section(html, "failures"))
        found = facts(read(sign_in(*DEVELOPER, "view_cost").get(PAGE)), "worker")
        assert "For your developerStart a worker: `manage.py giftcards_worker" in found["State"]
        assert found["Schedule"].endswith("For your developerRun `manage.py giftcards_setup`.")

    @pytest.mark.usefixtures("simulator")
    def test_a_shop_at_work_sees_its_last_answer_and_the_next_run(self, viewer: Client) -> None:
        ensure_schedule()
        Schedule.objects.update(next_run=timezone.now() + timedelta(seconds=50))
        with Gateway() as gateway:
            assert gateway.environment() == "SANDBOX"
            gateway.flush()
        ProviderState.objects.note_tick("celery@web-2")
        html = read(viewer.get(PAGE))
        assert facts(html, "connection")["Last answer"].endswith("(less than a minute ago)")
        assert facts(html, "connection")["Requests in the last minute"] == "1 of 1200"
        worker = facts(html, "worker")
        assert worker["State"] == "At work."
        assert worker["Last run by"] == "celery@web-2"
        assert worker["Next run"].endswith("(in less than a minute)")
        assert "Schedule" not in worker
        spend_budget()
        ProviderState.objects.update(last_tick_at=ago(3600), swept_at=ago(3600))
        html = read(viewer.get(PAGE))
        worker = facts(html, "worker")
        assert worker["State"].startswith("Background work has stopped")
        assert worker["Last run"].endswith("(1 hour ago)")
        used = facts(html, "connection")["Requests in the last minute"]
        assert used == "1200 of 1200"
        assert 'class="giftcards-warning">Background work has stopped' in html

    def test_what_waits_is_shown_with_its_age_and_a_link(self, viewer: Client) -> None:
        OrmQ.objects.create(key="giftcards", payload="", lock=ago(600))
        OrmQ.objects.create(key="giftcards", payload="", lock=ago(-600))
        OrmQ.objects.update(key=_queue_name())
        oldest = make_order(Status.UNCONFIRMED, reference="web-1", created_at=ago(7200))
        make_order(Status.UNCONFIRMED)
        change = StatusChange(order=oldest, from_status="PLACING", to_status="UNCONFIRMED")
        change.at = ago(300)
        change.save()
        html = read(sign_in("view_providerstate", "view_order").get(PAGE))
        found = facts(html, "waiting")
        assert re.match(
            r"1, the oldest waiting since .* \(10 minutes ago\)$", found["Tasks in the queue"]
        )
        told = found["Notifications not yet sent to the shop"]
        assert re.match(r"1, the oldest waiting since .* \(5 minutes ago\)$", told)
        assert re.match(r"2, the oldest waiting since .* \(2 hours ago\)$", found["Unconfirmed"])
        assert found["Oldest open order"].startswith("web-1, since ")
        assert f'href="{order_page(oldest)}"' in html
        assert 'href="/admin/giftcards/order/?status__exact=UNCONFIRMED"' in html
        StatusChange.objects.update(announce_at=None)
        # A person who may not view orders sees numbers without references.
        html = read(viewer.get(PAGE))
        found = facts(html, "waiting")
        assert found["Given up"] == (
            "The app could not notify the shop of 1 change within a day and will not try again."
        )
        assert found["Unconfirmed"].startswith("2, ")
        assert found["Oldest open order"].startswith("an order, since ")
        assert "web-1" not in html
        assert "giftcards/order/" not in html

    def test_a_shop_whose_queue_is_elsewhere_or_without_django_q_sees_the_page(
        self, viewer: Client, settings: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("django_q.conf.Conf.ORM", None)
        found = facts(read(viewer.get(PAGE)), "waiting")
        unknown = "unknown: the django-q2 queue is not in the database"
        assert found["Tasks in the queue"] == unknown
        settings.INSTALLED_APPS = [app for app in settings.INSTALLED_APPS if app != "django_q"]
        html = read(viewer.get(PAGE))
        names = ["State", "Last run", "Daily work last completed", "Orders last checked"]
        assert list(facts(html, "worker")) == names
        assert "Tasks in the queue" not in facts(html, "waiting")
        assert "django-q2" not in html

    def test_the_last_failures_are_listed_newest_first(self, viewer: Client) -> None:
        refuse_key("It is revoked.")
        ProviderState.objects.current()
        ProviderState.objects.update(failed_at=ago(60), failure="It is <away>.")
        order = make_order(Status.UNCONFIRMED, reference="web-7")
        StatusChange.objects.create(
            order=order, from_status="PLACING", to_status="UNCONFIRMED", at=ago(3600),
            announce_error="shop.tell: ValueError",
        )  # fmt: skip
        found = [(row[1], row[2]) for row in table(read(viewer.get(PAGE)), "failures")]
        own = key_fingerprint(conf.api_key)[:8]
        assert found == [
            ("API key", own),
            ("Provider", "Contact your developer."),
            ("Notification to the shop", "an order"),
        ]
        html = read(sign_in(*DEVELOPER, "view_order").get(PAGE))
        assert [row[2] for row in table(html, "failures")] == [
            f"{own} For your developerIt is revoked.",
            "Contact your developer. For your developerIt is <away>.",
            "web-7 For your developershop.tell: ValueError",
        ]

    @pytest.mark.parametrize(
        ("message", "shown"),
        [
            (
                "Insufficient balance. Required: 980 DA, available: 500 DA",
                "This error message is hidden because it may contain an amount.",
            ),
            ("Required: ٩٨٠ DA", "This error message is hidden because it may contain an amount."),
            (
                "Insufficient balance",
                "The provider refused the request (HTTP 403): Insufficient balance",
            ),
        ],
    )
    def test_who_may_not_see_costs_reads_no_failure_in_which_the_provider_names_figures(
        self, wire: responses.RequestsMock, message: str, shown: str
    ) -> None:
        answer = {"success": False, "error": {"message": message}}
        wire.post(PLACE, json=answer, status=403)
        place_order(product_id=PSN, type_id="type_001", quantity=2)
        run_sweep()
        html = read(sign_in(*DEVELOPER).get(PAGE))
        told = "Contact your developer. For your developer"
        assert [row[2] for row in table(html, "failures")] == [told + shown]
        whole = f"{told}The provider refused the request (HTTP 403): {message}"
        boss = sign_in(*DEVELOPER, "view_cost")
        assert [row[2] for row in table(read(boss.get(PAGE)), "failures")] == [whole]

    @pytest.mark.parametrize(
        ("status", "told"),
        [
            (503, "Requests will resume automatically."),
            (429, "Requests will resume automatically."),
            (401, "Contact your developer."),
        ],
    )
    def test_an_outage_asks_for_nobody_and_a_refusal_for_the_developer(
        self, status: int, told: str, wire: responses.RequestsMock
    ) -> None:
        order = make_order(Status.HANDLING)
        wire.get(check_url(order), status=status, body="<html>")
        run_sweep()
        html = read(sign_in("view_providerstate").get(PAGE))
        [row] = [row for row in table(html, "failures") if row[1] == "Provider"]
        assert row[2] == told

    @pytest.mark.parametrize("is_answered", [True, False])
    def test_the_outage_of_one_server_stops_no_sales_while_others_are_answered(
        self, viewer: Client, is_answered: bool
    ) -> None:
        ProviderState.objects.note_tick()
        ProviderState.objects.pause(ProviderState.Pause.OUTAGE, detail="No route.", until=ago(-15))
        answered = {"succeeded_at": ago(0) if is_answered else ago(60), "succeeded_by": "web-2"}
        ProviderState.objects.update(paused_by="web-1", **answered)
        seen = text(read(viewer.get(PAGE)))
        assert ("Gift cards can be sold now." in seen) is is_answered
        assert ("The server web-1 cannot reach the provider." in seen) is is_answered
        assert ("Gift cards cannot be sold now: requests" in seen) is not is_answered

    def test_the_balance_and_its_age_are_for_those_who_may_see_costs(self, viewer: Client) -> None:
        accountant = sign_in("view_providerstate", "view_cost")
        assert facts(read(accountant.get(PAGE)), "connection")["Balance"] == "not read yet"
        ProviderState.objects.current()
        ProviderState.objects.update(balance=Decimal("88235.91"), balance_read_at=ago(7200))
        assert not re.search(r"88.?235", text(section(read(viewer.get(PAGE)), "connection")))
        balance = facts(read(accountant.get(PAGE)), "connection")["Balance"]
        assert balance.startswith("88,235.91 DA, read on ")
        assert balance.endswith("(2 hours ago)")

    def test_the_page_shows_all_versions_and_no_secret_and_is_that_of_the_row(
        self, settings: Any, simulator: Simulator
    ) -> None:
        settle("web-1042", PARTIAL)
        refuse_key()
        boss = sign_in(superuser=True)
        html = read(boss.get(PAGE))
        for secret in secrets_of(settings, simulator):
            assert secret not in html
        assert key_fingerprint(conf.api_key) not in html
        found = facts(html, "versions")
        assert found == overview.versions()
        assert {"giftcards", "Django", "Python", "django-q2"} < found.keys()
        assert connection.display_name in found
        response = boss.get(f"{PAGE}1/change/")
        assert (response.status_code, response.headers["Location"]) == (302, PAGE)
        assert boss.get(f"{PAGE}1/history/").status_code == 200

    @pytest.mark.parametrize("permission", ["view_order", "resume_provider", "view_cost"])
    def test_a_person_without_the_permission_gets_403(self, permission: str) -> None:
        browser = sign_in(permission)
        for address in (PAGE, f"{PAGE}1/change/"):
            assert browser.get(address).status_code == 403
        assert browser.post(RESUME).status_code == 403

    def test_nobody_adds_or_deletes_the_state(self) -> None:
        ProviderState.objects.current()
        boss = sign_in(superuser=True)
        for address in (f"{PAGE}add/", f"{PAGE}1/delete/"):
            assert boss.get(address).status_code == 403
            assert boss.post(address, {"post": "yes"}).status_code == 403
        boss.post(PAGE, {"action": "delete_selected", "_selected_action": "1", "post": "yes"})
        assert ProviderState.objects.count() == 1

    def test_the_number_of_queries_does_not_grow(self, viewer: Client) -> None:
        settle("web-1042", PARTIAL)
        few = count_queries(viewer, PAGE)
        for _order in range(5):
            make_order(Status.UNCONFIRMED)
            ApiKey.objects.create(pk=key_fingerprint(generate_key()), refused_at=ago(9))
        assert count_queries(viewer, PAGE) <= few + 1 <= 40


def _queue_name() -> str:
    from django_q.conf import Conf

    return str(Conf.CLUSTER_NAME)


class TestKeys:
    def test_cards_are_counted_by_the_key_that_seals_them(
        self, viewer: Client, set_conf: Callable[..., None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settle("web-1042", PARTIAL)
        old = conf.encryption_keys[0]
        new, spare = generate_key(), generate_key()
        set_conf(ENCRYPTION_KEYS=[new, old, spare])
        names = [Keyring([key]).key_fingerprints[0][:8] for key in (new, old, spare)]
        html = read(viewer.get(PAGE))
        assert table(html, "encryption") == [
            [names[0], "first key: encrypts new cards", "0"],
            [names[1], "key number 2: only decrypts cards", "3"],
            [names[2], "key number 3: only decrypts cards", "none, so the key can be removed"],
        ]
        assert facts(html, "encryption") == {
            "Newest card": "can be decrypted",
            "Oldest card": "can be decrypted",
        }
        # The fingerprint on the page does not reveal the key.
        [fingerprint] = Keyring([new]).key_fingerprints
        assert re.fullmatch("[0-9a-f]{16}", fingerprint)
        assert fingerprint not in {key_fingerprint(new)[:16], *Keyring([old]).key_fingerprints}
        # If there are many cards, they are counted only on request.
        monkeypatch.setattr("giftcards.watch.overview.MANY_CARDS", 2)
        for query, counted in (({}, "more than 2"), ({"cards": "all"}, "3")):
            html = read(viewer.get(PAGE, query))
            assert table(html, "encryption")[1][2] == counted
            assert ('href="?cards=all"' in html) == (not query)

    def test_cards_of_a_key_that_is_gone_are_counted_and_said_to_be_shut(
        self, viewer: Client, set_conf: Callable[..., None]
    ) -> None:
        settle("web-1042", PARTIAL)
        [old] = conf.keyring().key_fingerprints
        set_conf(ENCRYPTION_KEYS=[generate_key()])
        html = read(viewer.get(PAGE))
        assert table(html, "encryption")[1] == [
            old[:8],
            "missing: cards encrypted with this key cannot be decrypted",
            "3",
        ]
        assert facts(html, "encryption")["Newest card"] == "cannot be decrypted"
        assert "web-1042" not in html
        html = read(sign_in("view_providerstate", "resume_provider").get(PAGE))
        assert "Card 3 of order web-1042" in facts(html, "encryption")["Newest card"]
        # The page reports unusable keys.
        set_conf(ENCRYPTION_KEYS=[])
        unusable = (
            "The encryption keys in the settings cannot be used, so cards cannot be decrypted."
        )
        assert facts(read(viewer.get(PAGE)), "encryption")["Encryption keys"] == unusable
        found = facts(read(sign_in(*DEVELOPER).get(PAGE)), "encryption")
        hint = "For your developerGIFTCARDS['ENCRYPTION_KEYS'] is not set."
        assert found["Encryption keys"].startswith(f"{unusable} {hint}")

    def test_api_keys_are_known_by_the_beginning_of_their_fingerprint(self, viewer: Client) -> None:
        other = key_fingerprint("another key")
        ApiKey.objects.create(pk=other, environment="SANDBOX", accepted_at=ago(90_000))
        refuse_key()
        own, foreign = table(read(viewer.get(PAGE)), "api-keys")
        assert own[:4] == [key_fingerprint(conf.api_key)[:8], "yes", "unknown", "never"]
        assert own[5] == "refused: no requests are sent with this key"
        assert foreign[:3] == [other[:8], "no", "Sandbox"]
        assert foreign[3].endswith("(1 day ago)")
        assert foreign[4:] == ["never", "in order"]


class TestAtStake:
    """The pause notice: how many orders wait, the amount paid, the deadline, and what follows."""

    @pytest.fixture
    def boss(self) -> Client:
        refuse_key()
        return sign_in("view_providerstate", "view_order")

    def said(self, browser: Client) -> list[str]:
        alert = element(read(browser.get(PAGE)), 'role="alert"', "div")
        return [plain(text(each)) for each in re.findall(r"<p>(.*?)</p>", alert, re.DOTALL)][2:]

    def test_each_sentence_is_true_at_every_moment_of_two_hours(self, boss: Client) -> None:
        placed = {0: 1, 20: 2, 80: 1}  # orders by the minute
        for minute in range(0, 121, 20):
            for _order in range(placed.get(minute, 0)):
                record_order(product_id=PSN, type_id="type_001", quantity=2, sale_price=550)
            run_sweep()
            kept = [at + 60 for at, number in placed.items() for _one in range(number)]
            kept = [at for at in kept if minute < at <= minute + 60]
            assert Order.objects.filter(status=Status.PENDING).count() == len(kept)
            waiting = []
            if len(kept) == 1:
                waiting = [
                    "1 order, for which 1,100 DA was paid, is waiting to be sent.",
                    "The order will be rejected if it cannot be sent by *"
                    f" ({in_minutes(kept[0] - minute)}).",
                ]
            elif kept:
                waiting = [
                    f"{len(kept)} orders, for which {len(kept)},{len(kept)}00 DA was paid, are"
                    " waiting to be sent.",
                    "The oldest order will be rejected if it cannot be sent by *"
                    f" ({in_minutes(min(kept) - minute)}).",
                ]
            told = self.said(boss)
            rule = (
                "A new order will be rejected if it cannot be sent by *. You will then owe"
                " the customer what they paid."
            )
            told = [re.sub(r"sent by .*?( \(|\.)", r"sent by *\1", each) for each in told]
            assert told == [*waiting, rule]
            span = timedelta(minutes=20)
            Order.objects.update(queued_at=F("queued_at") - span)
            Order.objects.filter(finalized_at=None).update(due_at=F("due_at") - span)
        assert Order.objects.filter(status=Status.REJECTED).count() == 3

    def test_orders_on_hold_and_those_that_a_person_may_not_see_are_left_out(
        self, boss: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make_order(due_at=None)
        assert len(self.said(boss)) == 1
        for _order in range(2):
            record_order(product_id=PSN, type_id="type_001", quantity=2)
        assert len(self.said(boss)) == 3
        # Overdue orders are not rejected until a worker runs again.
        Order.objects.update(queued_at=ago(4000))
        assert self.said(boss)[:2] == [
            "2 orders are waiting to be sent.",
            "2 orders have waited too long and will be rejected when background work resumes.",
        ]
        monkeypatch.setattr(OrderAdmin, "get_queryset", lambda *_args: Order.objects.none())
        assert len(self.said(boss)) == 1

    def test_cards_that_do_not_open_keep_no_order_from_being_sent(
        self, set_conf: Callable[..., None]
    ) -> None:
        settle("web-1042", PARTIAL)
        ProviderState.objects.current()
        now = timezone.now()
        ProviderState.objects.update(last_tick_at=now, swept_at=now, succeeded_at=now)
        ensure_schedule()
        set_conf(ENCRYPTION_KEYS=[generate_key()])
        record_order(product_id=PSN, type_id="type_001", quantity=2)
        html = read(sign_in("view_providerstate", "view_order").get(PAGE))
        assert "Gift cards cannot be sold now: stored cards cannot be decrypted" in text(html)
        assert "to be sent" not in text(element(html, 'role="alert"', "div"))


def in_minutes(minutes: int) -> str:
    """Return the remaining time in whole minutes.

    A part of the first minute has passed since the test moved the clocks.
    """
    return f"in {minutes - 1} minutes"


class TestResuming:
    def test_a_pause_is_explained_with_what_resuming_does(self, manager: Client) -> None:
        refuse_key()
        html = read(manager.get(PAGE))
        alert = element(html, f'action="{RESUME}"', "form")
        pause = ProviderState.objects.current().explain_pause()
        assert pause.remedy == "Contact your developer."
        assert pause.for_staff in text(html)
        assert f"For your developer{pause.hint}" in text(html)
        assert "`manage.py giftcards_poll --resume`" in pause.hint
        assert "The app will test the refused key with a single request." in text(alert)
        assert "Resume requests to the provider" in alert

    @pytest.mark.parametrize(("language", "is_isolated"), [("ar", True), ("fr", False)])
    def test_the_english_detail_of_a_pause_is_isolated_where_text_runs_from_right_to_left(
        self, language: str, is_isolated: bool, manager: Client
    ) -> None:
        refuse_key("It is revoked.")
        manager.cookies["django_language"] = language
        html = read(manager.get(PAGE))
        assert ("\u2068It is revoked.\u2069" in html) is is_isolated
        assert "It is revoked." in html

    @pytest.mark.parametrize(
        ("pause", "effect"),
        [
            # These pauses apply in addition to a refused key.
            ("", "The app will test the refused key"),
            ("access", "The app will send a single request to the provider. If"),
            ("rate", "Requests will resume immediately. The provider"),
            ("outage", "Requests to the provider will resume immediately."),
        ],
    )
    def test_each_kind_of_pause_says_what_resuming_does(
        self, pause: str, effect: str, manager: Client
    ) -> None:
        if not pause:
            refuse_key()
        kind = ProviderState.Pause(pause or "rate")
        ProviderState.objects.pause(kind, detail="", until=ago(-300))
        shown = text(read(manager.get(PAGE)))
        assert effect in shown
        assert ("Requests will resume immediately" in shown) == (kind == "rate")
        assert press(manager) == [GO_ON]
        assert ProviderState.objects.current().paused_because == ""

    def test_a_page_opened_before_another_pause_resumes_nothing(self, manager: Client) -> None:
        refuse_key()
        form = {"state_token": hidden(read(manager.get(PAGE)))["state_token"]}
        ProviderState.objects.resume()
        refuse_key()
        assert press(manager, **form) == [ANOTHER]
        assert press(manager, about="") == [ANOTHER]
        assert ProviderState.objects.current().paused_because == "access"
        assert not LogEntry.objects.exists()

    def test_an_outage_that_goes_on_does_not_refuse_the_button(self, manager: Client) -> None:
        outage = ProviderState.Pause.OUTAGE
        ProviderState.objects.pause(outage, detail="", until=ago(-5))
        form = {"state_token": hidden(read(manager.get(PAGE)))["state_token"]}
        ProviderState.objects.resume()
        ProviderState.objects.pause(outage, detail="", until=ago(-15))
        assert press(manager, **form) == [GO_ON]

    def test_looking_is_not_resuming(self, viewer: Client, manager: Client) -> None:
        refuse_key()
        html = read(viewer.get(PAGE))
        assert "Resume requests" not in html
        form = {"state_token": hidden(read(manager.get(PAGE)))["state_token"]}
        assert viewer.post(RESUME, form).status_code == 403
        assert manager.get(RESUME).status_code == 405
        assert Client().post(RESUME, form).status_code == 302
        strict = sign_in("view_providerstate", "resume_provider", enforce_csrf_checks=True)
        assert strict.post(RESUME, form).status_code == 403
        assert ProviderState.objects.current().paused_because == "access"

    def test_an_address_that_is_still_blocked_pauses_again_after_one_request(
        self, manager: Client, simulator: Simulator
    ) -> None:
        without_list()
        with Gateway() as gateway:
            gateway.record_outcome(AccessDenied("Blocked.", status=403, code="IP_BLOCKED"))
        simulator.keys = ["another"]
        assert press(manager) == [GO_ON]
        with Gateway() as gateway:
            make_order()
            from giftcards.engine.sweep import sweep

            sweep(gateway)
        assert len(simulator.requests) == 1


def test_a_shop_adds_a_section_of_its_own(viewer: Client) -> None:
    class ShopAdmin(ProviderStateAdmin):
        def get_sections(self, request: Any, state: ProviderState) -> list[Section]:
            own = Section("shop", "Shop", [Fact("Till", "open")])
            return [own, *super().get_sections(request, state)]

    # The page is rendered directly, because its addresses belong to the registered class.
    request = viewer.get(PAGE).wsgi_request
    html = read(ShopAdmin(ProviderState, admin.site).changelist_view(request).render())
    assert facts(html, "shop") == {"Till": "open"}
    assert "Connection" in html
