"""Serve pages of the admin under a theme: ``python -m tests.themes.serve THEME``.

Prints a line of JSON with the address of the site, the cookie of a superuser's session, and the
paths of the pages. Ends when its standard input is closed.
"""

from __future__ import annotations

import json
import sys

from tests.themes.set_up import set_up


def main(theme: str) -> None:
    set_up(theme)
    from django.contrib.auth import get_user_model
    from django.contrib.staticfiles.handlers import StaticFilesHandler
    from django.db import connections
    from django.test import Client
    from django.test.testcases import LiveServerThread

    from tests.browser import showcase
    from tests.pages import ADD, LIST, PROVIDER_PAGE, page_of

    showcase.fill()
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("amina", password=None))
    pages = {
        "list": LIST,
        "order": page_of("web-1042"),
        "lost": page_of("web-1040"),
        "provider": PROVIDER_PAGE,
        "report": f"{LIST}report/",
        "help": "/admin/giftcards/desk/help/",
        "placing": ADD,
        "resolve": page_of("web-1040", "resolve"),
        "pay back": page_of("web-1042", "pay_back"),
    }
    connections.close_all()
    server = LiveServerThread("127.0.0.1", StaticFilesHandler)
    server.daemon = True
    server.start()
    server.is_ready.wait()
    session = client.cookies["sessionid"].value
    told = {"site": f"http://127.0.0.1:{server.port}", "session": session, "pages": pages}
    sys.stdout.write(f"{json.dumps(told)}\n")
    sys.stdout.flush()
    sys.stdin.read()
    server.terminate()


if __name__ == "__main__":
    main(*sys.argv[1:])
