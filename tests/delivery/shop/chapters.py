"""The chapters of a shop's life; each returns the state that it leaves. See ``__main__.py``."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.admin import site
from django.contrib.auth import get_user_model
from django.core import mail
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.test.utils import override_settings
from django.urls import reverse
from django.utils import timezone

from giftcards import tasks
from giftcards.engine import outbox
from giftcards.fulfilment import place_order
from giftcards.models import Order, StatusChange
from giftcards.settlement import record_refund
from giftcards.signals import order_status_changed
from giftcards.statuses import Status
from tests.builders import PRODUCT, make_guide_order, with_final_figures

CUSTOMER = {"customer_email": "lina@example.com", "customer_language": "ar"}
LONG_AGO = timedelta(days=900)


def years_without() -> dict[str, Any]:
    """Run the core alone, with changes that were announced, that wait, and that were given up."""
    call_command("migrate", verbosity=0)
    order_status_changed.connect(refuse, dispatch_uid="refuse")
    for reference in ("waiting", "given-up"):
        changed(reference, Status.FULFILLED)
    outbox.announce()
    order_status_changed.disconnect(dispatch_uid="refuse")
    StatusChange.objects.filter(order__reference="given-up").update(announce_at=None)
    past = StatusChange.objects.filter(order__reference__in=["waiting", "given-up"])
    changed("late", Status.DELAYED)
    work("told")
    # This happens moments before the app is installed.
    record_refund(Order.objects.get(reference="told"), amount=100, reference="old")
    StatusChange.objects.update(at=timezone.now() - LONG_AGO)
    return {
        **remains(),
        "waiting": past.exclude(announce_at=None).count(),
        "given_up": past.filter(announce_at=None, announced_at=None).count(),
        "pages": statuses_of_pages(),
    }


def install() -> dict[str, Any]:
    """Install the app, then announce the past, settle an old order, and place a new one."""
    call_command("migrate", verbosity=0)
    # This includes changes that were given up, because a shop may repair its receiver and have it
    # called again.
    StatusChange.objects.filter(announced_at=None).update(announce_at=timezone.now())
    tasks.tick()
    told_of_the_past = [*deliveries(), *mails()]
    settle("late")
    work("new")
    record_refund(Order.objects.get(reference="told"), amount=50, reference="recent")
    return {
        **remains(),
        "told_of_the_past": told_of_the_past,
        "deliveries": deliveries(),
        "mails": mails(),
        "unannounced": StatusChange.objects.filter(announced_at=None).count(),
    }


def take_out() -> dict[str, Any]:
    """Run the core after the app was removed, while the rows of the app still exist."""
    call_command("migrate", verbosity=0)
    work("later")
    return {**remains(), "pages": statuses_of_pages()}


def undo() -> dict[str, Any]:
    """Remove the app's tables, for which the app must be installed."""
    call_command("migrate", "giftcards_delivery", "zero", verbosity=0)
    return remains()


def refuse(**named: object) -> None:
    raise RuntimeError


def changed(reference: str, status: Status) -> None:
    order = make_guide_order(status, reference=reference, sale_price=550, **CUSTOMER)
    StatusChange.objects.create(
        order=order, from_status=Status.HANDLING, to_status=status, source="check"
    )


def settle(reference: str) -> None:
    order = Order.objects.get(reference=reference)
    order.status, order.finalized_at, order.due_at = Status.REFUNDED, timezone.now(), None
    with_final_figures(order).save()
    StatusChange.objects.create(
        order=order, from_status=Status.DELAYED, to_status=order.status, source="check"
    )


def work(reference: str) -> None:
    """Place an order, and follow it to its end, as the shop and its worker do."""
    line = {"product_id": PRODUCT, "type_id": "TEST_PARTIAL", "quantity": 4}
    place_order(**line, reference=reference, sale_price=550, **CUSTOMER)
    tasks.sweep()
    assert Order.objects.get(reference=reference).status == Status.PARTIALLY_FILLED


def deliveries() -> list[tuple[str, str]]:
    from giftcards.delivery.models import Delivery

    rows = Delivery.objects.order_by("pk").values_list("order__reference", "kind")
    return list(rows)


def a_day_without_admin() -> dict[str, Any]:
    """Tell a customer about cards and show them, and send staff a digest."""
    from giftcards.delivery.models import StaffDigest
    from tests.delivery.pages import codes_in, make_settled, press

    call_command("migrate", verbosity=0)
    make_settled(**CUSTOMER)
    outbox.announce()
    told = mails()
    body = str(mail.outbox[0].body)
    address = body.partition("https://shop.example")[2].split()[0]
    StaffDigest.objects.update(next_attempt_at=None, covers_until=timezone.now() - LONG_AGO)
    StaffDigest.objects.update(told={})
    with override_settings(ALLOWED_HOSTS=["testserver"]):
        page = press(address)
    return {"told": told, "codes": len(codes_in(page)), "again": mails()}


def mails() -> list[str]:
    """Send the waiting messages, and return the addresses of all messages sent so far."""
    from giftcards.delivery.tasks import deliver

    deliver()
    return [address for message in getattr(mail, "outbox", []) for address in message.to]


def statuses_of_pages() -> dict[str | None, int]:
    """Return the HTTP statuses of the core's admin pages for a superuser."""
    user, _ = get_user_model().objects.get_or_create(
        username="amina", defaults={"is_staff": True, "is_superuser": True}
    )
    client = Client()
    client.force_login(user)
    ours = [model._meta for model in site._registry if model._meta.app_label == "giftcards"]
    pages = {
        meta.model_name: reverse(f"admin:giftcards_{meta.model_name}_changelist") for meta in ours
    }
    pages["index"] = reverse("admin:index")
    pages["one order"] = reverse(
        "admin:giftcards_order_change", args=[Order.objects.latest("pk").pk]
    )
    with override_settings(ALLOWED_HOSTS=["testserver"]):
        return {name: client.get(url, follow=True).status_code for name, url in pages.items()}


def remains() -> dict[str, Any]:
    tables = connection.introspection.table_names()
    return {
        "modules": sorted(name for name in sys.modules if name.startswith("giftcards.delivery")),
        "tables": sorted(name for name in tables if name.startswith("giftcards_delivery")),
        "settings": sorted(name for name in dir(settings) if "DELIVERY" in name),
        "orders": Order.objects.count(),
    }
