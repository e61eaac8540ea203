"""The problems of an order, and what staff can do about them.

The database stores only codes and parameters. The messages are rendered in the reader's language. A
``hint`` is shown to developers, and to users who are allowed to resume calls. Parameters must not
contain secrets. Therefore, the code that parses the provider's answers must check each value before
it becomes a parameter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from django.utils.translation import gettext, override
from django.utils.translation import gettext_lazy as _

from giftcards.rules.states import Kind, Status

Entry = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Wording:
    """The messages for a problem code.

    If ``text`` contains the provider's charges, ``discreet`` replaces ``text`` for readers who are
    not allowed to see charges.
    """

    kind: Kind
    text: Any
    remedy: Any = ""
    hint: Any = ""
    discreet: Any = ""

    @property
    def parameters(self) -> set[str]:
        """The parameters that the message requires."""
        return set(re.findall(r"%\((\w+)\)s", str(self.text))) - {"reason"}


# The meanings of the parameters, which are the same for all codes. The last six parameters are
# always optional.
PARAMETERS = {
    "amount": "an amount of money, as reported by the provider",
    "announced": "how many cards the provider says it delivered",
    "by": "the name of the member of staff who decided",
    "cards": "how many cards of an answer are readable",
    "ceiling": "the price limit for one card, in dinars, with two decimals",
    "count": "how many orders there are to choose from",
    "delivered": "how many cards were delivered, as reported by the provider",
    "expected": "the amount of money that was known before",
    "field": "the field's name in the provider's API; staff see the label from FIELDS",
    "left_out": "how many cards of the answer are not stored",
    "lost": "how many of `total` are unreadable",
    "objection": "the reason for the review, in the words of the shop's own rule",
    "order": "the reference of another order",
    "ordered": "how many cards were ordered",
    "positions": "the numbers of cards of the order",
    "price": "what a card costs, or may cost, in dinars, with two decimals",
    "provider_order_id": "the provider's id of an order",
    "repeated": "how many cards in the answer are duplicates of other cards in it",
    "received": "how many different cards have arrived",
    "seconds": "for how many seconds the app tried to send the order",
    "status": "a status in the provider's spelling; staff see its label",
    "told": "how many cards the provider says were ordered",
    "total": "the number of cards or rows in the answer",
    "reason": "why a request failed: one of REASONS",
    "message": "the provider's own message, verbatim",
    "provider_code": "the provider's own error code",
    "detail": "what failed, in English, for developers",
    "fault": "what is wrong with a figure, for developers",
    "value": "the figure's text, if it is too short to be a card's code",
}
_TECHNICAL = ("provider_code", "detail", "fault", "value", "status")

#: The remedy for staff if only a developer can act on the hint.
ASK_DEVELOPER = _("Contact your developer.")
# Parameters that are amounts of money, unless the parameter "field" says that they count cards.
AMOUNTS = frozenset({"amount", "ceiling", "expected", "price"})
COUNTED = frozenset({"quantity", "fulfilled_quantity"})

REASONS = {
    "key_refused": _("The provider does not accept the shop's key."),
    "address_blocked": _("The provider has temporarily blocked the shop's address."),
    "address_not_allowed": _("The provider refuses the IP address of this server."),
    "access_disabled": _("The provider has disabled the shop's access."),
    "too_many_requests": _("Too many requests were sent to the provider."),
    "not_started": _("The provider could not be reached or could not accept the order."),
    "held_up": _("The shop's server was too slow just before it sent the order."),
    "no_balance": _("There is not enough money in the account at the provider."),
    "out_of_stock": _("The card is out of stock."),
    "no_price": _("The provider does not show a price for the card."),
}

FIELDS = {
    "quantity": _("quantity"),
    "fulfilled_quantity": _("delivered cards"),
    "fulfilled_amount": _("cost"),
    "price_per_card": _("price per card"),
    "product": _("product"),
    "type": _("type"),
    "time": _("time"),
}

_UNKNOWN = _(
    "Somebody has to check this order. This version of the app does not recognise the problem"
    " (%(code)s)."
)
_IT_IS_SOUGHT = _(
    "Wait a few minutes. The app searches for the order at the provider automatically. It sends the"
    " order again only when it is certain that the cards were not bought. If the problem persists,"
    " record on the order's page what happened to the order."
)
_ASKED_AGAIN = _(
    "You do not need to do anything now. The app checks the order again automatically. If the"
    " problem persists, contact the provider's support."
)
_COMPARE = _(
    "While the order is open, the app checks it again automatically. After the order has reached"
    " a final status, compare it with your account at the provider, and then acknowledge this"
    " problem."
)
_TELL_DEVELOPER = _("Tell your developer. The app checks the order again automatically.")

WORDINGS: Mapping[str, Wording] = {
    "not_sent": Wording(
        Kind.SENDING,
        _("The order has not been sent to the provider yet. %(reason)s"),
        _(
            "The app sends the order automatically as soon as possible. If the order has to wait"
            " too long, the app rejects it, and the cards are not bought. If the provider does"
            " not accept the shop's key or address, or has disabled the shop's access, tell your"
            " developer."
        ),
        _(
            "If the provider refuses the key or the address, correct it in the settings or in the"
            " provider's dashboard, and then resume requests."
        ),
    ),
    "price_unknown": Wording(
        Kind.SENDING,
        _(
            "The order has not been sent because it has a price limit and the current price is"
            " unknown. %(reason)s"
        ),
        _(
            "The app requests the price again automatically. If the order has to wait too long, the"
            " app rejects it, and the cards are not bought. If the problem persists, check whether"
            " the provider still sells this card."
        ),
    ),
    "other_environment": Wording(
        Kind.SENDING,
        _(
            "The order was first sent to one environment of the provider (sandbox or production),"
            " but the shop's current key belongs to the other environment. The app does not send"
            " the order with the current key."
        ),
        _(
            "The app sends the order automatically if you restore the earlier key. If the order has"
            " to wait too long, the app rejects it, and the cards are not bought. To buy the cards"
            " with the new key, place a new order."
        ),
        _("Configure the same key for every process."),
    ),
    "price_above": Wording(
        Kind.SENDING,
        _(
            "A card costs %(price)s at the provider, but your limit is %(ceiling)s. The order is"
            " waiting for a decision."
        ),
        _(
            "Approve the price or cancel the order. Until then, the cards are not bought. If the"
            " price falls to your limit or below it, the order continues automatically."
        ),
        discreet=_("A card costs more than your limit. The order is waiting for a decision."),
    ),
    "review_wanted": Wording(
        Kind.SENDING,
        _("Somebody has to review the order before the cards are bought. Reason: “%(objection)s”."),
        _("Approve or cancel the order. Until then, the cards are not bought."),
    ),
    "review_failed": Wording(
        Kind.SENDING,
        _(
            "The order has not been sent because the shop's review rule failed. The app does not"
            " know whether somebody has to review the order first."
        ),
        _(
            "Tell your developer. The app runs the rule again automatically. If the rule fails for"
            " too long, the app puts the order on hold until you approve or cancel it."
        ),
        _(
            "The rule is the function in the REVIEW_ORDER setting. The log shows where the function"
            " failed."
        ),
    ),
    "answer_lost": Wording(
        Kind.SENDING,
        _(
            "The order was sent, but the app did not receive a usable answer. The cards may have"
            " been bought."
        ),
        _IT_IS_SOUGHT,
    ),
    "sender_died": Wording(
        Kind.SENDING,
        _(
            "The app was interrupted while it was sending the order. The cards may have been"
            " bought."
        ),
        _IT_IS_SOUGHT,
        _(
            "The process that was sending the order stopped unexpectedly or exceeded its time"
            " limit."
        ),
    ),
    "reference_unwanted": Wording(
        Kind.SENDING,
        _(
            "The provider did not accept the order, which the app sent together with a reference."
            " %(reason)s"
        ),
        _("The app sends the order again automatically, without the reference."),
        _("The reference is sent because of the SEND_REFERENCE setting."),
    ),
    "bought_before": Wording(
        Kind.SENDING,
        _(
            "The provider reports that it already has this order, which means that an earlier"
            " attempt was successful."
        ),
        _(
            "Wait a few minutes. The app searches for the order at the provider automatically and"
            " does not buy the cards again. If the problem persists, search for the order in the"
            " provider's dashboard, and then record on your order's page which of the provider's"
            " orders matches your order."
        ),
    ),
    "id_taken": Wording(
        Kind.SENDING,
        _(
            "The provider answered with the ID %(provider_order_id)s, which belongs to another"
            " order. The cards of this order may have been bought."
        ),
        _(
            "Wait a few minutes. The app searches for the order at the provider automatically. If"
            " the problem persists, ask the provider's support about both orders, and then record"
            " on the order's page what happened to this order."
        ),
    ),
    "staff_released": Wording(
        Kind.SENDING,
        _(
            "%(by)s unlinked this order from the provider's order %(provider_order_id)s. This"
            " order may exist at the provider under another ID."
        ),
        _IT_IS_SOUGHT,
    ),
    "id_of_other": Wording(
        Kind.SENDING,
        _(
            "The provider accepted the order with the ID %(provider_order_id)s, which belongs to"
            " another order. The correct ID is not yet known."
        ),
        _(
            "Wait a few minutes. The app searches for the order at the provider automatically. If"
            " the problem persists, record on the order's page what happened to the order."
        ),
    ),
    "choose": Wording(
        Kind.SEARCH,
        _("Number of orders at the provider that may match this order: %(count)s."),
        _(
            "Compare these orders in the provider's dashboard, and then record on your order's page"
            " which of them matches your order."
        ),
    ),
    "other_account": Wording(
        Kind.SEARCH,
        _(
            "The order was sent with a different key. With the shop's current key, the app cannot"
            " check whether the cards were bought."
        ),
        _(
            "The app does not buy the cards until somebody decides what to do with the order."
            " Tell your developer, or check the account to which the order was sent, and then"
            " record on the order's page what happened to the order."
        ),
        _(
            "Configure the same key for every process. If the key was replaced, restore the earlier"
            " key for a few minutes so that the app can search for the order."
        ),
    ),
    "not_listed": Wording(
        Kind.SEARCH,
        _(
            "The app did not find this order in the part of the provider's list of orders that it"
            " can read."
        ),
        _IT_IS_SOUGHT,
    ),
    "restored": Wording(
        Kind.SENDING,
        _(
            "The database was restored from a backup. Number of orders at the provider that may"
            " match this order: %(count)s."
        ),
        _(
            "Compare the provider's orders with the customer's messages and payment. Then record"
            " on your order's page which of the provider's orders matches your order. Until you"
            " do this, the app does not send your order."
        ),
    ),
    "quantity_differs": Wording(
        Kind.ANSWER,
        _("The provider reports %(told)s cards, but the order is for %(ordered)s."),
        _ASKED_AGAIN,
    ),
    "line_differs": Wording(
        Kind.ANSWER,
        _("The provider's answer is about another order. This field differs: %(field)s."),
        _(
            "The answer was ignored. The app checks the order again automatically while the order"
            " is open. If the problem persists, contact the provider's support."
        ),
    ),
    "status_missing": Wording(
        Kind.ANSWER, _("The provider's answer does not contain a readable status."), _ASKED_AGAIN
    ),
    "status_unknown": Wording(
        Kind.ANSWER,
        _("The provider reported an unknown status."),
        _ASKED_AGAIN,
        _(
            "The provider's API may have changed. Check whether there is a newer version of the"
            " app."
        ),
    ),
    "not_whole": Wording(
        Kind.ANSWER,
        _(
            "The provider reports the status %(status)s and %(delivered)s of %(ordered)s cards as"
            " delivered. Number of readable cards in the provider's answer: %(cards)s."
        ),
        _ASKED_AGAIN,
    ),
    "delivered_unknown": Wording(
        Kind.ANSWER,
        _(
            "The provider does not report how many cards it delivered. Number of ordered cards:"
            " %(ordered)s."
        ),
        _ASKED_AGAIN,
    ),
    "figures_contradict": Wording(
        Kind.ANSWER,
        _("The provider's figures contradict each other. See the refund breakdown."),
        _(
            "Compare the order with your account at the provider, and ask the provider's support"
            " about the difference. Then acknowledge this problem."
        ),
    ),
    "cards_repeated": Wording(
        Kind.ANSWER,
        _("The provider's answer contains duplicate cards: %(repeated)s of %(total)s."),
        _(
            "While the order is open, the app checks it again automatically. After the order has"
            " reached a final status, ask the provider's support for the missing cards, and then"
            " acknowledge this problem."
        ),
    ),
    "figure_unknown": Wording(
        Kind.ANSWER,
        _("The provider does not report this figure: %(field)s."),
        _(
            "Look up this figure in your account at the provider, and then acknowledge this"
            " problem."
        ),
    ),
    "figure_unreadable": Wording(
        Kind.ANSWER, _("A figure in the provider's answer is not readable: %(field)s."), _COMPARE
    ),
    "figure_negative": Wording(
        Kind.ANSWER, _("A figure in the provider's answer is negative: %(field)s."), _ASKED_AGAIN
    ),
    "cards_unreadable": Wording(
        Kind.ANSWER,
        _("Cards without a readable code in the provider's answer: %(lost)s of %(total)s."),
        _ASKED_AGAIN,
    ),
    "cards_not_listed": Wording(
        Kind.ANSWER,
        _("The provider's answer does not contain a readable list of cards."),
        _ASKED_AGAIN,
    ),
    "serials_unreadable": Wording(
        Kind.ANSWER, _("Cards without a readable serial: %(lost)s of %(total)s."), _COMPARE
    ),
    "rows_unreadable": Wording(
        Kind.ANSWER,
        _(
            "Entries in the provider's list of orders that cannot be read as orders: %(lost)s of"
            " %(total)s."
        ),
        _ASKED_AGAIN,
    ),
    "answer_of_other": Wording(
        Kind.ANSWER,
        _(
            "The provider's answer is about its order %(provider_order_id)s, which is linked to"
            " another of your orders."
        ),
        _(
            "The same order at the provider is linked to two of your orders. Check in the"
            " provider's dashboard which of your two orders it belongs to, and ask the provider's"
            " support about the other one."
        ),
    ),
    "not_known": Wording(
        Kind.ANSWER,
        _("The provider says that it does not know this order."),
        _("Contact the provider's support, and tell your developer."),
        _("Does the API key belong to another account or to the sandbox?"),
    ),
    "answer_refused": Wording(
        Kind.ANSWER,
        _("The provider refuses to provide information about this order."),
        _ASKED_AGAIN,
    ),
    "answer_unprocessable": Wording(
        Kind.ANSWER,
        _("The provider's answer about this order cannot be processed."),
        _TELL_DEVELOPER,
        _(
            "The log shows the type of the error. The answer may contain a value that the database"
            " does not accept."
        ),
    ),
    "watch_ended": Wording(
        Kind.ANSWER,
        _(
            "The order has not reached a final status, and the app no longer checks it"
            " automatically."
        ),
        _("Contact the provider's support, and then check the order again."),
    ),
    "surplus_cards": Wording(
        Kind.LASTING,
        _(
            "The provider sent %(received)s cards (not counting duplicates), but reports only"
            " %(announced)s delivered cards."
        ),
        _(
            "The provider sent more cards than you paid for. Ask the provider's support before you"
            " hand out the surplus cards, and then acknowledge this problem."
        ),
    ),
    "cards_left_out": Wording(
        Kind.LASTING,
        _(
            "The provider's answer contains %(total)s cards, but the order is for %(ordered)s. The"
            " app did not store %(left_out)s of the cards."
        ),
        _(
            "All the cards are still shown in your account at the provider. Compare them there,"
            " and ask the provider's support before you hand out any surplus cards. Then"
            " acknowledge this problem."
        ),
    ),
    "contradicted": Wording(
        Kind.LASTING,
        _(
            "After the order had settled, the provider reported it as %(status)s with %(delivered)s"
            " of %(ordered)s cards."
        ),
        _("Compare the order with the provider's dashboard, and then acknowledge this problem."),
    ),
    "figure_changed": Wording(
        Kind.LASTING,
        _(
            "After the order had settled, the provider reported a different figure for"
            " “%(field)s”: %(amount)s instead of %(expected)s."
        ),
        _(
            "Compare the order with your account at the provider, and then acknowledge this"
            " problem."
        ),
        discreet=_(
            "After the order had settled, the provider reported a different figure for “%(field)s”."
        ),
    ),
    "figure_late": Wording(
        Kind.LASTING,
        _(
            "After the order had settled, the provider reported %(amount)s for “%(field)s”. This"
            " figure was not known before."
        ),
        _(
            "Compare the order with your account at the provider, and then acknowledge this"
            " problem."
        ),
        discreet=_(
            "After the order had settled, the provider reported a figure for “%(field)s”. This"
            " figure was not known before."
        ),
    ),
    "late_cards": Wording(
        Kind.LASTING,
        _(
            "The order had settled with %(announced)s cards, but the provider has now sent"
            " %(received)s cards (not counting duplicates). The app keeps all of them."
        ),
        _(
            "You were charged for these cards. Check in your account at the provider which cards"
            " are valid, and decide which cards your customer receives. Then acknowledge this"
            " problem."
        ),
    ),
    "price_changed": Wording(
        Kind.LASTING,
        _("A card costs %(amount)s, but the price was %(expected)s when the order was placed."),
        _(
            "Compare the order with your account at the provider, and then acknowledge this"
            " problem."
        ),
        discreet=_("The price of a card has changed since the order was placed."),
    ),
    "accepted_after_all": Wording(
        Kind.LASTING,
        _(
            "The provider accepted the order (ID %(provider_order_id)s), contrary to what the app"
            " had recorded, so the cards were bought."
        ),
        _(
            "The provider's answer arrived too late, so the app will not receive the cards. Check"
            " the order in the provider's dashboard, contact the provider's support, and then"
            " acknowledge this problem."
        ),
    ),
    "bought_twice": Wording(
        Kind.LASTING,
        _(
            "The cards were bought twice. The ID of the second purchase at the provider is"
            " %(provider_order_id)s."
        ),
        _(
            "The app will not receive the cards from the second purchase. Check the purchase in the"
            " provider's dashboard, ask the provider's support to credit the amount back, and then"
            " acknowledge this problem."
        ),
        _("The second purchase has this order's reference."),
    ),
    "disputed": Wording(
        Kind.LASTING,
        _("%(by)s recorded that the customer complained about a code. Cards: %(positions)s."),
        _(
            "Ask the provider's support what happened to the code, and tell the customer. The codes"
            " of the order are kept until you acknowledge this problem."
        ),
    ),
    "credit_differs": Wording(
        Kind.LEDGER,
        _("The provider promised to credit back %(expected)s, but its ledger shows %(amount)s."),
        _(
            "Look for the refund in your account at the provider, and ask the provider's"
            " support about the difference. If the ledger does not show which order a refund"
            " belongs to, it may belong to another order with the same amount. This problem"
            " ends automatically when the ledger contains the promised amount."
        ),
        discreet=_("The provider's ledger does not match the refund that was promised."),
    ),
    "refused": Wording(
        Kind.HISTORY,
        _("The provider refused the order, so nothing was bought. %(reason)s"),
        _("Order the missing cards again, or pay the customer back."),
    ),
    "given_up": Wording(
        Kind.HISTORY,
        _(
            "The order was rejected because it could not be sent within %(seconds)s seconds."
            " Nothing was bought."
        ),
        _("Order the missing cards again, or pay the customer back."),
    ),
    "reorder_expired": Wording(
        Kind.HISTORY,
        _(
            "The order was an automatic reorder of missing cards. It was rejected because it could"
            " not be sent within the time that the shop allows. Nothing was bought."
        ),
        _("Order the missing cards again, or pay the customer back."),
    ),
    "found": Wording(
        Kind.HISTORY, _("The order was found at the provider with the ID %(provider_order_id)s.")
    ),
    "absent": Wording(
        Kind.HISTORY,
        _("The provider's list does not contain the order, so the cards were not bought."),
    ),
    "staff_adopted": Wording(
        Kind.HISTORY, _("%(by)s linked this order to the provider's order %(provider_order_id)s.")
    ),
    "price_fell": Wording(
        Kind.HISTORY,
        _(
            "The price of a card fell to %(price)s. The price is now within the limit of"
            " %(ceiling)s, so the order continued automatically."
        ),
        discreet=_(
            "The price of a card no longer exceeds the limit, so the order continued automatically."
        ),
    ),
    "staff_approved": Wording(
        Kind.HISTORY,
        _("%(by)s approved a price of %(price)s per card instead of %(ceiling)s."),
        discreet=_("%(by)s approved the price of a card."),
    ),
    "staff_cancelled": Wording(Kind.HISTORY, _("%(by)s cancelled the order. Nothing was bought.")),
    "staff_hurried": Wording(Kind.HISTORY, _("%(by)s sent the order without waiting any longer.")),
    "staff_review_approved": Wording(
        Kind.HISTORY,
        _("%(by)s approved the order. Reason why it was on hold: “%(objection)s”."),
    ),
    "staff_insisted": Wording(
        Kind.HISTORY,
        _(
            "%(by)s linked this order to the provider's order %(provider_order_id)s, although the"
            " provider's order does not match the order that was sent."
        ),
    ),
    "staff_reordered": Wording(
        Kind.HISTORY, _("%(by)s ordered the missing cards again (order %(order)s).")
    ),
    "reordered_by_rule": Wording(
        Kind.HISTORY, _("The app ordered the missing cards again automatically (order %(order)s).")
    ),
    "staff_send_again": Wording(
        Kind.HISTORY, _("%(by)s recorded that the cards were not bought, and sent the order again.")
    ),
    "staff_rejected": Wording(
        Kind.HISTORY, _("%(by)s recorded that the cards were not bought, and rejected the order.")
    ),
}


# The short descriptions of problems, for use in lists. Several codes share one description.
_IN_SHORT: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (
        _("not sent yet"),
        ("not_sent", "other_environment", "review_failed", "reference_unwanted"),
    ),
    (_("price not known"), ("price_unknown",)),
    (_("costs too much"), ("price_above",)),
    (_("waiting for approval"), ("review_wanted",)),
    (
        _("unknown whether bought"),
        (
            "answer_lost",
            "sender_died",
            "bought_before",
            "id_taken",
            "staff_released",
            "id_of_other",
            "other_account",
            "not_listed",
        ),
    ),
    (_("matching order unclear"), ("choose", "restored", "answer_of_other")),
    (
        _("unusable answer"),
        (
            "quantity_differs",
            "line_differs",
            "status_missing",
            "status_unknown",
            "not_whole",
            "delivered_unknown",
            "cards_not_listed",
            "rows_unreadable",
            "answer_refused",
            "answer_unprocessable",
        ),
    ),
    (_("unknown to the provider"), ("not_known",)),
    (_("no longer checked"), ("watch_ended",)),
    (
        _("figures to check"),
        (
            "figures_contradict",
            "figure_unknown",
            "figure_unreadable",
            "figure_negative",
            "figure_changed",
            "figure_late",
        ),
    ),
    (_("price has changed"), ("price_changed",)),
    (
        _("cards to check"),
        ("cards_repeated", "cards_unreadable", "serials_unreadable", "contradicted"),
    ),
    (_("more cards than expected"), ("surplus_cards", "late_cards", "cards_left_out")),
    (_("bought unexpectedly"), ("accepted_after_all",)),
    (_("bought twice"), ("bought_twice",)),
    (_("customer complains"), ("disputed",)),
    (_("unexpected credit amount"), ("credit_differs",)),
)
IN_SHORT: Mapping[str, Any] = {code: text for text, codes in _IN_SHORT for code in codes}


class Explanation(NamedTuple):
    """The problem, the remedy for staff, and a hint for developers.

    The remedy and the hint can be "".
    """

    text: str
    remedy: str = ""
    hint: str = ""

    @property
    def for_staff(self) -> str:
        """The text and the remedy, which all staff are allowed to read."""
        return f"{self.text} {self.remedy}".strip()

    @property
    def for_developers(self) -> str:
        """The text, the hint and the remedy.

        If the remedy is only the advice to contact a developer, it is left out.
        """
        remedy = "" if self.remedy == str(ASK_DEVELOPER) else self.remedy
        return " ".join(filter(None, (self.text, self.hint, remedy)))


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem with an order, or an entry in its timeline.

    The ``text`` attribute says what is wrong, ``remedy`` says what staff can do, and ``hint`` says
    what a developer can do. All three strings are in the active language. ``remedy`` and ``hint``
    can be "". Use ``str(problem)`` to get English text for logs.
    """

    code: str
    parameters: Mapping[str, str | int] = field(default_factory=dict, hash=False)

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Problem:
        """Parse an entry of ``Order.problems`` or ``StatusChange.details``."""
        parameters = entry.get("parameters")
        return cls(str(entry.get("code", "")), parameters if isinstance(parameters, dict) else {})

    def as_dict(self) -> Entry:
        return {"code": self.code, "parameters": dict(self.parameters)}

    @property
    def key(self) -> str:
        """A hash that identifies the problem without revealing its parameters.

        Equal problems have the same hash.
        """
        # The import is here because it needs settings, and the rules work without settings.
        from django.utils.crypto import salted_hmac

        text = json.dumps(self.as_dict(), sort_keys=True)
        return salted_hmac("giftcards.rules.problems", text, algorithm="sha256").hexdigest()

    @property
    def kind(self) -> Kind:
        """The kind of the problem, which is ``LASTING`` for an unknown code."""
        wording = WORDINGS.get(self.code)
        return wording.kind if wording else Kind.LASTING

    @property
    def text(self) -> str:
        return self.explain().text

    @property
    def in_short(self) -> str:
        """A short description of the problem in the active language."""
        return str(IN_SHORT.get(self.code, _("needs attention")))

    @property
    def remedy(self) -> str:
        return self.explain().remedy

    @property
    def hint(self) -> str:
        return self.explain().hint

    def __str__(self) -> str:
        with override(None):
            told, technical = self.said(), self._technical()
            text = " ".join(filter(None, (self.text, told)))
            return f"{text} ({technical})" if technical else text

    @property
    def discreet(self) -> str:
        """The English text without the provider's charges.

        This text is shown to readers who are not allowed to see charges.
        """
        with override(None):
            return self.explain(shows_costs=False).text

    def explain(
        self,
        *,
        format_value: Callable[[object], str] = str,
        format_text: Callable[[str], str] = str,
        shows_costs: bool = True,
    ) -> Explanation:
        """Render the messages in the active language.

        The function ``format_value`` formats the value of each parameter, and the function
        ``format_text`` formats the app's own text. On a page, ``format_value`` isolates text
        directions, and ``format_text`` escapes HTML. If ``shows_costs`` is False, the messages do
        not contain the provider's charges.
        """
        wording = WORDINGS.get(self.code)
        if wording is None or not self.parameters.keys() >= wording.parameters:
            # The code comes from another version of the app.
            return Explanation(
                format_text(str(_UNKNOWN)) % {"code": format_value(self.code)}, "", ""
            )
        values = {name: format_value(value) for name, value in self.parameters.items()}
        values["reason"] = format_text(str(REASONS.get(str(self.parameters.get("reason")), "")))
        if (name := str(self.parameters.get("field"))) in FIELDS:
            values["field"] = format_text(str(FIELDS[name]))
        if (status := str(self.parameters.get("status"))) in Status:
            values["status"] = format_text(str(Status(status).label))
        is_discreet = wording.discreet and not shows_costs
        text = (
            format_text(str(wording.discreet if is_discreet else wording.text)) % values
        ).strip()
        hints = [format_text(str(wording.hint))]
        if shows_costs or not self._may_tell_amount("message"):
            hints.append(self.said(format_value, format_text))
        if technical := self._technical(shows_costs=shows_costs):
            detail = format_text(gettext("Technical detail: %(detail)s.")) % {
                "detail": format_value(technical)
            }
            hints.append(detail)
        return Explanation(text, format_text(str(wording.remedy)), " ".join(filter(None, hints)))

    def said(
        self, format_value: Callable[[object], str] = str, format_text: Callable[[str], str] = str
    ) -> str:
        """Return the exact message from the provider, or "".

        ``format_value`` and ``format_text`` have the same meaning as in :meth:`explain`.
        """
        if "message" not in self.parameters:
            return ""
        text = format_text(gettext("The provider's message: “%(message)s”"))
        return text % {"message": format_value(self.parameters["message"])}

    def _technical(self, *, shows_costs: bool = True) -> str:
        return ", ".join(
            str(self.parameters[name])
            for name in _TECHNICAL
            if name in self.parameters and (shows_costs or not self._may_tell_amount(name))
        )

    def _may_tell_amount(self, name: str) -> bool:
        """Return True if the parameter contains digits that could be a price."""
        return any(map(str.isdigit, str(self.parameters.get(name, ""))))


