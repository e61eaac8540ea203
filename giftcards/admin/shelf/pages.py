"""The layout of the shelf's pages, and the preview and history of changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import islice
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.core.paginator import Page, Paginator
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.crypto import constant_time_compare
from django.utils.html import format_html
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from giftcards.admin.frame.rows import ReadOnlyRows, framed
from giftcards.admin.frame.sections import Fact, Section
from giftcards.admin.shelf.draft import Draft
from giftcards.admin.shelf.editing import (
    RowForms,
    columns_to_set,
    may_change,
    sees_costs,
    shown_columns,
)
from giftcards.admin.shelf.words import column_label, column_text
from giftcards.catalogue import PricePreview
from giftcards.models import Category, Product, ProductType, Shelf, ShelfChange
from giftcards.rules.prices import NoPrice
from giftcards.text.display import bdi, count_text, moment, money, signed_money

# The maximum number of rows with fields on a page. Each row has up to four fields, and Django
# accepts 1,000 fields in a request (DATA_UPLOAD_MAX_NUMBER_FIELDS).
_PER_PAGE = 200
# The maximum number of rows in a table of the preview, and in a history.
_SHOWN = 100
_HISTORY = 30
_NOTHING = "-"


class ShelfPages(ReadOnlyRows):
    """The base class of pages on which staff change prices and offers."""

    def has_shelf_permission(self, request: HttpRequest) -> bool:
        return may_change(request)

    def page(self, request: HttpRequest, rows: Any) -> Page[Any]:
        """Return the rows on the page whose number is in the URL."""
        return Paginator(rows, _PER_PAGE).get_page(request.GET.get("p"))

    def render_page(
        self, request: HttpRequest, *, title: str, template: str = "edit", **context: Any
    ) -> HttpResponse:
        name = f"admin/giftcards/shelf/{template}.html"
        return framed(self, request, name, title=title, **context)

    def edit(self, request: HttpRequest, forms: RowForms) -> HttpResponse | None:
        """Return the response to a request that changes rows.

        Returns ``None`` if the page should be shown instead.
        """
        if request.method != "POST":
            return None
        if not may_change(request):
            raise PermissionDenied
        if "draft" in request.POST:
            return self.confirm(request)
        are_valid = forms.are_valid
        draft = Draft(forms.changes)
        if any(draft.conflicts):
            return self.show_conflicts(request, draft)
        return self.ask(request, draft) if are_valid else None

    def ask(self, request: HttpRequest, draft: Draft) -> HttpResponse:
        """Show the effects of the changes, and ask whether to save them."""
        if not draft.changes:
            self.message_user(request, gettext("You have not changed anything."), messages.INFO)
            return _again(request)
        return self._preview(request, draft)

    def confirm(self, request: HttpRequest) -> HttpResponse:
        """Save the changes that the person has seen on the preview page."""
        draft = Draft.posted(request)
        if draft is None:
            text = gettext(
                "This page was open for too long, so nothing was saved. Make the change again."
            )
            self.message_user(request, text, messages.ERROR)
            return _again(request)
        if not all(name in columns_to_set(request, model) for model, name in draft.columns):
            raise PermissionDenied
        if draft.is_done:
            return self._tell_saved(request)
        if not draft.is_whole or any(draft.conflicts):
            return self.show_conflicts(request, draft)
        if not constant_time_compare(request.POST.get("state_token", ""), draft.token):
            text = gettext(
                "Costs or prices have changed in the meantime, so nothing was saved. Check the"
                " changes again."
            )
            return self._preview(request, draft, warning=text)
        if _losses(request, draft) and "accepts_loss" not in request.POST:
            text = gettext(
                "Nothing was saved. To save the changes, confirm that cards will be sold below"
                " their cost."
            )
            return self._preview(request, draft, warning=text)
        return self._save(request, draft)

    def _save(self, request: HttpRequest, draft: Draft) -> HttpResponse:
        changed = sum(effect.old_price != effect.new_price for effect in draft.effects)
        try:
            draft.save(by=request.user.get_username())
        except ValidationError as error:
            if Draft(draft.changes).is_done:
                return self._tell_saved(request)
            for text in error.messages:
                self.message_user(request, text, messages.ERROR)
        else:
            text = ngettext(
                "Saved. %(count)s price has changed.",
                "Saved. %(count)s prices have changed.",
                changed,
            )
            self.message_user(request, text % {"count": count_text(changed)}, messages.SUCCESS)
        return _again(request)

    def _tell_saved(self, request: HttpRequest) -> HttpResponse:
        self.message_user(request, gettext("These changes were already saved."), messages.SUCCESS)
        return _again(request)

    def show_conflicts(self, request: HttpRequest, draft: Draft) -> HttpResponse:
        found = list(islice(draft.conflicts, 3))
        text = gettext(
            "Somebody else has changed these values in the meantime, so nothing was saved."
        )
        if found:
            told = gettext("The current values are: %(values)s.") % {"values": "; ".join(found)}
            text = f"{text} {told}"
        self.message_user(request, text, messages.ERROR)
        return _again(request)

    def _preview(self, request: HttpRequest, draft: Draft, *, warning: str = "") -> HttpResponse:
        shows_costs = sees_costs(request)
        losses = _losses(request, draft)
        return self.render_page(
            request,
            title=gettext("Save these changes?"),
            template="preview",
            sections=[_changes(draft), _effects(draft, shows_costs=shows_costs)],
            warning=warning,
            draft=draft.signed(request),
            state_token=draft.token,
            losses=_accepted(losses) if losses else "",
            back=request.get_full_path(),
        )


def _again(request: HttpRequest) -> HttpResponse:
    """Show the page with the stored values."""
    return HttpResponseRedirect(request.get_full_path())


def _losses(request: HttpRequest, draft: Draft) -> list[PricePreview]:
    # Only people who may see costs can cause a loss that has not been accepted yet. Losses must be
    # hidden from everyone else.
    return draft.losses if sees_costs(request) else []


def _accepted(losses: Sequence[PricePreview]) -> str:
    text = ngettext(
        "I know that %(count)s card will be sold below its cost, and that each sale loses money.",
        "I know that %(count)s cards will be sold below their cost, and that each sale loses"
        " money.",
        len(losses),
    )
    return text % {"count": count_text(len(losses))}


def _changes(draft: Draft) -> Section:
    lines = list(draft.table())
    return Section(
        "changes",
        _("Your changes"),
        columns=(_("Value"), _("before"), _("after")),
        cells=[[bdi(each) for each in line] for line in lines[:_SHOWN]],
        note=_more(len(lines)),
    )


def _more(count: int) -> str:
    if count <= _SHOWN:
        return ""
    text = gettext("Only the first rows are shown. There are %(count)s more.")
    return text % {"count": count_text(count - _SHOWN)}


def _effects(draft: Draft, *, shows_costs: bool) -> Section:
    effects = draft.effects
    if not effects and not any(draft.sold_out):
        note = gettext("The prices stay the same, and the same cards are for sale.")
        return Section("effects", _("Consequences"), note=note)
    costs = [_("cost per card")] if shows_costs else []
    return Section(
        "effects",
        _("Consequences"),
        facts=list(_counts(draft, shows_costs=shows_costs)),
        columns=[_("Card"), *costs, _("Price now"), _("New price"), _("Effect")],
        cells=[_line(effect, shows_costs=shows_costs) for effect in effects[:_SHOWN]],
        note=_more(len(effects)),
    )


def _counts(draft: Draft, *, shows_costs: bool) -> Iterator[Fact]:
    effects, (out, back) = draft.effects, draft.sold_out
    ups = [
        effect.new_price - effect.old_price
        for effect in effects
        if effect.new_price is not None and effect.old_price is not None
    ]
    off = [effect for effect in effects if effect.was_on_shelf and not effect.is_on_shelf]
    on = [effect for effect in effects if effect.is_on_shelf and not effect.was_on_shelf]
    losses = draft.losses if shows_costs else []
    for label, count, is_wrong in (
        (_("Sold below cost"), len(losses), True),
        (_("No longer for sale"), len(off), True),
        (_("No longer for sale because of the stock buffer"), out, True),
        (_("Newly for sale"), len(on) + back, False),
        (_("More expensive"), sum(up > 0 for up in ups), False),
        (_("Cheaper"), sum(up < 0 for up in ups), False),
    ):
        if count:
            text = ngettext("%(count)s card", "%(count)s cards", count)
            yield Fact(label, text % {"count": count_text(count)}, is_wrong=is_wrong)


def _line(effect: PricePreview, *, shows_costs: bool) -> list[Any]:
    kind = effect.kind
    card = format_html("{} – {}", bdi(kind.product), bdi(kind.title))
    costs = [money(kind.cost)] if shows_costs else []
    prices = _price(effect.old_price), _price(effect.new_price)
    return [card, *costs, *prices, _result(effect, shows_costs=shows_costs)]


def _price(price: Decimal | None) -> str:
    return _NOTHING if price is None else money(price)


_NOT_YET = _("The rule in your settings has not calculated a price yet. This takes about a minute.")


def _result(effect: PricePreview, *, shows_costs: bool) -> Any:
    if effect.was_on_shelf and not effect.is_on_shelf:
        return format_html(
            "{} {}", gettext("The card will no longer be for sale."), _why(effect, shows_costs)
        )
    if not effect.is_on_shelf:
        return format_html(
            "{} {}", gettext("The card will not be for sale."), _why(effect, shows_costs)
        )
    if effect.loss and shows_costs:
        return format_html("{} {}", gettext("Loss per card:"), money(effect.loss))
    if not effect.was_on_shelf:
        return gettext("The card will be for sale.")
    if effect.old_price is None or effect.new_price is None:
        return _NOTHING
    return signed_money(effect.new_price - effect.old_price)


def _why(effect: PricePreview, shows_costs: bool) -> str:
    if not effect.is_sold:
        return gettext("This card is not sold in your shop.")
    if effect.why_not == NoPrice.FUNCTION:
        return str(_NOT_YET)
    return str(effect.why_not.label) if effect.why_not and shows_costs else ""


def history(request: HttpRequest, changes: QuerySet[ShelfChange], *, row_heading: Any) -> Section:
    """Return the section with the latest ``changes``.

    ``row_heading`` is the heading of the column that names the changed rows. If ``row_heading`` is
    "", this column is left out.
    """
    models: tuple[Any, ...] = (Category, Product, ProductType, Shelf)
    shown = {name for model in models for name in shown_columns(request, model)}
    wanted = changes.filter(what__in=shown)
    rows = wanted.select_related("category", "product", "type__product").order_by("-pk")
    columns: list[Any] = [_("When"), _("Who"), *filter(None, [row_heading])]
    columns += [_("Value"), _("before"), _("after")]
    cells = []
    for change in rows[:_HISTORY]:
        row = change.type or change.product or change.category
        model: Any = Shelf if row is None else type(row)
        values = (column_text(change.what, value) for value in (change.old, change.new))
        line = [moment(change.at), bdi(change.by) if change.by else _NOTHING]
        line += [bdi(row)] if row_heading else []
        cells.append([*line, column_label(model, change.what), *map(bdi, values)])
    note = "" if cells else gettext("Nothing has been changed yet.")
    return Section("history", _("Changes"), columns=columns, cells=cells, note=note)
