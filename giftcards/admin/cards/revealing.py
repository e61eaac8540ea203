"""The page that reveals a card's code after a proof of identity.

A code is shown only after the reveal has been recorded.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django import forms
from django.conf import settings
from django.contrib import admin
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied
from django.core.mail import mail_managers
from django.db import Error as DatabaseFailure
from django.db import router, transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone, translation
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables

from giftcards.admin.frame.actions import Page, Pages, may
from giftcards.admin.frame.reauthentication import (
    asks_for_password,
    has_password,
    is_confirmed,
    prove,
    take_turn,
    url_of_proof,
)
from giftcards.admin.frame.rows import OrderRows, column
from giftcards.conf import conf
from giftcards.exceptions import CodeDestroyed, ConfigurationError, DecryptionError
from giftcards.keys.secrecy import CardSecret, Masked, contained
from giftcards.models import Card, CardReveal, CustomerChange, Order
from giftcards.models.fields import plain_line
from giftcards.models.staff_records import REFUSED_REVEAL
from giftcards.text.addresses import ip_address
from giftcards.text.display import bdi

logger = logging.getLogger(__name__)


class ProofForm(forms.Form):
    """A form in which a person proves their identity with a password.

    The form leaves out the password field if the person has proven their identity in the last ten
    minutes, or if :func:`other_proof` requires a different proof.
    """

    password = forms.CharField(
        label=_("Your password"),
        strip=False,
        help_text=_("You will not have to enter your password again for ten minutes."),
        widget=forms.PasswordInput(attrs={"autocomplete": "current-password", "dir": "ltr"}),
    )

    def __init__(self, request: HttpRequest, data: Any = None) -> None:
        super().__init__(data)
        self._request = request
        if not asks_for_password(request):
            del self.fields["password"]

    @sensitive_variables()
    def clean_password(self) -> None:
        prove(self._request, Masked(self.cleaned_data["password"]))

    def clean(self) -> None:
        if "password" in self.cleaned_data:
            # The password was right, so the form does not request it again if another field is
            # wrong.
            del self.fields["password"]


class RevealForm(ProofForm):
    """A form that asks for a proof of identity and a reason for the reveal."""

    reason = forms.CharField(
        label=_("Reason"),
        max_length=200,
        validators=[plain_line],
        help_text=_(
            "A note for your colleagues, for example “The customer lost the e-mail”. Do not write"
            " codes here."
        ),
        widget=forms.TextInput(attrs={"autocomplete": "off", "dir": "auto"}),
    )
    field_order: Sequence[str] = ("reason", "password")


_PERMISSION = may("giftcards.reveal_card")

#: The time for which the page shows a code (seconds).
SHOWN_FOR = 60


class Shown(NamedTuple):
    """A card's secret, or the reason why the page does not show it."""

    secret: CardSecret | None = None
    trouble: str = ""
    status: int = 200


def _ask_view(pages: Pages, request: HttpRequest, key: int) -> HttpResponse:
    if request.method not in {"GET", "HEAD"}:
        return HttpResponseNotAllowed(["GET", "HEAD"])
    card = _card(pages, request, key)
    if answer := _other_proof(pages, request, card):
        return answer
    return _ask(pages, request, card, RevealForm(request))


@sensitive_variables()
def _reveal_view(pages: Pages, request: HttpRequest, key: int) -> HttpResponse:
    if request.method != "POST":
        return HttpResponseNotAllowed(["POST"])
    card = _card(pages, request, key)
    if answer := _other_proof(pages, request, card):
        return answer
    form = RevealForm(request, request.POST)
    if not form.is_valid():
        return _ask(pages, request, card, form)
    return _show(pages, request, card, _reveal(pages, request, card, form.cleaned_data["reason"]))


def _card(pages: Pages, request: HttpRequest, key: int) -> Card:
    """Return a card that the person is allowed to reveal.

    Raises ``PermissionDenied`` if the person is not allowed to reveal the card, or if the card does
    not exist.
    """
    card = Card.objects.filter(pk=key).first()
    if card is None:
        raise PermissionDenied
    allowed = _PERMISSION(pages, request)
    card.order = pages.order_for(request, str(card.order_id), allowed=allowed)
    return card


def _other_proof(pages: Pages, request: HttpRequest, card: Card) -> HttpResponse | None:
    site = pages.admin_site.name
    back_to = reverse("admin:giftcards_card_ask", args=[card.pk], current_app=site)
    return other_proof(pages, request, back_to=back_to)


