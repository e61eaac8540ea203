"""Digests for staff: at most one per person in half an hour, except for urgent news.

Each person has a row in the database; the receivers of the signal ``staff_news`` share one row. A
process claims the row to send a digest. If the process dies, another process sends the digest again
after two minutes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime, timedelta
from functools import cache, partial, reduce
from operator import or_
from typing import Any, Self

from django.apps import apps
from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, Permission
from django.core.mail import EmailMultiAlternatives
from django.db.models import Q, QuerySet
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.translation import get_language_bidi, gettext, ngettext, override

from giftcards.delivery import digest_items
from giftcards.delivery.channels import (
    Failure,
    Limits,
    Meaning,
    NotTaken,
    describe,
    hand_over,
    html_mail,
)
from giftcards.delivery.conf import StaffPerson, conf
from giftcards.delivery.digest_items import Item, Situation, admin_url, alerts
from giftcards.delivery.models import StaffDigest
from giftcards.delivery.signals import staff_news
from giftcards.delivery.tuning import tuning
from giftcards.keys.secrecy import contained
from giftcards.models import Lease, Order
from giftcards.models.order_queries import leaves_some_out
from giftcards.rules.roles import ROLES
from giftcards.rules.times import LONGEST_HOLD, is_ahead
from giftcards.text.display import one_line
from giftcards.watch.conditions import MOST, Finding, Severity

logger = logging.getLogger(__name__)

# If the next attempt of a row is further ahead than this, the clock was set back, and the row is
# due.
_LONGEST = timedelta(days=1)
_LOOK_EVERY = timedelta(minutes=1)
# Events younger than this wait for the next digest, because other events of the same time may not
# be committed yet.
_LAG = timedelta(seconds=30)
# A person is told again of a state that has lasted for this time.
_REMINDED_AFTER = timedelta(days=1)
_PAUSES = tuple(timedelta(seconds=seconds) for seconds in (10, 60, 5 * 60, 30 * 60, 60 * 60))
# The longest pause while the mail server is away and a person has urgent news.
_LONGEST_IF_URGENT = timedelta(minutes=1)
# Failures that would affect mails to other people, too.
_AWAY = (Meaning.SERVER_AWAY, Meaning.UNANSWERED)
#: The name of the lease that limits searches for urgent news during pauses.
LOOKED = "newly urgent"
# The length of the lease LOOKED. Workers look once a minute, so the lease is shorter than a minute.
_LOOK_FOR = timedelta(seconds=45)
_FOLDER = "giftcards_delivery/digest"
#: The address in the row that all receivers of the signal ``staff_news`` share.
RECEIVERS = ""


@dataclass(slots=True)
class Told:
    """The news that a person has got so far; stored in the column ``StaffDigest.told``."""

    #: Maps the code of a state to the timestamp at which the person was last told of it.
    states: dict[str, float] = field(default_factory=dict)
    #: Maps the code of a condition to the primary keys of orders that are no news any more.
    matters: dict[str, list[int]] = field(default_factory=dict)
    #: The items of the last digest: the code, the count, and True if the state had ended.
    last: list[tuple[str, int, bool]] = field(default_factory=list)
    #: The codes of the urgent items in the last digest, even if this digest could not be sent.
    urgent: list[str] = field(default_factory=list)
    #: True if the last digest could not be sent for a reason that affects all mails.
    is_away: bool = False
    is_claimed: bool = False

    @classmethod
    def of(cls, digest: StaffDigest) -> Self:
        # Another version of the app may have stored other fields.
        names = [part.name for part in fields(cls)]
        return cls(**{name: digest.told[name] for name in names if digest.told.get(name)})


def send_due(limits: Limits, *, has_mailed: bool = False) -> int:
    """Send a digest to each person who is due and has news; return the number sent.

    A failed attempt is logged, shown in the admin, and repeated after a pause. ``has_mailed`` is
    True if the mail server has just taken a mail. In this case, pauses that began while the server
    was away are over.
    """
    people = _listed()
    if not people:
        return 0
    rows = {row.address: row for row in StaffDigest.objects.all()}
    # People who are no longer listed lose their rows. The row of the signal's receivers stays,
    # because another process may have receivers even if this one has none.
    gone = rows.keys() - people.keys() - {RECEIVERS}
    if gone:
        StaffDigest.objects.filter(address__in=gone).delete()
    return _Round(limits, has_mailed=has_mailed).run(people, rows)


class _Round:
    def __init__(self, limits: Limits, *, has_mailed: bool) -> None:
        self._limits = limits
        self._has_mailed = has_mailed
        # Each of these values is read at most once in a round, and only if somebody is due.
        self._situation = cache(digest_items.current_situation)
        self._orders_of = cache(orders_of)
        self._happened = cache(digest_items.recent_events)
        self._looks = cache(lambda: Lease.objects.take(LOOKED, _LOOK_FOR) is not None)

    def run(self, people: Mapping[str, StaffPerson], rows: Mapping[str, StaffDigest]) -> int:
        sent = 0
        # People whose last digest failed come last. If a mail to another person succeeds first,
        # mail works again.
        for person in sorted(people.values(), key=lambda one: _is_failing(rows.get(one.address))):
            if not self._limits.may_begin():
                break
            digest = rows.get(person.address)
            if digest and not self._is_due(digest, person):
                continue
            situation = self._situation()
            digest = digest or _begin(person.address, situation)
            if digest is None or not _claim(digest):
                continue
            sent += self._serve(digest, person, situation)
            if Told.of(digest).is_away:
                # People whose turn has not come yet stay due for the next round.
                break
        return sent

    def _is_due(self, digest: StaffDigest, person: StaffPerson) -> bool:
        if _is_past(digest.next_attempt_at, timezone.now()):
            return True
        told = Told.of(digest)
        if told.is_claimed:
            return False
        if told.is_away and self._has_mailed:
            return True
        urgent = _newly_urgent(told, self._situation()) if self._looks() else []
        return bool(self._for(person, urgent))

    def _for(self, person: StaffPerson, new: list[Item]) -> list[Item]:
        """Return the items of ``new`` for ``person``, without orders that are hidden from them."""
        may = permissions_of(person) if new else bool
        allowed = (item for item in new if may(item.alert.permission))
        parts = (item.visible_part(self._orders_of(person)) for item in allowed)
        return [replace(part, may=may) for part in parts if part]

    def _serve(self, digest: StaffDigest, person: StaffPerson, situation: Situation) -> bool:
        """Send the news to ``person``, and record it; return True if a digest went out."""
        # If the clock was set back, ``covers_until`` lies in the future.
        since = min(digest.covers_until or situation.at, situation.at)
        until = max(since, situation.at - _LAG)
        told = Told.of(digest)
        items = self._for(person, _new(told, situation, self._happened(since, until)))
        if items and (trouble := _tell(person, items, self._limits)):
            _note_failure(digest, items, trouble)
            return False
        now = timezone.now()
        values: dict[str, Any] = {
            "covers_until": until,
            "told": asdict(_knows(told, situation, items)),
            "next_attempt_at": now + _LOOK_EVERY,
            "failures": 0,
            "error": "",
        }
        if items:
            self._has_mailed |= person.address != RECEIVERS
            values |= {
                "sent_at": now,
                "next_attempt_at": now + tuning.digest_interval,
            }
        _write(digest, **values)
        return bool(items)


def _is_failing(digest: StaffDigest | None) -> bool:
    return digest is not None and digest.is_failing


def permissions_of(person: StaffPerson) -> Callable[[str], bool]:
    """Return a function that tells whether ``person`` has a permission at present.

    A role limits the person to its group's permissions. If staff have accounts with the person's
    address, an active one must have the permission, too.
    """
    held = None if person.role is None else _permissions_of_role(person.role)
    accounts = _accounts_of_staff(person.address)

    def may(permission: str) -> bool:
        is_of_role = held is None or permission in held
        return is_of_role and (
            not accounts or any(user.is_active and user.has_perm(permission) for user in accounts)
        )

    return may


def _permissions_of_role(name: str) -> set[str]:
    """The permissions of the group ``name``, or of the role if the group does not exist yet."""
    if not Group.objects.filter(name=name).exists():
        return {f"giftcards.{codename}" for codename in ROLES[name]}
    of_group = Permission.objects.filter(group__name=name)
    labels = of_group.order_by().values_list("content_type__app_label", "codename")
    return {f"{label}.{codename}" for label, codename in labels}


def _accounts_of_staff(address: str) -> list[Any]:
    """The accounts of staff with ``address``.

    Anyone can sign up as a customer with any address, so the accounts of customers do not count.
    """
    users = get_user_model()
    column = users.get_email_field_name()
    if not address or not hasattr(users, column):
        return []
    found = users._default_manager.filter(**{f"{column}__iexact": address})  # noqa: SLF001
    return [user for user in found if getattr(user, "is_staff", False)]


def unreached() -> dict[str, str]:
    """Map the listed addresses that get no digests to the reasons."""
    people = {address: person for address, person in _listed().items() if address != RECEIVERS}
    found = {address: _why_told_nothing(person) for address, person in people.items()}
    for digest in StaffDigest.objects.filter(failures__gt=0, address__in=people):
        found[digest.address] = found[digest.address] or failing_text(digest)
    return {address: reason for address, reason in found.items() if reason}


def _why_told_nothing(person: StaffPerson) -> str:
    """Say why ``person`` may be told of nothing; "" if there is something."""

    def is_told(may: Callable[[str], bool]) -> bool:
        return any(may(alert.permission) for alert in alerts().values())

    if is_told(permissions_of(person)):
        return ""
    if person.role and not is_told(_permissions_of_role(person.role).__contains__):
        text = gettext("The group %(group)s has no permission for any kind of news.")
        return text % {"group": f"\u2068{person.role}\u2069"}
    if not any(user.is_active for user in _accounts_of_staff(person.address)):
        return gettext("The staff account with this address is deactivated.")
    return gettext("The staff account with this address has no permission for any kind of news.")


def failing_text(digest: StaffDigest) -> str:
    text = ngettext(
        "cannot be sent: %(count)s attempt failed",
        "cannot be sent: %(count)s attempts failed",
        digest.failures,
    )
    return text % {"count": digest.failures}


def orders_of(person: StaffPerson) -> QuerySet[Order]:
    """The orders that digests for ``person`` may name.

    These are the orders that active staff with the person's address may see. Without such an
    account, digests may name all orders.
    """
    accounts = [user for user in _accounts_of_staff(person.address) if user.is_active]
    if not (accounts and apps.is_installed("django.contrib.admin")):
        return Order.objects.all()
    from giftcards.admin.frame.rows import orders_shown_to

    try:
        shown = list(map(orders_shown_to, accounts))
    except Exception as error:  # noqa: BLE001 (an admin of the shop may raise anything)
        logger.error(  # noqa: TRY400 (its text may name a customer)
            "It is not known which orders to tell a person of, so they are told of none. %s",
            describe(error),
        )
        return Order.objects.none()
    if not all(map(leaves_some_out, shown)):
        return Order.objects.all()
    parts = (Q(pk__in=orders.order_by().values("pk")) for orders in shown)
    return Order.objects.filter(reduce(or_, parts))


def _listed() -> dict[str, StaffPerson]:
    """The people who get digests, by address; of people who share an address, only the first."""
    people: dict[str, StaffPerson] = {}
    # The receivers come first: a chat may work while mail does not.
    if any(staff_news.named_receivers(None)):
        people[RECEIVERS] = StaffPerson(RECEIVERS, settings.LANGUAGE_CODE)
    for person in conf.staff_emails:
        people.setdefault(person.address, person)
    return people


def _is_past(moment: datetime | None, now: datetime) -> bool:
    return moment is None or not is_ahead(moment, now, longest=_LONGEST)


def _begin(address: str, situation: Situation) -> StaffDigest | None:
    """Create the row of a person; return ``None`` if the row exists.

    Earlier events are no news for the person, nor are orders that need attention already.
    """
    told = Told(matters=_open_orders(situation))
    digest, is_new = StaffDigest.objects.get_or_create(
        address=address, defaults={"covers_until": situation.at, "told": asdict(told)}
    )
    return digest if is_new else None


def _claim(digest: StaffDigest) -> bool:
    told = {**digest.told, "is_claimed": True}
    return _write(digest, next_attempt_at=timezone.now() + LONGEST_HOLD, told=told)


def _write(digest: StaffDigest, **values: Any) -> bool:
    """Write to the row; return False if another process has claimed the row."""
    row = StaffDigest.objects.filter(pk=digest.pk, next_attempt_at=digest.next_attempt_at)
    if not row.update(**values):
        return False
    for name, value in values.items():
        setattr(digest, name, value)
    return True


def _new(told: Told, situation: Situation, happened: Iterable[Item]) -> list[Item]:
    """The items that are new to a person, most important first; ended states come last."""
    known, at = alerts(), situation.at.timestamp()
    items = [
        Item.about(known[code], finding)
        for code, finding in situation.states.items()
        if not 0 <= at - told.states.get(code, 0) < _REMINDED_AFTER.total_seconds()
    ]
    for code, finding in situation.matters.items():
        if unknown := _without(finding, told.matters.get(code, ())):
            items.append(Item.about(known[code], unknown))
    items += happened
    if situation.silence and any(item.orders for item in items):
        # If the provider has just stopped answering, this may be the reason for items about orders.
        items.append(Item.about(known["provider"], situation.silence))
    # A stored code may come from another version or from a removed app. Then no text is known for
    # it, and it is left out.
    over = told.states.keys() & known.keys() - situation.states.keys()
    items += [Item(known[code], has_ended=True) for code in over]
    order = list(known)
    return sorted(items, key=lambda item: (item.has_ended, order.index(item.code)))


def _newly_urgent(told: Told, situation: Situation) -> list[Item]:
    """New urgent items that were not in the last digest, even if that digest could not be sent."""
    codes = situation.states.keys() - told.states.keys() - set(told.urgent)
    new = (Item.about(alerts()[code], situation.states[code]) for code in codes)
    return [item for item in new if item.severity == Severity.URGENT]


def _urgent(items: Iterable[Item]) -> list[str]:
    return [item.code for item in items if item.severity == Severity.URGENT]


def _without(finding: Finding, known: Iterable[int]) -> Finding | None:
    """``finding`` without the orders in ``known``; ``None`` if no order is left."""
    told = set(known)
    orders = {key: name for key, name in finding.orders.items() if key not in told}
    if not orders:
        return None
    count = min(len(orders), MOST)
    return replace(finding, count=count, has_more=len(orders) > MOST, orders=orders)


def _open_orders(situation: Situation) -> dict[str, list[int]]:
    return {code: list(finding.orders) for code, finding in situation.matters.items()}


def _knows(told: Told, situation: Situation, items: list[Item]) -> Told:
    at = situation.at.timestamp()
    new = {item.code: at for item in items if item.code in situation.states}
    return Told(
        # A state that has ended is forgotten, even if the person was not told of its end.
        states={code: at for code, at in told.states.items() if code in situation.states} | new,
        # Even orders that do not concern the person are recorded: they must not become news later.
        matters=_open_orders(situation),
        last=[(item.code, item.count, item.has_ended) for item in items] or told.last,
        urgent=_urgent(items) if items else told.urgent,
    )


def _mail_to(person: StaffPerson, items: list[Item]) -> EmailMultiAlternatives:
    with override(person.language):
        context = {
            "items": items,
            "news": [item for item in items if not item.has_ended],
            "ended": [item for item in items if item.has_ended],
            "title": _title(items),
            "start_url": admin_url("giftcards_desk_changelist"),
            "shop_name": conf.display_name,
            "language": person.language,
            "is_rtl": get_language_bidi(),
        }
        return html_mail(
            person.address,
            # A template ends with a line break, which no subject may have.
            one_line(render_to_string(f"{_FOLDER}/subject.txt", context)),
            render_to_string(f"{_FOLDER}/mail.txt", context).strip() + "\n",
            render_to_string(f"{_FOLDER}/mail.html", context),
        )


def _title(items: list[Item]) -> str:
    """The first two items, such as "2 orders to do, the balance is low and more"."""
    first, *others = [item.headline.removesuffix(".") for item in items]
    if not others:
        return first
    names = {"first": first, "second": others[0]}
    if others[1:]:
        return gettext("%(first)s, %(second)s and more") % names
    return gettext("%(first)s, %(second)s") % names


@contained
def _tell(person: StaffPerson, items: list[Item], limits: Limits) -> Failure | None:
    if person.address == RECEIVERS:
        with override(person.language):
            _call_receivers(items)
        return None
    try:
        mail = _mail_to(person, items)
    except Exception as error:  # noqa: BLE001 (templates of the shop raise anything)
        return Failure(Meaning.NOT_SENT, describe(error))
    # A mail that goes out after the time limit is not recorded as sent, so it is sent again.
    end = hand_over(partial(_hand_over, mail), limits, late=lambda _sent: None)
    return end if isinstance(end, Failure) else None


def _hand_over(mail: EmailMultiAlternatives) -> None:
    # Some mail backends return None, so only 0 means a failure.
    if mail.send() == 0:
        raise NotTaken


def _call_receivers(items: list[Item]) -> None:
    for name, call in staff_news.named_receivers(None):
        try:
            call(items=items)
        except Exception as error:  # noqa: BLE001 (receivers raise anything)
            logger.error(  # noqa: TRY400 (its text may hold the key of a chat)
                "Telling staff failed. %s: %s", name, describe(error)
            )


def _note_failure(digest: StaffDigest, items: Iterable[Item], trouble: Failure) -> None:
    logger.error("A digest for staff could not be sent. %s", trouble.error)
    failures = digest.failures + 1
    pause = _PAUSES[min(failures, len(_PAUSES)) - 1]
    urgent, is_away = _urgent(items), trouble.meaning in _AWAY
    if urgent and is_away:
        pause = min(pause, _LONGEST_IF_URGENT)
    told = replace(Told.of(digest), urgent=urgent, is_away=is_away, is_claimed=False)
    _write(
        digest,
        failures=failures,
        error=trouble.error,
        next_attempt_at=timezone.now() + pause,
        told=asdict(told),
    )


def last_digest(digest: StaffDigest) -> list[Item]:
    """The items of the last digest, without items whose code this version does not know."""
    known = alerts()
    return [
        Item(known[code], count, has_ended=has_ended)
        for code, count, has_ended in Told.of(digest).last
        if code in known
    ]
