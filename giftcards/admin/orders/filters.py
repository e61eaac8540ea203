"""The filters of the order list, each of which uses an index."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.utils import build_q_object_from_lookup_parameters
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import ValidationError
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.loader import get_template
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from giftcards.admin.frame.rows import SortedAsOffered
from giftcards.keys.keyring import unsealed
from giftcards.models import Order, Product
from giftcards.models.order_queries import (
    CONTRADICTORY,
    NEEDING_ATTENTION,
    ON_HOLD_FOR_PRICE,
    ON_HOLD_FOR_REVIEW,
    OWING,
    PAID_BACK,
    SALE_UNKNOWN,
    is_held_up,
)
from giftcards.models.orders import LOST, WITH_OTHER_PROBLEMS, WITHOUT_PROBLEMS
from giftcards.rules.states import Status
from giftcards.rules.times import read_moment
from giftcards.text.display import isolated
from giftcards.watch.core_conditions import PATIENCE

# The maximum number of products that a filter offers.
OFFERED = 100
# The maximum number of primary keys in one statement.
_FEW = 1_000
# A primary key with more digits may be too large for the database.
_MOST_DIGITS = 18


class IndexedFilter(admin.ListFilter):
    """A filter that uses an index unless ``uses_index`` is False."""

    uses_index = True

    def condition(self) -> Q:
        """Return the condition that an order must meet to match the filter.

        The method is only called if the URL contains a value for this filter.
        """
        return build_q_object_from_lookup_parameters(cast("Any", self.used_parameters))

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if not self.used_parameters:
            return queryset
        try:
            condition = self.condition()
            if self.uses_index:
                return queryset.filter(condition)
            # The double negation finds the same orders, but prevents SQLite from using an index.
            return queryset.exclude(~condition)
        except (ValueError, ValidationError) as error:
            raise IncorrectLookupParameters(error) from error


class ConditionFilter(IndexedFilter, admin.SimpleListFilter):
    """A filter with fixed choices.

    Each choice has a label and a condition. Other values in the URL have no effect.
    """

    conditions: ClassVar[Mapping[str, tuple[Any, Q]]]
    #: Choices that the filter does not offer. Only tiles of the start page link to them.
    of_tiles: ClassVar[frozenset[str]] = frozenset()

    def lookups(self, *_args: Any) -> list[tuple[str, Any]]:
        return [
            (name, text)
            for name, (text, _condition) in self.conditions.items()
            if name not in self.of_tiles or name == self.value()
        ]

    def condition(self) -> Q:
        chosen = self.conditions.get(self.value() or "")
        return chosen[1] if chosen else Q()


class AttentionFilter(ConditionFilter):
    title = _("to do")
    parameter_name = "attention"
    conditions = {
        "needed": (_("Needs attention"), NEEDING_ATTENTION),
        # The next four choices are subsets of "needed". Tiles of the start page link to them.
        "unconfirmed": (Status.UNCONFIRMED.label, LOST),
        "other": (_("Has a problem"), WITH_OTHER_PROBLEMS),
        "on_hold_price": (_("On hold because of its price"), ON_HOLD_FOR_PRICE),
        "on_hold_review": (_("On hold for review"), ON_HOLD_FOR_REVIEW),
        "none": (_("Has no problem"), WITHOUT_PROBLEMS),
        "waiting": (_("Waiting too long"), Q()),
    }
    of_tiles = frozenset({"none", "waiting"})

    def condition(self) -> Q:
        # Unlike the other conditions, this condition depends on the current time.
        is_waiting = self.value() == "waiting"
        return is_held_up(timezone.now() - PATIENCE) if is_waiting else super().condition()


class RefundFilter(ConditionFilter):
    """A filter for the state of the refund for missing cards.

    An order can match several choices. The figures of a report link to these choices.
    """

    title = _("refund to the customer")
    parameter_name = "refund"

    conditions = {
        "paid": (_("Paid back"), PAID_BACK),
        "owed": (_("Still owed"), OWING),
    }


class SaleFilter(ConditionFilter):
    """A filter for final orders without a sale amount.

    Reports and monthly closings link to this filter.
    """

    title = _("sale amount")
    parameter_name = "sale"
    conditions = {"unknown": (_("Not known"), SALE_UNKNOWN)}


class ContradictoryFilter(ConditionFilter):
    title = _("figures")
    parameter_name = "figures"
    conditions = {"contradictory": (_("Contradictory"), CONTRADICTORY)}


class ProductChoices(NamedTuple):
    """The products that a filter offers, as (id, name) pairs.

    ``is_whole`` is True if the filter offers all products. If there are more than ``OFFERED``
    products, the filter offers only the product in the URL.
    """

    choices: list[tuple[str, str]]
    is_whole: bool

    @classmethod
    def of_catalogue(cls, asked_for: str | None) -> ProductChoices:
        products = list(Product.objects.order_by()[: OFFERED + 1])
        is_whole = len(products) <= OFFERED
        if not is_whole:
            products = list(Product.objects.filter(product_id=asked_for or ""))
        products.sort(key=lambda each: (str(each).casefold(), each.product_id))
        names = {each.product_id: isolated(each) for each in products}
        if asked_for and asked_for not in names:
            names[asked_for] = isolated(asked_for)
        return cls(list(names.items()), is_whole)


class ProductFilter(IndexedFilter, admin.SimpleListFilter):
    title = _("product")
    parameter_name = "product_id"

    def lookups(self, request: HttpRequest, _model_admin: Any) -> list[tuple[str, Any]]:
        found = ProductChoices.of_catalogue(self.value())
        if not found.is_whole and request.user.has_perm("giftcards.view_product"):
            # The list of products is incomplete, so this template adds a link to the search in the
            # catalogue.
            self.template = "admin/giftcards/order/product_filter.html"
        return found.choices

    def has_output(self) -> bool:
        return super().has_output() or self.template != admin.ListFilter.template

    def condition(self) -> Q:
        return Q(product_id=self.value())


class GroupFilter(IndexedFilter, admin.SimpleListFilter):
    """A filter for the group in the URL.

    The filter does not offer other groups, because every cart is a separate group.
    """

    title = _("group")
    parameter_name = "group"

    def lookups(self, *_args: Any) -> list[tuple[str, Any]]:
        asked_for = self.value()
        return [(asked_for, isolated(asked_for))] if asked_for else []

    def condition(self) -> Q:
        return Q(group=self.value())


class CustomerFilter(IndexedFilter, admin.SimpleListFilter):
    """A filter for the orders of one customer.

    The URL contains the primary key of one of these orders. A URL must not name a customer, because
    URLs are logged.
    """

    title = _("customer")
    parameter_name = "customer_of"

    def __init__(self, request: HttpRequest, params: Any, model: Any, model_admin: Any) -> None:
        super().__init__(request, params, model, model_admin)
        self._order = self._asked_for(request, model_admin)
        if self._order is not None:
            name = isolated(self._order)
            text = gettext("Other orders from the same customer as %(order)s") % {"order": name}
            self.lookup_choices = [(str(self.value()), text)]

    def _asked_for(self, request: HttpRequest, model_admin: Any) -> Order | None:
        key = self.value() or ""
        if not (key.isdecimal() and key.isascii() and len(key) <= _MOST_DIGITS):
            return None
        return cast("Order | None", model_admin.get_queryset(request).filter(pk=key).first())

    def lookups(self, *_args: Any) -> list[tuple[str, Any]]:
        asked_for = self.value()
        return [(asked_for, isolated(asked_for))] if asked_for else []

    def condition(self) -> Q:
        if self._order is None:
            return Q(pk__in=[])
        return Q(pk__in=Order.objects.keys_of_customer(self._order, limit=_FEW))


class ChoicesFilter(IndexedFilter, admin.ChoicesFieldListFilter):
    """A filter for a column with few values."""


class DateFilter(IndexedFilter, admin.DateFieldListFilter):
    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        # Django's choices "No date" and "Has date" are left out, because the filter by status
        # covers them.
        isnull = f"{self.field_path}__isnull"
        self.links = tuple(link for link in self.links if isnull not in link[1])

    def condition(self) -> Q:
        moments = {
            name: values if name.endswith("__isnull") else map(read_moment, values)
            for name, values in cast("Any", self.used_parameters).items()
        }
        return build_q_object_from_lookup_parameters(cast("Any", moments))


class SettledFilter(DateFilter):
    """A filter by the date when orders were settled.

    If the filter is set, the list is sorted by this date.
    """

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        # A link on another page may contain any period, so the period in the URL becomes a choice.
        if self.date_params and self.date_params not in [link[1] for link in self.links]:
            period: Any = (_("In the period of the report"), self.date_params)
            self.links = (*self.links, period)


def show_filters(response: HttpResponse) -> HttpResponse:
    """Add ``shown_filters`` to the context of a list's page.

    If a theme replaces Django's template for lists, the theme shows the filters, and this function
    does not change the context.
    """
    page: Any = get_template("admin/change_list.html")
    is_stock = Path(page.origin.name).is_relative_to(Path(admin.__file__).parent)
    shown = getattr(response, "context_data", None)
    if is_stock and shown and "cl" in shown:
        shown["shown_filters"] = [_shown(each, shown["cl"]) for each in shown["cl"].filter_specs]
    return response


def _shown(each: admin.ListFilter, changelist: ChangeList) -> dict[str, Any]:
    choices: list[Any] = list(each.choices(changelist))
    return {
        "filter": each,
        "title": each.title,
        "choices": choices,
        # A filter of the shop may have its own template.
        "has_own_look": each.template != admin.ListFilter.template,
        # The first choice means "all".
        "chosen": [choice["display"] for choice in choices[1:] if choice.get("selected")],
        "without": choices[0].get("query_string", "?") if choices else "?",
    }


class OrderChangeList(SortedAsOffered):
    """A mixin that keeps the list of orders fast, whatever filters are set.

    If several filters are set, a database might choose a bad index and read a large part of the
    table. Therefore, each filter is first tried separately. If at least one filter finds few
    orders, the list is limited to these orders by their primary keys, and the filters do not use an
    index. A search limits the list in the same way.
    """

    _CREATED = ("created_at", "pk")
    # The ordering contains all columns of the index, although status and due_at are constant here,
    # because databases do not infer this.
    _SETTLED = ("finalized_at", "status", "due_at", "pk")

    _keys: set[int] | None = None
    #: The encrypted text of the search, as in the URL.
    sealed_query = ""

    def without_search_box(self) -> str:
        """Prevent the theme from showing a second search box.

        The method is called in a template and returns "", so that the template does not render
        anything.
        """
        self.search_fields: Any = ()
        return ""

    def get_filters(self, request: HttpRequest) -> Any:
        answer = super().get_filters(request)
        ours = [
            each for each in answer[0] if isinstance(each, IndexedFilter) and each.used_parameters
        ]
        is_search = bool(self.query.strip())
        if not is_search:
            self._keys = self._keys_if_few(request, ours)
        by_keys = is_search or self._keys is not None
        for each in ours:
            is_sorted_like_list = isinstance(each, SettledFilter) or not self._is_by_settled
            each.uses_index = not by_keys and is_sorted_like_list
        return answer

    def _keys_if_few(self, request: HttpRequest, filters: list[IndexedFilter]) -> set[int] | None:
        """Return the primary keys of the orders that match all narrow filters.

        A narrow filter finds at most ``_FEW`` orders. Returns ``None`` if none of the filters is
        narrow.
        """
        rows = self.model._default_manager.order_by().values_list("pk", flat=True)  # noqa: SLF001
        found = [set(each.queryset(request, rows)[: _FEW + 1]) for each in filters]
        few = [keys for keys in found if len(keys) <= _FEW]
        return set.intersection(*few) if few else None

    @property
    def _is_by_settled(self) -> bool:
        return any(name.startswith("finalized_at__") for name in self.filter_params)

    def get_queryset(self, request: HttpRequest, *args: Any) -> Any:
        # Django calls this method a second time to count facets. By then, ``query`` is decrypted,
        # so the first value is kept.
        self.sealed_query = self.sealed_query or self.query
        self.query = unsealed(self.query)
        queryset = super().get_queryset(request, *args)
        return queryset if self._keys is None else queryset.filter(pk__in=self._keys)

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[Any]:
        """Return an ordering that is supported by an index.

        Depending on the filter, the newest or the oldest orders come first. A list that is filtered
        by the settled date is sorted by that date, because sorting the orders of a year by age
        would take seconds.
        """
        ordering: list[Any] = super().get_ordering(request, queryset)
        columns = self._SETTLED if self._is_by_settled else self._CREATED
        match ordering[0]:
            case "created_at":
                return list(columns)
            case "-created_at":
                return [f"-{column}" for column in columns]
        return ordering
