from __future__ import annotations

from django.apps import AppConfig


class StorefrontConfig(AppConfig):
    name = "example_project.storefront"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from example_project.storefront import visitors
        from example_project.storefront.privacy import GIFTS, PURCHASES
        from giftcards.plugins import Plugin, install
        from giftcards.privacy.person import CUSTOMER, RECIPIENT

        visitors.connect()
        install(Plugin(app="storefront", keepers={CUSTOMER: PURCHASES, RECIPIENT: GIFTS}))
