"""``giftcards_setup`` and ``giftcards_generate_key``: what comes first."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.test import modify_settings
from django_q.models import Schedule

from tests.conftest import Call
from tests.engine import ROOT

pytestmark = pytest.mark.django_db


class TestSetup:
    def test_creates_and_repairs(self, call: Call) -> None:
        end = " Orders are followed while `manage.py qcluster` runs.\n"
        assert call("giftcards_setup") == ("The schedule is created." + end, "", 0)
        assert call("giftcards_setup") == ("The schedule is in place." + end, "", 0)
        Schedule.objects.update(minutes=9)
        assert call("giftcards_setup") == ("The schedule is repaired." + end, "", 0)
        assert Schedule.objects.get().minutes == 1

    def test_for_machines(self, call: Call) -> None:
        out, err, code = call("giftcards_setup", "--json")
        assert (json.loads(out), err, code) == ({"schedule": "created"}, "", 0)

    def test_silently(self, call: Call) -> None:
        assert call("giftcards_setup", "-v0") == ("", "", 0)
        assert Schedule.objects.count() == 1

    def test_without_django_q(self, call: Call) -> None:
        with modify_settings(INSTALLED_APPS={"remove": "django_q"}):
            assert call("giftcards_setup") == (
                "",
                "django-q2 is missing. Add 'django_q' to INSTALLED_APPS.\n",
                2,
            )

    def test_before_the_shop_is_configured(self, call: Call, settings: Any) -> None:
        configured = settings.GIFTCARDS
        del settings.GIFTCARDS
        assert call("giftcards_setup").code == 0
        settings.GIFTCARDS = configured


class TestGenerateKey:
    def test_prints_a_key_and_nothing_else(self, call: Call) -> None:
        out, err, code = call("giftcards_generate_key")
        assert (err, code) == ("", 0)
        [key] = out.splitlines()
        Fernet(key)
        assert call("giftcards_generate_key").out != out

    @pytest.mark.parametrize("configured", [{}, None, "nonsense", {"ENCRYPTION_KEYS": ["x"]}])
    def test_whatever_is_configured(self, call: Call, settings: Any, configured: Any) -> None:
        kept, settings.GIFTCARDS = settings.GIFTCARDS, configured
        out, err, code = call("giftcards_generate_key")
        settings.GIFTCARDS = kept
        assert (err, code) == ("", 0)
        Fernet(out.strip())

    def test_in_a_project_that_has_just_been_made(self, tmp_path: Path) -> None:
        """No settings of ours, no database, nothing migrated."""
        (tmp_path / "bare.py").write_text(
            'SECRET_KEY = "x"\nINSTALLED_APPS = ["giftcards"]\nUSE_TZ = True\n'
        )
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "django", "giftcards_generate_key"],
            env={**os.environ, "DJANGO_SETTINGS_MODULE": "bare"}
            | {"PYTHONPATH": f"{tmp_path}:{ROOT}"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.stderr, done.returncode) == ("", 0)
        Fernet(done.stdout.removesuffix("\n"))
