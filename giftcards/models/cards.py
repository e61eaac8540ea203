"""Delivered cards.

The codes of the cards are stored only as ciphertext.
"""

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

# The maximum number of characters at the end of a code that are shown to staff who may find or
# reveal codes.
_LONGEST_TAIL = 4
#: The value of ``key_fingerprint`` if the code is destroyed. The row is kept, because reports need
#: it, and because its ``value_fingerprint`` identifies a code that is delivered again.
DESTROYED = "destroyed"
# The key of a value in ``scalars_of_ends``: ("oldest", key), ("newest", key), or ("other", number)
# for an encryption key that the caller did not name.
End = tuple[str, str]


def _by_value(text: str) -> Q:
    return Q(value_fingerprint__in=conf.keyring().value_fingerprints(text))


def _by_serial(text: str) -> Q:
    serials = conf.keyring().serial_fingerprints(text)
    # SQLite needs the first condition to use the index; see ``known_as`` of orders.
    return Q(serial_fingerprint__gt="", serial_fingerprint__in=serials)


class CardQuerySet(models.QuerySet["Card"]):
    def with_code(self, text: str) -> Self:
        """Return the cards whose entire code or serial number matches ``text``.

        The comparison ignores case, spaces and dashes, and does not distinguish between the digits
        of different scripts. Destroyed codes are left out. The result is unsorted, and the cards
        are not decrypted.
        """
        text = Masked(text)
        return self.readable().filter(_by_value(text) | _by_serial(text)).order_by()

    def newest_with_code(self, text: str, limit: int) -> list[Card]:
        """Return the newest cards that :meth:`with_code` finds, up to a limit.

        The queries remain fast even if all cards have the same serial number.
        """
        text = Masked(text)
        # The query sorts by a sum, which no index contains. If it sorted by the primary key itself,
        # SQLite would scan all cards.
        newest_first = (F("pk") + 0).desc()
        cards = self.readable().order_by(newest_first)
        searches = (_by_value(text), _by_serial(text))
        found = {card for by in searches for card in cards.filter(by)[:limit]}
        return sorted(found, key=lambda card: -card.pk)[:limit]

    def with_tail(self, text: str) -> Self:
        """Find cards by the last characters of their code, newest first.

        ``text`` must have four characters. It is compared in the same way as in :meth:`with_code`.
        Codes with fewer than eight characters are not found.
        """
        text = Masked(text)
        tails = conf.keyring().tail_fingerprints(text)
        return self.filter(tail_fingerprint__in=tails).order_by("-pk")

    def with_repeats(self) -> Self:
        """Annotate each card with ``is_repeated``.

        The value is True if another card has the same code.
        """
        twins = Card.objects.filter(value_fingerprint=OuterRef("value_fingerprint"))
        return self.annotate(is_repeated=Exists(twins.exclude(pk=OuterRef("pk"))))

    def readable(self) -> Self:
        return self.exclude(key_fingerprint=DESTROYED)

    def destroy(self) -> int:
        """Destroy the codes of the cards, and return the number of cards.

        The ``value_fingerprint`` of each code is kept, so that a code that is delivered again can
        be recognised.
        """
        cards = self.readable().order_by()
        return cards.update(
            sealed="",
            key_fingerprint=DESTROYED,
            identity="",
            serial_fingerprint="",
            tail_fingerprint="",
        )

    def ends(self, values: Mapping[End, Any] | None = None) -> dict[str, tuple[int, int]]:
        """Return the oldest and the newest card of each encryption key.

        The result maps the fingerprints of the keys to the primary keys of the cards. Keys that are
        in use but missing in the settings are included. If you have already read the results of
        :meth:`scalars_of_ends`, pass them as ``values`` to save a query. Raises
        :exc:`~giftcards.exceptions.ConfigurationError` if the keys in the settings are invalid.
        """
        keys = list(conf.keyring().key_fingerprints)
        if values is None:
            values = self._look_for_ends(keys)
        while others := _other_keys(values).difference(keys):
            keys += sorted(others)
            values = self._look_for_ends(keys)
        oldest = {key: values.get(("oldest", key)) for key in keys}
        return {key: (pk, values["newest", key]) for key, pk in oldest.items() if pk is not None}

    def _look_for_ends(self, keys: list[str]) -> Mapping[End, Any]:
        found = read_beside(self.order_by("pk"), self.scalars_of_ends(keys))
        return found[0] if found else {}

    def scalars_of_ends(self, keys: Iterable[str] | None = None) -> dict[End, Combinable]:
        """Return the database expressions that :meth:`ends` evaluates.

        ``keys`` contains the fingerprints of encryption keys. By default, these are the keys in the
        settings. Additional expressions find keys that are in use but were not passed. The
        expressions read only the ends of index ranges, because it takes a third of a second to read
        the whole index of a million cards.
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
        """Count the cards whose key is missing, and find keys no longer needed.

        The first value is the number of cards whose key is missing from the settings. The second
        value is a list of the positions of the unneeded keys in the settings. The first key in the
        settings has position 1, and is never in the list, because it is always needed. If there are
        no readable cards, all keys count as needed. Raises
        :exc:`~giftcards.exceptions.ConfigurationError` if the keys in the settings are invalid.
        """
        configured = conf.keyring().key_fingerprints
        used = set(self.ends())
        lost = self.filter(key_fingerprint__in=used.difference(configured)).count()
        if not used:
            return lost, []
        old = enumerate(configured[1:], 2)
        return lost, [position for position, key in old if key not in used]

    def try_keys(self, values: Mapping[End, Any] | None = None) -> dict[str, str]:
        """Try to decrypt the newest and the oldest card.

        Returns a dict that maps "newest" and "oldest" to a sentence that describes the error, or to
        "". The sentence does not reveal anything about the card. If there are no cards, the dict is
        empty. ``values`` has the same meaning as in :meth:`ends`. Raises
        :exc:`~giftcards.exceptions.ConfigurationError` if the keys in the settings are invalid.
        """
        keyring = conf.keyring()
        ends = [key for ends in self.ends(values).values() for key in ends]
        if not ends:
            return {}
        # A card whose code was destroyed just now does not count as unreadable.
        wanted = self.readable().filter(pk__in={min(ends), max(ends)})
        cards = list(wanted.select_related("order").order_by("pk"))
        if not cards:
            return {}
        return {"newest": cards[-1].trouble(keyring), "oldest": cards[0].trouble(keyring)}


def _other_keys(found: Mapping[End, Any]) -> set[str]:
    return {key for (what, _name), key in found.items() if what == "other" and key is not None}


def _spans_between(borders: list[str]) -> list[Q]:
    inner = [
        Q(key_fingerprint__gt=low, key_fingerprint__lt=high) for low, high in pairwise(borders)
    ]
    return [Q(key_fingerprint__lt=borders[0]), *inner, Q(key_fingerprint__gt=borders[-1])]


class Card(models.Model):
    """A delivered card.

    The row contains only the ciphertext of the code.
    """

    order = models.ForeignKey(
        Order,
        verbose_name=_("order"),
        on_delete=models.PROTECT,
        related_name="cards",
        # The unique constraint's index begins with this column, so the field needs no other index.
        db_index=False,
    )
    # The card's number in its order, starting at 1. The cards of the answer that settled the order
    # come first, followed by cards that arrived later.
    position = models.PositiveIntegerField(_("card"))
    sealed = models.TextField(editable=False)
    # ``identity`` is an HMAC of the whole card. The fingerprints are HMACs of its parts, for
    # searches. Each HMAC uses a different key.
    identity = models.CharField(max_length=64, editable=False)
    value_fingerprint = models.CharField(max_length=64, editable=False)
    serial_fingerprint = models.CharField(max_length=64, blank=True, editable=False)
    # The HMAC of the code's last four characters, or "" if these are more than half of the code.
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
        # On PostgreSQL, ``db_index`` would add a second index for LIKE.
        indexes = (
            models.Index(fields=("value_fingerprint",), name="giftcards_card_value"),
            models.Index(fields=("serial_fingerprint",), name="giftcards_card_serial"),
            models.Index(fields=("tail_fingerprint",), name="giftcards_card_tail"),
            # This index is used to count the cards of each encryption key, and to find its newest
            # and oldest card.
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
        """The decrypted code, with a masked ``repr``.

        Raises the errors of :meth:`open`.
        """
        return self.open(conf.keyring()).value

    @property
    def serial(self) -> str:
        """The decrypted serial number, or "", with a masked ``repr``.

        Raises the errors of :meth:`open`.
        """
        return self.open(conf.keyring()).serial

    @contained
    def open(self, keyring: Keyring) -> CardSecret:
        """Decrypt the card.

        Decrypting a card can load its order from the database. Raises
        :exc:`~giftcards.exceptions.CodeDestroyed` if the code was destroyed intentionally. Raises
        its base class :exc:`~giftcards.exceptions.DecryptionError` for all other failures.
        """
        if self.is_destroyed:
            raise CodeDestroyed("The code of this card was destroyed and can no longer be read.")
        return keyring.open(self.row, place=self.place)

    @property
    def is_destroyed(self) -> bool:
        return self.key_fingerprint == DESTROYED

    @contained
    def tail(self, keyring: Keyring) -> str:
        """Return the last characters of the code, or "" for a short code.

        The last characters help to distinguish cards. The result contains at most four characters,
        and at most a quarter of the code. Raises :exc:`~giftcards.exceptions.DecryptionError` if
        the card cannot be decrypted.
        """
        secret = self.open(keyring)
        signs = [sign for sign in secret.value if sign.isalnum()]
        shown = min(_LONGEST_TAIL, len(signs) // 4)
        return "".join(signs[len(signs) - shown :])

    def trouble(self, keyring: Keyring) -> str:
        """Return a sentence that says why the card cannot be decrypted, or ""."""
        try:
            self.open(keyring)
        except DecryptionError as error:
            return f"Card {self.position} of order {self.order.reference}: {error}"
        return ""

    @property
    def place(self) -> Place:
        return Place(order=self.order_id, reference=self.order.reference, card=self.position)

    @property
    def row(self) -> Sealed:
        return Sealed(*(getattr(self, name) for name in Sealed._fields))

    @row.setter
    def row(self, sealed: Sealed) -> None:
        assign(self, sealed._asdict())
