from __future__ import annotations

from django.apps import AppConfig
from django.core.checks import register
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_lazy as _

from giftcards.checks import TAG


class OscarConfig(AppConfig):
    name = "giftcards.oscar"
    label = "giftcards_oscar"
    verbose_name = _("Gift cards: django-oscar")

    def ready(self) -> None:
        from giftcards.oscar.checks import check_settings, check_shop

        try:
            from giftcards.oscar import receivers
        except (ImportError, LookupError) as error:
            raise ImproperlyConfigured(
                f"giftcards.oscar needs django-oscar ({error}). Run `pip install"
                ' "django-giftcards[oscar]"`, and add the apps of oscar to INSTALLED_APPS.'
            ) from error
        receivers.connect()
        for check in (check_settings, check_shop):
            register(check, TAG)
