from __future__ import annotations

from typing import Any

from django.core.management import BaseCommand

from example_project.storefront.catalogue import open_shop


class Command(BaseCommand):
    help = "Set the margin of the shop and what it does not sell, as its owner would in the admin."

    def handle(self, **_options: Any) -> None:
        open_shop()
