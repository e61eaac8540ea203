"""Send a message again, cancel a waiting message, or send it immediately."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.http import QueryDict
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables

from giftcards.admin.cards.revealing import other_proof
from giftcards.admin.frame.actions import Answer, Attempt, OrderAction, Outcome, buttons
from giftcards.admin.frame.pages import about
from giftcards.admin.frame.reauthentication import asks_for_password, prove
from giftcards.admin.orders.correcting import CUSTOMER
from giftcards.delivery.admin import handing_over
from giftcards.delivery.admin.labels import address_of as address_in_words
from giftcards.delivery.admin.labels import language_choices
from giftcards.delivery.channels import Channel, Mail, make_channels
from giftcards.delivery.conf import TO_RECIPIENT, WITH_CARDS
from giftcards.delivery.facts import language_of
from giftcards.delivery.messages import needs_link
from giftcards.delivery.models import WAITING, CardLink, Delivery, DeliveryStatus, put_off
from giftcards.delivery.queueing import address_of, kinds_that_fit, send_again, wake
from giftcards.keys.secrecy import Masked
from giftcards.models import Order
from giftcards.models.fields import plain_line
from giftcards.text.display import isolated

_FIELDS = ("kind", "channel", "address", "language", "reason", "is_elsewhere", "withdraws")


class SendAgainForm(forms.Form):
    """The form to send a message again, to the same or to another address."""

    # The values of the ``links`` field.
    IF_ELSEWHERE, ALL, NONE = "elsewhere", "all", "none"

    kind = forms.ChoiceField(label=_("Message"))
    channel = forms.ChoiceField(label=_("Channel"))
    address = forms.CharField(
        label=_("Address"),
        required=False,
        max_length=254,
        validators=[plain_line],
        help_text=_("If this field is empty, the message is sent to the address of the order."),
        widget=forms.TextInput(attrs={"autocomplete": "off", "dir": "auto"}),
    )
    language = forms.ChoiceField(label=_("Language"), choices=language_choices)
    reason = forms.CharField(
        label=_("Reason"),
        max_length=200,
        validators=[plain_line],
        help_text=_(
            "A note for your colleagues, for example “The customer has a new address”. Do not write"
            " codes here."
        ),
        widget=forms.TextInput(attrs={"autocomplete": "off", "dir": "auto"}),
    )
    links = forms.ChoiceField(
        label=_("Earlier links to the cards"),
        choices=[
            (IF_ELSEWHERE, _("Withdraw these links if the message is sent to another address.")),
            (ALL, _("Withdraw these links.")),
            (NONE, _("Keep these links working.")),
        ],
        widget=forms.RadioSelect,
    )
    password = forms.CharField(
        label=_("Your password"),
        required=False,
        strip=False,
        help_text=_(
            "Required if the cards are sent to an address that differs from the address of the"
            " order."
        ),
        widget=forms.PasswordInput(attrs={"autocomplete": "current-password", "dir": "ltr"}),
    )
    # Each form has a different value, so that pressing its button twice sends only one message.
    once = forms.UUIDField(widget=forms.HiddenInput)

    def __init__(
        self, attempt: Attempt, data: QueryDict | None, *, withdraws: bool = False
    ) -> None:
        self._request, self._order = attempt.request, attempt.order
        kinds = kinds_that_fit(self._order)
        self._channels: dict[str, Channel] = {channel.name: channel for channel in make_channels()}
        first = next(iter(self._channels.values()))
        # Messages about a gift go to two people. Address and language depend on the chosen message.
        is_for_one = not self._order.is_gift
        is_known = is_for_one and len(self._channels) == 1
        initial = {
            "address": first.address_of(self._order) if is_known else "",
            "channel": first.name,
            "language": language_of(self._order) if is_for_one else "",
            "links": self.ALL if withdraws else self.IF_ELSEWHERE,
            "once": uuid.uuid4(),
        }
        super().__init__(data, initial=initial)
        self._offer("kind", [(kind.value, kind.label) for kind in kinds])
        self._offer("channel", [(name, isolated(name)) for name in self._channels])
        if not is_for_one:
            self._offer("language", [("", _("The recipient's language")), *language_choices()])
            self.fields["language"].required = False
        if len(self._channels) == 1:
            self.fields["channel"].widget = forms.HiddenInput()
        has_cards = bool(WITH_CARDS & set(kinds))
        if not has_cards:
            del self.fields["links"]
        if not (asks_for_password(self._request) and has_cards):
            del self.fields["password"]

    def _offer(self, name: str, choices: list[tuple[str, Any]]) -> None:
        self.fields[name].choices = choices  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        given = self.cleaned_data
        channel = self._channels.get(given.get("channel", ""))
        if channel is None or "address" not in given:
            return given
        for_recipient = given.get("kind") in TO_RECIPIENT
        own = address_of(channel, self._order, for_recipient=for_recipient)
        given["language"] = given.get("language") or language_of(
            self._order, for_recipient=for_recipient
        )
        address = given["address"] = given["address"].strip() or own
        has_cards = given.get("kind") in WITH_CARDS
        links = given.get("links")
        is_elsewhere = given["is_elsewhere"] = address != own
        given["takes_proof"] = has_cards and is_elsewhere
        is_chosen = links == self.ALL or (links == self.IF_ELSEWHERE and is_elsewhere)
        given["withdraws"] = has_cards and is_chosen
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
        if not address:
            self.add_error(
                "address", gettext("The order has no address for this message. Enter an address.")
            )
        elif isinstance(channel, Mail):
            try:
                validate_email(address)
            except ValidationError as error:
                self.add_error("address", error)


def _nothing_to_tell(attempt: Attempt) -> Outcome | None:
    if kinds_that_fit(attempt.order):
        return None
    text = gettext("There is currently no message to send to the customer about this order.")
    return Outcome(text, level=messages.WARNING)


def _context(attempt: Attempt) -> Mapping[str, Any]:
    pages, request, order = attempt.pages, attempt.request, attempt.order
    return {
        "correction": next(iter(buttons(pages, request, order, [CUSTOMER])), None),
        "holds_codes": any(
            kind in WITH_CARDS and not needs_link(order, kind) for kind in kinds_that_fit(order)
        ),
    }


def _send_again(attempt: Attempt) -> Answer:
    request, order, given = attempt.request, attempt.order, attempt.form.cleaned_data
    if given["takes_proof"]:
        # The page that asks for the proof loses the typed values, so staff fill in the form again.
        answer = other_proof(attempt.pages, request, back_to=request.path)
        if answer is not None:
            return answer
    done = f"Requested a message again: {given['kind']}."
    if given["withdraws"]:
        done += " Withdrew the earlier links to the cards."
    order.lock()
    message = send_again(
        order,
        **{name: given[name] for name in _FIELDS},
        by=attempt.by,
        once=str(given["once"]),
    )
    if message is None:
        text = gettext("This message was already requested. It will not be sent twice.")
        return Outcome(text, level=messages.INFO)
    handing_over.count(request, order, is_handed_out=given["is_elsewhere"])
    text = gettext("The message to %(address)s will be sent in a moment.")
    return Outcome(text % {"address": isolated(message.address)}, done)


SEND_AGAIN = OrderAction(
    name="delivery_send_again",
    help_topic="messages",
    route="<key>/send-again/",
    label=_("Send a message again"),
    permission=handing_over.MAY_RESEND,
    place="messages",
    is_offered=lambda order: bool(kinds_that_fit(order)),
    token=None,
    before=_nothing_to_tell,
    form=SendAgainForm,
    template="admin/giftcards_delivery/send_again.html",
    context=_context,
    act=_send_again,
    decorators=(sensitive_post_parameters("password"),),
)


def _is_link_sent(order: Order) -> bool:
    kinds = kinds_that_fit(order)
    needs = any(needs_link(order, kind) for kind in kinds)
    return needs and CardLink.objects.filter(order=order).exists()


SEND_LINK = replace(
    SEND_AGAIN,
    name="delivery_send_link",
    route="<key>/send-link/",
    label=_("Send a new link"),
    is_offered=_is_link_sent,
    form=partial(SendAgainForm, withdraws=True),
)

_WAITS_NO_MORE = Outcome(
    _("The message is no longer waiting to be sent. Check its status."),
    level=messages.WARNING,
)


def _cancel(attempt: Attempt) -> Outcome:
    if not Delivery.objects.cancel(pk=attempt.row.pk):
        return _WAITS_NO_MORE
    return Outcome(
        gettext("The message will not be sent."), f"Cancelled a message: {attempt.row.kind}."
    )


def _hurry(attempt: Attempt) -> Outcome:
    now = timezone.now()
    rows = Delivery.objects.filter(pk=attempt.row.pk, status=DeliveryStatus.RETRYING)
    if not rows.filter(next_attempt_at__gt=now).update(next_attempt_at=now):
        return _WAITS_NO_MORE
    wake()
    log = f"Requested another attempt at a message: {attempt.row.kind}."
    return Outcome(gettext("The app will try again in a moment."), log)


def _hand_over_now(attempt: Attempt) -> Outcome:
    now = timezone.now()
    rows = Delivery.objects.filter(pk=attempt.row.pk, status=DeliveryStatus.QUEUED)
    if not rows.filter(not_before__gt=now).update(**put_off(now)):
        return _WAITS_NO_MORE
    wake()
    log = f"Requested a message before its time: {attempt.row.kind}."
    return Outcome(gettext("The message will be sent in a moment."), log)


TRY_NOW = OrderAction(
    name="delivery_try_now",
    help_topic="messages",
    route="messages/<key>/try-now/",
    label=_("Try now"),
    permission=handing_over.MAY_RESEND,
    of=Delivery,
    place="message",
    is_offered=lambda message: message.status == DeliveryStatus.RETRYING,
    token=None,
    act=_hurry,
)


def _before_asking(attempt: Attempt) -> Outcome | None:
    is_asking = attempt.request.method != "POST"
    return _WAITS_NO_MORE if is_asking and not attempt.action.is_offered(attempt.row) else None


def _asked(consequence: Any, attempt: Attempt) -> Mapping[str, Any]:
    message = attempt.row
    facts = [
        (gettext("message"), message.get_kind_display()),
        (gettext("address"), address_in_words(message)),
    ]
    return {
        "consequence": consequence,
        "heading": gettext("The message"),
        "facts": [*facts, *about(attempt.order)],
        "action": attempt.action.label,
    }


SEND_NOW = replace(
    TRY_NOW,
    name="delivery_send_now",
    route="messages/<key>/send-now/",
    label=_("Send the message now"),
    is_final=True,
    is_offered=lambda message: message.is_put_off,
    before=_before_asking,
    form=lambda _attempt, data: forms.Form(data),
    template="ask",
    context=partial(
        _asked,
        _(
            "The message will be sent in a moment, before the planned time. A sent message cannot"
            " be recalled."
        ),
    ),
    act=_hand_over_now,
)
CANCEL = OrderAction(
    name="delivery_cancel",
    help_topic="messages",
    route="messages/<key>/cancel/",
    label=_("Cancel the message"),
    permission=handing_over.MAY_RESEND,
    is_final=True,
    of=Delivery,
    place="message",
    is_offered=lambda message: message.status in WAITING,
    token=None,
    before=_before_asking,
    form=lambda _attempt, data: forms.Form(data),
    template="ask",
    context=partial(
        _asked,
        _(
            "If you cancel this message, the app will never send it automatically. You can still"
            " send it yourself later."
        ),
    ),
    act=_cancel,
)
