"""Links by which customers reach their cards, and the visits of these links."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Self

from django.db import models
from django.db.models import Exists, F, OuterRef, Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from giftcards.delivery.models.deliveries import Delivery
from giftcards.models import Card, Order
from giftcards.models.fields import plain_line
from giftcards.statuses import FINAL

#: Number of wrong PINs that locks a link.
MOST_WRONG_PINS = 5
#: Limit of reveals for each link where the settings have none: nobody needs as many, and each
#: reveal leaves a row.
MOST_REVEALS = 10_000
#: Within this time, showing the cards again from the same page (a reload) is the same reveal.
SAME_REVEAL = timedelta(minutes=10)


class CardLinkQuerySet(models.QuerySet["CardLink"]):
    def usable(self, now: datetime, *, reveals: int | None, again: str | None = None) -> Self:
        """Links that show cards: not withdrawn, expired or used up.

        A link is used up after ``reveals`` reveals; ``None`` means :data:`MOST_REVEALS`. Even then,
        the page whose reveal has the key ``again`` may show the cards for :data:`SAME_REVEAL`.
        """
        links = self.filter(Q(expires_at=None) | Q(expires_at__gt=now), revoked_at=None)
        is_left = Q(reveals__lt=reveals or MOST_REVEALS)
        if again is None:
            return links.filter(is_left)
        shown = LinkVisit.objects.filter(link=OuterRef("pk"), key=again)
        return links.filter(is_left | Q(Exists(shown.filter(at__gt=now - SAME_REVEAL))))

    def with_cards(self) -> Self:
        """Links of orders that are final and have cards for the customer."""
        paid_for = Card.objects.filter(
            order=OuterRef("order"), position__lte=OuterRef("order__fulfilled_quantity")
        )
        cards = paid_for.readable()
        return self.filter(Exists(cards), order__status__in=sorted(FINAL))

    def of_account(self, order: Order) -> CardLink:
        """The link that serves the order's customer in their account; created if need be."""
        origin = CardLink.Origin.ACCOUNT
        # No hash looks like this, and the column is unique.
        name = f"{origin} {order.pk}"
        return self.get_or_create(token_hash=name, defaults={"order": order, "origin": origin})[0]

    def revoke(self, order: Order, *, by: str) -> int:
        """Withdraw the order's links, except the account's; return how many this has ended."""
        now = timezone.now()
        rows = self.filter(order=order, revoked_at=None).exclude(origin=CardLink.Origin.ACCOUNT)
        return rows.update(revoked_at=now, revoked_by=by)

    def take_reveal(self, link: CardLink, now: datetime, *, most: int | None) -> bool:
        """Count one reveal; return False if the link has ended or has no reveal left."""
        return bool(
            self.filter(pk=link.pk).usable(now, reveals=most).update(reveals=F("reveals") + 1)
        )

    def give_reveal_back(self, link: CardLink) -> None:
        """Take back the count of a reveal that could show no card."""
        self.filter(pk=link.pk, reveals__gt=0).update(reveals=F("reveals") - 1)

    def take_guess(self, link: CardLink) -> bool:
        """Count a PIN guess as wrong before it is checked; return False if no guess is left."""
        rows = self.filter(pk=link.pk, wrong_pins__lt=MOST_WRONG_PINS)
        return bool(rows.update(wrong_pins=F("wrong_pins") + 1))

    def give_guess_back(self, link: CardLink) -> None:
        """Take back the count of a guess that was right."""
        self.filter(pk=link.pk, wrong_pins__gt=0).update(wrong_pins=F("wrong_pins") - 1)


class CardLink(models.Model):
    """A way for a customer to reach the cards of an order.

    Only its recipient knows the token: the row holds a keyed hash.
    """

    class Origin(models.TextChoices):
        MESSAGE = "message", _("Message")
        #: Made by staff, who hand it over themselves.
        STAFF = "staff", _("Staff")
        #: For a customer who is logged in to the shop; has no token.
        ACCOUNT = "account", _("Account in the shop")

    order = models.ForeignKey(
        Order, verbose_name=_("order"), on_delete=models.PROTECT, related_name="card_links"
    )
    origin = models.CharField(_("origin"), max_length=10, choices=Origin)
    # The message that carried the link.
    delivery = models.ForeignKey(
        Delivery,
        verbose_name=_("message"),
        on_delete=models.PROTECT,
        null=True,
        related_name="links",
    )
    # An account's link has no token; instead of a hash, it has a name that is unique to the order.
    token_hash = models.CharField(max_length=64, null=True, unique=True, editable=False)  # noqa: DJ001
    created_at = models.DateTimeField(_("created"), default=timezone.now)
    created_by = models.CharField(_("by"), max_length=254, blank=True)
    # Why staff have made it.
    reason = models.CharField(_("reason"), max_length=200, blank=True, validators=[plain_line])
    expires_at = models.DateTimeField(_("expires"), null=True)
    revoked_at = models.DateTimeField(_("withdrawn"), null=True)
    revoked_by = models.CharField(max_length=254, blank=True)
    reveals = models.PositiveIntegerField(_("revealed"), default=0)
    wrong_pins = models.PositiveIntegerField(_("wrong PINs"), default=0)

    objects = CardLinkQuerySet.as_manager()

    class Meta:
        verbose_name = _("link to cards")
        verbose_name_plural = _("links to cards")
        ordering = ("-pk",)
        default_permissions = ("view",)
        # How many links a person has made in the last hour.
        indexes = (models.Index(fields=("created_by", "created_at"), name="giftcards_link_by"),)

    def __str__(self) -> str:
        return str(_("link %(number)s") % {"number": self.pk})

    @property
    def is_locked(self) -> bool:
        """True if the PIN was wrong too often."""
        return self.wrong_pins >= MOST_WRONG_PINS


class LinkVisit(models.Model):
    """A visit: a person or a program opened a link, had its cards shown, or locked it."""

    class What(models.TextChoices):
        OPENED = "opened", _("Opened")
        REVEALED = "revealed", _("Cards shown")
        #: The last remaining PIN guess was wrong.
        LOCKED = "locked", _("Locked after wrong PINs")

    link = models.ForeignKey(
        CardLink,
        verbose_name=_("link"),
        on_delete=models.PROTECT,
        related_name="visits",
        # An index below begins with this column.
        db_index=False,
    )
    at = models.DateTimeField(_("when"), default=timezone.now)
    what = models.CharField(_("what"), max_length=10, choices=What)
    address = models.GenericIPAddressField(_("address"), null=True)
    agent = models.CharField(_("program"), max_length=300, blank=True)
    # The user name of a customer who was logged in.
    user = models.CharField(_("user"), max_length=254, blank=True)
    # How many of the cards could not be opened.
    unreadable = models.PositiveIntegerField(_("unreadable cards"), default=0)
    # Unique name of what happens only once: the reveal from one page, however often the page is
    # reloaded, and the locking of the link.
    key = models.CharField(max_length=40, null=True, unique=True, editable=False)  # noqa: DJ001

    class Meta:
        verbose_name = _("visit of a link")
        verbose_name_plural = _("visits of links")
        ordering = ("pk",)
        default_permissions = ("view",)
        indexes = (
            models.Index(fields=("link", "what"), name="giftcards_visit_link"),
            # For the digests: what went wrong since the last one.
            models.Index(fields=("what", "at"), name="giftcards_visit_what"),
        )

    def __str__(self) -> str:
        return str(self.get_what_display())
