"""The page of the shop's settings, and the page of the categories."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import Count
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.text import capfirst
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from giftcards.admin.frame.sections import Fact, Section
from giftcards.admin.shelf.editing import RowForm, RowForms, may_change, sees_costs
from giftcards.admin.shelf.pages import ShelfPages, history
from giftcards.admin.shelf.words import column_label, margin_of
from giftcards.conf import conf
from giftcards.models import Category, Shelf, ShelfChange
from giftcards.text.display import bdi, count_text, currency


class _OnePage(ShelfPages):
    """The base class of pages that show all rows of a model.

    Only people who are allowed to change the shelf can open such a page.
    """

    help_topic = "prices"

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return may_change(request)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return may_change(request)

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if not may_change(request):
            raise PermissionDenied
        page = self.page(request, self.rows())
        rows = list(page)
        forms = RowForms(request, rows)
        answer = self.edit(request, forms)
        if answer is not None:
            return answer
        return self.render_page(
            request,
            title=capfirst(str(self.opts.verbose_name_plural)),
            seen=forms.seen,
            errors=forms.errors,
            page=page,
            **self.shown(request, forms, rows),
        )

    def rows(self) -> Any:
        raise NotImplementedError

    def shown(self, request: HttpRequest, forms: RowForms, rows: list[Any]) -> dict[str, Any]:
        """Return the sections of the page, as template context."""
        raise NotImplementedError

    def get_urls(self) -> list[URLPattern]:
        view: Any = self.admin_site.admin_view(self.changelist_view)
        # The start page and the manual read this attribute, which Django sets on its own list
        # views.
        view.model_admin = self
        return [path("", view, name=f"giftcards_{self.opts.model_name}_changelist")]


@admin.register(Shelf)
class ShelfAdmin(_OnePage):
    """The page of the values that apply to the whole shop."""

    def rows(self) -> list[Shelf]:
        return [Shelf.objects.current()]

    def shown(self, request: HttpRequest, forms: RowForms, rows: list[Any]) -> dict[str, Any]:
        note = ""
        if conf.pricing is not None:
            note = gettext(
                "Your settings contain a rule for prices, which replaces the margin of the shop."
                " Margins of categories, products and types take precedence over the rule."
            )
        [form] = forms
        changes = ShelfChange.objects.filter(category=None, product=None, type=None)
        return {
            "sections": [Section("shop", _("For all cards"), list(_facts(form)), note=note)],
            "below": [history(request, changes, row_heading="")],
        }


_HELP = {
    "margin": _(
        "The margin for all cards that do not have their own margin, in per cent or in dinars."
    ),
    "round_to": _(
        "Prices that are calculated from margins are rounded up to a multiple of this amount. If"
        " the amount is 0, they are rounded up to whole centimes."
    ),
    "least_margin": _("Cards that would earn less than this amount are not for sale."),
    "stock_buffer": _(
        "This number of cards of each type is not for sale, because other shops buy the same cards."
    ),
}


def _facts(form: RowForm) -> Iterator[Fact]:
    if form.margin:
        yield Fact(_("Margin"), _with_help(form.margin, "margin"))
    for name in ("round_to", "least_margin", "stock_buffer"):
        if name in form.fields:
            unit = "" if name == "stock_buffer" else currency()
            field = format_html('<span class="giftcards-unit">{} {}</span>', form.cell(name), unit)
            yield Fact(column_label(Shelf, name), _with_help(field, name))


def _with_help(field: str, name: str) -> str:
    return format_html('{}<div class="giftcards-hint">{}</div>', field, _HELP[name])


@admin.register(Category)
class CategoryAdmin(_OnePage):
    """The page of the categories of the provider's products."""

    def rows(self) -> Any:
        # A query with an aggregate is not sorted by the ordering of the model.
        return Category.objects.annotate(products_count=Count("products")).order_by("title", "pk")

    def shown(self, request: HttpRequest, forms: RowForms, rows: list[Any]) -> dict[str, Any]:
        shelf, shows_costs = Shelf.objects.current(), sees_costs(request)
        columns = [_("category"), _("Products"), _("product information"), _("sold here")]
        if shows_costs:
            columns += [_("Margin"), _("At present")]
        cells = []
        for row in rows:
            form = forms[row]
            products, texts = self._products(request, row), self._texts(request, row)
            line = [bdi(row), products, texts, form.cell("is_sold")]
            if shows_costs:
                line += [form.margin, margin_of(row, shelf)]
            cells.append(line)
        note = gettext(
            "If you do not sell a category, its cards are not for sale, and the app no longer"
            " reads this category. If a margin is empty, the shop's margin applies."
        )
        if not cells:
            note = gettext("The provider's catalogue has not been read yet.")
        changes = ShelfChange.objects.filter(category__in=[row.pk for row in rows])
        return {
            "sections": [
                Section("categories", _("categories"), columns=columns, cells=cells, note=note)
            ],
            "below": [history(request, changes, row_heading=_("category"))],
        }

    def _texts(self, request: HttpRequest, row: Category) -> str:
        if not request.user.has_perm("giftcards.view_product"):
            return ""
        name = "admin:giftcards_category_redemption"
        address = reverse(name, args=[row.pk], current_app=self.admin_site.name)
        return format_html('<a href="{}">{}</a>', address, _("Change the product information"))

    def _products(self, request: HttpRequest, row: Any) -> str:
        count = count_text(row.products_count)
        if not request.user.has_perm("giftcards.view_product"):
            return count
        address = reverse("admin:giftcards_product_changelist", current_app=self.admin_site.name)
        query = urlencode({"category__id__exact": row.pk})
        return format_html('<a href="{}?{}">{}</a>', address, query, count)
