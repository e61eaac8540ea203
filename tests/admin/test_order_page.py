"""An order's page: its status, the money, the cards, its history, and the actions of staff."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from html import unescape
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_q.models import OrmQ

from giftcards.admin import OrderAdmin
from giftcards.admin.frame.forms import state_token
from giftcards.conf import conf
from giftcards.engine.approvals import approve_price, put_on_hold_for_price
from giftcards.engine.storing_cards import Arrival, store_cards
from giftcards.exceptions import DecryptionError
from giftcards.fulfilment import reorder_missing
from giftcards.keys.keyring import generate_key
from giftcards.keys.secrecy import CardSecret
from giftcards.models import Card, CardReveal, Note, Order, StatusChange
from giftcards.rules.problems import Problem
from giftcards.statuses import Status
from tests.builders import (
    CARDS,
    PARTIAL,
    PRICE,
    PRODUCT,
    TYPE,
    make_guide_order,
    make_offer,
    settle,
    settled,
)
from tests.pages import (
    FORM,
    LIST,
    count_queries,
    element,
    errors,
    hidden,
    messages,
    order_page,
    place,
    plain,
    read,
    references,
    rows,
    sign_in,
    text,
    timeline,
    told,
)

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

LOST = Problem("status_unknown", {"status": "LOST"})
SOLD = {"sale_price": Decimal(550)}


def show(browser: Client, order: Order) -> str:
    return read(browser.get(order_page(order)))


def summary(html: str) -> str:
    return text(element(html, "giftcards-summary", "p"))


def money(html: str) -> list[list[str]]:
    return [
        [cell.replace("\xa0", " ") for cell in row] for row in rows(html, "giftcards-breakdown")
    ]


def cards(html: str) -> list[str]:
    """Return the texts that the page shows in place of the codes."""
    return [row[1] for row in rows(html, "giftcards-cards-table")[1:]]


def labels(html: str) -> list[str]:
    """Return the labels of the buttons above the sections."""
    if "giftcards-decide" not in html:
        return []
    found = re.findall(
        r"<(?:a|button)\b.*?</(?:a|button)>", element(html, "giftcards-decide", "div")
    )
    return [text(button) for button in found]


def fields(html: str) -> dict[str, str]:
    # Newer Django versions put the help text between the label and the value.
    between = r"(?:(?!<label).)*?"
    pair = rf'<label[^>]*>([^<]*)</label>{between}<div class="readonly">(.*?)</div>'
    found = re.findall(pair, html, re.DOTALL)
    return {text(label).rstrip(":"): text(value).replace("\xa0", " ") for label, value in found}


def test_the_page_explains_the_example_of_the_providers_guide(boss: Client) -> None:
    order = settle(
        "web-1042",
        PARTIAL,
        provider_order_id="6901616fe9e88196b4eb64b2",
        provider_reference="web-1042",
        customer_email="customer@example.com",
        customer_language="ar",
        product_name="PSN 20 $",
        environment="SANDBOX",
        metadata={"cart": 7, "note": "gift"},
        max_price=Decimal(500),
        **SOLD,
    )
    html = show(boss, order)
    shown = fields(html)
    assert re.fullmatch(r"\d+ \w+ \d\d:\d\d", shown.pop("Last checked"))
    assert shown == {
        "Reference": "web-1042",
        "Status": "Partly delivered",
        "Product": f"PSN 20 $ {PRODUCT}",
        "Type": TYPE,
        "Quantity": "5",
        "Environment": "Sandbox",
        "Sale price": "550 DA",
        "Sale amount": "2,750 DA",
        "Highest price": "500 DA",
        "Provider's order ID": "6901616fe9e88196b4eb64b2",
        "Reference at the provider": "web-1042",
        "Metadata": "cart: 7note: gift",
    }
    assert re.fullmatch(
        r"3 of 5 cards delivered\. The provider credited back 2 × 490 = 980 DA on"
        r" \d+ \w+ \d\d:\d\d\."
        r" The customer is owed 2 × 550 = 1,100 DA\.",
        summary(html).replace("\xa0", " "),
    )
    assert "contradict" not in html
    assert money(html) == [
        ["", "Calculation", "Amount"],
        ["The provider"],
        ["Ordered", "5 × 490", "2,450 DA"],
        ["Cost", "3 × 490", "1,470 DA"],
        ["Credited back", "2 × 490", "980 DA"],
        ["The customer"],
        ["Paid", "5 × 550", "2,750 DA"],
        ["Paid for delivered cards", "3 × 550", "1,650 DA"],
        ["Owed to the customer", "2 × 550", "1,100 DA"],
        ["Margin", "1,650 − 1,470", "180 DA"],
    ]
    assert 'aria-label="3 cards delivered. 2 cards credited back."' in html
    assert re.findall(r'<rect [^>]*width="([^"]*)"', html) == ["60.00", "40.00"]
    # The page of a final order does not follow its status.
    assert "giftcards-follow" not in html
    assert "order.js" not in html


def test_an_unknown_amount_is_said_to_be_unknown(boss: Client) -> None:
    html = show(boss, make_guide_order(Status.REFUNDED, price_per_card=None))
    expected = [["Ordered", "", "unknown"], ["Cost", "", "0 DA"], ["Credited back", "", "unknown"]]
    assert money(html)[2:] == expected
    assert (
        "The amount that the customer paid is unknown because the order has no sale amount."
        in text(html)
    )


def test_figures_that_contradict_each_other_are_warned_of(boss: Client) -> None:
    order = settle("web-1", settled("PARTIALLY_FILLED", CARDS[:3], fulfilled_amount=Decimal(1500)))
    html = show(boss, order)
    assert money(html)[3] == ["Cost", "", "1,500 DA"]
    assert "To do The provider's figures contradict each other" in text(html)


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (Status.PENDING, "The order is not settled yet."),
        (Status.HANDLING, "The order is not settled yet. For your developerThe provider's name"),
        (Status.REJECTED, "Nothing was bought, and the provider charged nothing."),
    ],
)
def test_the_page_says_why_an_order_has_no_breakdown(
    boss: Client, status: Status, sentence: str
) -> None:
    html = show(boss, make_guide_order(status))
    assert "giftcards-breakdown" not in html
    assert "<svg" not in element(html, "giftcards-money", "section")
    assert f"Refund breakdown {sentence}" in text(html)
    assert "None" not in text(html)
    if status == Status.PENDING:
        # Unknown details are left out.
        assert list(fields(html)) == ["Reference", "Status", "Product", "Type", "Quantity"]
    none = "No card was delivered." if status == Status.REJECTED else "No card has arrived yet."
    assert f"Cards {none}" in text(html)


class TestWithoutCosts:
    """Costs appear neither on the page, nor in its source, nor in the history."""

    @pytest.fixture
    def support(self) -> Client:
        return sign_in("view_order", "check_order", "resolve_order", "add_order")

    def test_the_customers_side_alone_is_shown(self, support: Client) -> None:
        html = show(support, settle("web-1", PARTIAL, price_at_placing=PRICE, **SOLD))
        expected = ["The customer", "Paid", "Paid for delivered cards", "Owed to the customer"]
        assert [row[0] for row in money(html)[1:]] == expected
        assert "giftcards-bar" in html
        for amount in ("490", "980", "1,470", "2,450", "180"):
            assert f"{amount} DA" not in text(html)
        for shown in ("× 490", "Margin", "Price at placing", "Highest price", "Approved price"):
            assert shown not in text(html)


@pytest.mark.parametrize(
    ("permissions", "expected"),
    [
        (["view_order", "view_cost"], ["giftcards-money", "giftcards-cards", "giftcards-timeline"]),
        (["view_order"], ["giftcards-cards", "giftcards-money", "giftcards-timeline"]),
    ],
)
def test_the_cards_come_before_the_money_for_who_sees_no_costs(
    permissions: list[str], expected: list[str]
) -> None:
    html = show(sign_in(*permissions), settle("web-1", PARTIAL, **SOLD))
    assert [name for name in re.findall(r'<h2 id="([\w-]+)"', html) if name in expected] == expected


class TestAcknowledging:
    """Staff with ``check_order`` can acknowledge problems that they have dealt with."""

    LATE = Problem("watch_ended")

    @pytest.fixture
    def order(self) -> Order:
        return make_guide_order(Status.DELAYED, reference="web-1", problems=[LOST, self.LATE])

    @staticmethod
    def post(browser: Client, order: Order, problem: Problem) -> list[str]:
        token = hidden(read(browser.get(order_page(order)))).get("state_token", state_token(order))
        answer = browser.post(
            order_page(order, "acknowledge"),
            {"problem": problem.key, "state_token": token},
            follow=True,
        )
        return messages(read(answer))

    def test_acknowledging_is_offered_with_each_problem_and_its_remedy(self, order: Order) -> None:
        browser = sign_in("view_order", "check_order")
        html = read(browser.get(order_page(order)))
        assert html.count(">Acknowledge<") == 2
        for problem in (LOST, self.LATE):
            assert f'{order_page(order, "acknowledge")}?problem={problem.key}"' in html
            assert f"{problem.text} {problem.remedy} Acknowledge" in text(html)
        assert "LOST" not in html
        developer = sign_in("view_order", "resume_provider")
        assert "Technical detail: <bdi>LOST</bdi>." in read(developer.get(order_page(order)))

    def test_an_acknowledged_problem_shows_who_did_so_and_when(self, order: Order) -> None:
        browser = sign_in("view_order", "check_order")
        address = order_page(order, "acknowledge")
        asked = read(browser.get(address, {"problem": LOST.key}))
        assert LOST.text in text(asked)
        assert hidden(asked)["problem"] == LOST.key
        order.refresh_from_db()
        assert len(order.open_problems) == 2
        assert told(browser.post(address, hidden(asked), follow=True)) == ["Acknowledged."]
        html = read(browser.get(order_page(order)))
        assert html.count(">Acknowledge<") == 1
        assert f"{LOST.text} Acknowledged by user0, " in text(html)
        assert timeline(html)[-1] == f"user0 acknowledged a problem: {LOST.text}"
        entry = LogEntry.objects.get()
        assert entry.get_change_message() == f"Acknowledged: {LOST.text}"
        assert references(read(browser.get(LIST, {"attention": "needed"}))) == ["web-1"]
        self.post(browser, order, self.LATE)
        html = read(browser.get(LIST))
        assert "giftcards-mark" not in html
        assert references(read(browser.get(LIST, {"attention": "needed"}))) == []

    @pytest.mark.parametrize("problem", ["", "x", Problem("not_known").key])
    def test_ticking_off_a_problem_that_is_over_says_so(self, order: Order, problem: str) -> None:
        browser = sign_in("view_order", "check_order")
        address = order_page(order, "acknowledge")
        form = {"problem": problem, "state_token": state_token(order)}
        answer = browser.post(address, form, follow=True)
        over = ["This problem no longer exists. The page shows the current state."]
        assert messages(read(answer)) == over
        assert told(browser.get(address, {"problem": problem}, follow=True)) == over
        assert not order.acknowledgements.exists()

    def test_ticking_off_a_problem_of_an_earlier_attempt_does_nothing(self) -> None:
        """The next attempt was lost in the same way, but staff have not looked at it yet."""
        lost = Problem("answer_lost")
        order = make_guide_order(Status.UNCONFIRMED, problems=[lost], claim="first")
        browser = sign_in("view_order", "check_order")
        form = {**hidden(read(browser.get(order_page(order)))), "problem": lost.key}
        Order.objects.update(claim="second")
        address = order_page(order, "acknowledge")
        assert messages(read(browser.post(address, form, follow=True))) == [
            "The order has changed since you opened this page, so nothing was done. Check the"
            " order again."
        ]
        order.refresh_from_db()
        assert order.open_problems == [lost]

    def test_the_hint_for_developers_is_for_those_who_may_resume_calls(self) -> None:
        refused = {"reason": "key_refused", "provider_code": "INVALID_ACCESS_TOKEN"}
        order = make_guide_order(Status.PENDING, problems=[Problem("not_sent", refused)])
        for permissions, is_shown in ((), False), (("resume_provider",), True):
            html = read(sign_in("view_order", *permissions).get(order_page(order)))
            assert ("INVALID_ACCESS_TOKEN" in html) == is_shown
            hint = '<details class="giftcards-developer"><summary>For your developer</summary>'
            assert (hint in html) == is_shown


@pytest.mark.parametrize(
    ("permission", "shown"),
    [
        ("check_order", ["••••"] * 3),
        ("find_card", ["••••AAAA", "••••BBBB", "••••CCCC"]),
        ("reveal_card", ["••••AAAA", "••••BBBB", "••••CCCC"]),
    ],
)
def test_codes_are_masked_but_for_their_ends_to_who_may_find_or_reveal_them(
    permission: str, shown: list[str]
) -> None:
    order = settle("web-1", PARTIAL)
    assert cards(show(sign_in("view_order", permission), order)) == shown


@pytest.mark.parametrize(
    ("code", "tail"),
    [
        ("ABC", ""), ("ABCD", "D"), ("ABCDEFGH", "GH"), ("ABCD-EFGH", "GH"),
        ("ABCDEFGHIJKLMNOP", "MNOP"), ("0123456789" * 4, "6789"), ("ABCDEFGH--------", "GH"),
        ("--- ---", ""), ("\u202eABCDEFGH", "GH"), ("رمزالبطاقةالسري", "سري"),
    ],
)  # fmt: skip
def test_the_end_of_a_code_is_never_more_than_a_quarter_of_it(code: str, tail: str) -> None:
    answer = settled("FULFILLED", [CardSecret(code, "1")], quantity=1)
    card = settle("web-1", answer, quantity=1).cards.get()
    assert card.tail(conf.keyring()) == tail


def test_nothing_of_a_code_is_in_the_frames_of_an_error_while_its_end_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    card = settle("web-1", PARTIAL).cards.get(position=1)
    keyring = conf.keyring()

    def fail(*_arguments: Any) -> None:
        raise MemoryError

    # The error occurs after the card has been decrypted.
    monkeypatch.setattr("giftcards.models.cards.min", fail, raising=False)
    with pytest.raises(MemoryError) as caught:
        card.tail(keyring)
    frames = []
    trace = caught.tb
    while trace:
        frames.append(trace.tb_frame)
        trace = trace.tb_next
    seen = " ".join(
        repr(frame.f_locals) for frame in frames if frame.f_code.co_filename != __file__
    )
    assert "AAAA" not in seen


def test_a_card_that_cannot_be_opened_is_a_sentence_and_no_error(
    boss: Client, set_conf: Callable[..., None]
) -> None:
    order = settle("web-1", PARTIAL)
    Card.objects.filter(order=order, position=2).update(sealed="damaged")
    shown = cards(show(boss, order))
    assert shown == [
        "••••AAAA",
        "This card cannot be decrypted. Contact your developer.",
        "••••CCCC",
    ]
    set_conf(ENCRYPTION_KEYS=[generate_key()])
    with pytest.raises(DecryptionError):
        order.cards.get(position=1).tail(conf.keyring())
    assert all(
        text.startswith("This card cannot be decrypted.") for text in cards(show(boss, order))
    )
    set_conf(ENCRYPTION_KEYS=["no key"])
    html = show(boss, order)
    assert cards(html) == ["••••"] * 3
    assert (
        "The encryption keys in the settings cannot be used, so cards cannot be decrypted."
        in text(html)
    )


def test_order_page_marks_a_code_that_came_twice(boss: Client) -> None:
    first = settle("web-1", settled("FULFILLED", CARDS[:1], quantity=1), quantity=1)
    second = settle("web-2", settled("FULFILLED", CARDS[:2], quantity=2), quantity=2)
    for order, expected in ((first, 1), (second, 1)):
        html = read(boss.get(order_page(order)))
        assert html.count("The same code was delivered more than once.") == expected


def test_the_timeline_tells_in_plain_words_who_did_what_and_when(boss: Client) -> None:
    place(boss, FORM)
    order = Order.objects.get()
    sending, check = StatusChange.Source.PLACING, StatusChange.Source.CHECK
    order.move(Status.PLACING, source=sending)
    accepted = {"provider_order_id": "6901616f", "accepted_at": timezone.now()}
    order.move(Status.HANDLING, source=sending, **accepted)
    order.move(Status.DELAYED, source=StatusChange.Source.CLOCK, details=[LOST])
    figures = {"fulfilled_quantity": 3, "price_per_card": PRICE, "fulfilled_amount": 3 * PRICE}
    order.move(Status.PARTIALLY_FILLED, source=check, **figures)
    order.acknowledge(LOST, by="karim")
    Note.objects.add(order, "Amina has called.\nTwice.", by="karim")
    card = Card.objects.create(
        order=order,
        position=2,
        sealed="x",
        identity="i",
        value_fingerprint="v",
        key_fingerprint="k",
    )
    user = get_user_model().objects.create_user("nadia")
    CardReveal.objects.create(card=card, user=user, reason="She lost it.")
    CardReveal.objects.create(card=card, user=user)
    again = make_guide_order(Status.PENDING, reference="web-2", quantity=2, repeats=order)
    html = show(boss, order)
    assert timeline(html) == [
        "user0 placed the order.",
        "The order was sent. Being sent",
        "The provider accepted the order. In progress",
        f"The provider is taking longer than usual. Delayed {LOST.text}For your"
        f" developer{LOST.hint}",
        (
            "The provider delivered 3 of 5 cards and credited back the price of the missing cards."
            " Partly delivered"
        ),
        f"karim acknowledged a problem: {LOST.text}",
        "karim wrote a note: Amina has called.Twice.",
        "nadia revealed the code of card 2. She lost it.",
        "nadia revealed the code of card 2.",
        "The missing cards were ordered again: web-2.",
    ]
    assert '<div class="giftcards-line" dir="auto">Twice.</div>' in html
    times = re.findall(r"<time .*?</time>", element(html, "giftcards-timeline", "ol"))
    assert len(times) == 10
    assert all(re.fullmatch(r"\d+ \w+ \d{4} \d\d:\d\d:\d\d", text(time)) for time in times)
    assert "The missing cards were ordered again: web-2." in summary(html)
    assert timeline(show(boss, again))[0] == (
        "The order was recorded. This order replaces missing cards of web-1042."
    )


def test_the_timeline_tells_the_decisions_of_staff(boss: Client) -> None:
    order = make_guide_order(Status.PENDING, **SOLD)
    put_on_hold_for_price(order, price=Decimal(570), ceiling=Decimal(550))
    approve_price(order, 570, by="amina")
    assert timeline(show(boss, order))[1:] == [
        "amina approved a price of 570 DA per card instead of 550 DA."
    ]
    assert summary(show(boss, order)).startswith("amina approved a price of 570 DA")
    lost = make_guide_order(Status.UNCONFIRMED)
    decision = Problem("staff_rejected", {"by": "amina"})
    lost.move(Status.REJECTED, source=StatusChange.Source.STAFF, details=[decision])
    assert timeline(show(boss, lost))[1:] == [
        "amina recorded that the cards were not bought, and rejected the order. Rejected"
    ]


@pytest.mark.parametrize(
    ("rule", "named", "unnamed"),
    [
        (None, "amina ordered the missing", "amina ordered the missing cards again."),
        ({"times": 1, "hours": 6}, "The app ordered", "The missing cards were ordered again."),
    ],
)
def test_an_order_of_the_missing_cards_is_not_owed_and_named_to_who_may_see_it(
    rule: Any,
    named: str,
    unnamed: str,
    boss: Client,
    monkeypatch: pytest.MonkeyPatch,
    set_conf: Callable[..., None],
) -> None:
    set_conf(REORDER_MISSING=rule)
    order = settle("web-1", PARTIAL, **SOLD)
    again = reorder_missing(order, by="amina")
    seen = show(boss, order)
    [entry] = [entry for entry in timeline(seen) if again.reference in entry]
    assert entry.startswith(named)
    visible = OrderAdmin.get_queryset
    monkeypatch.setattr(
        OrderAdmin, "get_queryset", lambda *args: visible(*args).exclude(pk=again.pk)
    )
    unseen = show(boss, order)
    assert again.reference not in unseen
    assert unnamed in timeline(unseen)
    for html, end in ((seen, f": {again.reference}."), (unseen, ".")):
        shown = plain(text(html))
        assert f"The missing cards were ordered again{end} The customer's payment" in shown
        assert "owed" not in shown.lower()
        assert "Transferred to the new order 2 × 550 1,100 DA" in shown
        assert "Margin 1,650 − 1,470 180 DA" in shown


def test_two_orders_link_to_each_other_and_late_cards_are_told_apart(boss: Client) -> None:
    order = settle("web-1", PARTIAL, **SOLD)
    store_cards([Arrival(order, CARDS[:4])])
    again = reorder_missing(order, by="karim")
    html = show(boss, order)
    again_as = f"The missing cards were ordered again: {again.reference}."
    assert related(html) == f"Related orders {again_as} Waiting to be sent"
    # The amount paid for a card that arrived late was not transferred to the new order.
    shown = plain(text(html))
    assert "Transferred to the new order 1 × 550 550 DA" in shown
    assert "Amount paid for cards that arrived late 1,100 − 550 550 DA" in shown
    assert "owed" not in shown.lower()
    html = show(boss, again)
    assert (
        related(html)
        == "Related orders This order replaces missing cards of web-1. Partly delivered"
    )
    assert f'<a href="{order_page(order)}"><bdi>web-1</bdi></a>' in html


def test_a_later_decision_is_not_why_an_order_was_rejected(boss: Client) -> None:
    order = make_guide_order(Status.PENDING)
    refused = Problem("refused", {"reason": "out_of_stock"})
    order.move(Status.REJECTED, source=StatusChange.Source.PLACING, details=[refused])
    again = make_guide_order(Status.PENDING, reference="web-2", repeats=order)
    assert timeline(show(boss, order))[-1] == "The missing cards were ordered again: web-2."
    amounts = {"price": "570.00", "ceiling": "550.00", "order": again.reference}
    order.add_acknowledgement(Problem("staff_approved", {"by": "amina", **amounts}), by="amina")
    html = show(boss, order)
    assert summary(html).startswith(refused.text)
    assert timeline(html)[-1].startswith("amina approved")
    assert "ordered again" not in str(timeline(html))


def test_the_timeline_says_that_the_shop_could_not_be_told(boss: Client) -> None:
    order = make_guide_order(Status.REJECTED)
    failed = {"announce_error": "ValueError in <shop>", "order": order, "source": "placing"}
    moves = {"from_status": "PLACING", "to_status": "REJECTED"}
    change = StatusChange.objects.create(**failed, **moves)
    told = "The shop could not be notified. The app will try again."
    shown = timeline(show(boss, order))[-1]
    assert told in shown
    assert "For your developerValueError in <shop>" in shown
    shown = timeline(read(sign_in("view_order").get(order_page(order))))[-1]
    assert told in shown
    assert "ValueError" not in shown
    StatusChange.objects.filter(pk=change.pk).update(announce_at=None)
    entry = {**LOST.as_dict(), "ended": True}
    StatusChange.objects.filter(pk=change.pk).update(details=[entry])
    assert f"Resolved: {LOST.text}" in timeline(show(boss, order))[-1]
    told = "The app could not notify the shop within a day and will not try again."
    assert told in timeline(show(boss, order))[-1]


def test_texts_that_others_have_written_are_isolated_from_their_line(boss: Client) -> None:
    """Without isolation, such a text would rearrange its surroundings in right-to-left lines."""
    order = make_guide_order(
        Status.UNCONFIRMED,
        reference="web-1042!",
        customer_email="amina@example.com",
        customer_language="ar",
        sent_at=timezone.now(),
    )
    assert "<bdi>web-1042!</bdi>" in read(boss.get(LIST))
    page = read(boss.get(order_page(order)))
    for value in (PRODUCT, TYPE, "amina@example.com", "Arabic"):
        assert f"<bdi>{value}</bdi>" in page
    assert "\u2068web-1042!\u2069 |" in element(page, "", "title")
    resolve = read(boss.get(order_page(order, "resolve")))
    for value in ("web-1042!", PRODUCT, TYPE):
        assert f"<bdi>{value}</bdi>" in resolve
    added = read(place(boss, FORM, follow=True))
    assert messages(added) == ["Order ⁨web-1042⁩ was recorded and is being sent."]


class TestNotes:
    @pytest.fixture
    def order(self) -> Order:
        return make_guide_order(Status.DELAYED, reference="web-1")

    @staticmethod
    def post(browser: Client, order: Order, note: str) -> list[str]:
        answer = browser.post(order_page(order, "note"), {"note": note}, follow=True)
        return messages(read(answer))

    @pytest.mark.parametrize("permission", ["check_order", "resolve_order", "add_order"])
    def test_a_note_is_added_by_who_does_more_than_look(
        self, order: Order, permission: str
    ) -> None:
        browser = sign_in("view_order", permission)
        for page in ("change", "note"):
            assert 'name="note"' in read(browser.get(order_page(order, page)))
        assert self.post(browser, order, " <b>Called</b>\r\nback \r\n") == ["The note was added."]
        note = Note.objects.get()
        assert (note.order, note.text, note.by) == (order, "<b>Called</b>\nback", "user0")
        assert ">&lt;b&gt;Called&lt;/b&gt;</div>" in show(browser, order)
        entry = LogEntry.objects.get()
        assert (entry.object_id, entry.change_message) == (str(order.pk), "Added a note.")

    @pytest.mark.parametrize(
        ("note", "error"),
        [
            ("", "This field cannot be blank."),
            # The field is not there.
            (None, "This field cannot be blank."),
            (" \n ", "This field cannot be blank."),
            ("x" * 2_001, "Ensure this value has at most 2000 characters (it has 2001)."),
            *(
                (
                    note,
                    "Enter text without control characters or characters that change the text"
                    " direction.",
                )
                for note in ("a\0b", "a\u202eb", "a\u2028b", "a\x1bb", "a\nb\u2067")
            ),
        ],
    )
    def test_a_note_that_cannot_be_kept_is_refused(
        self, boss: Client, order: Order, note: str | None, error: str
    ) -> None:
        form = {} if note is None else {"note": note}
        html = read(boss.post(order_page(order, "note"), form))
        assert errors(html) == [error]
        typed = element(html, "giftcards-note-text", "textarea")
        assert unescape(typed).endswith(f">\n{note or ''}</textarea>")
        assert not Note.objects.exists()
        assert not LogEntry.objects.exists()

    def test_a_double_click_adds_one_note(self, boss: Client, order: Order) -> None:
        for _click in range(2):
            assert self.post(boss, order, "Called.") == ["The note was added."]
        assert Note.objects.count() == LogEntry.objects.count() == 1
        self.post(sign_in("view_order", "check_order"), order, "Called.")
        self.post(boss, order, "Called again.")
        Note.objects.update(at=timezone.now() - timedelta(minutes=2))
        self.post(boss, order, "Called.")
        assert Note.objects.count() == 4


def related(html: str) -> str:
    return text(element(html, "giftcards-related", "section")) if "Related orders" in html else ""


def test_the_page_links_to_the_orders_of_the_same_group(boss: Client) -> None:
    order = make_guide_order(reference="web-1", group="cart 7&8")
    other = make_guide_order(Status.REJECTED, reference="web-2", group="cart 7&8")
    make_guide_order(reference="web-3", group="cart 9")
    html = show(boss, order)
    assert related(html) == "Related orders In the same group: web-2 Rejected"
    assert f'<a href="{order_page(other)}"><bdi>web-2</bdi></a>' in html
    assert related(show(boss, make_guide_order(reference="web-4"))) == ""
    Order.objects.bulk_create(
        [
            Order(reference=f"more-{n}", group="cart 7&8", product_id="p", type_id="t", quantity=1)
            for n in range(20)
        ]
    )
    html = show(boss, order)
    assert related(html).count("In the same group") == 20
    [link] = re.findall(r'href="([^"]*)">All orders of the group', html)
    assert len(references(read(boss.get(link)))) == 22


CORRECT = "Correct the customer's address"
SALE = "Enter what the customer paid"


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (Status.PENDING, [CORRECT, "Cancel the order"]),
        (Status.PLACING, [CORRECT]),
        (Status.UNCONFIRMED, ["What happened to this order?", CORRECT]),
        (Status.HANDLING, ["Check now", CORRECT]),
        (Status.DELAYED, ["Check now", CORRECT]),
        (Status.REJECTED, ["Order the missing cards again", SALE, CORRECT]),
        (Status.FULFILLED, [SALE, CORRECT, "Record a complaint about a code"]),
    ],
)
def test_the_buttons_of_each_status(boss: Client, status: Status, expected: list[str]) -> None:
    assert labels(show(boss, make_guide_order(status))) == expected
    assert labels(show(sign_in("view_order"), make_guide_order(status))) == []


class TestCheckingNow:
    @staticmethod
    def press(browser: Client, order: Order) -> list[str]:
        return messages(read(browser.post(order_page(order, "check"), follow=True)))

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.parametrize("hours", [1, None], ids=["due later", "watched no more"])
    def test_check_now_makes_the_order_due(self, hours: int | None) -> None:
        later = hours and timezone.now() + timedelta(hours=hours)
        order = make_guide_order(Status.DELAYED, due_at=later)
        assert len(self.press(sign_in("view_order", "check_order"), order)) == 1
        order.refresh_from_db()
        assert order.due_at is not None
        assert order.due_at <= timezone.now()
        assert OrmQ.objects.get().task["func"] == "giftcards.tasks.sweep"

    @pytest.mark.parametrize(
        ("status", "values", "why"),
        [
            (Status.FULFILLED, {}, "its status is final"),
            (Status.PENDING, {}, "it has not been sent yet"),
            (
                Status.UNCONFIRMED,
                {},
                "it is unconfirmed. The app automatically searches for it at the provider",
            ),
            (Status.HANDLING, {"checked_at": timezone.now}, "it was checked a moment ago"),
        ],
    )
    def test_check_now_says_why_the_provider_is_not_asked(
        self, boss: Client, status: Status, values: dict[str, Any], why: str
    ) -> None:
        order = make_guide_order(status, **{name: now() for name, now in values.items()})
        before = Order.objects.values().get()
        [told] = self.press(boss, order)
        assert told == f"1 order was skipped because {why}."
        assert boss.get(order_page(order, "check")).status_code == 405
        assert Order.objects.values().get() == before
        assert not LogEntry.objects.exists()


def ask(browser: Client, order: Order) -> Any:
    return browser.get(order_page(order, "fingerprint")).json()


def test_the_fingerprint_differs_once_the_order_has_changed(boss: Client) -> None:
    order = make_guide_order()
    [seen] = re.findall(r'data-seen="(\w+)"', show(boss, order))
    assert ask(boss, order) == {"fingerprint": seen}
    Order.objects.update(checked_at=timezone.now(), claim="another", due_at=timezone.now())
    assert ask(boss, order)["fingerprint"] == seen
    for change in (
        {"fulfilled_quantity": 1},
        {"problems": [LOST.as_dict()]},
        {"status": Status.DELAYED},
    ):
        Order.objects.update(**change)
        assert ask(boss, order)["fingerprint"] != seen
        seen = ask(boss, order)["fingerprint"]


def test_the_fingerprint_is_for_who_may_see_the_order_and_takes_one_query_about_it() -> None:
    order = make_guide_order()
    viewer = sign_in("view_order")
    answer = viewer.get(order_page(order, "fingerprint"))
    assert "no-store" in answer["Cache-Control"]
    with CaptureQueriesContext(connection) as queries:
        ask(viewer, order)
    # Queries: the session, the user, two for permissions, and the order.
    assert len(queries) == 5
    assert sign_in("add_order").get(order_page(order, "fingerprint")).status_code == 403
    assert Client().get(order_page(order, "fingerprint")).status_code == 302


def test_the_page_has_no_script_or_style_of_its_own_inside(boss: Client) -> None:
    html = show(boss, make_guide_order(Status.UNCONFIRMED, problems=[LOST], **SOLD))
    section = html[html.index("giftcards-summary") :]
    assert all(" src=" in tag for tag in re.findall(r"<script[^>]*>", section))
    assert not re.search(r"<style| style=| on\w+=", section)


@pytest.mark.all_apps
def test_the_page_of_an_order_takes_a_constant_number_of_queries(boss: Client) -> None:
    small = settle("web-1", settled("FULFILLED", CARDS[:1], quantity=1), quantity=1)
    large = make_guide_order(
        Status.FULFILLED, reference="web-2", quantity=25, fulfilled_amount=25 * PRICE
    )
    Card.objects.bulk_create(
        Card(
            order=large,
            position=number,
            sealed="x",
            identity=f"{number}",
            value_fingerprint="v",
            key_fingerprint="k",
        )
        for number in range(1, 26)
    )
    StatusChange.objects.bulk_create(
        StatusChange(order=large, from_status="PENDING", to_status="PLACING", source="placing")
        for _ in range(25)
    )
    # Queries: the session, the user and the order; the order that it repeats or is repeated by, and
    # those of its group; its changes, acknowledged problems, admin history, notes, corrections,
    # reveals, refunds, cards and ledger entries; its messages and links, and whether its cards were
    # received; and the product and its texts.
    make_offer()
    assert count_queries(boss, order_page(small)) == 18
    Order.objects.update(group="cart")
    assert count_queries(boss, order_page(small)) == 19
    assert count_queries(boss, order_page(large)) == 19
    html = read(boss.get(order_page(large)))
    assert (len(cards(html)), len(timeline(html))) == (25, 26)
