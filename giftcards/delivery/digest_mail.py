"""Writing the digests for staff: from items of news to a mail.

The templates are in ``giftcards_delivery/digest/``: ``subject.txt``, ``mail.txt`` and
``mail.html``. Their variables are ``items``, ``news`` (the items that hold or happened), ``ended``
(the items that do not hold any more), ``title``, ``shop_name``, ``language`` and ``is_rtl``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.core.mail import EmailMultiAlternatives
from django.template.loader import render_to_string
from django.utils.translation import get_language_bidi, gettext, override

from giftcards.delivery.conf import StaffPerson, conf
from giftcards.delivery.news import Item
from giftcards.display import one_line

_FOLDER = "giftcards_delivery/digest"


def write(person: StaffPerson, items: Sequence[Item]) -> EmailMultiAlternatives:
    """The digest for ``person``, in their language."""
    with override(person.language):
        context = {
            "items": items,
            "news": [item for item in items if not item.has_ended],
            "ended": [item for item in items if item.has_ended],
            "title": title(items),
            "shop_name": conf.display_name,
            "language": person.language,
            "is_rtl": get_language_bidi(),
        }
        mail = EmailMultiAlternatives(
            # In one line: a template ends with a line break.
            one_line(_rendered("subject.txt", context)),
            _rendered("mail.txt", context).strip() + "\n",
            conf.from_email,
            [person.address],
            # Keeps absence notes from answering.
            headers={"Auto-Submitted": "auto-generated"},
        )
        mail.attach_alternative(_rendered("mail.html", context), "text/html")
    return mail


def title(items: Sequence[Item]) -> str:
    """The first of ``items`` in one line, such as "2 orders to do, the balance is low and more"."""
    first, *others = [item.headline.removesuffix(".") for item in items]
    if not others:
        return first
    names = {"first": first, "second": others[0]}
    if others[1:]:
        return gettext("%(first)s, %(second)s and more") % names
    return gettext("%(first)s, %(second)s") % names


def _rendered(name: str, context: dict[str, Any]) -> str:
    return render_to_string(f"{_FOLDER}/{name}", context)
