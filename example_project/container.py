"""Settings of the example shop in a container: compose.yaml says which variables it needs."""

from __future__ import annotations

import os

from example_project.settings import *  # noqa: F403

# The health check asks for localhost.
ALLOWED_HOSTS = ["localhost", *os.environ.get("DJANGO_ALLOWED_HOSTS", "").split()]
# gunicorn serves no stylesheets; this does, from the folder that the image has been built with.
STATIC_ROOT = BASE_DIR / "static"  # noqa: F405
MIDDLEWARE = [MIDDLEWARE[0], "whitenoise.middleware.WhiteNoiseMiddleware", *MIDDLEWARE[1:]]  # noqa: F405
