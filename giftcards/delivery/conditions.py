"""Conditions that concern messages to customers and digests for staff."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from django.apps import apps
from django.db.models import Func, QuerySet, Subquery, Value
from django.utils.translation import gettext, ngettext, ngettext_lazy
from django.utils.translation import gettext_lazy as _

from giftcards.delivery.conf import conf
from giftcards.delivery.models import CardLink, Delivery, LinkVisit, StaffDigest
from giftcards.models import Card
from giftcards.models.staff_records import REFUSED_REVEAL
from giftcards.text.display import moment_text
from giftcards.watch.conditions import MOST, Condition, Finding, OfRows, Severity, Standing

# The admin's log has no index by time, so only its latest entries are searched.
_LATEST_ENTRIES = 10_000


def _late(standing: Standing) -> Sequence[QuerySet[Delivery]]:
    return [Delivery.objects.late(standing.now)]


def _wait(late: QuerySet[Delivery]) -> Finding | None:
    times = [
        not_before or created_at
        for created_at, not_before in late.values_list("created_at", "not_before")[: MOST + 1]
    ]

    def explain() -> str:
        text = gettext("The oldest message has been waiting since %(moment)s.")
        return text % {"moment": moment_text(min(times))}

    what = "waited to be sent for more than 5 minutes"
    return Finding.of_rows(
        len(times),
        singular=f"1 message to customers has {what}.",
        plural=f"%s messages to customers have {what}.",
        explain=explain,
    )


def _untold(standing: Standing) -> Sequence[QuerySet[Delivery]]:
    return [Delivery.objects.untold_since(standing.lately)]


def _are_untold(lately: QuerySet[Delivery]) -> Finding | None:
    rows = list(lately.order_by().values_list("order_id", "order__reference")[: MOST + 1])
    what = "given up within the last day"
    return Finding.of_rows(
        len(rows),
        singular=f"1 message to customers was {what}.",
        plural=f"%s messages to customers were {what}.",
        orders=dict(rows),
    )


def _locked(standing: Standing) -> Sequence[QuerySet[LinkVisit]]:
    visits = LinkVisit.objects.filter(what=LinkVisit.What.LOCKED, at__gt=standing.lately)
    return [visits.filter(link__revoked_at=None)]


def _unreadable(standing: Standing) -> Sequence[QuerySet[LinkVisit]]:
    visits = LinkVisit.objects.filter(what=LinkVisit.What.REVEALED, at__gt=standing.lately)
    return [visits.filter(unreadable__gt=0)]


def _orders_of_visits(visits: QuerySet[LinkVisit], *, singular: str, plural: str) -> Finding | None:
    orders = visits.order_by().values_list("link__order_id", "link__order__reference").distinct()
    found = dict(orders[: MOST + 1])
    return Finding.of_rows(len(found), singular=singular, plural=plural, orders=found)


def _refused_reveals(standing: Standing) -> Sequence[QuerySet[Any]]:
    if not apps.is_installed("django.contrib.admin"):
        return []
    from django.contrib.admin.models import LogEntry
    from django.contrib.contenttypes.models import ContentType

    kinds = ContentType.objects.get_for_models(Card, CardLink)
    # An aggregate would group the rows, and read all of them.
    latest = LogEntry.objects.order_by().values(latest=Func("pk", function="MAX"))
    entries = LogEntry.objects.filter(
        pk__gt=Subquery(latest) - Value(_LATEST_ENTRIES),
        content_type__in=[kind.pk for kind in kinds.values()],
        object_repr=REFUSED_REVEAL,
        action_time__gt=standing.lately,
    )
    return [entries.order_by()]


def _are_refused(*entries: QuerySet[Any]) -> Finding | None:
    # Each person has at most one entry in an hour.
    rows = [key for each in entries for key in each.values_list("pk", flat=True)[: MOST + 1]]
    what = "to reveal more codes than allowed, within the last day"
    return Finding.of_rows(
        len(rows), singular=f"1 attempt {what}.", plural=f"%s attempts {what}.", rows=rows
    )


def _failing_digests(_standing: Standing) -> Sequence[QuerySet[StaffDigest]]:
    # The table needs no index, because it has one row for each person who gets digests.
    return [StaffDigest.objects.filter(failures__gt=0)] if conf.staff_emails else []


def _digests_fail(*failing: QuerySet[StaffDigest]) -> Finding | None:
    count = sum(each.count() for each in failing)

    def explain() -> str:
        text = ngettext(
            "A digest for staff cannot be sent, so %(count)s person is not being notified of"
            " problems.",
            "Digests for staff cannot be sent, so %(count)s people are not being notified of"
            " problems.",
            count,
        )
        return text % {"count": count}

    return Finding.of_rows(
        count,
        singular="1 digest for staff cannot be sent.",
        plural="%s digests for staff cannot be sent.",
        explain=explain,
    )


_MESSAGES = "giftcards_delivery_delivery_changelist"

CONDITIONS = (
    Condition(
        code="messages_late",
        holds="A message to a customer has waited to be sent for more than five minutes. Check"
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
            "The app will try again automatically. If the problem persists, check the mail server."
        ),
        ended=_("Messages to customers can be sent again."),
        page=_MESSAGES,
        is_about_orders=True,
        query="?customers=late",
    ),
    Condition(
        code="messages_failed",
        holds="Within the last day, a message to a customer failed for good or was returned, and"
        " no later message has replaced it.",
        severity=Severity.WARNING,
        permission="giftcards.check_order",
        judge=OfRows(_untold, _are_untold),
        headline=ngettext_lazy(
            "%(count)s message that a customer did not receive",
            "%(count)s messages that customers did not receive",
            "count",
        ),
        remedy=_("Send each message again, to another address if necessary, or call the customer."),
        page=_MESSAGES,
        is_about_orders=True,
        query="?customers=untold-lately",
    ),
    Condition(
        code="cards_not_shown",
        holds="Within the last day, a customer tried to see a card that could not be decrypted."
        " Read the log.",
        severity=Severity.WARNING,
        permission="giftcards.reveal_card",
        judge=OfRows(
            _unreadable,
            partial(
                _orders_of_visits,
                singular="The cards of 1 order could not be shown to the customer within the last"
                " day.",
                plural="The cards of %s orders could not be shown to customers within the last"
                " day.",
            ),
        ),
        headline=ngettext_lazy(
            "%(count)s order with cards that cannot be decrypted",
            "%(count)s orders with cards that cannot be decrypted",
            "count",
        ),
        remedy=_("Each customer saw an error instead of the code. Contact your developer."),
        is_about_orders=True,
        is_on_start_page=False,
    ),
    Condition(
        code="links_locked",
        holds="Within the last day, a link was locked after wrong PINs, and staff have neither"
        " withdrawn it nor sent a new one.",
        severity=Severity.WARNING,
        permission="giftcards.reveal_card",
        judge=OfRows(
            _locked,
            partial(
                _orders_of_visits,
                singular="The link to the cards of 1 order is locked after wrong PINs.",
                plural="The links to the cards of %s orders are locked after wrong PINs.",
            ),
        ),
        headline=ngettext_lazy(
            "%(count)s link locked after wrong PINs",
            "%(count)s links locked after wrong PINs",
            "count",
        ),
        remedy=_("Ask each customer whether they entered the wrong PINs, and send a new link."),
        is_about_orders=True,
        is_on_start_page=False,
    ),
    Condition(
        code="reveals_refused",
        holds="Within the last day, a member of staff tried to reveal more codes than"
        " `REVEALS_PER_HOUR` allows.",
        severity=Severity.WARNING,
        permission="giftcards.view_cardreveal",
        judge=OfRows(_refused_reveals, _are_refused),
        headline=ngettext_lazy(
            "%(count)s attempt to reveal more codes than allowed",
            "%(count)s attempts to reveal more codes than allowed",
            "count",
        ),
        remedy=_(
            "No further codes were revealed. If this member of staff does not usually reveal so"
            " many codes, contact them, because somebody else may be using their account."
        ),
        page="giftcards_cardreveal_changelist",
        is_on_start_page=False,
    ),
    Condition(
        code="digests_failed",
        holds="A digest for staff could not be sent.",
        severity=Severity.URGENT,
        permission="giftcards_delivery.view_staffdigest",
        judge=OfRows(_failing_digests, _digests_fail),
        headline=ngettext_lazy(
            "%(count)s person cannot receive a digest",
            "%(count)s people cannot receive digests",
            "count",
        ),
        remedy=_("The list shows the reason. Correct the address, or check the mail server."),
        is_in_digests=False,
        page="giftcards_delivery_staffdigest_changelist",
        is_above_list=True,
    ),
)
