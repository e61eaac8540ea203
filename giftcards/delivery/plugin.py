"""The plugin that extends the core with messages to customers."""

from __future__ import annotations

import contextlib

from giftcards.delivery import queueing
from giftcards.delivery.checks import check_sending, check_settings
from giftcards.delivery.conditions import CONDITIONS
from giftcards.delivery.conf import conf
from giftcards.delivery.models import Delivery
from giftcards.delivery.privacy import Messages, untold
from giftcards.delivery.tasks import MESSAGES
from giftcards.exceptions import ConfigurationError
from giftcards.plugins import Plugin
from giftcards.privacy.person import ROLES
from giftcards.privacy.retention import Reason

# The permissions to answer complaints such as "I got no message" and "My code was used".
_SUPPORT = ("view_delivery", "view_cardlink", "view_linkvisit", "resend_delivery")


def _writes() -> bool:
    """True if messages or digests are on, or if the settings are invalid."""
    with contextlib.suppress(ConfigurationError):
        return not conf.is_off or bool(conf.staff_emails)
    return True


def _connect() -> None:
    # These receivers are needed even if messages are off now: earlier messages and links may exist.
    queueing.connect_always()
    if _writes():
        queueing.connect()


PLUGIN = Plugin(
    app="giftcards_delivery",
    conditions=CONDITIONS,
    backlogs={"messages": Delivery.objects.waiting},
    work=(MESSAGES,) if _writes() else (),
    keepers={role: Messages(role) for role in ROLES},
    kept_because={"untold": Reason(untold(), "with a customer who could not be notified")},
    order_pages="giftcards.delivery.admin.EXTENSION",
    roles={
        "Gift card support": _SUPPORT,
        "Gift card manager": (*_SUPPORT, "view_staffdigest"),
    },
    checks=(check_settings, check_sending),
    connect=_connect,
)
