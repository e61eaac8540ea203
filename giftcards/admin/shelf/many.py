"""The action that changes all selected products in the product list."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.text import capfirst
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from giftcards.admin.frame.forms import AmountField
from giftcards.admin.shelf.draft import Change, Draft
from giftcards.admin.shelf.editing import MARGIN, sees_costs
from giftcards.admin.shelf.pages import ShelfPages
from giftcards.models import Product
from giftcards.models.pricing import told
from giftcards.text.display import bdi, count_text

# The maximum number of products in one change. For more products, the margin of a category should
# be changed.
_MOST = 500
_SOLD = {"inherited": None, "yes": True, "no": False}


class ManyForm(forms.Form):
    """A form for the values to set for all selected products."""

    sold = forms.ChoiceField(
        label=capfirst(_("sold here")),
        choices=(
            ("", _("Do not change")),
            ("yes", _("Yes")),
            ("no", _("No")),
            ("inherited", _("Same as the category")),
        ),
        required=False,
    )
    unit = forms.ChoiceField(label=_("Margin"), required=False)
    margin = AmountField(
        label=_("New margin"),
        required=False,
        widget=forms.TextInput({"inputmode": "decimal", "size": 7, "autocomplete": "off"}),
    )

    def __init__(self, data: Any = None, *, sets_margins: bool) -> None:
        super().__init__(data)
        if not sets_margins:
            del self.fields["unit"], self.fields["margin"]
            return
        self.fields["unit"].choices = (  # type: ignore[attr-defined]
            ("", _("Do not change")),
            ("margin_percent", _("In per cent")),
            ("margin_fixed", _("In dinars")),
            ("inherited", _("Same as the category or the shop")),
        )

    def clean(self) -> None:
        unit, margin = self.cleaned_data.get("unit"), self.cleaned_data.get("margin")
        if unit in MARGIN:
            if margin is None:
                if "margin" not in self.errors:
                    self.add_error("margin", gettext("Enter the new margin."))
                return
            field: Any = Product._meta.get_field(unit)  # noqa: SLF001 (documented)
            try:
                field.clean(margin, Product())
            except forms.ValidationError as error:
                self.add_error("margin", error)
        elif margin is not None:
            self.add_error("unit", gettext("Is the margin in per cent or in dinars?"))

    @property
    def values(self) -> dict[str, Any]:
        """The values to set for each product, by column."""
        cleaned, values = self.cleaned_data, dict[str, Any]()
        if cleaned["sold"]:
            values["is_sold"] = _SOLD[cleaned["sold"]]
        if unit := cleaned.get("unit"):
            values |= dict.fromkeys(MARGIN)
            if unit in MARGIN:
                values[unit] = cleaned["margin"]
        return values


def ask_about(
    pages: ShelfPages, request: HttpRequest, selected: QuerySet[Product]
) -> HttpResponse | None:
    """Ask what to change in the selected products, and show a preview."""
    products = list(selected.order_by("pk")[: _MOST + 1])
    if len(products) > _MOST:
        text = gettext(
            "Select at most %(count)s products. To change more products, change their category"
            " instead."
        )
        pages.message_user(request, text % {"count": count_text(_MOST)}, messages.ERROR)
        return None
    is_asked = "is_asked" in request.POST
    form = ManyForm(request.POST if is_asked else None, sets_margins=sees_costs(request))
    if is_asked and form.is_valid():
        return pages.ask(request, Draft(_changes(products, form.values)))
    text = ngettext(
        "This changes %(count)s product:", "This changes %(count)s products:", len(products)
    )
    return pages.render_page(
        request,
        title=gettext("Change margin or sale status"),
        template="many",
        form=form,
        errors=form.errors,
        consequence=text % {"count": count_text(len(products))},
        products=[(product.pk, bdi(product)) for product in products],
        checkbox=ACTION_CHECKBOX_NAME,
        back=request.get_full_path(),
    )


def _changes(products: list[Product], values: dict[str, Any]) -> list[Change]:
    """Return a change for each product that does not have these values yet."""
    found = []
    for product in products:
        seen = {name: told(getattr(product, name)) for name in values}
        new = {name: told(value) for name, value in values.items()}
        if seen != new:
            found.append(Change.of(product, {name: (seen[name], new[name]) for name in new}))
    return found