def revise(
    entries: Iterable[Entry], *, ends: Collection[Kind] = (), new: Iterable[Problem] = ()
) -> list[Entry]:
    """Remove problems that have ended from the entries, and add new ones.

    ``ends`` lists the kinds of problems that have ended. If ``entries`` already contains one of the
    ``new`` problems, its entry is kept unchanged, even if its kind is listed in ``ends``.
    """
    new = list(dict.fromkeys(new))
    kept = [
        entry
        for entry in entries
        if (problem := Problem.of(entry)) in new or problem.kind not in ends
    ]
    known = [Problem.of(entry) for entry in kept]
    return kept + [problem.as_dict() for problem in new if problem not in known]


def history(
    before: Iterable[Entry], after: Iterable[Entry], details: Iterable[Problem]
) -> list[Entry]:
    """Return the entries for a status change.

    The result contains the ``details`` of the change, followed by the problems that have ended. The
    arguments ``before`` and ``after`` contain the problems before and after the change.
    """
    current = list(details)
    remaining = [Problem.of(entry) for entry in after]
    ended = [problem for problem in map(Problem.of, before) if problem not in remaining + current]
    return [problem.as_dict() for problem in current] + [
        {**problem.as_dict(), "ended": True} for problem in ended
    ]


def in_english(entries: Iterable[Entry]) -> str:
    """Render the entries as one line of English.

    The result is "" if there are no entries.
    """
    return " ".join(
        f"Earlier: {Problem.of(entry)}" if entry.get("ended") else str(Problem.of(entry))
        for entry in entries
    )
