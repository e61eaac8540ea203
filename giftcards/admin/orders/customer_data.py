"""The page on which staff export or erase a person's data.

The page has the same functions as the ``giftcards_customer`` command. Addresses are posted, so that
URLs and logs do not contain them.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from django import forms
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import router, transaction
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.crypto import constant_time_compare
from django.utils.http import content_disposition_header
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from giftcards.admin.cards.finding import HIDING
from giftcards.admin.cards.revealing import ProofForm, other_proof
from giftcards.admin.frame.actions import Page, Pages
from giftcards.admin.frame.forms import token
from giftcards.admin.frame.rows import order_link
from giftcards.models import Order
from giftcards.privacy.erasure import Erasure, SharedNumber, erase, find_orders, why_kept
from giftcards.privacy.export import as_json, describe
from giftcards.privacy.person import CUSTOMER, RECIPIENT, ROLES, Person, Role, find_account
from giftcards.rules.roles import whom_to_ask
from giftcards.text.display import count_text, day_text, moment, named, status_badge

EXPORTS, ERASES = "giftcards.export_customer", "giftcards.erase_customer"
# The maximum number of orders that a list on the page names.
_NAMED = 20
# The maximum time for which a request erases data (seconds), because web servers end requests that
# take too long.
_ERASES_FOR = 10
# The reasons why an order cannot be erased yet, by the keys of giftcards.privacy.erasure.REASONS.
_WHY_KEPT = {
    "open": _("This order is still open."),
    "problem": _("This order has a problem that has not been acknowledged."),
    "owed": _("Money is still owed to the customer."),
    "undelivered": _("The gift has not been delivered yet."),
}


class PersonForm(forms.Form):
    """A form that asks who the person is.

    A valid form contains the person in its ``person`` attribute.
    """

    by = forms.ChoiceField(
        label=_("Search by"),
        choices=(
            ("contact", _("E-mail address or phone number")),
            ("account", _("User name of the account")),
        ),
        initial="contact",
    )
    customer = forms.CharField(
        label=_("Customer"),
        max_length=254,
        help_text=_(
            "This search also finds recipients of gifts. Spaces and capital letters do not matter."
        ),
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false", "dir": "auto"}),
    )
    person: Person

    def clean(self) -> None:
        text = self.cleaned_data.get("customer")
        if not text or "by" not in self.cleaned_data:
            return
        if self.cleaned_data["by"] == "contact":
            self.person = Person.of(text)
            if not self.person:
                raise ValidationError(
                    gettext("Enter an e-mail address or a phone number of at least six digits.")
                )
            return
        account = find_account(text)
        if account is None:
            raise ValidationError(gettext("No account has this user name."))
        self.person = Person.of_user(account)

    def is_named_by(self, text: str) -> bool:
        """Return True if ``text`` names the person who was entered in the form.

        If the form contains a user name, ``text`` must be the same user name. Otherwise ``text``
        must be the same e-mail address or phone number, but can be written differently.
        """
        if self.cleaned_data["by"] == "account":
            return bool(text == self.cleaned_data["customer"])
        return Person.of(text) == self.person


class ErasureForm(ProofForm):
    """A form that asks for the search text again, and for a proof of identity."""

    typed = forms.CharField(
        label=_("Type the search text again"),
        max_length=254,
        help_text=_("The address, number or user name that you searched for."),
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false", "dir": "auto"}),
    )
    field_order: Sequence[str] = ("typed", "password")

    def __init__(self, asked: PersonForm, request: HttpRequest, data: Any = None) -> None:
        super().__init__(request, data)
        self._asked = asked

    def clean_typed(self) -> str:
        typed: str = self.cleaned_data["typed"]
        if not self._asked.is_named_by(typed):
            raise ValidationError(
                gettext("This text does not match your search. Nothing was erased.")
            )
        return typed


@dataclass
class _Found:
    """The orders of a person, and orders that might belong to the person."""

    person: Person
    orders: list[Order] = field(default_factory=list)
    others: list[Order] = field(default_factory=list)
    #: The references of orders with one phone number and several e-mail addresses.
    shared: Collection[str] = ()

    @classmethod
    def of(cls, person: Person) -> _Found:
        try:
            return cls(person, *find_orders(person))
        except SharedNumber as error:
            return cls(person, shared=error.references)

    @property
    def token(self) -> str:
        """A hash that identifies the orders.

        If a form contains an old hash, it is refused, because the list of orders has changed since
        the form was shown.
        """
        return token("customer_data", [order.pk for order in self.orders])

    @property
    def kept(self) -> dict[int, str]:
        """The reasons why some orders cannot be erased yet, by primary key.

        Orders that can be erased are left out.
        """
        whys = ((order, why_kept(order, self.person.roles_in(order))) for order in self.orders)
        return {order.pk: why for order, why in whys if why}


def may_hand_out(pages: Pages, request: HttpRequest) -> bool:
    """Return True if the person is allowed to open the page.

    The page shows all data about a person. Therefore, users who cannot see all orders cannot open
    the page.
    """
    may = request.user.has_perm
    return pages.has_report_permission(request) and (may(EXPORTS) or may(ERASES))


def _view(pages: Pages, request: HttpRequest) -> HttpResponse:
    if not may_hand_out(pages, request):
        raise PermissionDenied
    if answer := other_proof(pages, request, back_to=_address(pages)):
        return answer
    form = PersonForm(request.POST or None, initial=_asked_for(pages, request))
    if not form.is_valid():
        return _page(pages, request, form)
    found = _Found.of(form.person)
    match request.POST.get("what"):
        case "download" if found.orders and request.user.has_perm(EXPORTS):
            return _download(pages, request, form, found)
        case "erase" if found.orders and request.user.has_perm(ERASES):
            return _erase(pages, request, form, found)
    return _page(pages, request, form, found)


def _address(pages: Pages) -> str:
    return reverse("admin:giftcards_customer_data", current_app=pages.admin_site.name)


def _asked_for(pages: Pages, request: HttpRequest) -> dict[str, str]:
    """Return the form's initial values for a link from an order's page."""
    key, label = request.GET.get("order", ""), request.GET.get("role", "")
    if not key:
        return {}
    order = pages.order_for(request, key, allowed=True)
    role = next((role for role in ROLES if role.label == label), CUSTOMER)
    contact = next(filter(Person.of, role.contacts_in(order)), "")
    if not contact and role is CUSTOMER and order.user is not None:
        return {"by": "account", "customer": order.user.get_username()}
    return {"customer": contact}


def links(pages: Pages, request: HttpRequest, order: Order) -> list[tuple[str, str]]:
    """Return a label and a URL for each person named in ``order``.

    The URL is "" for staff without the permission.
    """
    address = ""
    if may_hand_out(pages, request):
        address = _address(pages)
    labels = {CUSTOMER: _("The customer's data"), RECIPIENT: _("The recipient's data")}
    return [
        (str(label), address and f"{address}?order={order.pk}&role={role.label}")
        for role, label in labels.items()
        if any(role.contacts_in(order)) or (role is CUSTOMER and order.user_id is not None)
    ]


def _page(
    pages: Pages,
    request: HttpRequest,
    form: PersonForm,
    found: _Found | None = None,
    *,
    proof: ProofForm | None = None,
    warning: str = "",
) -> HttpResponse:
    context: dict[str, Any] = {}
    if found is not None:
        context = {
            "is_searched": True,
            **_described(pages, found),
            "proof": proof or ProofForm(request),
            "state_token": found.token,
        }
    proof_errors = {} if proof is None else proof.errors
    return pages.render_page(
        request,
        "customer_data",
        title=gettext("A customer's data"),
        form=form,
        errors={**form.errors, **proof_errors},
        warning=warning,
        may_export=request.user.has_perm(EXPORTS),
        may_erase=request.user.has_perm(ERASES),
        whom_to_ask=whom_to_ask(request.user.has_perm, (EXPORTS, ERASES)),
        **context,
    )


def _described(pages: Pages, found: _Found) -> dict[str, Any]:
    orders, kept = found.orders, found.kept
    # Orders that prevent the erasure are listed first, followed by the newest orders.
    listed = dict.fromkeys([*(order for order in orders if order.pk in kept), *orders[::-1]])
    site = pages.admin_site
    return {
        "count": len(orders),
        "count_text": count_text(len(orders)),
        "days": _days(orders),
        "listed": [
            (
                order_link(site, order),
                moment(order.created_at),
                _cards(order),
                status_badge(order.status),
                RECIPIENT in found.person.roles_in(order),
                _WHY_KEPT.get(kept.get(order.pk, ""), ""),
            )
            for order in islice(listed, _NAMED)
        ],
        "unlisted": count_text(len(orders) - _NAMED) if len(orders) > _NAMED else "",
        "kept": kept,
        "others": _some(pages, found.others),
        "shared": _some(pages, list(_with(found.shared))),
    }


def _days(orders: Sequence[Order]) -> list[str]:
    times = [timezone.localtime(order.created_at).date() for order in orders]
    return [day_text(day) for day in (min(times), max(times))] if times else []


def _cards(order: Order) -> SafeString:
    return named(f"{order.quantity} × {order.type_name or order.type_id}", order.product_name)


def _with(references: Iterable[str]) -> Iterable[Order]:
    return Order.objects.filter(reference__in=list(references)[: _NAMED + 1]).order_by("pk")


def _some(pages: Pages, orders: Sequence[Order]) -> dict[str, Any]:
    shown = [order_link(pages.admin_site, order) for order in orders[:_NAMED]]
    return {"count": len(orders), "links": shown, "more": len(orders) - len(shown)}


def _download(pages: Pages, request: HttpRequest, form: PersonForm, found: _Found) -> HttpResponse:
    proof = ProofForm(request, request.POST)
    if not proof.is_valid():
        return _page(pages, request, form, found, proof=proof)
    # The content type is read before the transaction, because SQLite may fail a transaction that
    # reads before it writes.
    ContentType.objects.get_for_model(Order)
    # The name of the person who downloads the data is recorded before the download.
    with transaction.atomic(using=router.db_for_write(LogEntry), durable=True):
        for role in ROLES:
            parts = [order for order in found.orders if role in found.person.roles_in(order)]
            _log(request, parts, f"Downloaded the data of the {role.label}.")
    text = as_json(describe(found.person, found.orders))
    response = HttpResponse(text, content_type="application/json; charset=utf-8")
    name = f"customer-{timezone.localdate().isoformat()}.json"
    response["Content-Disposition"] = content_disposition_header(True, name)
    response["X-Content-Type-Options"] = "nosniff"
    return response


def _log(request: HttpRequest, orders: Iterable[Order], text: str) -> None:
    """Record ``text`` in the history of each order.

    The text does not name anyone except the staff member.
    """
    person: Any = request.user.pk
    rows: Any = list(orders)
    LogEntry.objects.log_actions(person, rows, CHANGE, text)


def _erase(pages: Pages, request: HttpRequest, form: PersonForm, found: _Found) -> HttpResponse:
    if found.kept:
        # The page explains what prevents the erasure.
        return _page(pages, request, form, found)
    is_sure = "typed" in request.POST
    proof = ErasureForm(form, request, request.POST if is_sure else None)
    if not (is_sure and proof.is_valid()):
        return _erasure_page(pages, request, form, found, proof)
    if not constant_time_compare(request.POST.get("state_token", ""), found.token):
        text = gettext(
            "The orders of this customer have changed in the meantime. Check them again."
        )
        return _page(pages, request, form, found, warning=text)
    started: list[float] = []

    def should_continue() -> bool:
        # The time limit starts with the first call, so that at least one order is erased.
        started.append(time.monotonic())
        return started[-1] - started[0] < _ERASES_FOR

    def record(order: Order, roles: Collection[Role]) -> None:
        for role in roles:
            _log(request, [order], f"Erased the {role.label}.")

    done = erase(found.person, found.orders, should_continue=should_continue, record=record)
    return _erasure_page(pages, request, form, _Found.of(form.person), proof, done)


def _erasure_page(
    pages: Pages,
    request: HttpRequest,
    form: PersonForm,
    found: _Found,
    proof: ErasureForm,
    done: Erasure | None = None,
) -> HttpResponse:
    """Return the page that asks for confirmation before an erasure.

    If ``done`` is passed, the page says what was erased.
    """
    is_unfinished = done is not None and bool(found.orders)
    title = gettext("Erase this customer")
    if done is not None and not is_unfinished:
        title = gettext("The customer was erased")
    return pages.render_page(
        request,
        "customer_erase",
        title=title,
        form=form,
        proof=proof,
        errors=proof.errors,
        state_token=found.token,
        done=done,
        is_unfinished=is_unfinished,
        erased=count_text(len(done.erased)) if done else "",
        telling=done.telling[:_NAMED] if done else [],
        count=len(found.orders),
        count_text=count_text(len(found.orders)),
        others=_some(pages, found.others),
    )


DATA = Page("customer_data", "customer-data/", _view, HIDING, "person")
