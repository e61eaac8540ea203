"""Links that staff hand over themselves, and the withdrawal of all links of an order."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import messages
from django.db import router, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables

from giftcards.admin.actions import Attempt, OrderAction, Outcome
from giftcards.admin.pages import OrderPages
from giftcards.admin.reauthentication import address_of_proof
from giftcards.admin.revealing import SHOWN_FOR, RevealForm, needs_other_proof, rendered
from giftcards.delivery import links
from giftcards.delivery.admin import allowance
from giftcards.delivery.admin.pages import MAY_RESEND, render_page
from giftcards.delivery.conf import conf
from giftcards.delivery.facts import has_cards
from giftcards.delivery.models import CardLink
from giftcards.delivery.queueing import Withdrawn, withdraw
from giftcards.display import count_text, moment
from giftcards.keys.secrecy import Masked
from giftcards.models import Order


def may_have_link(order: Order) -> bool:
    """True if there are cards to link to, and ``BASE_URL`` is set."""
    return bool(conf.base_url) and has_cards(order)


class NewLinkForm(RevealForm):
    """The reason for a link, the proof of who makes it, and what becomes of the earlier links.

    Whoever has the link sees the codes, so making it takes the same proof as revealing a code.
    """

    withdraws = forms.BooleanField(
        label=_("Withdraw the earlier links"), required=False, initial=True
    )
    # The newest link when the form was made. Only links up to it are withdrawn, so a second press
    # of the button leaves the link of the first press working.
    newest = forms.IntegerField(required=False, widget=forms.HiddenInput)


def _withdraw(attempt: Attempt) -> Outcome:
    done = withdraw(attempt.order, by=attempt.by)
    if not any(done):
        return Outcome(gettext("There is no link that works."), level=messages.INFO)
    return Outcome(_in_words(done), "Withdrew the links to the cards.")


def _in_words(done: Withdrawn) -> str:
    links_ended = ngettext(
        "%(count)s link was withdrawn: it shows nothing any more.",
        "%(count)s links were withdrawn: they show nothing any more.",
        done.links,
    )
    cancelled = ngettext(
        "%(count)s waiting message with a link was cancelled.",
        "%(count)s waiting messages with a link were cancelled.",
        done.messages,
    )
    said = [(links_ended, done.links), (cancelled, done.messages)]
    return " ".join(text % {"count": count_text(count)} for text, count in said if count)


def _has_link(order: Order) -> bool:
    return CardLink.objects.filter(order=order, revoked_at=None).exclude(token_hash=None).exists()


WITHDRAW = OrderAction(
    name="delivery_withdraw",
    route="<key>/withdraw/",
    label=_("Withdraw all links"),
    permission=MAY_RESEND,
    place="messages",
    is_offered=_has_link,
    token=None,
    act=_withdraw,
)


@sensitive_variables()
def _new_link_view(pages: OrderPages, request: HttpRequest, key: str) -> HttpResponse:
    order = pages.order_for(request, key, allowed=MAY_RESEND(pages, request))
    if not may_have_link(order):
        pages.message_user(request, gettext("There are no cards to link to."), messages.WARNING)
        return pages.to_order(order)
    if needs_other_proof(request):
        return HttpResponseRedirect(address_of_proof(back_to=request.path))
    form = NewLinkForm(request, request.POST if request.method == "POST" else None)
    if form.is_valid():
        try:
            made = _make(pages, request, order, form.cleaned_data)
        except allowance.TooManyMessages as reached:
            pages.message_user(request, allowance.refuse(request, reached), messages.ERROR)
            return pages.to_order(order)
        return _show(pages, request, *made)
    known = CardLink.objects.filter(order=order).order_by("-pk").values_list("pk", flat=True)
    form.fields["newest"].initial = known.first()
    title = gettext("New link to hand over")
    return render_page(
        pages, request, "new_link_ask", order, title=title, form=form, errors=form.errors
    )


@sensitive_variables()
def _make(
    pages: OrderPages, request: HttpRequest, order: Order, given: dict[str, Any]
) -> tuple[CardLink, Masked]:
    """Make a link to the cards, and record who made it and why; return it and its address.

    If it raises :exc:`~giftcards.delivery.admin.allowance.TooManyMessages`, nothing was done.
    """
    by = request.user.get_username()
    done = "Made a link to the cards, to hand over."
    with transaction.atomic(using=router.db_for_write(CardLink), durable=True):
        order.lock()
        if given["withdraws"]:
            withdraw(order, by=by, until=given["newest"] or 0)
            done = f"Withdrew the earlier links. {done}"
        link, token = links.issue(
            order, origin=CardLink.Origin.STAFF, by=by, reason=given["reason"]
        )
        allowance.count(request, order, is_handed_out=True)
        pages.log_change(request, order, done)
    return link, links.address(token)


@sensitive_variables()
def _show(pages: OrderPages, request: HttpRequest, link: CardLink, address: Masked) -> HttpResponse:
    order = link.order
    response = rendered(
        render_page(
            pages,
            request,
            "new_link",
            order,
            title=gettext("New link to hand over"),
            address=address,
            seconds=SHOWN_FOR,
            until=moment(link.expires_at) if link.expires_at else "",
        )
    )
    # As on the page of a revealed code.
    response["Referrer-Policy"] = "same-origin"
    response["Refresh"] = f"{SHOWN_FOR}; url={pages.address('change', order.pk)}"
    return response


NEW_LINK = OrderAction(
    name="delivery_new_link",
    route="<key>/new-link/",
    label=_("New link to hand over"),
    permission=MAY_RESEND,
    place="messages",
    is_offered=may_have_link,
    view=_new_link_view,
    # The trace is committed before the link is shown, whatever ATOMIC_REQUESTS says.
    decorators=(
        sensitive_post_parameters(),
        transaction.non_atomic_requests(using=router.db_for_write(CardLink)),
    ),
)
