"""Conditions about messages to customers and digests for staff."""

from __future__ import annotations

from collections.abc import Sequence

from django.db.models import QuerySet
from django.utils.translation import gettext, ngettext, ngettext_lazy
from django.utils.translation import gettext_lazy as _

from giftcards.delivery.conf import conf
from giftcards.delivery.models import Delivery, StaffDigest
from giftcards.text.display import moment_text
from giftcards.watch.conditions import MOST, Condition, Finding, OfRows, Severity, Standing


def _late(standing: Standing) -> Sequence[QuerySet[Delivery]]:
    return [Delivery.objects.late(standing.now)]


def _wait(late: QuerySet[Delivery]) -> Finding | None:
    times = [
        not_before or created_at
        for created_at, not_before in late.values_list("created_at", "not_before")[: MOST + 1]
    ]

    def explain() -> str:
        text = gettext("The first has been waiting since %(moment)s.")
        return text % {"moment": moment_text(min(times))}

    what = "waited to be sent for more than 5 minutes"
    return Finding.of_rows(
        len(times),
        one=f"1 message to customers has {what}.",
        many=f"%s messages to customers have {what}.",
        explain=explain,
    )


def _untold(standing: Standing) -> Sequence[QuerySet[Delivery]]:
    return [Delivery.objects.untold_lately(standing.now)]


def _are_untold(lately: QuerySet[Delivery]) -> Finding | None:
    what = "given up within the last day"
    return Finding.of_rows(
        lately.order_by()[: MOST + 1].count(),
        one=f"1 message to customers was {what}.",
        many=f"%s messages to customers were {what}.",
    )


def _failing_digests(_standing: Standing) -> Sequence[QuerySet[StaffDigest]]:
    # The table needs no index, because it has one row for each person who gets digests.
    return [StaffDigest.objects.filter(failures__gt=0)] if conf.staff_emails else []


def _digests_fail(*failing: QuerySet[StaffDigest]) -> Finding | None:
    count = sum(each.count() for each in failing)

    def explain() -> str:
        text = ngettext(
            "A digest for staff cannot be sent, so %(count)s person is not told what there is to"
            " do.",
            "Digests for staff cannot be sent, so %(count)s persons are not told what there is to"
            " do.",
            count,
        )
        return text % {"count": count}

    return Finding.of_rows(
        count,
        one="1 digest for staff cannot be sent.",
        many="%s digests for staff cannot be sent.",
        explain=explain,
    )


_MESSAGES = "giftcards_delivery_delivery_changelist"

CONDITIONS = (
    Condition(
        code="mail",
        holds="a message to a customer has waited to be sent for more than five minutes. See"
        " whether the mail server answers, and whether the worker runs.",
        severity=Severity.URGENT,
        permission="giftcards.check_order",
        judge=OfRows(_late, _wait),
        headline=ngettext_lazy(
            "%(count)s message to a customer could not be sent yet",
            "%(count)s messages to customers could not be sent yet",
            "count",
        ),
        remedy=_(
            "Sending is tried again automatically. If it lasts, the mail server needs a look."
        ),
        ended=_("Messages to customers are sent again."),
        page=_MESSAGES,
        is_about_orders=True,
        query="?customers=late",
    ),
    Condition(
        code="untold",
        holds="a message to a customer was given up or came back within the last day, and no"
        " later one makes up for it.",
        severity=Severity.WARNING,
        permission="giftcards.check_order",
        judge=OfRows(_untold, _are_untold),
        headline=ngettext_lazy(
            "%(count)s message that a customer did not get",
            "%(count)s messages that customers did not get",
            "count",
        ),
        remedy=_("Send each one again, to another address if need be, or call its customer."),
        page=_MESSAGES,
        is_about_orders=True,
        query="?customers=untold-lately",
        # Digests report these messages as the event "unsent".
        is_in_digests=False,
    ),
    Condition(
        code="digests",
        holds="a digest for staff could not be sent.",
        severity=Severity.URGENT,
        permission="giftcards_delivery.view_staffdigest",
        judge=OfRows(_failing_digests, _digests_fail),
        headline=ngettext_lazy(
            "%(count)s person cannot be sent a digest",
            "%(count)s persons cannot be sent digests",
            "count",
        ),
        remedy=_("The list says why. Correct the address, or have the mail server looked at."),
        is_in_digests=False,
        page="giftcards_delivery_staffdigest_changelist",
        is_above_list=True,
    ),
)
