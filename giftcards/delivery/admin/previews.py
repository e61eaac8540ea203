"""The page on which staff look at examples of the messages to customers."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.auth import get_user_model
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.http.request import QueryDict
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.translation import get_language, gettext
from django.utils.translation import gettext_lazy as _
from django.views.decorators.clickjacking import xframe_options_sameorigin

from giftcards.admin.hints import SEES_HINTS, with_hint
from giftcards.delivery.admin.labels import language_choices
from giftcards.delivery.channels import Mail, Message
from giftcards.delivery.codes import Code
from giftcards.delivery.conf import conf
from giftcards.delivery.facts import Facts, Gift, PaidBack
from giftcards.delivery.kinds import WITH_CARDS, Kind, Mode
from giftcards.delivery.links import expiry
from giftcards.delivery.messages import Content, render
from giftcards.display import supported_language
from giftcards.models import Order
from giftcards.settlement import promised_day

# The document with the mail may only be shown in a page of ours, with its own styles.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'self'; sandbox"


class PreviewForm(forms.Form):
    kind = forms.ChoiceField(label=_("Message"), choices=Kind.choices)
    language = forms.ChoiceField(label=_("Language"), choices=language_choices)
    mode = forms.ChoiceField(
        label=_("Cards"),
        choices=[
            (Mode.LINK, _("With a link to the cards")),
            (Mode.CODES, _("With the codes")),
        ],
        help_text=_("It makes a difference to messages that hand over cards."),
    )

    def __init__(self, data: QueryDict) -> None:
        kind = data.get("kind", Kind.DELIVERED)
        chosen: dict[str, Any] = {
            "kind": kind,
            "language": supported_language(get_language()),
            # The form in which the shop sends messages of this kind.
            "mode": Mode.CODES if conf.mode.get(kind) == Mode.CODES else Mode.LINK,
        }
        chosen |= {name: data[name] for name in self.base_fields if name in data}
        super().__init__(chosen)

    @property
    def message(self) -> Message:
        """The chosen message, without an address."""
        chosen = self.cleaned_data
        content = example(chosen["kind"], chosen["mode"])
        return render(content, language=chosen["language"], address="")


class PreviewPages(admin.ModelAdmin):  # type: ignore[type-arg]
    """The page with the previews; mixed into the admin of :class:`Delivery`."""

    def get_urls(self) -> list[URLPattern]:
        wrapped = self.admin_site.admin_view
        mail = xframe_options_sameorigin(wrapped(self.preview_mail_view))
        return [
            path("previews/", wrapped(self.previews_view), name="giftcards_delivery_previews"),
            path("previews/mail/", mail, name="giftcards_delivery_preview_mail"),
            path(
                "previews/send/",
                wrapped(self.send_preview_view),
                name="giftcards_delivery_preview_send",
            ),
            *super().get_urls(),
        ]

    def previews_view(self, request: HttpRequest) -> HttpResponse:
        """The choice of a message, and that message in all its forms."""
        form = self._form(request, request.GET)
        message = form.message if form.is_valid() else None
        request.current_app = self.admin_site.name
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": gettext("Messages to customers: examples"),
            "media": self.media,
            "has_view_permission": True,
            "form": form,
            "errors": form.errors,
            "message": message,
            "chosen": form.data,
            "address": self._own_address(request),
        }
        return TemplateResponse(request, "admin/giftcards_delivery/previews.html", context)

    def preview_mail_view(self, request: HttpRequest) -> HttpResponse:
        """The HTML of a message, as a document of its own for a frame."""
        form = self._form(request, request.GET)
        if not form.is_valid():
            return HttpResponse(status=400)
        # Django's middleware leaves an existing policy alone.
        return HttpResponse(form.message.html, headers={"Content-Security-Policy": _POLICY})

    def send_preview_view(self, request: HttpRequest) -> HttpResponse:
        """Send the message to the person who looks at it."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        form = self._form(request, request.POST)
        address = self._own_address(request)
        if not address:
            raise PermissionDenied
        if not form.is_valid():
            return HttpResponse(status=400)
        self._send(request, replace(form.message, address=address))
        page = reverse("admin:giftcards_delivery_previews", current_app=self.admin_site.name)
        chosen = QueryDict(mutable=True)
        chosen.update(form.cleaned_data)
        return HttpResponseRedirect(f"{page}?{chosen.urlencode()}")

    def _form(self, request: HttpRequest, data: QueryDict) -> PreviewForm:
        """The form, for a person who may look at messages."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        return PreviewForm(data)

    def _own_address(self, request: HttpRequest) -> str:
        """The person's own address; "" if they may not send messages, or have none."""
        if not request.user.has_perm("giftcards_delivery.resend_delivery"):
            return ""
        user = get_user_model()
        return str(getattr(request.user, user.get_email_field_name(), "") or "")

    def _send(self, request: HttpRequest, message: Message) -> None:
        try:
            Mail().send(message)
        except Exception as error:  # noqa: BLE001 (whatever a mail backend raises)
            text = gettext("The example was not sent.")
            sees_hints = request.user.has_perm(SEES_HINTS)
            shown = with_hint(text, type(error).__name__, is_shown=sees_hints)
            self.message_user(request, shown, messages.ERROR)
        else:
            self.message_user(request, gettext("The example was sent."), messages.SUCCESS)


