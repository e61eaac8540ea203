"""Orders in the Django admin: to look at, to place, and to have checked. No page holds a code."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import label_for_field, unquote
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import transaction
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.utils.formats import date_format, number_format
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timesince import timesince
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_post_parameters

from giftcards.conf import conf
from giftcards.crypto import key_fingerprint
from giftcards.exceptions import ConfigurationError, ReferenceConflict
from giftcards.fulfilment import place_order, wake_worker
from giftcards.models import Card, Order, OrderQuerySet, ProviderState, StatusChange
from giftcards.parsing import IDENTIFIER
from giftcards.recovery import adopt, declare_absent
from giftcards.refunds import refund_breakdown
from giftcards.statuses import Status

if TYPE_CHECKING:
    OrderModelAdmin = admin.ModelAdmin[Order]
    StateModelAdmin = admin.ModelAdmin[ProviderState]
    AddForm = forms.ModelForm[Order]
else:
    OrderModelAdmin = admin.ModelAdmin
    StateModelAdmin = admin.ModelAdmin
    AddForm = forms.ModelForm


def status_badge(status: str) -> SafeString:
    """The status as a coloured badge that also reads as text."""
    return format_html(
        '<span class="giftcards-badge giftcards-{}">{}</span>',
        status.lower().replace("_", "-"),
        Status(status).label,
    )


def money(amount: Decimal | None) -> str:
    """The amount as staff read it, isolated from the direction of the text around it."""
    if amount is None:
        return gettext("unknown")
    figure = number_format(amount, 2, force_grouping=True)
    return format_html('<bdi class="giftcards-money">{} {}</bdi>', figure, conf.currency)


def _pause() -> str:
    """Why calls to the provider are stopped, for staff; "" if they are not."""
    state = ProviderState.objects.current()
    try:
        key = key_fingerprint(conf.api_key)
    except ConfigurationError:
        # A site that leaves the key to its workers: it is the one that was refused.
        key = state.paused_key
    return state.explain() if state.is_paused(key=key, now=timezone.now()) else ""


class AttentionFilter(admin.SimpleListFilter):
    title = _("attention")
    parameter_name = "attention"

    def lookups(self, *_args: Any) -> list[tuple[str, Any]]:
        return [("needed", _("Needs attention"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.exclude(problem="") if self.value() == "needed" else queryset


class OrderForm(AddForm):
    """A new order. The last check is the placing: it knows whether the reference is free."""

    placed: Order

    def full_clean(self) -> None:
        super().full_clean()
        if not self.is_bound or self.errors:
            return
        try:
            self.placed = place_order(**self.cleaned_data)
        except ValidationError as error:
            self.add_error(None, error)
        except ReferenceConflict as conflict:
            self.add_error("reference", str(conflict))

    def validate_unique(self) -> None:
        """Not an error: the second order of a double click is the first one."""


class UnrepeatedInput(forms.PasswordInput):
    """A text field that shows what is typed and, like a password's, never shows it again."""

    input_type = "text"


