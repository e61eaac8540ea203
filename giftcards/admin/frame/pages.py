"""The base class of the pages about orders.

The class defines the URLs, the layout and the permissions of the pages.
"""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any, ClassVar

from django.contrib import admin
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.options import get_content_type_for_model
from django.contrib.admin.utils import label_for_field, unquote
from django.core.exceptions import PermissionDenied
from django.db import router, transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.translation import gettext

from giftcards.admin.frame import extensions
from giftcards.admin.frame.actions import OrderAction, OrderButton, Page, buttons
from giftcards.admin.frame.rows import framed
from giftcards.conf import conf
from giftcards.engine.task_queue import wake_worker
from giftcards.models import Order, OrderQuerySet, ProviderState
from giftcards.models.order_queries import leaves_some_out
from giftcards.rules.roles import whom_to_ask
from giftcards.text.display import isolated, named, zoned_moment


def log_entries(order: Order) -> QuerySet[LogEntry]:
    return LogEntry.objects.filter(
        content_type=get_content_type_for_model(order), object_id=str(order.pk)
    )


class OrderPages(admin.ModelAdmin):  # type: ignore[type-arg]
    #: The actions and pages of the core.
    core_actions: tuple[OrderAction, ...] = ()
    core_pages: tuple[Page, ...] = ()
    #: The default topic of the pages in the manual, and the topics of individual views, by the name
    #: of the view.
    help_topic = "order"
    help_topics: ClassVar = {"changelist_view": "list", "add_view": "adding"}

    @cached_property
    def order_actions(self) -> tuple[OrderAction, ...]:
        """The actions of the core and of the optional apps."""
        more = (action for extension in extensions.installed() for action in extension.actions)
        return (*self.core_actions, *more)

    @cached_property
    def order_pages(self) -> tuple[Page, ...]:
        """The pages of all actions, and the pages that do not belong to an action.

        Pages of the core and of the optional apps are included.
        """
        more = (page for extension in extensions.installed() for page in extension.pages)
        return (*(action.page for action in self.order_actions), *self.core_pages, *more)

    def get_urls(self) -> list[URLPattern]:
        return [*map(self._url, self.order_pages), *super().get_urls()]

    def _url(self, page: Page) -> URLPattern:
        view = self.admin_site.admin_view(partial(page.view, self))
        for decorate in page.decorators:
            view = decorate(view)
        vars(view)["help_topic"] = page.help_topic
        return path(page.route, view, name=f"giftcards_{page.name}")

    def get_order_buttons(self, request: HttpRequest, order: Order) -> list[OrderButton]:
        """Return the buttons that the person may use on an order's page.

        Subclasses can extend the list.
        """
        actions = (action for action in self.order_actions if action.place == "order")
        return buttons(self, request, order, actions)

    def whom_to_ask(self, request: HttpRequest, order: Order) -> str:
        """Return a sentence about whom to ask for missing permissions, or "".

        The sentence covers the actions that are available for ``order`` but that the person is not
        allowed to use.
        """
        lacking = [
            permission
            for action in self.order_actions
            if action.takes and not action.permission(self, request) and action.is_offered(order)
            for permission in action.takes
        ]
        return whom_to_ask(request.user.has_perm, lacking)

    def order_for(self, request: HttpRequest, object_id: str, *, allowed: bool) -> Order:
        """Return the order with this id.

        Raises ``PermissionDenied`` if the person is not allowed to see the order, or if ``allowed``
        is False.
        """
        order: Order | None = self.get_object(request, unquote(object_id))
        if order is None or not allowed or not self.has_view_permission(request):
            raise PermissionDenied
        return order

    def may_see(self, request: HttpRequest, order: Order) -> bool:
        is_shown = self.get_queryset(request).filter(pk=order.pk).exists()
        return is_shown and self.has_view_permission(request)

    def has_check_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("giftcards.check_order")

    def has_resolve_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("giftcards.resolve_order")

    def has_report_permission(self, request: HttpRequest) -> bool:
        """Return True if the person is allowed to see totals over all orders.

        Only people who are allowed to see every order are allowed to see such totals.
        """
        is_shown_all = not leaves_some_out(self.get_queryset(request))
        return is_shown_all and self.has_view_permission(request)

    def may_see_costs(self, request: HttpRequest) -> bool:
        """Return True if the person is allowed to see the provider's charges.

        The charges also reveal the margin.
        """
        return request.user.has_perm("giftcards.view_cost")

    def may_see_tails(self, request: HttpRequest) -> bool:
        """Return True if the person may see the last characters of codes."""
        return any(map(request.user.has_perm, ("giftcards.find_card", "giftcards.reveal_card")))

    def url_of(self, page: str, *args: Any) -> str:
        name = f"admin:giftcards_order_{page}"
        return reverse(name, args=args, current_app=self.admin_site.name)

    def to_order(self, order: Order) -> HttpResponseRedirect:
        return HttpResponseRedirect(self.url_of("change", order.pk))

    def render_page(
        self,
        request: HttpRequest,
        name: str,
        *,
        title: str,
        status: int = 200,
        **context: Any,
    ) -> HttpResponse:
        """Render a template with the page layout of the admin.

        ``name`` is the short name or the path of the template.
        """
        template = name if "/" in name else f"admin/giftcards/order/{name}.html"
        return framed(self, request, template, title=title, status=status, **context)

    def ask_for_checks(self, request: HttpRequest, orders: OrderQuerySet) -> int:
        """Schedule an early check of ``orders``.

        Returns the number of orders that can be checked. The history of each order records who
        requested the check. If an order is already due, a second check is not scheduled or
        recorded, so a double click has the same effect as a single click.
        """
        now, interval = timezone.now(), timedelta(seconds=conf.poll_interval)
        with transaction.atomic(using=router.db_for_write(Order)):
            # Orders that become due within the interval are also excluded, because they may already
            # be due by the clock of another machine.
            waiting = orders.exclude(due_at__lte=now + interval)
            if waiting.check_soon(now=now, interval=interval):
                asked: Any = list(orders.filter(due_at=now).only("reference"))
                person: Any = request.user.pk
                LogEntry.objects.log_actions(person, asked, CHANGE, "Requested a check.")
            due = orders.checkable(now=now, interval=interval).count()
        if due:
            wake_worker()
        return due


