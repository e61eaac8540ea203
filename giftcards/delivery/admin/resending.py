"""Sending a message again, and cancelling a waiting message or sending it now."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.core.validators import validate_email
from django.db import router, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import URLPattern, path
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables

from giftcards.admin.reauthentication import address_of_proof, is_confirmed, prove
from giftcards.admin.revealing import needs_other_proof
from giftcards.conf import conf as core
from giftcards.delivery.admin import allowance
from giftcards.delivery.admin.pages import DeliveryPages, language_choices, may_resend
from giftcards.delivery.channels import Channel, Mail
from giftcards.delivery.conf import conf
from giftcards.delivery.facts import language_of
from giftcards.delivery.kinds import WITH_CARDS, Kind
from giftcards.delivery.messages import needs_link
from giftcards.delivery.models import Delivery
from giftcards.delivery.queueing import kinds_that_fit, send_again, wake
from giftcards.display import isolated
from giftcards.keys.secrecy import Masked
from giftcards.models import Order
from giftcards.models.fields import plain_line

#: Query parameter of the page that preselects the withdrawal of the earlier links.
WITHDRAWING = "withdrawing"
_FIELDS = ("kind", "channel", "address", "language", "reason")


class SendAgainForm(forms.Form):
    """The choice of a message and its address, and of what becomes of the earlier links."""

    # Choices for the earlier links.
    IF_ELSEWHERE, ALL, NONE = "elsewhere", "all", "none"

    kind = forms.ChoiceField(label=_("Message"))
    channel = forms.ChoiceField(label=_("Channel"))
    address = forms.CharField(
        label=_("Address"),
        required=False,
        max_length=254,
        validators=[plain_line],
        help_text=_("If it is empty, the message goes to the address of the order."),
        widget=forms.TextInput(attrs={"autocomplete": "off", "dir": "auto"}),
    )
    language = forms.ChoiceField(label=_("Language"))
    reason = forms.CharField(
        label=_("Reason"),
        max_length=200,
        validators=[plain_line],
        help_text=_("For your colleagues, such as: the customer has a new address. No codes here."),
        widget=forms.TextInput(attrs={"autocomplete": "off", "dir": "auto"}),
    )
    links = forms.ChoiceField(
        label=_("Earlier links to the cards"),
        choices=[
            (IF_ELSEWHERE, _("Withdraw them if the message goes to another address.")),
            (ALL, _("Withdraw them.")),
            (NONE, _("They go on working.")),
        ],
        widget=forms.RadioSelect,
    )
    password = forms.CharField(
        label=_("Your password"),
        required=False,
        strip=False,
        help_text=_("Needed if the cards go to another address than the customer's."),
        widget=forms.PasswordInput(attrs={"autocomplete": "current-password", "dir": "ltr"}),
    )
    # New for each form, so that pressing the button twice sends one message.
    once = forms.UUIDField(widget=forms.HiddenInput)

    def __init__(
        self,
        request: HttpRequest,
        order: Order,
        kinds: Sequence[Kind],
        *,
        withdraws: bool = False,
        data: Any = None,
    ) -> None:
        self._request, self._order = request, order
        self._channels: dict[str, Channel] = {channel.name: channel for channel in conf.channels}
        first = next(iter(self._channels.values()))
        initial = {
            "address": first.address_of(order) if len(self._channels) == 1 else "",
            "channel": first.name,
            "language": language_of(order),
            "links": self.ALL if withdraws else self.IF_ELSEWHERE,
            "once": uuid.uuid4(),
        }
        super().__init__(data, initial=initial)
        self._offer("kind", [(kind.value, kind.label) for kind in kinds])
        self._offer("channel", [(name, isolated(name)) for name in self._channels])
        self._offer("language", language_choices())
        if len(self._channels) == 1:
            self.fields["channel"].widget = forms.HiddenInput()
        if not WITH_CARDS & set(kinds):
            del self.fields["links"]
        if is_confirmed(request) or core.reauthenticate or not WITH_CARDS & set(kinds):
            del self.fields["password"]

    def _offer(self, name: str, choices: list[tuple[str, Any]]) -> None:
        self.fields[name].choices = choices  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        given = self.cleaned_data
        channel = self._channels.get(given.get("channel", ""))
        if channel is None or "address" not in given:
            return given
        own = channel.address_of(self._order)
        address = given["address"] = given["address"].strip() or own
        has_cards = given.get("kind") in WITH_CARDS
        links = given.get("links")
        given["is_elsewhere"] = address != own
        given["takes_proof"] = has_cards and address != own
        given["withdraws"] = has_cards and (
            links == self.ALL or (links == self.IF_ELSEWHERE and address != own)
        )
        self._check(channel, address)
        if given["takes_proof"] and "password" in self.fields and not self.errors:
            self._check_password()
        return given

    @sensitive_variables()
    def _check_password(self) -> None:
        try:
            prove(self._request, Masked(self.cleaned_data.get("password", "")))
        except ValidationError as error:
            self.add_error("password", error)

    def _check(self, channel: Channel, address: str) -> None:
        """Add an error if the address is missing, or unusable for the channel."""
        if not address:
            self.add_error("address", gettext("The order has no address for this: give one."))
        elif isinstance(channel, Mail):
            try:
                validate_email(address)
            except ValidationError as error:
                self.add_error("address", error)


class ResendingPages(DeliveryPages):
    """The page that sends a message again, and the views that cancel a message or send it now."""

    def get_urls(self) -> list[URLPattern]:
        page = self.admin_site.admin_view
        return [
            path(
                "orders/<int:order_id>/send-again/",
                sensitive_post_parameters("password")(page(self.send_again_view)),
                name="giftcards_delivery_send_again",
            ),
            path(
                "<int:message_id>/cancel/", page(self.cancel_view), name="giftcards_delivery_cancel"
            ),
            path(
                "<int:message_id>/try-now/",
                page(self.try_now_view),
                name="giftcards_delivery_try_now",
            ),
            *super().get_urls(),
        ]

    def send_again_view(self, request: HttpRequest, order_id: int) -> HttpResponse:
        order = self.order_for(request, order_id, allowed=may_resend(request))
        kinds = kinds_that_fit(order)
        if not kinds:
            text = gettext("There is nothing to tell the customer of this order now.")
            return self.conclude(request, order, text, messages.WARNING)
        data = request.POST if request.method == "POST" else None
        withdraws = WITHDRAWING in request.GET
        form = SendAgainForm(request, order, kinds, withdraws=withdraws, data=data)
        if form.is_valid():
            if form.cleaned_data["takes_proof"] and needs_other_proof(request):
                # The form has to be filled in again: the page of the proof does not keep it.
                back_to = self.address("send_again", order.pk)
                return HttpResponseRedirect(address_of_proof(back_to=back_to))
            return self._send_again(request, order, form.cleaned_data)
        return self.render_page(
            request,
            "send_again",
            order,
            title=gettext("Send a message again"),
            form=form,
            errors=form.errors,
            correction=self.correction_address(request, order),
            holds_codes=any(kind in WITH_CARDS and not needs_link(order, kind) for kind in kinds),
        )

    def _send_again(
        self, request: HttpRequest, order: Order, given: dict[str, Any]
    ) -> HttpResponse:
        done = f"Had a message sent again: {given['kind']}."
        if given["withdraws"]:
            done += " Withdrew the earlier links to the cards."
        try:
            # In one transaction: no message without an entry in the log.
            with transaction.atomic(using=router.db_for_write(Delivery)):
                order.lock()
                message = send_again(
                    order,
                    **{name: given[name] for name in _FIELDS},
                    by=request.user.get_username(),
                    once=str(given["once"]),
                    is_elsewhere=given["is_elsewhere"],
                    withdraws=given["withdraws"],
                )
                if message is not None:
                    allowance.count(request, order, is_handed_out=given["is_elsewhere"])
                    self.log_change(request, order, done)
        except allowance.TooManyMessages as reached:
            text = allowance.refuse(request, reached)
            return self.conclude(request, order, text, messages.ERROR)
        if message is None:
            text = gettext("This was asked for already. The message is not sent twice.")
            return self.conclude(request, order, text, messages.INFO)
        text = gettext("The message to %(address)s is sent in a moment.")
        return self.conclude(request, order, text % {"address": isolated(message.address)})

    def cancel_view(self, request: HttpRequest, message_id: int) -> HttpResponse:
        def cancel(message: Delivery) -> str:
            return "Cancelled a message" if Delivery.objects.cancel(pk=message.pk) else ""

        return self._decide(request, message_id, cancel, gettext("The message is not sent."))

    def try_now_view(self, request: HttpRequest, message_id: int) -> HttpResponse:
        def hurry(message: Delivery) -> str:
            if not Delivery.objects.hurry(message):
                return ""
            wake()
            return "Had a message tried now"

        return self._decide(request, message_id, hurry, gettext("It is tried again in a moment."))

    def _decide(
        self, request: HttpRequest, message_id: int, act: Callable[[Delivery], str], done: str
    ) -> HttpResponse:
        """Apply ``act`` to a waiting message, log that, and tell the person what was ``done``.

        ``act`` returns the text for the log; "" if the message does not wait any more.
        """
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        message = Delivery.objects.filter(pk=message_id).first()
        if message is None:
            raise PermissionDenied
        order = self.order_for(request, message.order_id, allowed=may_resend(request))
        with transaction.atomic(using=router.db_for_write(Delivery)):
            entry = act(message)
            if entry:
                self.log_change(request, order, f"{entry}: {message.kind}.")
        if entry:
            return self.conclude(request, order, done)
        text = gettext("The message does not wait any more: look at what became of it.")
        return self.conclude(request, order, text, messages.WARNING)
