from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from typing import ClassVar

from django.apps import AppConfig
from django.core.checks import register
from django.utils.translation import gettext_lazy as _

from giftcards.checks import TAG
from giftcards.exceptions import ConfigurationError

# For complaints such as "I got no message", "It does not open", "My code is already used".
_SUPPORT = ("view_delivery", "view_cardlink", "view_linkvisit", "resend_delivery")


class DeliveryConfig(AppConfig):
    name = "giftcards.delivery"
    label = "giftcards_delivery"
    verbose_name = _("Gift cards: messages to customers")
    default_auto_field = "django.db.models.BigAutoField"
    #: The permissions that giftcards_setup gives to groups of staff: see management/roles.py.
    giftcards_roles: ClassVar[Mapping[str, Collection[str]]] = {
        "Gift card support": _SUPPORT,
        "Gift card manager": (*_SUPPORT, "view_staffdigest"),
    }

    def ready(self) -> None:
        from giftcards.conditions import register as register_conditions
        from giftcards.delivery import conditions, receivers
        from giftcards.delivery.checks import check_sending, check_settings
        from giftcards.delivery.conf import conf
        from giftcards.delivery.privacy import Messages, untold
        from giftcards.delivery.tasks import deliver_until
        from giftcards.privacy import registry
        from giftcards.privacy.person import ROLES
        from giftcards.privacy.retention import leave_alone
        from giftcards.tasks import add_companion

        # Even if no messages are sent now, earlier ones may exist.
        for role in ROLES:
            registry.register(Messages(role), role)
        leave_alone("untold", untold(), "with a customer who could not be told")
        receivers.connect_always()
        for check in (check_settings, check_sending):
            register(check, TAG)
        register_conditions(conditions.CONDITIONS)
        with contextlib.suppress(ConfigurationError):  # reported by check_settings
            if conf.is_off and not conf.staff_emails:
                return
        receivers.connect()
        add_companion("the messages", deliver_until)
