"""A demo of the whole app in one terminal: ``python -m example_project.demo``.

The demo prepares a database of its own, starts the provider's simulator, a worker and the site,
places an order for each outcome, and shows their progress. Then the simulator changes a price and a
stock, and the demo reports when the worker notices this. If ``GIFTCARDS_API_KEY`` is set, the demo
uses the provider's sandbox instead of the simulator. All processes that it starts end with it.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote

import django
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from example_project.demo.processes import (
    HOST,
    DemoError,
    Processes,
    Stopped,
    answers,
    free_port,
    lock,
)

ROOT = Path(__file__).resolve().parents[2]

SITE_PORT = 8000
FRONT_END_PORT = 8001
SIMULATOR_PORT = 8378
# Options of the simulator: seconds until the provider asks a customer to wait (instead of 300), and
# until an order of the type SIM_SLOW settles.
LATE_AFTER, SLOW_DELAY = 90, 120
# Options of the simulator: seconds from its start until one card has a new price and another is
# sold out; then how often the worker reads the catalogue (minutes, instead of 60).
OFFER_CHANGES = ((60, "type_001", "price", 520), (90, "type_101", "stock", 0))
CATALOGUE_INTERVAL = 30
# With --once: the time limit for the orders to settle, from the start (seconds).
PATIENCE = 110
# The time limit for the mails after that (seconds).
MAIL_PATIENCE = 30


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="end when the orders have settled")
    is_once = parser.parse_args(arguments).once
    give_up_at = time.monotonic() + PATIENCE if is_once else None

    try:
        folder = _prepare_folder()
        release = lock(folder)
    except DemoError as error:
        print(error, file=sys.stderr)
        return 1
    try:
        return _demo(folder, is_once=is_once, give_up_at=give_up_at)
    finally:
        release()


def _prepare_folder() -> Path:
    """Create the folder of the demo's files, which is private to the current user."""
    folder = Path(os.environ.get("EXAMPLE_DIR") or ROOT / ".demo").resolve()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    os.environ["EXAMPLE_DIR"] = str(folder)
    return folder


def _configure(folder: Path, *, has_simulator: bool) -> None:
    """Set the environment of this process and its children, and read the settings."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "example_project.settings"
    database = folder / ("demo.sqlite3" if has_simulator else "sandbox.sqlite3")
    if has_simulator:
        # The simulator forgets its orders when it stops, so the database must start empty, too.
        for path in folder.glob(f"{database.name}*"):
            path.unlink()
        for path in folder.glob("mails/*"):
            path.unlink()
    # If the environment names a database, it is the user's own, and the demo must not use it.
    os.environ["DATABASE_URL"] = f"sqlite:///{quote(str(database))}"
    try:
        django.setup()
    except ImproperlyConfigured as error:
        raise DemoError(str(error)) from None
    for name in ("django-q", "giftcards"):
        # The processes have logs of their own, so only errors are printed here.
        logging.getLogger(name).setLevel(logging.ERROR)


def _demo(folder: Path, *, is_once: bool, give_up_at: float | None) -> int:
    has_simulator = not os.environ.get("GIFTCARDS_API_KEY")
    processes = Processes(log_dir=folder)
    processes.listen_to_signals()
    try:
        if has_simulator:
            os.environ.pop("GIFTCARDS_API_KEY", None)
            simulator_port = _port("simulator", SIMULATOR_PORT)
            os.environ["GIFTCARDS_BASE_URL"] = f"http://{HOST}:{simulator_port}"
        site_port = _port("site", SITE_PORT)
        os.environ["EXAMPLE_SHOP_URL"] = f"http://{HOST}:{site_port}"
        front_end_port = _port("front end", FRONT_END_PORT)
        os.environ["EXAMPLE_FRONT_END_URL"] = f"http://{HOST}:{front_end_port}"
        _configure(folder, has_simulator=has_simulator)
        if has_simulator:
            os.environ.setdefault("GIFTCARDS_POLL_TIMEOUT", str(LATE_AFTER))
            os.environ.setdefault("GIFTCARDS_CATALOGUE_INTERVAL", str(CATALOGUE_INTERVAL))
            _start_simulator(processes, simulator_port)
        simulated_since = time.monotonic() if has_simulator else None
        _start_front_end(processes, front_end_port, folder / "front_end")
        _run(processes, site_port, give_up_at, has_simulator=has_simulator)
        if not is_once:
            _go_on(processes, site_port, simulated_since)
    except Stopped:
        print("\nStopping ...")
    except DemoError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    finally:
        processes.stop()
    return 0


def _start_simulator(processes: Processes, port: int) -> None:
    from example_project.demo import shop

    options = ["--port", str(port), "--min-delay", "3", "--max-delay", "10"]
    options += ["--slow-delay", str(SLOW_DELAY), *shop.shortfalls()]
    for change in OFFER_CHANGES:
        options += ["--offer-change", *map(str, change)]
    processes.start("simulator", "giftcards_simulator", *options)
    processes.wait_until(lambda: answers(port, "giftcards-simulator"), "simulator")


def _start_front_end(processes: Processes, port: int, folder: Path) -> None:
    """Serve a copy of the separate front end, with the address of this demo's API in it."""
    shutil.copytree(ROOT / "example_project" / "front_end", folder, dirs_exist_ok=True)
    page = folder / "index.html"
    usual, own = f"http://{HOST}:{SITE_PORT}", os.environ["EXAMPLE_SHOP_URL"]
    page.write_text(page.read_text("utf-8").replace(usual, own), "utf-8")
    server = ["-m", "http.server", str(port), "--bind", HOST, "--directory", str(folder)]
    processes.run("front-end", *server)


