"""Settings of the example shop in a container: compose.yaml says which variables it needs."""

from __future__ import annotations

import os

from example_project.settings import *  # noqa: F403

# The health check asks for localhost.
ALLOWED_HOSTS = ["localhost", *os.environ.get("DJANGO_ALLOWED_HOSTS", "").split()]
# gunicorn serves no stylesheets; this does, from the folder that the image has been built with.
STATIC_ROOT = BASE_DIR / "static"  # noqa: F405
MIDDLEWARE = [MIDDLEWARE[0], "whitenoise.middleware.WhiteNoiseMiddleware", *MIDDLEWARE[1:]]  # noqa: F405

# The first of the proxies speaks TLS with the visitors. Without any, no header of a proxy is
# believed: visitors can send these, too.
PROXIES = int(os.environ.get("DJANGO_PROXIES") or 0)
if PROXIES:
    MIDDLEWARE = ["example_project.proxies.VisitorAddress", *MIDDLEWARE]
    _told_in = os.environ.get("DJANGO_PROXY_SSL_HEADER") or "X-Forwarded-Proto"
    SECURE_PROXY_SSL_HEADER = (f"HTTP_{_told_in.upper().replace('-', '_')}", "https")
    SECURE_SSL_REDIRECT = SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = LANGUAGE_COOKIE_SECURE = True
    # An hour; with the years that are usual, there would be no way back.
    SECURE_HSTS_SECONDS = 3600
    # Whether the other hosts of the domain speak TLS is not for the shop to say.
    SILENCED_SYSTEM_CHECKS = [*SILENCED_SYSTEM_CHECKS, "security.W005", "security.W021"]  # noqa: F405
# Where forms may come from besides the host that is asked: a proxy may ask for another one.
CSRF_TRUSTED_ORIGINS = os.environ.get("DJANGO_CSRF_TRUSTED_ORIGINS", "").split()