def _ask(pages: Pages, request: HttpRequest, card: Card, form: RevealForm) -> HttpResponse:
    first = next(iter(form.errors), "reason")
    form.fields[first].widget.attrs["autofocus"] = True
    return pages.render_page(
        request,
        "reveal_ask",
        title=_title(card),
        original=card.order,
        card=card,
        form=form,
        errors=form.errors,
    )


@sensitive_variables()
def _reveal(pages: Pages, request: HttpRequest, card: Card, reason: str) -> Shown:
    """Record the reveal, and then open the card.

    A code is shown only after its reveal has been recorded.
    """
    try:
        with transaction.atomic(durable=True):
            if not _record(request, card, reason):
                return _refused()
            pages.log_change(request, card.order, f"Revealed card {card.position}.")
            return _opened(card)
    except DatabaseFailure:
        logger.exception(
            "Card %s of order %s was not revealed, because the request could not be recorded.",
            card.position,
            card.order.reference,
        )
        text = gettext(
            "The code is not shown because your request could not be recorded. Try again later."
        )
        return Shown(trouble=text, status=503)


@sensitive_variables()
def _show(pages: Pages, request: HttpRequest, card: Card, shown: Shown) -> HttpResponse:
    order_page = pages.url_of("change", card.order_id)
    response = rendered(
        pages.render_page(
            request,
            "reveal",
            title=_title(card),
            status=shown.status,
            original=card.order,
            card=card,
            secret=shown.secret,
            trouble=shown.trouble,
            seconds=SHOWN_FOR,
            order_page=order_page,
        )
    )
    # With "no-referrer", browsers would send forms without an origin, and Django would refuse them.
    response["Referrer-Policy"] = "same-origin"
    if shown.secret is not None:
        # The header is for browsers without JavaScript. In other browsers, a script hides the code
        # after the same time.
        response["Refresh"] = f"{SHOWN_FOR}; url={order_page}"
    return response


@contained
def rendered(response: HttpResponse) -> HttpResponse:
    """Render ``response`` without exposing its content in error reports."""
    return response.render() if isinstance(response, TemplateResponse) else response


def _title(card: Card) -> str:
    return gettext("Reveal card %(position)s") % {"position": card.position}


def needs_page_of_shop(request: HttpRequest) -> bool:
    """Return True if the person must prove their identity on the shop's page."""
    return bool(conf.reauthenticate) and not is_confirmed(request)


def other_proof(pages: Pages, request: HttpRequest, *, back_to: str) -> HttpResponse | None:
    """Return a response if this page cannot ask for a proof of identity.

    Returns ``None`` if the person has already proved their identity, or can enter a password on
    this page. If the shop has its own page for proofs, the response redirects to that page. After
    the person has proved their identity, the shop's page redirects to ``back_to``. If there is no
    such page, the response says that the person does not have a password.
    """
    if needs_page_of_shop(request):
        return HttpResponseRedirect(url_of_proof(back_to=back_to))
    if is_confirmed(request) or has_password(request):
        return None
    return pages.render_page(request, "no_password", title=gettext("No password"), status=403)


@sensitive_variables()
def _opened(card: Card) -> Shown:
    try:
        return Shown(card.open(conf.keyring()))
    except CodeDestroyed:
        return Shown(trouble=gettext("This code was destroyed and can no longer be shown."))
    except (ConfigurationError, DecryptionError):
        name, order = card.position, card.order.reference
        logger.exception("Card %s of order %s cannot be revealed.", name, order)
        text = gettext("This card cannot be decrypted. Contact your developer.")
        return Shown(trouble=text)


def _record(request: HttpRequest, card: Card, reason: str) -> bool:
    """Record the reveal, and return True.

    If the hourly limit is exceeded, the function removes the record and returns False.
    """
    take_turn(request)
    person: Any = request.user.pk
    address = ip_address(request)
    row = CardReveal.objects.create(card=card, user_id=person, address=address, reason=reason)
    if _is_within_limit(request):
        return True
    row.delete()
    _tell_of_refusal(request, card.order)
    return False


class TooManyReveals(Exception):
    """Raised if a person exceeds the hourly limit on reveals and corrections."""


def count(request: HttpRequest) -> None:
    """Raise :exc:`TooManyReveals` if the hourly limit is exceeded.

    Call this function after a correction has been recorded.
    """
    take_turn(request)
    if not _is_within_limit(request):
        raise TooManyReveals


def refuse(request: HttpRequest, order: Order) -> str:
    """Log a refused correction, and notify the managers by e-mail.

    Returns the message that tells the person about the refusal. Call this function after
    :exc:`TooManyReveals`, when the transaction has been rolled back.
    """
    _tell_of_refusal(request, order)
    return _refused().trouble


