"""The provider's environments. One host serves both: the API key decides."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _


class Environment(models.TextChoices):
    # The values are the provider's.
    SANDBOX = "SANDBOX", _("Sandbox")
    PRODUCTION = "PRODUCTION", _("Production")
