"""The settings of the shop that sells gift cards: the plain shop and what the documentation adds.

The code blocks with settings are executed as they are printed. The blocks for other files are
written to a new folder.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.update(
    GIFTCARDS_API_KEY="CANARY-KEY-7f3a9c",
    GIFTCARDS_ENCRYPTION_KEYS="bfUQrCyjMRx0Y1lWPZqBlIfCtqFXVC_E5a2gzCTh9vM=",
)

from tests.oscar.guide import ROOT, block_of
from tests.oscar.plain import *  # noqa: F403

SHOP = Path(tempfile.mkdtemp(prefix="oscar-shop-"))
atexit.register(shutil.rmtree, SHOP, ignore_errors=True)
(SHOP / "shop").mkdir()
(SHOP / "shop" / "__init__.py").touch()
subprocess.run(
    [sys.executable, "-m", "django", "oscar_fork_app", "checkout", "shop"],
    cwd=SHOP,
    env={
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.oscar.plain",
        "PYTHONPATH": str(ROOT),
        "DATABASE_URL": "sqlite://:memory:",
    },
    check=True,
    capture_output=True,
)
(SHOP / "shop" / "checkout" / "views.py").write_text(block_of("oscar", "# shop/checkout/views.py"))
(SHOP / "shop" / "urls.py").write_text(
    block_of("delivery", "# shop/urls.py")
    + "\nfrom tests.oscar import plain_urls\n\nurlpatterns += plain_urls.urlpatterns\n\n"
    + block_of("oscar", "# shop/urls.py, at its end")
)
sys.path.insert(0, str(SHOP))

for page, begin in (
    ("installation", "INSTALLED_APPS = "),
    ("installation", "import os\n\nGIFTCARDS = "),
    ("workers", "Q_CLUSTER = "),
    ("delivery", "# shop/settings.py, at its end\nINSTALLED_APPS = "),
    ("oscar", "# shop/settings.py, at its end"),
):
    exec(block_of(page, begin))
for engine, option in (("sqlite3", "timeout=20"), ("mysql", "charset=")):
    if DATABASES["default"]["ENGINE"].endswith(engine):  # noqa: F405
        exec(
            block_of(
                "databases",
                f'DATABASES["default"].setdefault("OPTIONS", {{}}).update(\n    {option}',
            )
        )

# Only for tests.
ROOT_URLCONF = "shop.urls"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
MAILERS = {"default": {"BACKEND": "django.core.mail.backends.locmem.EmailBackend"}}
GIFTCARDS |= {  # noqa: F405
    "BASE_URL": "http://127.0.0.1:9",
    "REQUESTS_PER_MINUTE": 1200,
    "CATALOGUE_INTERVAL": 0,
}
# Oscar has many migrations, which take most of a minute.
MIGRATION_MODULES = {
    path.split(".")[-3 if ".apps." in path else -1]: None
    for path in INSTALLED_APPS  # noqa: F405
    if not path.startswith("giftcards")
}
