"""Links that staff hand over themselves, and the withdrawal of all links of an order."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import messages
from django.db import router, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import URLPattern, path
from django.utils.decorators import method_decorator
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables

from giftcards.admin.reauthentication import address_of_proof
from giftcards.admin.revealing import SHOWN_FOR, RevealForm, needs_other_proof, rendered
from giftcards.delivery import links
from giftcards.delivery.admin import allowance
from giftcards.delivery.admin.pages import DeliveryPages, may_resend
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


class HandingOverPages(DeliveryPages):
    """The page that makes a link, the page that shows it once, and the withdrawal of all links."""

    def get_urls(self) -> list[URLPattern]:
        view = sensitive_post_parameters()(self.admin_site.admin_view(self.new_link_view))
        # The trace is committed before the link is shown, whatever ATOMIC_REQUESTS says.
        view = transaction.non_atomic_requests(using=router.db_for_write(CardLink))(view)
        return [
            path("orders/<int:order_id>/new-link/", view, name="giftcards_delivery_new_link"),
            path(
                "orders/<int:order_id>/withdraw/",
                self.admin_site.admin_view(self.withdraw_view),
                name="giftcards_delivery_withdraw",
            ),
            *super().get_urls(),
        ]

    def withdraw_view(self, request: HttpRequest, order_id: int) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        order = self.order_for(request, order_id, allowed=may_resend(request))
        with transaction.atomic(using=router.db_for_write(CardLink)):
            done = withdraw(order, by=request.user.get_username())
            if any(done):
                self.log_change(request, order, "Withdrew the links to the cards.")
        if not any(done):
            text = gettext("There is no link that works.")
            return self.conclude(request, order, text, messages.INFO)
        return self.conclude(request, order, _in_words(done))

    @method_decorator(sensitive_variables())
    def new_link_view(self, request: HttpRequest, order_id: int) -> HttpResponse:
        order = self.order_for(request, order_id, allowed=may_resend(request))
        if not may_have_link(order):
            text = gettext("There are no cards to link to.")
            return self.conclude(request, order, text, messages.WARNING)
        if needs_other_proof(request):
            back_to = self.address("new_link", order.pk)
            return HttpResponseRedirect(address_of_proof(back_to=back_to))
        form = NewLinkForm(request, request.POST if request.method == "POST" else None)
        if form.is_valid():
            try:
                made = self._make(request, order, form.cleaned_data)
            except allowance.TooManyMessages as reached:
                text = allowance.refuse(request, reached)
                return self.conclude(request, order, text, messages.ERROR)
            return self._show(request, *made)
        known = CardLink.objects.filter(order=order).order_by("-pk").values_list("pk", flat=True)
        form.fields["newest"].initial = known.first()
        return self.render_page(
            request,
            "new_link_ask",
            order,
            title=gettext("New link to hand over"),
            form=form,
            errors=form.errors,
        )

    @method_decorator(sensitive_variables())
    def _make(
        self, request: HttpRequest, order: Order, given: dict[str, Any]
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
            self.log_change(request, order, done)
        return link, links.address(token)

    @method_decorator(sensitive_variables())
    def _show(self, request: HttpRequest, link: CardLink, address: Masked) -> HttpResponse:
        order = link.order
        response = rendered(
            self.render_page(
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
        response["Refresh"] = f"{SHOWN_FOR}; url={self.order_address(order)}"
        return response


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
