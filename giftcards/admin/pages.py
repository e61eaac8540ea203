"""The base of the order pages beside Django's own: their frame, and the end of a decision."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.options import get_content_type_for_model
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db import router, transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.crypto import constant_time_compare, salted_hmac
from django.utils.translation import gettext

from giftcards.admin import extensions
from giftcards.admin.provider import pause_in_words
from giftcards.conf import conf
from giftcards.display import isolated
from giftcards.engine.task_queue import wake_worker
from giftcards.models import Order, OrderQuerySet
from giftcards.problems import Problem
from giftcards.statuses import Status

if TYPE_CHECKING:
    OrderModelAdmin = admin.ModelAdmin[Order]
else:
    OrderModelAdmin = admin.ModelAdmin


def state_token(order: Order) -> str:
    """A hash of the state of ``order`` that a form carries: it changes once the state does.

    It covers the attempt to send the order, its status, its id at the provider, the candidates that
    staff were offered, the price for which it is held, and what was paid back or is planned to be.
    A form that is posted late must not decide about another attempt.
    """
    # In other statuses, a claim may be that of a check, which changes nothing that staff decide.
    attempt = order.claim if order.status == Status.UNCONFIRMED else ""
    sent_at = order.sent_at and order.sent_at.isoformat()
    # A held order may have gone on meanwhile, and been held again at the same price.
    held_for = [order.queued_at.isoformat(), order.problems] if order.is_held else []
    seen = [order.pk, order.status, sent_at, attempt, order.provider_order_id, order.candidates]
    seen += [held_for, f"{order.paid_back_amount:.2f}", f"{order.planned_amount:.2f}"]
    text = json.dumps(seen, sort_keys=True)
    return salted_hmac("giftcards.admin.state_token", text, algorithm="sha256").hexdigest()


def log_entries(order: Order) -> QuerySet[LogEntry]:
    """The entries of the admin's log about the order."""
    return LogEntry.objects.filter(
        content_type=get_content_type_for_model(order), object_id=str(order.pk)
    )


@dataclass(frozen=True, slots=True)
class OrderButton:
    """A button on the page of an order.

    It leads to a page that says what will happen; with ``is_post``, it sends a POST there at once,
    with the field ``state_token``. ``is_minor`` shows it as a link, for rare needs.
    """

    label: str
    url: str
    is_post: bool = False
    is_minor: bool = False


class OrderPages(OrderModelAdmin):
    """The base of pages about orders that are not Django's own: helpers and permissions."""

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        added = [
            path(page.path, view(partial(page.view, self)), name=f"giftcards_order_{page.name}")
            for pages in extensions.each("pages")
            for page in pages
        ]
        return [*added, *super().get_urls()]

    def get_order_buttons(self, request: HttpRequest, order: Order) -> list[OrderButton]:
        """The buttons on the page of ``order`` for this person; extend it with ``super()``."""
        return extensions.listed("buttons", request, order)

    def order_for(self, request: HttpRequest, object_id: str, *, allowed: bool) -> Order:
        """The order of a page. Raises ``PermissionDenied`` unless it is visible and ``allowed``."""
        order: Order | None = self.get_object(request, unquote(object_id))
        if order is None or not allowed or not self.has_view_permission(request, order):
            raise PermissionDenied
        return order

    def may_see(self, request: HttpRequest, order: Order) -> bool:
        """True if the person may see ``order``, which did not come from :meth:`order_for`."""
        is_shown = self.get_queryset(request).filter(pk=order.pk).exists()
        return is_shown and self.has_view_permission(request, order)

    def has_check_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("giftcards.check_order")

    def has_find_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("giftcards.find_card")

    def has_resolve_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("giftcards.resolve_order")

    def has_correct_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("giftcards.correct_customer")

    def has_reveal_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("giftcards.reveal_card")

    def has_export_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("giftcards.export_order")

    def has_report_permission(self, request: HttpRequest) -> bool:
        """True if the person may see sums over all orders: if none is hidden from them."""
        is_shown_all = not self.get_queryset(request).query.where
        return is_shown_all and self.has_view_permission(request)

    def has_settle_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("giftcards.settle_refund")

    def may_see_costs(self, request: HttpRequest) -> bool:
        """True if the person may see what the provider charges, and so the shop's margin."""
        return request.user.has_perm("giftcards.view_cost")

    def may_see_tails(self, request: HttpRequest) -> bool:
        """True if the person may see the ends of codes: anybody who may find or reveal cards."""
        return self.has_find_permission(request) or self.has_reveal_permission(request)

    def is_current(self, request: HttpRequest, order: Order) -> bool:
        """True if the posted form is about ``order`` as it is now."""
        return constant_time_compare(request.POST.get("state_token", ""), state_token(order))

    def address(self, page: str, *args: Any) -> str:
        name = f"admin:giftcards_order_{page}"
        return reverse(name, args=args, current_app=self.admin_site.name)

    def to_order(self, order: Order) -> HttpResponseRedirect:
        return HttpResponseRedirect(self.address("change", order.pk))

    def render_page(
        self,
        request: HttpRequest,
        name: str,
        *,
        title: str,
        status: int = 200,
        template: str = "admin/giftcards/order/{name}.html",
        **context: Any,
    ) -> HttpResponse:
        """Render the template of this name in the frame of the admin."""
        request.current_app = self.admin_site.name
        frame = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": title,
            "has_view_permission": self.has_view_permission(request),
            "media": self.media,
        }
        return TemplateResponse(
            request, template.format(name=name), {**frame, **context}, status=status
        )

    def say_recorded(self, request: HttpRequest, order: Order) -> None:
        """Say that an order was recorded; not as a success: the provider has yet to accept it."""
        text = gettext("The order %(order)s was recorded; it is being sent.")
        if not order.is_new:
            text = gettext("The order %(order)s was recorded already. It is not bought twice.")
        elif pause_in_words():
            text = gettext(
                "The order %(order)s was recorded. It cannot be sent at present: it will be sent as"
                " soon as that is possible."
            )
        self.message_user(request, text % {"order": isolated(order)}, messages.INFO)

    def ask_for_checks(self, request: HttpRequest, orders: OrderQuerySet) -> int:
        """Have the checkable ``orders`` checked soon, and return their number.

        Each leaves a trace, unless it was due already, as for the second request of a double click.
        """
        now, interval = timezone.now(), timedelta(seconds=conf.poll_interval)
        with transaction.atomic(using=router.db_for_write(Order)):
            # Without orders that are due already, by the clock of any machine.
            waiting = orders.exclude(due_at__lte=now + interval)
            if waiting.check_soon(now=now, interval=interval):
                asked: Any = list(orders.filter(due_at=now).only("reference"))
                person: Any = request.user.pk
                LogEntry.objects.log_actions(person, asked, CHANGE, "Asked for a check.")
            due = orders.checkable(now=now, interval=interval).count()
        if due:
            wake_worker()
        return due

    # How a decision ends.

    def conclude(self, request: HttpRequest, order: Order, decision: Problem) -> HttpResponse:
        """End a decision that was carried out: leave a trace, wake the worker, show the order."""
        # Discreet, because everybody who may see the order can read the log.
        self.log_change(request, order, decision.discreet)
        self.message_user(request, gettext("Recorded."), messages.SUCCESS)
        wake_worker()
        return self.to_order(order)

    def refuse_late(self, request: HttpRequest, order: Order) -> HttpResponse:
        """Refuse a form about a state that holds no more: say so, and show the order as it is."""
        text = gettext("The order has changed meanwhile. Nothing was done: look at it again.")
        self.message_user(request, text, messages.ERROR)
        return self.to_order(order)
