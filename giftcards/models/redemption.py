"""The shop's redemption instructions, and the regions of its products."""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from giftcards.models.catalogue import Category, Product
from giftcards.models.fields import PlainTextField, plain_line

#: The maximum length of instructions, in characters.
LONGEST_INSTRUCTIONS = 2_000


class RedemptionInstructions(models.Model):
    """Redemption instructions for a product or a category, in one language.

    ``text`` tells customers how to redeem a card. If ``text`` is "", the text of the category is
    used. ``region`` is the shop's name for the region of the product. If ``region`` is "", the
    provider's name is used.
    """

    category = models.ForeignKey(
        Category, on_delete=models.CASCADE, null=True, related_name="redemption_instructions"
    )
    product = models.ForeignKey(
        Product, on_delete=models.CASCADE, null=True, related_name="redemption_instructions"
    )
    language = models.CharField(_("language"), max_length=20)
    region = models.CharField(_("region"), max_length=100, blank=True, validators=[plain_line])
    text = PlainTextField(_("redemption instructions"), max_length=LONGEST_INSTRUCTIONS, blank=True)

    class Meta:
        verbose_name = verbose_name_plural = _("redemption instructions")
        ordering = ("pk",)
        default_permissions = ()
        constraints = (
            models.CheckConstraint(
                condition=(
                    Q(category=None, product__isnull=False)
                    | Q(category__isnull=False, product=None, region="")
                ),
                name="giftcards_instructions_of_one",
            ),
            models.UniqueConstraint(
                fields=("category", "language"), name="giftcards_instructions_category"
            ),
            models.UniqueConstraint(
                fields=("product", "language"), name="giftcards_instructions_product"
            ),
        )

    def __str__(self) -> str:
        return f"{self.product or self.category}: {self.language}"