class TypedCode(str):
    """A code on its way to the search: error pages and crash reporters print every variable."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<typed code>"


class FindCardForm(forms.Form):
    code = forms.CharField(
        label=_("Code or serial"),
        max_length=200,
        help_text=_("The whole code or serial. Case, spaces and dashes do not matter."),
        widget=UnrepeatedInput(attrs={"autocomplete": "off", "spellcheck": "false", "dir": "ltr"}),
    )

    def clean_code(self) -> TypedCode:
        return TypedCode(self.cleaned_data["code"])


def _isolated(part: object) -> str:
    """A part of a text that keeps its place where the text runs from right to left."""
    return f"\u2068{part}\u2069"


def _candidate(row: dict[str, Any]) -> str:
    created_at = row["created_at"] and datetime.fromisoformat(row["created_at"])
    shown = {
        "id": row["id"],
        "time": date_format(timezone.localtime(created_at), "DATETIME_FORMAT")
        if created_at
        else "?",
        "quantity": row["quantity"],
        "type": row["type"],
    }
    text = gettext("It is the provider's order %(id)s of %(time)s: %(quantity)s × %(type)s.")
    return text % {name: _isolated(part) for name, part in shown.items()}


def _facts(order: Order) -> list[tuple[str, object]]:
    """What was sent and when: what an order at the provider is compared with."""
    sent_at = order.sent_at and timezone.localtime(order.sent_at)
    values = {
        "product_id": order.product_id,
        "type_id": order.type_id,
        "quantity": order.quantity,
        # With the zone: the dashboard may show another one.
        "sent_at": f"{date_format(sent_at)} {date_format(sent_at, 'H:i:s (T)')}"
        if sent_at
        else gettext("unknown"),
    }
    return [
        (label_for_field(name, Order, return_attr=False), value) for name, value in values.items()
    ]


class ResolveForm(forms.Form):
    """What became of an order whose placing answer was lost."""

    ADOPT_OTHER = "adopt-other"
    SEND_AGAIN = "send-again"
    REJECT = "reject"

    outcome = forms.ChoiceField(label=_("What became of it"), widget=forms.RadioSelect)
    # A CharField would also complain about what is ignored.
    provider_order_id = forms.Field(
        label=_("provider's order id"),
        required=False,
        # Without a maxlength: browsers cut what is pasted, and the rest would be another id.
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false", "dir": "ltr"}),
    )
    is_sure = forms.BooleanField(label=_("I have made sure of this in the provider's dashboard."))

    def __init__(self, order: Order, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        outcomes = [(f"adopt:{row['id']}", _candidate(row)) for row in order.candidates]
        self.fields["outcome"].choices = [  # type: ignore[attr-defined]
            *outcomes,
            (self.ADOPT_OTHER, _("It is the order at the provider with this id:")),
            (self.SEND_AGAIN, _("It was not placed: send it again.")),
            (self.REJECT, _("It was not placed: reject it.")),
        ]

    def clean_provider_order_id(self) -> str:
        """The id that was typed, fit for the client; "" with the choices that have none."""
        if self.cleaned_data.get("outcome") != self.ADOPT_OTHER:
            return ""
        typed: str = (self.cleaned_data["provider_order_id"] or "").strip()
        if not typed:
            raise ValidationError(self.fields["provider_order_id"].error_messages["required"])
        if not IDENTIFIER.fullmatch(typed):
            raise ValidationError(_("Use letters, digits, “_” and “-” only, at most 100 in all."))
        other = Order.objects.known_as([typed]).first()
        if other:
            text = gettext("This is your order %(order)s already.")
            raise ValidationError(text % {"order": _isolated(other)})
        return typed

    @property
    def adopted(self) -> str:
        """The provider's id of the order that it is; "" if it was not placed."""
        typed: str = self.cleaned_data["provider_order_id"]
        action, _colon, candidate = self.cleaned_data["outcome"].partition(":")
        return candidate if action == "adopt" else typed


