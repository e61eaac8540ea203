"""The pages on which staff write redemption instructions."""

from __future__ import annotations

from typing import Any

from django import forms
from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import URLPattern, path, reverse
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from giftcards.admin.frame.forms import WORDS, token
from giftcards.admin.shelf.editing import may_change
from giftcards.admin.shelf.pages import ShelfPages
from giftcards.models import Category, Product, RedemptionInstructions
from giftcards.models.pricing import keeping_prices
from giftcards.text.display import isolated, supported_language
from giftcards.text.regions import region_name

_LINE = forms.TextInput({"dir": "auto"})


class TextsForm(forms.Form):
    """A form for the redemption instructions of a product or a category.

    The form has fields for each language. ``seen`` is a hash of the instructions that the page has
    shown. If another person has changed the instructions in the meantime, the form is not valid.
    """

    seen = forms.CharField(widget=forms.HiddenInput)

    def __init__(self, row: Product | Category, data: Any = None) -> None:
        self.row = row
        self.rows = {each.language: each for each in row.redemption_instructions.all()}
        shown = [(code, each.region, each.text) for code, each in sorted(self.rows.items())]
        own_name = getattr(row, "own_name", "")
        self.state = token("redemption", [row.pk, own_name, shown])
        super().__init__(data, initial={"seen": self.state}, label_suffix="")
        #: Maps the name of each form field to the column that stores its text.
        self.columns: dict[str, Any] = {}
        if isinstance(row, Product):
            self._add("own_name", row, "own_name", label=_("Name in your shop"), value=own_name)
            self.fields["own_name"].help_text = gettext(
                "If this field is empty, the provider's name is used: %(name)s."
            ) % {"name": isolated(row.name or row.product_id)}
        for code, name in settings.LANGUAGES:
            text = self.rows.get(code) or RedemptionInstructions(language=code)
            spoken = {"language": gettext(str(name))}
            if isinstance(row, Product):
                label = gettext("Region (%(language)s)") % spoken
                self._add(f"region_{code}", text, "region", label=label, value=text.region)
            label = gettext("How to redeem a card (%(language)s)") % spoken
            self._add(f"text_{code}", text, "text", label=label, value=text.text)

    def _add(self, name: str, row: Any, column: str, *, label: Any, value: str) -> None:
        self.columns[name] = row._meta.get_field(column)  # noqa: SLF001 (documented)
        field = self.columns[name].formfield(label=label, required=False)
        field.widget = WORDS if column == "text" else _LINE
        field.initial = value
        self.fields[name] = field

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        for name in self.columns.keys() & cleaned.keys():
            try:
                # This runs the validators of the model.
                cleaned[name] = self.columns[name].clean(cleaned[name], None)
            except forms.ValidationError as error:
                self.add_error(name, error)
        # The second request of a double click does not change anything.
        if cleaned.get("seen") != self.state and self.changed_texts:
            raise forms.ValidationError(
                gettext(
                    "Somebody else has changed this information in the meantime. Nothing was saved,"
                    " and your version is below. Open the page again to see the other version."
                )
            )
        return cleaned

    @property
    def changed_texts(self) -> list[str]:
        """The labels of the fields whose values differ from the stored values."""
        return [
            str(self.fields[name].label)
            for name in self.columns
            if self.cleaned_data.get(name) != self.fields[name].initial
        ]

    def save(self, *, by: str) -> None:
        """Save the texts.

        If all texts of a language are empty, the row of this language is deleted.
        """
        if isinstance(self.row, Product) and self.row.own_name != self.cleaned_data["own_name"]:
            self.row.own_name = self.cleaned_data["own_name"]
            self.row.save(by=by)
        of: dict[str, Any] = {"product" if isinstance(self.row, Product) else "category": self.row}
        for code, _name in settings.LANGUAGES:
            texts = {
                "region": self.cleaned_data.get(f"region_{code}", ""),
                "text": self.cleaned_data[f"text_{code}"],
            }
            rows = RedemptionInstructions.objects
            if any(texts.values()):
                rows.update_or_create(**of, language=code, defaults=texts)
            else:
                rows.filter(**of, language=code).delete()


class RedemptionPages(ShelfPages):
    """The pages with the redemption instructions for customers.

    The admin class for products inherits from this class.
    """

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.redemption_view)
        # Django also sets ``model_admin`` on its own views. The link to the manual reads this
        # attribute.
        vars(view)["model_admin"] = self
        names = "giftcards_product_redemption", "giftcards_category_redemption"
        return [
            path("<int:pk>/redemption/", view, {"model": Product}, name=names[0]),
            path("category/<int:pk>/redemption/", view, {"model": Category}, name=names[1]),
            *super().get_urls(),
        ]

    def list_url(self) -> str:
        return reverse("admin:giftcards_product_changelist", current_app=self.admin_site.name)

    def redemption_view(self, request: HttpRequest, pk: int, model: Any) -> HttpResponse:
        if not (self.has_view_permission(request) and may_change(request)):
            raise PermissionDenied
        row = get_object_or_404(model, pk=pk)
        if request.method == "POST":
            # The lock comes first, because the form compares the stored texts with the texts that
            # the page has shown.
            with keeping_prices():
                row.refresh_from_db()
                form = TextsForm(row, request.POST)
                if form.is_valid() and (changed := form.changed_texts):
                    form.save(by=request.user.get_username())
                    self.log_change(request, row, [{"changed": {"fields": changed}}])
            if form.is_valid():
                self.message_user(request, gettext("The product information was saved."))
                return HttpResponseRedirect(request.path)
        else:
            form = TextsForm(row)
        return self._render(request, row, form)

    def _render(self, request: HttpRequest, row: Any, form: TextsForm) -> HttpResponse:
        of_product, back = {}, self.list_url()
        if isinstance(row, Product):
            of_product = {"category": row.category, "region": region_name(row.region)}
            name, site = "admin:giftcards_product_change", self.admin_site.name
            back = reverse(name, args=[row.pk], current_app=site)
        return self.render_page(
            request,
            title=gettext("Product information: %(name)s") % {"name": isolated(row)},
            template="redemption",
            list_url=self.list_url(),
            form=form,
            errors=[error for errors in form.errors.values() for error in errors],
            site_language=gettext(str(dict(settings.LANGUAGES)[supported_language(None)])),
            back=back,
            **of_product,
        )