# The example is the provider's own: five cards at 490.
_PRICE = Decimal(490)
_QUANTITY = 5
# The cards that came, where the order is final.
_DELIVERED = {
    Kind.DELIVERED: 5,
    Kind.PARTLY_DELIVERED: 3,
    Kind.REFUNDED: 0,
    Kind.PAID_BACK: 3,
    Kind.GIFT: 5,
    Kind.RECEIPT: 5,
}
_GIFT = Gift("lina@example.com", "Lina", "Happy birthday!\nYours, Amina")


def example(kind: str, mode: str) -> Content:
    """The content of a message of this kind about an invented order; nothing is stored."""
    now = timezone.now()
    facts = _facts(kind, now)
    is_gift = kind in {Kind.GIFT, Kind.RECEIPT}
    content = Content(
        kind=kind,
        facts=facts,
        customer_name="Amina" if is_gift else "Lina",
        gift=replace(_GIFT, deliver_at=now + timedelta(days=2)) if is_gift else None,
        refund=facts.paid_back[0] if facts.paid_back else None,
    )
    if kind not in WITH_CARDS:
        return content
    if mode == Mode.CODES:
        return replace(content, codes=tuple(map(_code, range(1, facts.delivered + 1))))
    shop = conf.base_url or "https://shop.example"
    return replace(content, link=f"{shop}/cards/example/", link_until=expiry())


def _facts(kind: str, now: datetime) -> Facts:
    is_final = kind in _DELIVERED
    delivered = _DELIVERED.get(Kind(kind), 0)
    missing = _QUANTITY - delivered if is_final else 0
    owed = missing * _PRICE if is_final else None
    is_paid_back = kind == Kind.PAID_BACK
    return Facts(
        reference="web-1042",
        known_as="web-1042",
        product="PUBG Mobile",
        type="325 UC",
        quantity=_QUANTITY,
        delivered=delivered,
        missing=missing,
        kind=kind,
        ordered_at=now - timedelta(minutes=7),
        paid=_QUANTITY * _PRICE if is_final else None,
        owed=owed,
        paid_back=(PaidBack(missing * _PRICE, now, "CCP"),) if is_paid_back else (),
        is_reordered=False,
        promised_day=promised_day(Order(settled_at=now)) if is_final else None,
    )


def _code(position: int) -> Code:
    letter = "ABCDE"[position - 1]
    return Code(position, "-".join([letter * 4] * 4), str(position) * 9)
