from __future__ import annotations

from django.apps import AppConfig
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_lazy as _


class OscarConfig(AppConfig):
    name = "giftcards.oscar"
    label = "giftcards_oscar"
    verbose_name = _("Gift cards: django-oscar")

    def ready(self) -> None:
        from giftcards.plugins import install

        try:
            from giftcards.oscar.plugin import PLUGIN
        except (ImportError, LookupError) as error:
            raise ImproperlyConfigured(
                f"giftcards.oscar needs django-oscar ({error}). Run `pip install"
                ' "django-giftcards[oscar]"`, and add the apps of oscar to INSTALLED_APPS.'
            ) from error
        install(PLUGIN)
