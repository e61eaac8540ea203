"""The shop for the browser tests: an order of each kind, made with the app's own functions."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

from django.utils import timezone

from giftcards.books.models import LedgerEntry
from giftcards.delivery.models import CardLink, Delivery, StaffDigest
from giftcards.engine.approvals import put_on_hold_for_price
from giftcards.engine.recording import record_answers
from giftcards.keys.secrecy import CardSecret
from giftcards.models import (
    CustomerRefund,
    OfferChange,
    Order,
    Product,
    ProviderState,
    StatusChange,
)
from giftcards.provider.answers import OrderAnswer
from giftcards.rules.problems import Problem
from giftcards.settlement import cancel_refund, record_refund
from giftcards.statuses import Status
from tests.builders import (
    CARDS,
    PRICE,
    PRODUCT,
    REFUNDED,
    TYPE,
    category,
    claim,
    set_shelf,
    settled,
)
from tests.delivery.staff import link, message, visit
from tests.stage import record_order

LARGE = tuple(CardSecret(f"CANARY-{number:04}", f"9{number:08}") for number in range(25))
# Settled orders from the oldest to the newest: age, quantity, and the provider's last answer.
_SETTLED: tuple[tuple[str, timedelta, int, OrderAnswer], ...] = (
    ("web-1036", timedelta(days=2, hours=3), 2, settled("FULFILLED", CARDS[3:], quantity=2)),
    ("web-1037", timedelta(days=1, hours=6), 25, settled("FULFILLED", LARGE, quantity=25)),
    ("web-1038", timedelta(hours=9), 5, REFUNDED),
    ("web-1042", timedelta(minutes=42), 5, settled("PARTIALLY_FILLED", CARDS[:3])),
)
_INSTRUCTIONS = {
    "en": "Open https://psn.example/redeem in a browser, sign in, and enter the code.\n"
    "Your account has to be an Algerian one.",
    "fr": "Ouvrez https://psn.example/redeem dans un navigateur, connectez-vous et saisissez le"
    " code.\nVotre compte doit être algérien.",
    "ar": "افتح https://psn.example/redeem في المتصفح، وسجّل الدخول، ثم أدخل الرمز.\n"
    "يجب أن يكون حسابك جزائريًا.",
}
_REFUSAL = Problem("refused", {"reason": "out_of_stock", "provider_code": "OUT_OF_STOCK"})
_SILENCE = Problem("answer_lost", {"detail": "no complete answer within 10 s"})


def fill() -> None:
    _read_catalogue()
    held = _recorded("web-1035", 3)
    put_on_hold_for_price(held, price=Decimal(570), ceiling=Decimal(550))
    _happened(held, timedelta(days=3))
    for reference, age, quantity, answer in _SETTLED:
        order = _accepted(reference, quantity)
        record_answers([(claim(order)[0], answer)], now=timezone.now())
        _happened(order, age)
    _happened(_left_placing("web-1039", Status.REJECTED, details=[_REFUSAL]), timedelta(hours=5))
    unconfirmed = _left_placing("web-1040", Status.UNCONFIRMED, details=[_SILENCE])
    _happened(unconfirmed, timedelta(hours=2))
    delayed = _accepted("web-1041", 10)
    delayed.move(Status.DELAYED, source=StatusChange.Source.CLOCK)
    _happened(delayed, timedelta(minutes=55), seconds=300)
    _happened(_accepted("web-1043", 4), timedelta(minutes=2))
    _happened(_recorded("web-1044", 1), timedelta(seconds=4))
    _read_ledger()
    _read_balance()
    _pay_back(Order.objects.get(reference="web-1038"))


def tell() -> Order:
    """Create messages in several statuses, links and digests; return the order they are about."""
    order = Order.objects.get(reference="web-1042")
    later = timezone.now() + timedelta(minutes=5)
    for status in ("queued", "sending", "sent", "cancelled", "retrying", "failed"):
        open_until = later if status == "retrying" else None
        message(order, status=status, next_attempt_at=open_until, error="TimeoutError")
    one, _token = link(order, delivery=Delivery.objects.get(status="sent"))
    visit(one, "opened", "revealed")
    link(order, wrong_pins=5, origin=CardLink.Origin.STAFF, created_by="karim")
    said = [["to_do", 2, False], ["paused", 1, True]]
    StaffDigest.objects.create(address="boss@shop.example", sent_at=timezone.now(), said=said)
    StaffDigest.objects.create(address="books@shop.example", failures=3, error="TimeoutError")
    return order


def _pay_back(order: Order) -> None:
    """Pay back a part in two payments, and cancel another refund."""
    staff: dict[str, Any] = {"by": "amina", "source": CustomerRefund.Source.STAFF}
    transfer = {"method": "CCP", "comment": "حوالة بريدية"}
    back = record_refund(order, amount=550, reference="R-7F3A09B2C4D1", **transfer, **staff)
    cancel_refund(back, by="karim", reason="The account number was wrong.")
    record_refund(order, amount=550, reference="CCP 0021-88", **transfer, **staff)
    record_refund(order, amount=Decimal("825.50"), reference="cart-38")


def _read_catalogue() -> None:
    """Add the catalogue, which gives orders their names, and set a margin for the shop."""
    set_shelf(margin_percent=12, round_to=5, by="amina")
    now = timezone.now()
    product = Product.objects.create(
        product_id=PRODUCT,
        name="PlayStation Network",
        category=category("Gaming"),
        listed_at=now,
        types_read_at=now,
        region="DZ",
    )
    for language, text in _INSTRUCTIONS.items():
        product.redemption_instructions.create(language=language, text=text)
    for type_id, name, price, stock in (
        (TYPE, "PSN 500 DA", PRICE, 150),
        ("type_003", "PSN 2000 DA", 1960, 0),
    ):
        kind = product.types.create(
            type_id=type_id, name=name, cost=price, stock=stock, read_at=now
        )
        # Both types have become more expensive.
        old, new = f"{price - 20:.2f}", f"{price:.2f}"
        kind.changes.create(what=OfferChange.What.PRICE, old=old, new=new, at=now)


def _read_ledger() -> None:
    """Add the provider's ledger. The refund for the order without any cards is still missing."""
    now, start = timezone.now(), timezone.now() - timedelta(days=4)
    booked: list[tuple[Any, ...]] = [
        (start, "DEPOSIT", 50_000, None, False),
        (now - timedelta(days=1), "FLEXY", -500, None, False),
        (now - timedelta(hours=30), "ORDER", Decimal("-1250.50"), None, False),
    ]
    for order in Order.objects.filter(accepted_at__isnull=False):
        placed_at = order.created_at + timedelta(seconds=1)
        booked.append((placed_at, "ORDER", -order.quantity * PRICE, order, False))
        if order.status == Status.PARTIALLY_FILLED:
            booked.append((order.finalized_at, "REFUND-ORDER", 2 * PRICE, order, True))
    booked.sort(key=lambda entry: entry[0])
    balance = Decimal(0)
    for number, (time, kind, amount, order, is_guess) in enumerate(booked):
        LedgerEntry.objects.create(
            provider_id=f"6901616fe9e88196b4ec{number:04}",
            type=kind,
            amount=amount,
            balance_before=balance,
            balance_after=balance + amount,
            time=time,
            objid=order.provider_order_id if order and not is_guess else "",
            order=order,
            is_guess=is_guess,
        )
        balance += amount
    Order.objects.filter(reference="web-1038").update(is_credited=False)
    Order.objects.filter(reference="web-1042").update(is_credited=True)