def recorded(order: Order) -> str:
    """Return the message for a person who has just placed ``order``."""
    text = gettext("Order %(order)s was recorded and is being sent.")
    if not order.is_new:
        text = gettext(
            "Order %(order)s has already been recorded. Its cards will not be bought twice."
        )
    elif ProviderState.objects.current().explain_pause().for_staff:
        text = gettext(
            "Order %(order)s was recorded. It cannot be sent now, but will be sent as soon as"
            " possible."
        )
    return text % {"order": isolated(order)}


def facts(order: Order) -> list[tuple[str, object]]:
    """Return the facts that staff compare with the provider's order."""
    values = {"reference": order.reference, **line(order)}
    if order.sent_at is None:
        del values["sent_at"]
    return [(column_label(name), value) for name, value in values.items()]


def about(order: Order) -> list[tuple[str, object]]:
    """Return the facts that help a person to recognise ``order``.

    The facts are the reference, the cards and the customer.
    """
    names = order.line_names()
    kind, product = named(names.type, order.type_id), named(names.product, order.product_id)
    cards = format_html("{} × {} · {}", order.quantity, kind, product)
    found = [
        (gettext("order"), order.reference),
        (gettext("cards"), cards),
        (gettext("customer"), customer_of(order)),
    ]
    return [(label, value) for label, value in found if value]


def line(order: Order) -> dict[str, object]:
    """Return the values of four columns of ``order``, formatted for display.

    The columns are the product, the type, the quantity and the time of sending. The keys of the
    result are the names of the columns.
    """
    names = order.line_names()
    return {
        "product_id": named(names.product, order.product_id),
        "type_id": named(names.type, order.type_id),
        "quantity": order.quantity,
        "sent_at": zoned_moment(order.sent_at) if order.sent_at else gettext("unknown"),
    }


def customer_of(order: Order) -> str:
    """Return the customer's name, e-mail address or phone number, or "".

    The function returns the first of these values that is known.
    """
    return order.customer_name or order.customer_email or order.customer_phone


def column_label(name: str) -> str:
    return label_for_field(name, Order, return_attr=False)