@admin.register(Order)
class OrderAdmin(OrderModelAdmin):
    list_display = ("reference", "badge", "delivered", "charged", "refunded", "age")
    list_filter = (AttentionFilter, "status", "created_at")
    search_fields = (
        "reference__startswith",
        "provider_order_id__startswith",
        "customer_email__startswith",
    )
    search_help_text = _(
        "A reference, the provider's order id or a customer's e-mail, or the beginning of one."
    )
    # Counting a million rows, and sorting them by a column without an index, would take seconds.
    show_full_result_count = False
    sortable_by = ("reference", "age")
    list_per_page = 50
    actions = ("check_now",)
    form = OrderForm
    add_fieldsets = (
        (None, {"fields": ("product_id", "type_id", "quantity", "reference")}),
        (_("Your sale"), {"fields": ("sale_price", "customer_email", "customer_language")}),
    )
    readonly_fields = ("badge", "attention", "delivered", "sale")

    class Media:
        css = {"all": ("giftcards/admin.css",)}

    # What may be done: look, place, have checked. Orders are history: nothing is edited or deleted.

    def has_change_permission(self, request: HttpRequest, obj: Order | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Order | None = None) -> bool:
        return False

    def has_view_permission(self, request: HttpRequest, obj: Order | None = None) -> bool:
        # Asked directly: Django's own version counts the permission to change as well.
        return any(request.user.has_perm(f"giftcards.{name}_order") for name in ("view", "change"))

    def has_check_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("giftcards.change_order")

    def has_find_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("giftcards.view_card")

    # The list.

    @admin.display(description=_("status"), ordering="status")
    def badge(self, order: Order) -> SafeString:
        badge = status_badge(order.status)
        if not order.problem:
            return badge
        mark = '{} <span class="giftcards-mark" role="img" aria-label="{}" title="{}">⚠</span>'
        return format_html(mark, badge, _("Needs attention"), order.problem)

    @admin.display(description=_("delivered"))
    def delivered(self, order: Order) -> str:
        # In words: a slash between two numbers reads the other way round from right to left.
        return gettext("%(delivered)d of %(ordered)d") % {
            "delivered": order.fulfilled_quantity,
            "ordered": order.quantity,
        }

    @admin.display(description=_("charged"), empty_value="")
    def charged(self, order: Order) -> str | None:
        breakdown = refund_breakdown(order)
        return money(breakdown.charged_amount) if breakdown else None

    @admin.display(description=_("refunded"), empty_value="")
    def refunded(self, order: Order) -> str | None:
        breakdown = refund_breakdown(order)
        return money(breakdown.refunded_amount) if breakdown else None

    @admin.display(description=_("age"), ordering="-created_at")
    def age(self, order: Order) -> str:
        return timesince(order.created_at, depth=1)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        # A whole name comes out of the indexes; for a beginning some databases read every row.
        names = ("reference", "provider_order_id", "customer_email")
        whole = queryset.filter(Q(*((name, search_term) for name in names), _connector=Q.OR))
        if search_term and whole.exists():
            return whole, False
        return super().get_search_results(request, queryset, search_term)

    @admin.action(description=_("Check selected orders now"), permissions=["check"])
    def check_now(self, request: HttpRequest, queryset: OrderQuerySet) -> None:
        selected = queryset.count()
        asked = queryset.check_soon(
            now=timezone.now(), interval=timedelta(seconds=conf.poll_interval)
        )
        if asked:
            wake_worker()
            text = ngettext(
                "%(count)d order will be checked as soon as the worker gets to it.",
                "%(count)d orders will be checked as soon as the worker gets to them.",
                asked,
            )
            self.message_user(request, text % {"count": asked})
        if selected > asked:
            text = ngettext(
                "%(count)d order is left alone: it is final, not sent yet, or was just checked.",
                "%(count)d orders are left alone: they are final, not sent yet, or were just"
                " checked.",
                selected - asked,
            )
            self.message_user(request, text % {"count": selected - asked}, messages.WARNING)

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        context = {
            "pause": _pause(),
            "may_find": self.has_find_permission(request),
        }
        return super().changelist_view(request, context | (extra_context or {}))

    # One order.

    def get_fieldsets(self, request: HttpRequest, obj: Order | None = None) -> Any:
        if obj is None:
            return self.add_fieldsets
        rows = [
            "badge",
            *(["attention"] if obj.problem else []),
            ("product_id", "type_id"),
            ("delivered", "sale"),
            ("provider_order_id", "checked_at"),
            ("customer_email", "customer_language"),
        ]
        return ((None, {"fields": rows}),)

    @admin.display(description=_("needs attention"))
    def attention(self, order: Order) -> SafeString:
        return format_html("<bdi>{}</bdi>", order.problem)

    @admin.display(description=_("sale price"))
    def sale(self, order: Order) -> str | None:
        return None if order.sale_price is None else money(order.sale_price)

    def render_change_form(
        self,
        request: HttpRequest,
        context: dict[str, Any],
        add: bool = False,
        change: bool = False,
        form_url: str = "",
        obj: Order | None = None,
    ) -> HttpResponse:
        if obj is not None:
            context |= self._sections(obj)
            context["may_resolve"] = self._may_resolve(request, obj)
        return super().render_change_form(request, context, add, change, form_url, obj)

    def _sections(self, order: Order) -> dict[str, Any]:
        breakdown = refund_breakdown(order)
        return {
            "breakdown": breakdown,
            "breakdown_rows": breakdown
            and [
                (_("Ordered"), order.quantity, money(breakdown.ordered_amount)),
                (
                    _("Delivered and charged"),
                    order.quantity - breakdown.refunded_quantity,
                    money(breakdown.charged_amount),
                ),
                (
                    _("Not delivered and refunded"),
                    breakdown.refunded_quantity,
                    money(breakdown.refunded_amount),
                ),
            ],
            "price_per_card": money(order.price_per_card),
            "timeline": [
                (change, status_badge(change.from_status), status_badge(change.to_status))
                for change in order.changes.all()
            ],
            "cards": order.cards.with_repeats().defer("sealed"),
        }

    # Placing: the one thing that is written here, and not by the form.

    def save_form(self, request: HttpRequest, form: Any, change: bool) -> Order:
        super().save_form(request, form, change)
        placed: Order = form.placed
        return placed

    def save_model(self, request: HttpRequest, obj: Order, form: Any, change: bool) -> None:
        """Nothing: :func:`~giftcards.fulfilment.place_order` has written the row."""

    def response_post_save_add(self, request: HttpRequest, obj: Order) -> HttpResponseRedirect:
        if not self.has_view_permission(request, obj):
            return super().response_post_save_add(request, obj)
        page = reverse(
            "admin:giftcards_order_change", args=[obj.pk], current_app=self.admin_site.name
        )
        return HttpResponseRedirect(page)

    # Finding a card. By POST: what is in an address ends up in logs and in the browser's history.

    def get_urls(self) -> list[URLPattern]:
        return [
            path(
                "find-card/",
                self.admin_site.admin_view(self.find_card_view),
                name="giftcards_order_find_card",
            ),
            path(
                "<path:object_id>/resolve/",
                self.admin_site.admin_view(self.resolve_view),
                name="giftcards_order_resolve",
            ),
            *super().get_urls(),
        ]

    @method_decorator(sensitive_post_parameters())
    def find_card_view(self, request: HttpRequest) -> HttpResponse:
        if not self.has_find_permission(request):
            raise PermissionDenied
        request.current_app = self.admin_site.name
        form = FindCardForm(request.POST or None)
        cards = None
        if form.is_valid():
            cards = (
                Card.objects.with_code(form.cleaned_data["code"])
                .select_related("order")
                .defer("sealed")
                .order_by("-pk")[:20]
            )
        title = gettext("Find an order by a card")
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": title,
            # What Django's own template shows as the last step of the way here.
            "original": title,
            "has_view_permission": self.has_view_permission(request),
            "form": form,
            "cards": cards,
            "media": self.media,
        }
        return TemplateResponse(request, "admin/giftcards/order/find_card.html", context)

    # Telling what became of an order whose placing answer was lost.

    def _may_resolve(self, request: HttpRequest, order: Order) -> bool:
        return order.status == Status.UNCONFIRMED and self.has_check_permission(request)

    def resolve_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        order = self.get_object(request, unquote(object_id))
        if order is None or not self._may_resolve(request, order):
            raise PermissionDenied
        request.current_app = self.admin_site.name
        form = ResolveForm(order, request.POST or None)
        if form.is_valid():
            return self._resolve(request, order, form)
        title = gettext("What became of the order %(order)s?") % {"order": order}
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": title,
            "original": order,
            "has_view_permission": self.has_view_permission(request),
            "facts": _facts(order),
            "form": form,
            # For the page's title.
            "errors": form.errors,
            "media": self.media,
        }
        return TemplateResponse(request, "admin/giftcards/order/resolve.html", context)

    def _resolve(self, request: HttpRequest, order: Order, form: ResolveForm) -> HttpResponse:
        source, who = StatusChange.Source.STAFF, request.user.get_username()
        if form.adopted:
            detail = f"{who}: it is the provider's order {form.adopted}."
            is_done = adopt(order, form.adopted, source=source, detail=detail)
        else:
            send_again = form.cleaned_data["outcome"] == ResolveForm.SEND_AGAIN
            detail = f"{who}: it was not placed; {'send it again' if send_again else 'reject it'}."
            is_done = declare_absent(order, send_again=send_again, source=source, detail=detail)
        if is_done:
            self.log_change(request, order, detail)
            self.message_user(request, gettext("Recorded."), messages.SUCCESS)
            transaction.on_commit(wake_worker)
        else:
            text = gettext("Somebody or something else was first: look at the timeline.")
            self.message_user(request, text, messages.ERROR)
        return self.response_post_save_add(request, order)


@admin.register(ProviderState)
class ProviderStateAdmin(StateModelAdmin):
    """What the processes know of the provider, in words; and the end of a pause."""

    list_display = ("words", "worker", "succeeded_at", "failed_at", "failure", "swept_at")
    list_display_links = None
    actions = ("resume",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: ProviderState | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: ProviderState | None = None) -> bool:
        return False

    def has_resume_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("giftcards.change_providerstate")

    @admin.display(description=_("calls to the provider"))
    def words(self, state: ProviderState) -> str:
        return state.explain()

    @admin.display(description=_("worker"))
    def worker(self, state: ProviderState) -> str:
        return state.worker_problem(timezone.now()) or gettext("at work")

    @admin.action(description=_("Resume calls to the provider"), permissions=["resume"])
    def resume(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        if ProviderState.objects.resume():
            wake_worker()
            self.message_user(request, gettext("Calls to the provider go on."))
        else:
            text = gettext("Calls to the provider were not paused.")
            self.message_user(request, text, messages.WARNING)