def _read_balance() -> None:
    ProviderState.objects.current()
    read_at = timezone.now() - timedelta(minutes=3)
    ProviderState.objects.keep_balance(Decimal("88235.91"), asked_at=read_at)
    ProviderState.objects.note_spending(Decimal(14_700))


def _recorded(reference: str, quantity: int) -> Order:
    return record_order(
        product_id=PRODUCT,
        type_id=TYPE,
        quantity=quantity,
        reference=reference,
        sale_price=Decimal(550),
        group=f"invoice-{reference[-2:]}",
        customer_email=f"customer-{reference[-2:]}@example.com",
        customer_name="أمينة بن علي",
        customer_phone="+213 550 12 34 56",
        customer_language="ar",
    )


def _left_placing(reference: str, target: Status, quantity: int = 3, **values: Any) -> Order:
    order = _recorded(reference, quantity)
    source = StatusChange.Source.PLACING
    order.move(Status.PLACING, source=source, sent_at=timezone.now(), due_at=None)
    order.move(target, source=source, **values)
    return order


def _accepted(reference: str, quantity: int) -> Order:
    now = timezone.now()
    return _left_placing(
        reference,
        Status.HANDLING,
        quantity,
        provider_order_id=f"6901616fe9e88196b4eb{reference[-4:]}",
        price_per_card=PRICE,
        accepted_at=now,
        due_at=now,
    )


def _happened(order: Order, age: timedelta, *, seconds: float = 12) -> None:
    """Set the times of the order: placed ``age`` ago, in its status ``seconds`` later."""
    placed_at = timezone.now() - age
    reached_at = placed_at + timedelta(seconds=seconds)
    order.refresh_from_db()
    row = Order.objects.filter(pk=order.pk)
    row.update(
        created_at=placed_at,
        checked_at=reached_at if order.provider_order_id else None,
        finalized_at=reached_at if order.is_final else None,
    )
    changes = list(order.changes.all())
    for number, change in enumerate(changes):
        is_last = number == len(changes) - 1
        change.at = reached_at if is_last else placed_at + timedelta(seconds=number + 1)
        change.save()
    order.cards.update(received_at=reached_at)