def _is_within_limit(request: HttpRequest) -> bool:
    """Return True if the person has not exceeded the hourly limit.

    The limit applies to reveals and corrections together. Corrections are included because a person
    who corrects an address decides who receives the codes.
    """
    since = _an_hour_ago()
    person: Any = request.user.pk
    seen = CardReveal.objects.filter(user_id=person, at__gt=since).count()
    corrected = CustomerChange.objects.filter(by=request.user.get_username(), at__gt=since)
    return seen + corrected.order_by().count() <= conf.reveals_per_hour


def _an_hour_ago() -> datetime:
    return timezone.now() - timedelta(hours=1)


def _refused() -> Shown:
    limit = conf.reveals_per_hour
    if settings.MANAGERS:
        text = ngettext(
            "You have revealed codes or corrected addresses %(count)d time in the last hour. Try"
            " again later. The site managers have been notified.",
            "You have revealed codes or corrected addresses %(count)d times in the last hour. Try"
            " again later. The site managers have been notified.",
            limit,
        )
    else:
        text = ngettext(
            "You have revealed codes or corrected addresses %(count)d time in the last hour. Try"
            " again later.",
            "You have revealed codes or corrected addresses %(count)d times in the last hour. Try"
            " again later.",
            limit,
        )
    return Shown(trouble=text % {"count": limit}, status=429)


def _tell_of_refusal(request: HttpRequest, order: Order) -> None:
    """Log a refusal and notify the managers by e-mail.

    Refusals are logged and mailed at most once an hour for each person.
    """
    kind = ContentType.objects.get_for_model(Card)
    about = {"user_id": request.user.pk, "content_type": kind, "object_repr": REFUSED_REVEAL}
    if LogEntry.objects.filter(**about, action_time__gt=_an_hour_ago()).exists():
        return
    limit = conf.reveals_per_hour
    text = f"Tried to reveal more than {limit} codes within an hour."
    LogEntry.objects.create(**about, action_flag=CHANGE, change_message=text)
    wanted = "%s tried to reveal more than %s codes within an hour."
    if not settings.MANAGERS:
        untold = f"{wanted} No e-mail is sent, because MANAGERS is empty."
        logger.error(untold, request.user, limit)
        return
    logger.warning(wanted, request.user, limit)

    def tell() -> None:
        with translation.override(settings.LANGUAGE_CODE):
            text = gettext(
                "%(name)s revealed gift card codes or corrected addresses %(limit)d times within"
                " an hour. Another attempt, for order %(order)s, was refused. If this is unusual"
                " for this person, contact them, because somebody else may be using their"
                " account."
            )
            name = request.user.get_username()
            text %= {"name": name, "limit": limit, "order": order.reference}
            mail_managers(gettext("Many gift card codes were revealed"), text)

    # With ``robust=True``, an error while sending the mail is only logged, and the person still
    # sees the refusal.
    transaction.on_commit(tell, robust=True)


ASK = Page("card_ask", "cards/<int:key>/", _ask_view, help_topic="revealing")
REVEAL = Page(
    "card_reveal",
    "cards/<int:key>/reveal/",
    _reveal_view,
    # The decorators also wrap the permission check, so that the error report of a failed check does
    # not show the form. Even with ATOMIC_REQUESTS, the record is committed before the code is
    # shown.
    (
        sensitive_post_parameters(),
        transaction.non_atomic_requests(using=router.db_for_write(CardReveal)),
    ),
    "revealing",
)


@admin.register(CardReveal)
class CardRevealAdmin(OrderRows):
    help_topic = "revealing"
    order_lookup = "card__order"
    list_display = ("when", "by", "its_order", "which", "came_from", "why")
    list_select_related = ("user", "card__order")
    fields = readonly_fields = list_display
    # Django shows the search box only if ``search_fields`` is set. The search itself is in
    # search_rows().
    search_fields = ("card__order__reference",)
    search_help_text = _("Enter an order reference.")
    # The rows are sorted by primary key, because no index sorts the reveals of all people by time.
    ordering = ("-pk",)

    when = column(CardReveal, "at")
    came_from = column(CardReveal, "address")
    why = column(CardReveal, "reason")

    def get_queryset(self, request: HttpRequest) -> QuerySet[CardReveal]:
        return super().get_queryset(request).defer("card__sealed")

    @admin.display(description=_("by"))
    def by(self, reveal: CardReveal) -> SafeString:
        return bdi(reveal.user.get_username())

    @admin.display(description=_("card"))
    def which(self, reveal: CardReveal) -> str:
        return str(reveal.card)
