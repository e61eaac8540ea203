"""Settings of the example shop in a container; compose.yaml lists the variables."""

from __future__ import annotations

import os

from example_project.settings import *  # noqa: F403

# The health check sends its requests to localhost.
ALLOWED_HOSTS = ["localhost", *os.environ.get("DJANGO_ALLOWED_HOSTS", "").split()]
# gunicorn serves no static files. WhiteNoise does, from the folder that was filled when the image
# was built.
STATIC_ROOT = BASE_DIR / "static"  # noqa: F405
MIDDLEWARE = [MIDDLEWARE[0], "whitenoise.middleware.WhiteNoiseMiddleware", *MIDDLEWARE[1:]]  # noqa: F405

# The first proxy receives the visitors' TLS connections. Without proxies, the app ignores their
# headers, because visitors can send these as well.
PROXIES = int(os.environ.get("DJANGO_PROXIES") or 0)
if PROXIES:
    MIDDLEWARE = ["example_project.proxies.VisitorAddress", *MIDDLEWARE]
    _told_in = os.environ.get("DJANGO_PROXY_SSL_HEADER") or "X-Forwarded-Proto"
    SECURE_PROXY_SSL_HEADER = (f"HTTP_{_told_in.upper().replace('-', '_')}", "https")
    SECURE_SSL_REDIRECT = SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = LANGUAGE_COOKIE_SECURE = True
    # This is one hour. The usual value of some years could not be taken back.
    SECURE_HSTS_SECONDS = 3600
    # The shop cannot know whether the other hosts of the domain use TLS.
    SILENCED_SYSTEM_CHECKS = [*SILENCED_SYSTEM_CHECKS, "security.W005", "security.W021"]  # noqa: F405
# The origins from which forms may be sent, besides the requested host; a proxy may request a
# different host.
CSRF_TRUSTED_ORIGINS = os.environ.get("DJANGO_CSRF_TRUSTED_ORIGINS", "").split()