def _short(path: Path) -> Path:
    """Return ``path`` relative to the current directory if it is below it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _port(name: str, wanted: int) -> int:
    port = free_port(wanted)
    if port != wanted:
        print(f"Port {wanted} is taken: the {name} uses {port}.")
    return port


def _run(
    processes: Processes, site_port: int, give_up_at: float | None, *, has_simulator: bool
) -> None:
    """Prepare the database, start the site and the worker, and follow the orders to the end."""
    # This module imports models, which need the settings.
    from example_project.demo import shop

    print("Preparing the database, and starting the worker and the site ...", flush=True)
    password = shop.prepare(settings.LOCAL_DIR / "admin-password")
    if reason := shop.why_not_order():
        raise DemoError(reason)
    if has_simulator:  # the provider's own catalogue would take minutes
        shop.read_catalogue()
    # With --insecure, the site serves static files without DEBUG, whose error pages would show
    # local variables.
    processes.start("site", "runserver", "--noreload", "--insecure", f"{HOST}:{site_port}")
    processes.start("worker", "qcluster")
    question = shop.ask_worker()
    processes.wait_until(lambda: answers(site_port, "WSGIServer"), "site")
    processes.wait_until(lambda: shop.has_answered(question), "worker")
    front_end = os.environ["EXAMPLE_FRONT_END_URL"]
    print(
        f"\n  Site       http://{HOST}:{site_port}/  (user admin, password {password})"
        f"\n  Provider   {settings.GIFTCARDS['BASE_URL']}"
        f"\n  Logs       {_short(processes.log('*'))}"
        f"\n  Mails      {_short(settings.MAIL_DIR)}\n"
        "\n  In the browser, in one window:"
        f"\n    http://{HOST}:{site_port}/                buy a card; the page follows the order"
        f"\n    http://{HOST}:{site_port}/mailbox/        the mails, and their links to the cards"
        f"\n    http://{HOST}:{site_port}/orders/         what you have bought"
        f"\n    http://{HOST}:{site_port}/admin/          as staff: refunds, and paying back"
        f"\n    {front_end}/                the shop's API, from another origin\n"
    )

    keys = shop.place(has_simulator=has_simulator)
    table = shop.Table()
    table.show(orders := shop.find(keys))
    while not all(order.is_final for order in orders):
        if give_up_at is not None and time.monotonic() > give_up_at:
            raise DemoError(
                f"The orders have not settled within {PATIENCE} seconds;"
                f" {_short(processes.log('worker'))} may say why."
            )
        processes.wait(0.3)
        table.show(orders := shop.find(keys))
    print("", *shop.breakdowns(orders), "", sep="\n", flush=True)
    print("The order of which some cards came, as staff see it:")
    print(f"  http://{HOST}:{site_port}{shop.partial_page(orders)}\n", flush=True)
    _show_mails(processes, keys)


def _go_on(processes: Processes, site_port: int, simulated_since: float | None) -> NoReturn:
    """Run until a signal arrives; with the simulator, print its changes and when they happen."""
    from example_project.demo import shop

    print("All have settled. The site and the worker go on: stop them with Ctrl-C.", flush=True)
    if simulated_since is None:
        while True:
            processes.wait(0.5)
    age = time.monotonic() - simulated_since
    print("\nMeanwhile, the provider changes what it offers:")
    print(*shop.forecast(OFFER_CHANGES, age=age), sep="\n")
    print(
        "The worker notices within a minute or two, and so does the shelf:"
        f" http://{HOST}:{site_port}/\n",
        flush=True,
    )
    noticed = shop.noticed()
    while True:
        for line in next(noticed):
            print(line, flush=True)
        processes.wait(0.5)


def _show_mails(processes: Processes, keys: Sequence[int]) -> None:
    """Wait for the mails about these orders, and print the links to cards in them."""
    from example_project.demo import shop

    give_up_at = time.monotonic() + MAIL_PATIENCE
    while not shop.are_told(keys):
        if time.monotonic() > give_up_at:
            raise DemoError(
                f"Not every customer was told within {MAIL_PATIENCE} seconds;"
                f" {_short(processes.log('worker'))} may say why."
            )
        processes.wait(0.3)
    print("The mails to the customers lead to these pages with their cards:")
    print(*shop.card_pages(settings.MAIL_DIR), "", sep="\n")


if __name__ == "__main__":
    sys.exit(main())
