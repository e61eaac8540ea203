"""Setting up a process whose admin has a theme: an app that needs its own settings."""

from __future__ import annotations

import os


def set_up(theme: str) -> None:
    """Set up Django with the theme, and create the tables that its database does not have yet."""
    os.environ["GIFTCARDS_TESTS_THEME"] = theme
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.themes.settings"
    import django

    django.setup()
    from django.conf import settings
    from django.core.management import call_command

    from tests.stage import apps_of_others

    # The tables are those of the test database, which may have been copied for this process.
    settings.MIGRATION_MODULES = {app.label: None for app in apps_of_others()}
    call_command("migrate", run_syncdb=True, verbosity=0)
