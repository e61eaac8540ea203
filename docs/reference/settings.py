"""The page of settings."""

from __future__ import annotations

from typing import Any

from docs.reference.texts import page, table
from giftcards.conf import conf
from giftcards.delivery.conf import conf as delivery_conf
from giftcards.oscar.conf import conf as oscar_conf

DICTS = (conf, delivery_conf, oscar_conf)
_INTRO = """\
This page is for developers who install the app. It lists all settings. The core reads them from the dict `GIFTCARDS`,
and two of the optional apps have a dict of their own. Only two settings are required:

```python
import os

GIFTCARDS = {
    "API_KEY": os.environ["GIFTCARDS_API_KEY"],
    "ENCRYPTION_KEYS": os.environ["GIFTCARDS_ENCRYPTION_KEYS"].split(","),
}
```

Both settings are secret. The app never prints, logs or stores them. All other settings have a default, which applies if
you leave the setting out. If you read a number from the environment, convert it to a number, because the string `"5"`
is not valid. Run `python manage.py check` to find [mistakes](checks.md)."""
# The pages with more information.
_SEE = {
    "GIFTCARDS": {
        "BASE_URL": "simulator",
        "ENCRYPTION_KEYS": "keys",
        "REQUESTS_PER_MINUTE": "following",
        "SEND_REFERENCE": "following",
        "REVIEW_ORDER": "placing",
        "REORDER_MISSING": "placing",
        "CATALOGUE_INTERVAL": "shelf",
        "PRICING": "shelf",
        "REAUTHENTICATE": "admin",
        "PASSWORD_BACKENDS": "admin",
        "REFUND_DAYS": "messages",
        "METRICS_TOKEN": "monitoring",
        "CODES_KEPT_DAYS": "keys",
    },
    "GIFTCARDS_DELIVERY": {
        "MODE": "delivery",
        "CHANNELS": "delivery",
        "PIN": "delivery",
        "STAFF_EMAILS": "digests",
    },
    "GIFTCARDS_OSCAR": {"PAID_STATUSES": "oscar"},
}


def settings() -> str:
    parts = [_INTRO]
    for each in DICTS:
        rows = []
        for key, setting in each.declared.items():
            see = _SEE[each.dict_name].get(key)
            more = f" ([{see}](../{see}.md))" if see else ""
            default = "**required**" if setting.required else f"`{default_of(setting)}`"
            # If None is the default, the column of defaults shows that it is permitted.
            values = setting.values.removesuffix(", or `None`").removeprefix("a ")
            rows.append((f"`{key}`", default, values, setting.help + more))
        head = ("setting", "default", "values", "meaning")
        parts += [f"## {each.dict_name}", table(head, rows)]
    return page("Settings", *parts)


def default_of(setting: Any) -> str:
    """Return the default as Python code."""
    return repr(setting.default).replace("'", '"')
