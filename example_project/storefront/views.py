"""The pages of a small shop: from the catalogue to the cards, the mails and the money."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.clickjacking import xframe_options_sameorigin
from django.views.decorators.http import require_safe

from example_project.storefront import catalogue, checkout, mailbox, visitors
from example_project.storefront.forms import BuyForm
from example_project.storefront.mailbox import Mail
from example_project.storefront.models import Purchase, PurchaseQuerySet
from giftcards.delivery.models import Delivery
from giftcards.exceptions import NotForSale, ReferenceConflict
from giftcards.models import Order
from giftcards.settlement import customer_breakdown

# A mail is HTML from somebody else, so it cannot run scripts, load anything, or use our cookies.
_MAIL_POLICY = (
    "sandbox allow-top-navigation-by-user-activation; default-src 'none';"
    " style-src 'unsafe-inline'; frame-ancestors 'self'"
)
View = Callable[..., HttpResponse]


def _of_customer(view: View) -> View:
    """Show a page to logged-in users only, including guests; others have not bought anything."""

    @never_cache
    @wraps(view)
    def inner(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if not request.user.is_authenticated:
            return render(request, "storefront/nobody.html")
        return view(request, *args, **kwargs)

    return inner


@require_safe
def shelf(request: HttpRequest) -> HttpResponse:
    return render(request, "storefront/shelf.html", {"shelf": catalogue.read()})


@never_cache
def product(request: HttpRequest, pk: int) -> HttpResponse:
    """The page of a card. POST reserves cards and redirects to the payment page."""
    item = catalogue.find(pk=pk)
    if item is None:
        raise Http404
    form = BuyForm(request.POST if request.method == "POST" else None, item=item)
    if form.is_valid() and (purchase := _begin(request, form)):
        return redirect("storefront:payment", purchase.pk)
    # The price may have changed while the customer looked at the page.
    item = catalogue.find(pk=pk) or item
    context = {"form": form, "item": item, "reserved": _purchases_of(request).reserved()}
    response = render(request, "storefront/product.html", context)
    visitors.remember(request, response)
    return response


def _begin(request: HttpRequest, form: BuyForm) -> Purchase | None:
    """Return the purchase; if buying fails, add the errors to ``form`` and return ``None``."""
    user = visitors.log_in(request)
    if user is None:
        form.add_error(None, catalogue.NEEDS_COOKIES)
        return None
    try:
        customer = visitors.customer(request)
        return checkout.begin(user, kind=form.item.kind, customer=customer, **form.cleaned_data)
    except (NotForSale, ValidationError) as error:
        form.add_error(None, _texts(error))
        return None


def _texts(error: NotForSale | ValidationError) -> list[str]:
    """Return the sentences that explain an error to the customer."""
    return [error.for_customer] if isinstance(error, NotForSale) else error.messages


@_of_customer
def payment(request: HttpRequest, pk: int) -> HttpResponse:
    """The page on which a customer pays for reserved cards. POST pays or cancels."""
    purchase = get_object_or_404(_purchases_of(request), pk=pk)
    errors: list[str] = []
    if request.method == "POST" and "cancel" in request.POST:
        checkout.cancel(purchase)
        return redirect("storefront:shelf")
    if request.method == "POST":
        try:
            if request.POST.get("amount", str(purchase.amount)) != str(purchase.amount):
                raise checkout.PriceChanged
            checkout.pay(purchase, customer=visitors.customer(request))
        except (NotForSale, ValidationError) as error:
            errors = _texts(error)
        except ReferenceConflict:
            pass  # another click has paid meanwhile
        purchase.refresh_from_db()
    if purchase.paid_at is not None:
        return redirect("storefront:order", purchase.pk)
    context = {
        "purchase": purchase,
        "item": catalogue.find(pk=purchase.product_type_id),
        "errors": errors,
    }
    return render(request, "storefront/payment.html", context)


@require_safe
@_of_customer
def orders(request: HttpRequest) -> HttpResponse:
    """The page of the customer's orders, and of the cards that are reserved until they pay."""
    purchases = _purchases_of(request)
    context = {"purchases": purchases.paid(), "reserved": purchases.reserved()}
    return render(request, "storefront/orders.html", context)


@require_safe
@_of_customer
def order(request: HttpRequest, pk: int) -> HttpResponse:
    """The page of an order, which updates itself until the order is final."""
    purchase = get_object_or_404(_purchases_of(request).paid(), pk=pk)
    found = Order.objects.get(reference=purchase.reference)
    breakdown = customer_breakdown(found)
    context = {
        "purchase": purchase,
        "order": found,
        "to_pay_back": breakdown and breakdown.open_amount,
        "mails": _mails(request, Order.objects.filter(pk=found.pk).with_reorders()),
    }
    return render(request, "storefront/order.html", context)


@require_safe
@_of_customer
def mails(request: HttpRequest) -> HttpResponse:
    context = {"mails": _mails_of(request), "sees_all": _sees_all(request)}
    return render(request, "storefront/mails.html", context)


@require_safe
@_of_customer
def mail(request: HttpRequest, key: str) -> HttpResponse:
    return render(request, "storefront/mail.html", {"mail": _one_mail(request, key)})


@require_safe
@xframe_options_sameorigin
@_of_customer
def mail_html(request: HttpRequest, key: str) -> HttpResponse:
    """The mail itself, shown in a frame; its links open outside the frame."""
    html = _one_mail(request, key).html.replace("<head>", '<head><base target="_top">', 1)
    response = HttpResponse(html)
    response["Content-Security-Policy"] = _MAIL_POLICY
    response["Referrer-Policy"] = "no-referrer"
    return response


def _purchases_of(request: HttpRequest) -> PurchaseQuerySet:
    """Return the customer's purchases, the newest first."""
    return Purchase.objects.filter(user=request.user.pk).order_by("-pk")


def _one_mail(request: HttpRequest, key: str) -> Mail:
    for found in _mails_of(request):
        if found.key == key:
            return found
    raise Http404


def _sees_all(request: HttpRequest) -> bool:
    return request.user.is_staff and request.user.has_perm("giftcards.reveal_card")


def _mails_of(request: HttpRequest) -> list[Mail]:
    """Return the customer's mails, the newest first; for staff who may see all codes, all mails."""
    if _sees_all(request):
        return mailbox.read(settings.MAIL_DIR)
    return _mails(request, Order.objects.of_user(request.user))


def _mails(request: HttpRequest, about: QuerySet[Order]) -> list[Mail]:
    """Return the mails about these orders to the address that the customer entered, newest first.

    Mails to the recipient of a gift are left out. If staff have corrected the address, so are mails
    to the new one, because it may belong to a different person.
    """
    typed = set(_purchases_of(request).values_list("email", flat=True))
    sent = Delivery.objects.filter(order__in=about, address__in=typed).to(recipient=False)
    ids = set(sent.values_list("message_id", flat=True))
    return mailbox.read(settings.MAIL_DIR, ids=ids)
