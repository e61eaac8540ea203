"""How a process begins whose admin has a theme: an app of settings of its own."""

from __future__ import annotations

import os


def set_up(theme: str) -> None:
    """Django with the theme, and what has been put into its database so far: tables at least."""
    os.environ["GIFTCARDS_TESTS_THEME"] = theme
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.themes.settings"
    import django

    django.setup()
    from django.conf import settings
    from django.core.management import call_command

    from tests.stage import apps_of_others

    # As in the test database, which may have been copied for this process.
    settings.MIGRATION_MODULES = {app.label: None for app in apps_of_others()}
    call_command("migrate", run_syncdb=True, verbosity=0)
