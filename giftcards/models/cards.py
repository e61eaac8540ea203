"""Delivered codes: rows that hold ciphertext only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any, Self

from django.db import models
from django.db.models import Exists, F, Max, Min, OuterRef, Q
from django.db.models.expressions import Combinable
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from giftcards.conf import conf
from giftcards.exceptions import CodeDestroyed, DecryptionError
from giftcards.keys.keyring import Keyring, Place, Sealed
from giftcards.keys.secrecy import CardSecret, Masked, contained
from giftcards.models.fields import assign
from giftcards.models.orders import Order
from giftcards.models.scalars import read_beside, value_of

# At most this many characters of a code are shown to staff with permission to find or reveal codes.
_LONGEST_TAIL = 4
#: Stands in place of the key's fingerprint once the code is destroyed. The row stays, because the
#: books need it, and because its last fingerprint recognises a code that is delivered again.
DESTROYED = "destroyed"
# What is found at the ends: the "oldest" or "newest" card of a key, or an "other" key.
End = tuple[str, str]


def _by_value(text: str) -> Q:
    return Q(value_fingerprint__in=conf.keyring().value_fingerprints(text))


def _by_serial(text: str) -> Q:
    serials = conf.keyring().serial_fingerprints(text)
    # The first condition is redundant, but SQLite needs it, as in ``known_as`` of orders.
    return Q(serial_fingerprint__gt="", serial_fingerprint__in=serials)


class CardQuerySet(models.QuerySet["Card"]):
    def with_code(self, text: str) -> Self:
        """Cards whose full code or serial is ``text``, found without decryption; unsorted.

        Ignores case, spaces, dashes and the script of digits. Covers every configured encryption
        key. A card with a destroyed code is not found, although its fingerprint is there.
        """
        text = Masked(text)
        return self.readable().filter(_by_value(text) | _by_serial(text)).order_by()

    def newest_with_code(self, text: str, most: int) -> list[Card]:
        """At most ``most`` cards from :meth:`with_code`, newest first.

        The query is fast even if all cards have the same serial.
        """
        text = Masked(text)
        # No index contains this sum. If the cards were sorted by the primary key itself, SQLite
        # would scan all cards in that order.
        newest_first = (F("pk") + 0).desc()
        cards = self.readable().order_by(newest_first)
        searches = (_by_value(text), _by_serial(text))
        found = {card for by in searches for card in cards.filter(by)[:most]}
        return sorted(found, key=lambda card: -card.pk)[:most]

    def with_tail(self, text: str) -> Self:
        """Cards whose code ends in ``text``, which must have four characters; newest first.

        Ignores what :meth:`with_code` ignores. Codes of fewer than eight characters are not found.
        """
        text = Masked(text)
        tails = conf.keyring().tail_fingerprints(text)
        return self.filter(tail_fingerprint__in=tails).order_by("-pk")

    def with_repeats(self) -> Self:
        """Annotate ``is_repeated``: True if another card has the same code."""
        twins = Card.objects.filter(value_fingerprint=OuterRef("value_fingerprint"))
        return self.annotate(is_repeated=Exists(twins.exclude(pk=OuterRef("pk"))))

    def readable(self) -> Self:
        """Cards whose code was not destroyed."""
        return self.exclude(key_fingerprint=DESTROYED)

    def destroy(self) -> int:
        """Destroy the codes of these cards; return the number of cards.

        One fingerprint of each code stays: it recognises a code that is delivered again.
        """
        cards = self.readable().order_by()
        return cards.update(
            sealed="",
            key_fingerprint=DESTROYED,
            identity="",
            serial_fingerprint="",
            tail_fingerprint="",
        )

    def ends(self, found: Mapping[End, Any] | None = None) -> dict[str, tuple[int, int]]:
        """The primary keys of the oldest and the newest card of each encryption key in use.

        The result maps fingerprints of encryption keys to pairs of primary keys. It has all keys in
        use, even keys that are not in the settings. ``found`` saves a query if the values of
        :meth:`scalars_of_ends` were read already. Raises
        :exc:`~giftcards.exceptions.ConfigurationError` if the keys in the settings are unusable.
        """
        keys = list(conf.keyring().key_fingerprints)
        if found is None:
            found = self._look_for_ends(keys)
        while others := _other_keys(found).difference(keys):
            keys += sorted(others)
            found = self._look_for_ends(keys)
        oldest = {key: found.get(("oldest", key)) for key in keys}
        return {key: (pk, found["newest", key]) for key, pk in oldest.items() if pk is not None}

    def _look_for_ends(self, keys: list[str]) -> Mapping[End, Any]:
        found = read_beside(self.order_by("pk"), self.scalars_of_ends(keys))
        return found[0] if found else {}

    def scalars_of_ends(self, keys: Iterable[str] | None = None) -> dict[End, Combinable]:
        """Expressions for the values that :meth:`ends` needs.

        ``keys`` are fingerprints of encryption keys, by default of the keys in the settings. The
        expressions also find other keys in use. They read only the ends of index ranges, because
        the whole index takes a third of a second at a million cards.
        """
        if keys is None:
            keys = conf.keyring().key_fingerprints
        scalars: dict[End, Combinable] = {}
        for key in keys:
            cards = self.filter(key_fingerprint=key)
            scalars["oldest", key] = value_of(cards, Min("pk"))
            scalars["newest", key] = value_of(cards, Max("pk"))
        for number, span in enumerate(_spans_between(sorted([*keys, DESTROYED]))):
            others = value_of(self.filter(span), Min("key_fingerprint"))
            scalars["other", str(number)] = others
        return scalars

    def need_of_keys(self) -> tuple[int, list[int]]:
        """Return the number of cards whose key is missing, and the keys that no card needs.

        A key is missing if it is not in the settings. The second value is a list of positions in
        the settings, from 2, because the first key is always needed. If there is no readable card,
        the list is empty. Raises :exc:`~giftcards.exceptions.ConfigurationError` if the keys in the
        settings are unusable.
        """
        configured = conf.keyring().key_fingerprints
        used = set(self.ends())
        lost = self.filter(key_fingerprint__in=used.difference(configured)).count()
        if not used:
            return lost, []
        old = enumerate(configured[1:], 2)
        return lost, [position for position, key in old if key not in used]

    def try_keys(self, found: Mapping[End, Any] | None = None) -> dict[str, str]:
        """Open the newest and the oldest card, to see whether the encryption keys still fit.

        The result has the keys "newest" and "oldest". Each value is a sentence that says what is
        wrong and shows nothing of the card; "" if the card opens. The result is empty if there is
        no card. ``found`` is passed to :meth:`ends`. Raises
        :exc:`~giftcards.exceptions.ConfigurationError` if the keys in the settings are unusable.
        """
        keyring = conf.keyring()
        ends = [key for ends in self.ends(found).values() for key in ends]
        if not ends:
            return {}
        # A card whose code has just been destroyed is no trouble.
        wanted = self.readable().filter(pk__in={min(ends), max(ends)})
        cards = list(wanted.select_related("order").order_by("pk"))
        if not cards:
            return {}
        return {"newest": cards[-1].trouble(keyring), "oldest": cards[0].trouble(keyring)}


def _other_keys(found: Mapping[End, Any]) -> set[str]:
    return {key for (what, _name), key in found.items() if what == "other" and key is not None}


def _spans_between(borders: list[str]) -> list[Q]:
    """Conditions for fingerprints before, between and after the sorted ``borders``."""
    inner = [
        Q(key_fingerprint__gt=low, key_fingerprint__lt=high) for low, high in pairwise(borders)
    ]
    return [Q(key_fingerprint__lt=borders[0]), *inner, Q(key_fingerprint__gt=borders[-1])]


class Card(models.Model):
    """One delivered code. The row, and so every copy of the row, holds only ciphertext."""

    order = models.ForeignKey(
        Order,
        verbose_name=_("order"),
        on_delete=models.PROTECT,
        related_name="cards",
        # The index of the unique constraint begins with this column.
        db_index=False,
    )
    # The position counts from 1. The cards of the answer that settled the order come first, then
    # later arrivals.
    position = models.PositiveIntegerField(_("card"))
    sealed = models.TextField(editable=False)
    # HMACs, each with a key of its own. ``identity`` is the HMAC of the whole card. The
    # fingerprints of the code and of the serial are for searching.
    identity = models.CharField(max_length=64, editable=False)
    value_fingerprint = models.CharField(max_length=64, editable=False)
    serial_fingerprint = models.CharField(max_length=64, blank=True, editable=False)
    # The HMAC of the last four characters of the code; "" if these are more than half of the code.
    tail_fingerprint = models.CharField(max_length=64, editable=False, blank=True)
    # The fingerprint of the encryption key, or DESTROYED.
    key_fingerprint = models.CharField(max_length=16, editable=False)
    received_at = models.DateTimeField(_("received"), default=timezone.now, editable=False)

    objects = CardQuerySet.as_manager()

    class Meta:
        verbose_name = _("card")
        verbose_name_plural = _("cards")
        ordering = ("order", "position")
        permissions = (("reveal_card", "Can reveal the code of a card"),)
        # The indexes are in Meta because, on PostgreSQL, ``db_index`` would add a second index for
        # LIKE.
        indexes = (
            models.Index(fields=("value_fingerprint",), name="giftcards_card_value"),
            models.Index(fields=("serial_fingerprint",), name="giftcards_card_serial"),
            models.Index(fields=("tail_fingerprint",), name="giftcards_card_tail"),
            # This index serves to count the cards of each encryption key, and to find the newest
            # and the oldest of these cards.
            models.Index(fields=("key_fingerprint", "id"), name="giftcards_card_key"),
        )
        constraints = (
            models.UniqueConstraint(
                fields=("order", "position"), name="giftcards_card_order_position"
            ),
            models.CheckConstraint(
                condition=Q(position__gte=1)
                & ~Q(value_fingerprint="")
                & (
                    ~Q(sealed="") & ~Q(key_fingerprint__in=("", DESTROYED))
                    | Q(sealed="", key_fingerprint=DESTROYED)
                ),
                name="giftcards_card_is_sealed",
            ),
        )

    def __str__(self) -> str:
        return str(_("card %(position)s") % {"position": self.position})

    @property
    def value(self) -> str:
        """The code in the clear, with a masked ``repr``; raises what :meth:`open` raises."""
        return self.open(conf.keyring()).value

    @property
    def serial(self) -> str:
        """The serial in the clear, "" if there is none; otherwise like :attr:`value`."""
        return self.open(conf.keyring()).serial

    @contained
    def open(self, keyring: Keyring) -> CardSecret:
        """Decrypt the card. The order of the card is read if it is not loaded yet.

        Raises :exc:`~giftcards.exceptions.DecryptionError`; its subclass
        :exc:`~giftcards.exceptions.CodeDestroyed` if the code was destroyed on purpose.
        """
        if self.is_destroyed:
            raise CodeDestroyed("The code of this card was destroyed, and cannot be read any more.")
        return keyring.open(self.row, place=self.place)

    @property
    def is_destroyed(self) -> bool:
        return self.key_fingerprint == DESTROYED

    @contained
    def tail(self, keyring: Keyring) -> str:
        """The last letters and digits of the code, to tell cards apart; "" for a short code.

        They are at most four characters, and at most a quarter of the code. Nothing else of the
        card is shown. Raises :exc:`~giftcards.exceptions.DecryptionError`.
        """
        secret = self.open(keyring)
        signs = [sign for sign in secret.value if sign.isalnum()]
        shown = min(_LONGEST_TAIL, len(signs) // 4)
        return "".join(signs[len(signs) - shown :])

    def trouble(self, keyring: Keyring) -> str:
        """A sentence that says why the card cannot be opened; "" if it opens."""
        try:
            self.open(keyring)
        except DecryptionError as error:
            return f"Card {self.position} of order {self.order.reference}: {error}"
        return ""

    @property
    def place(self) -> Place:
        """The order and the position for which the card is sealed."""
        return Place(order=self.order_id, reference=self.order.reference, card=self.position)

    @property
    def row(self) -> Sealed:
        """The columns that hold the sealed card."""
        return Sealed(*(getattr(self, name) for name in Sealed._fields))

    @row.setter
    def row(self, sealed: Sealed) -> None:
        assign(self, sealed._asdict())
