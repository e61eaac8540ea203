"""Digests for staff: current problems, and problems that have ended.

Every minute, the app compares the current conditions with the conditions reported to each person so
far. If there is a new condition, the app sends the person a digest, but not more than one digest
within ``tuning.digest_interval``. New urgent conditions are sent without this delay. Each person
has a row in the database. A process claims this row to send a digest. If the process dies, another
process sends the digest again after two minutes.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from datetime import timedelta
from functools import cached_property, partial
from typing import Any

from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.translation import get_language_bidi, gettext, override

from giftcards.delivery.channels import (
    Failure,
    Limits,
    Mail,
    Meaning,
    Message,
    describe,
    hand_over,
    make_channels,
    send_over,
)
from giftcards.delivery.conf import StaffPerson, conf
from giftcards.delivery.digest_items import Item, Situation, admin_url, told_conditions
from giftcards.delivery.models import StaffDigest
from giftcards.delivery.staff import listed, orders_of, permissions_of
from giftcards.delivery.tuning import tuning
from giftcards.keys.secrecy import contained
from giftcards.rules.times import LONGEST_HOLD, is_ahead, is_recent
from giftcards.text.display import one_line
from giftcards.watch.conditions import Finding, Severity, Standing

logger = logging.getLogger(__name__)

#: The ``kind`` of the message that is handed to a channel.
KIND = "digest"
_LOOK_EVERY = timedelta(minutes=1)
# If a condition lasts, staff get a reminder this long after the last digest, unless the condition
# is about single orders.
_REMINDED_AFTER = timedelta(days=1)
# The pauses after failed attempts if the reason concerns only one person. The last pause is the
# longest one.
_PAUSES = tuple(timedelta(minutes=minutes) for minutes in (1, 5, 30, 60))
# The pause after an attempt with an unknown outcome, unless there is urgent news.
_UNANSWERED_PAUSE = timedelta(minutes=15)
_FOLDER = "giftcards_delivery/digest"


def send_due(limits: Limits) -> int:
    """Send the digests that are due, and return their number.

    A person gets a digest if a condition is new or has ended since the last digest. A person also
    gets a digest as a reminder if a condition lasts. Unless a new condition is urgent, there is a
    minimum interval between two digests. A failed attempt is logged, shown in the admin, and
    retried after a pause.
    """
    people = listed()
    if not people:
        return 0
    rows = {row.address: row for row in StaffDigest.objects.all()}
    # People who are no longer listed do not get digests, so their rows are deleted.
    if gone := rows.keys() - people.keys():
        StaffDigest.objects.filter(address__in=gone).delete()
    return _Round(limits, rows).run(people)


class _Round:
    def __init__(self, limits: Limits, rows: Mapping[str, StaffDigest]) -> None:
        self._limits = limits
        self._rows = rows
        # The channels whose servers do not answer.
        self._away: set[str] = set()

    @cached_property
    def _situation(self) -> Situation:
        # After an outage, digests also cover events that are older than a day, because people may
        # not have been notified of them yet.
        known = [row.covers_until for row in self._rows.values() if row.covers_until]
        return Situation.judge(Standing(since=min(known, default=None)))

    def run(self, people: Mapping[str, StaffPerson]) -> int:
        sent = 0
        # People whose last digest failed come last, so that they do not keep others waiting.
        for person in sorted(people.values(), key=self._is_failing):
            if not self._limits.may_begin():
                break
            if person.channel in self._away:
                continue
            digest = self._rows.get(person.address) or _row_of(person.address)
            if not _is_ahead(digest.next_attempt_at) and _claim(digest):
                sent += self._serve(digest, person)
        return sent

    def _is_failing(self, person: StaffPerson) -> bool:
        row = self._rows.get(person.address)
        return row is not None and row.is_failing

    def _serve(self, digest: StaffDigest, person: StaffPerson) -> bool:
        """Send the person a digest if one is due, and record the result.

        Returns True if a digest was sent.
        """
        news = _News(digest, person, self._situation)
        values: dict[str, Any] = {"told": news.still_told}
        is_due, items = news.is_due, news.items
        trouble = _tell(person, items, self._limits) if is_due else None
        if trouble:
            logger.error("A digest for staff could not be sent. %s", trouble.error)
            if trouble.meaning in {Meaning.SERVER_AWAY, Meaning.UNANSWERED}:
                self._away.add(person.channel)
            values |= _after_failure(digest, news, trouble)
        elif is_due or not news.is_any:
            values |= {"failures": 0, "error": "", "retry_at": None, "tried": []}
            values["covers_until"] = self._situation.standing.now
        is_sent = is_due and not trouble
        if is_sent:
            said = [(item.code, item.count, item.has_ended) for item in items]
            values |= {"told": news.all_told, "said": said, "sent_at": timezone.now()}
        _write(digest, next_attempt_at=timezone.now() + _LOOK_EVERY, **values)
        return is_sent


class _News:
    """The news for a person: how conditions changed since the last digest.

    The person's permissions determine which conditions the person can see.
    """

    def __init__(self, digest: StaffDigest, person: StaffPerson, situation: Situation) -> None:
        self._digest = digest
        self._situation = situation
        self._known = told_conditions()
        self._now: dict[str, Finding] = {}
        if not (situation.found or digest.told):
            return
        # Permissions are checked each time.
        self._may = permissions_of(person)
        visible = orders_of(person)
        for code in filter(self._may_know, situation.found):
            if part := self._known[code].visible_part(situation.found[code], visible):
                self._now[code] = part

    def _may_know(self, code: str) -> bool:
        # A stored code may come from another version, or from an app that was removed.
        return code in self._known and self._may(self._known[code].permission)

    def _keys(self, code: str) -> list[int]:
        """Return the keys of individually tracked orders or rows."""
        finding = self._now[code]
        return [] if self._known[code].ended else [*finding.orders, *finding.rows]

    def _new_keys(self, code: str) -> set[int]:
        return set(self._keys(code)).difference(self._digest.told.get(code, ()))

    @cached_property
    def _new(self) -> set[str]:
        told = self._digest.told
        return {code for code in self._now if code not in told or self._new_keys(code)}

    @cached_property
    def _ended(self) -> list[str]:
        gone = [code for code in self._known if code in self._digest.told.keys() - self._now.keys()]
        return [code for code in gone if self._known[code].ended and self._may_know(code)]

    @property
    def is_any(self) -> bool:
        return bool(self._new or self._ended)

    @cached_property
    def urgent(self) -> list[str]:
        """The codes of the new conditions that are urgent."""
        return [code for code in self._new if self._known[code].severity == Severity.URGENT]

    @property
    def is_due(self) -> bool:
        """True if a digest must be sent now."""
        if _is_ahead(self._digest.retry_at) and not set(self.urgent).difference(self._digest.tried):
            return False
        now, sent_at = timezone.now(), self._digest.sent_at
        if self.urgent or sent_at is None:
            return self.is_any
        if is_recent(sent_at, now, period=tuning.digest_interval):
            return False
        is_lasting = any(self._known[code].ended for code in self._now)
        return self.is_any or (is_lasting and not is_recent(sent_at, now, period=_REMINDED_AFTER))

    @property
    def still_told(self) -> dict[str, list[int]]:
        """The conditions that ``person`` has been notified of and that still hold.

        The dict maps the code of each condition to the primary keys of the orders or other rows
        that it concerns. If a condition no longer holds for a row, the key of the row is left out.
        If the condition later holds for this row again, it counts as new.
        """
        told = self._digest.told
        lasting = {
            code: [key for key in self._keys(code) if key in set(told[code])]
            for code in told.keys() & self._now.keys()
        }
        return lasting | {code: [] for code in self._ended}

    @property
    def all_told(self) -> dict[str, list[int]]:
        """The conditions that the person knows about after reading the digest."""
        told = {code: self._keys(code) for code in self._now}
        return told | {code: [] for code in self._cause}

    @property
    def _cause(self) -> dict[str, Finding]:
        # If the provider has just stopped answering, this may be the reason for news about orders.
        silence = self._situation.silence
        is_about_orders = any(self._now[code].orders for code in self._new)
        is_cause = silence and is_about_orders and self._may_know("provider_failing")
        return {"provider_failing": silence} if silence and is_cause else {}

    @property
    def items(self) -> list[Item]:
        """The items about new, already known and ended conditions, in this order.

        Each group is sorted by importance.
        """
        cause = self._cause
        found, new = self._now | cause, self._new | cause.keys()
        items = [
            Item.about(
                self._known[code],
                found[code],
                first=self._new_keys(code) if code in self._now else (),
                is_new=code in new,
                may=self._may,
            )
            for code in self._known
            if code in found
        ]
        items.sort(key=lambda item: not item.is_new)
        ended = [Item(self._known[code], has_ended=True) for code in self._ended]
        return items + ended


def _row_of(address: str) -> StaffDigest:
    return StaffDigest.objects.get_or_create(address=address)[0]


def _is_ahead(moment: Any) -> bool:
    """True if ``moment`` is in the future, but within the longest pause."""
    return moment is not None and is_ahead(moment, timezone.now(), max_distance=_PAUSES[-1])


def _claim(digest: StaffDigest) -> bool:
    return _write(digest, next_attempt_at=timezone.now() + LONGEST_HOLD)


def _write(digest: StaffDigest, **values: Any) -> bool:
    """Write to the row, or return False if another process has claimed it."""
    row = StaffDigest.objects.filter(pk=digest.pk, next_attempt_at=digest.next_attempt_at)
    if not row.update(**values):
        return False
    for name, value in values.items():
        setattr(digest, name, value)
    return True


def _after_failure(digest: StaffDigest, news: _News, trouble: Failure) -> dict[str, Any]:
    failures = digest.failures + 1
    pause = _PAUSES[min(failures, len(_PAUSES)) - 1]
    if trouble.meaning is Meaning.SERVER_AWAY:
        pause = _LOOK_EVERY
    if trouble.meaning is Meaning.UNANSWERED:
        pause = _LOOK_EVERY if news.urgent else _UNANSWERED_PAUSE
    asked = timedelta(seconds=min(trouble.pause, _PAUSES[-1].total_seconds()))
    return {
        "failures": failures,
        "error": trouble.error,
        "retry_at": timezone.now() + max(pause, asked),
        "tried": news.urgent,
    }


@contained
def _tell(person: StaffPerson, items: list[Item], limits: Limits) -> Failure | None:
    try:
        # The shop may have a channel of its own for mail.
        channels = {channel.name: channel for channel in (Mail(), *make_channels())}
        channel, message = channels[person.channel], _message(person, items)
    except Exception as error:  # noqa: BLE001 (templates and channels of the shop raise anything)
        return Failure(Meaning.NOT_SENT, describe(error))
    # A message that goes out after the time limit is not recorded as sent, so it is sent again.
    end = hand_over(partial(send_over, channel, message), limits, on_late_result=lambda _sent: None)
    return end if isinstance(end, Failure) else None


def _message(person: StaffPerson, items: list[Item]) -> Message:
    with override(person.language):
        link = admin_url("giftcards_desk_changelist")
        context = _words(person, items, link)
        # The rendered template ends with a line break, which is not allowed in a subject.
        subject = one_line(render_to_string(f"{_FOLDER}/subject.txt", context))
        return Message(
            kind=KIND,
            reference="",
            language=person.language,
            address=person.address,
            subject=subject,
            text=render_to_string(f"{_FOLDER}/mail.txt", context).strip() + "\n",
            html=render_to_string(f"{_FOLDER}/mail.html", context),
            short=" ".join(filter(None, (subject, link))),
            link=link,
            # Each attempt describes the current conditions, so it is a new message with its own id.
            id=uuid.uuid4().hex,
        )


def _words(person: StaffPerson, items: list[Item], link: str) -> dict[str, Any]:
    return {
        "items": items,
        "news": [item for item in items if item.is_new and not item.has_ended],
        "told": [item for item in items if not item.has_ended],
        "ended": [item for item in items if item.has_ended],
        "title": _title(items),
        "start_url": link,
        "shop_name": conf.display_name,
        "language": person.language,
        "is_rtl": get_language_bidi(),
    }


def _title(items: list[Item]) -> str:
    """Return a title such as "2 orders to do, the balance is low and more"."""
    told = [item for item in items if item.is_new] or items
    first, *others = [item.headline.removesuffix(".") for item in told]
    if not others:
        return first
    names = {"first": first, "second": others[0]}
    if others[1:]:
        return gettext("%(first)s, %(second)s and more") % names
    return gettext("%(first)s, %(second)s") % names


def last_digest(digest: StaffDigest) -> list[Item]:
    """Return the items of the last digest.

    Items about conditions that this version does not know are left out.
    """
    known = told_conditions()
    return [
        Item(known[code], count, has_ended=has_ended)
        for code, count, has_ended in digest.said
        if code in known
    ]
