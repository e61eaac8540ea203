from __future__ import annotations

from django.apps import AppConfig


class StorefrontConfig(AppConfig):
    name = "example_project.storefront"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from example_project.storefront import visitors
        from example_project.storefront.privacy import GIFTS, PURCHASES
        from giftcards.privacy.person import CUSTOMER, RECIPIENT, add_keeper

        visitors.connect()
        add_keeper(CUSTOMER, PURCHASES)
        add_keeper(RECIPIENT, GIFTS)
