"""The list of digests: which staff were told of what and when, and which digests fail."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib import admin
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from giftcards.admin.rows import OnlyFilters, ReadOnly
from giftcards.delivery.digests import RECEIVERS, last_digest
from giftcards.delivery.models import StaffDigest
from giftcards.display import bdi, exact_moment, filled

if TYPE_CHECKING:
    DigestModelAdmin = admin.ModelAdmin[StaffDigest]
else:
    DigestModelAdmin = admin.ModelAdmin


@admin.register(StaffDigest)
class StaffDigestAdmin(ReadOnly, OnlyFilters, DigestModelAdmin):
    """The digests, a row for each person who gets them."""

    list_display = ("whose", "last_sent", "what_it_said", "how_it_stands", "next_try")
    list_display_links = None
    fields = readonly_fields = list_display
    sortable_by = ()
    # Instead of a dash, which would take a line of its own on a phone.
    empty_value_display = ""

    class Media:
        css = {"all": ("giftcards/admin.css", "giftcards_delivery/admin.css")}

    @admin.display(description=_("address"))
    def whose(self, digest: StaffDigest) -> SafeString | str:
        if digest.address == RECEIVERS:
            return gettext("the shop's software")
        return bdi(digest.address)

    @admin.display(description=_("last digest"))
    def last_sent(self, digest: StaffDigest) -> str:
        return exact_moment(digest.sent_at) if digest.sent_at else gettext("none yet")

    @admin.display(description=_("what it said"))
    def what_it_said(self, digest: StaffDigest) -> str:
        lines = ((item.headline,) for item in last_digest(digest))
        return format_html_join(SafeString("<br>"), "{}", lines)

    @admin.display(description=_("state"))
    def how_it_stands(self, digest: StaffDigest) -> str:
        if not digest.is_failing:
            return gettext("in order")
        text = ngettext(
            "cannot be sent: %(count)s attempt failed",
            "cannot be sent: %(count)s attempts failed",
            digest.failures,
        )
        shown = filled(text, count=digest.failures)
        warning = '<span class="giftcards-warning">{}</span><br>{}'
        return format_html(warning, shown, bdi(digest.error))

    @admin.display(description=_("next attempt"))
    def next_try(self, digest: StaffDigest) -> str:
        at = digest.next_attempt_at
        return exact_moment(at) if digest.is_failing and at else ""
