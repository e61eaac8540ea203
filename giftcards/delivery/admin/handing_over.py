"""Links that staff hand over themselves, and the withdrawal of all links of an order."""

from __future__ import annotations

from django import forms
from django.contrib import messages
from django.db import router, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables

from giftcards.admin.actions import Answer, Attempt, OrderAction, Outcome, Pages, carry_out
from giftcards.admin.pages import about
from giftcards.admin.reauthentication import address_of_proof
from giftcards.admin.revealing import SHOWN_FOR, RevealForm, needs_other_proof, rendered
from giftcards.delivery import links
from giftcards.delivery.admin import allowance
from giftcards.delivery.conf import conf
from giftcards.delivery.facts import has_cards
from giftcards.delivery.models import CardLink
from giftcards.delivery.queueing import Withdrawn, withdraw
from giftcards.display import count_text, moment
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

    def __init__(self, attempt: Attempt, data: QueryDict | None) -> None:
        super().__init__(attempt.request, data)
        known = CardLink.objects.filter(order=attempt.order).order_by("-pk")
        self.fields["newest"].initial = known.values_list("pk", flat=True).first()


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


WITHDRAW = OrderAction(
    name="delivery_withdraw",
    route="<key>/withdraw/",
    label=_("Withdraw all links"),
    permission=allowance.MAY_RESEND,
    is_final=True,
    place="messages",
    is_offered=lambda order: (
        CardLink.objects.filter(order=order, revoked_at=None).exclude(token_hash=None).exists()
    ),
    token=None,
    form=lambda _attempt, data: forms.Form(data),
    template="ask",
    context=lambda attempt: {
        "consequence": gettext(
            "Links that were sent or handed over show nothing any more, and messages with a link"
            " that wait are not sent. You can send a new link afterwards."
        ),
        "heading": gettext("The order"),
        "facts": about(attempt.order),
        "action": attempt.action.label,
    },
    act=_withdraw,
)


def _before_link(attempt: Attempt) -> Answer | None:
    if not may_have_link(attempt.order):
        return Outcome(gettext("There are no cards to link to."), level=messages.WARNING)
    if needs_other_proof(attempt.request):
        return HttpResponseRedirect(address_of_proof(back_to=attempt.request.path))
    return None


@sensitive_variables()
def _make_link(attempt: Attempt) -> HttpResponse:
    """Make a link to the cards, record who made it and why, and show it for a minute."""
    pages, request, order = attempt.pages, attempt.request, attempt.order
    given = attempt.form.cleaned_data
    done = "Made a link to the cards, to hand over."
    order.lock()
    if given["withdraws"]:
        withdraw(order, by=attempt.by, until=given["newest"] or 0)
        done = f"Withdrew the earlier links. {done}"
    link, token = links.issue(
        order, origin=CardLink.Origin.STAFF, by=attempt.by, reason=given["reason"]
    )
    allowance.count(request, order, is_handed_out=True)
    pages.log_change(request, order, done)
    response = attempt.page(
        "admin/giftcards_delivery/new_link.html",
        address=links.address(token),
        seconds=SHOWN_FOR,
        until=moment(link.expires_at) if link.expires_at else "",
    )
    # As on the page of a revealed code.
    response["Referrer-Policy"] = "same-origin"
    response["Refresh"] = f"{SHOWN_FOR}; url={pages.address('change', order.pk)}"
    return response


def _new_link_view(pages: Pages, request: HttpRequest, key: str) -> HttpResponse:
    # Not rendered before the trace is committed, whatever ATOMIC_REQUESTS says.
    return rendered(carry_out(NEW_LINK, pages, request, key))


NEW_LINK = OrderAction(
    name="delivery_new_link",
    route="<key>/new-link/",
    label=_("New link to hand over"),
    permission=allowance.MAY_RESEND,
    place="messages",
    is_offered=may_have_link,
    token=None,
    before=_before_link,
    form=NewLinkForm,
    template="admin/giftcards_delivery/new_link_ask.html",
    act=_make_link,
    view=_new_link_view,
    decorators=(
        sensitive_post_parameters(),
        transaction.non_atomic_requests(using=router.db_for_write(CardLink)),
    ),
)
