"""The whole app at work in one terminal: ``python -m example_project.demo``.

Prepares the database, starts the provider's simulator, a worker and the site, places an order of
each outcome and shows what becomes of them. With ``GIFTCARDS_API_KEY`` in the environment it talks
to the provider's sandbox instead of the simulator. What it starts ends with it.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Sequence

import django
from django.conf import settings

from example_project.demo.processes import (
    HOST,
    DemoError,
    Processes,
    Stopped,
    answers,
    free_port,
)

SITE_PORT = 8000
SIMULATOR_PORT = 8378
# With --once: from the beginning until the orders have settled (seconds).
PATIENCE = 110


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="end when the orders have settled")
    is_once = parser.parse_args(arguments).once
    give_up_at = time.monotonic() + PATIENCE if is_once else None

    # All of this before Django reads the settings, here and in the processes that are started.
    os.environ["DJANGO_SETTINGS_MODULE"] = "example_project.settings"
    has_simulator = not os.environ.get("GIFTCARDS_API_KEY")
    if has_simulator:
        os.environ.pop("GIFTCARDS_API_KEY", None)
        simulator_port = _port("simulator", SIMULATOR_PORT)
        os.environ["GIFTCARDS_BASE_URL"] = f"http://{HOST}:{simulator_port}"
        os.environ["NO_PROXY"] = os.environ["no_proxy"] = HOST
    site_port = _port("site", SITE_PORT)
    django.setup()
    for name in ("django-q", "giftcards"):
        # What they say otherwise goes to the logs of the processes.
        logging.getLogger(name).setLevel(logging.ERROR)

    processes = Processes(log_dir=settings.LOCAL_DIR)
    processes.listen_to_signals()
    try:
        if has_simulator:
            delays = ("--min-delay", "3", "--max-delay", "10")
            processes.start(
                "simulator", "giftcards_simulator", "--port", str(simulator_port), *delays
            )
            processes.wait_until(
                lambda: answers(simulator_port, "giftcards-simulator"), "simulator"
            )
        _run(processes, site_port, give_up_at)
        while not is_once:
            processes.wait(0.5)
    except Stopped:
        print("\nStopping ...")
    except DemoError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    finally:
        processes.stop()
    return 0


def _port(name: str, wanted: int) -> int:
    port = free_port(wanted)
    if port != wanted:
        print(f"Port {wanted} is taken: the {name} uses {port}.")
    return port


def _run(processes: Processes, site_port: int, give_up_at: float | None) -> None:
    """From an empty database to orders that have settled."""
    # It imports models, which needs the settings.
    from example_project.demo import shop

    print("Preparing the database, and starting the worker and the site ...", flush=True)
    password = shop.prepare(settings.LOCAL_DIR / "admin-password")
    if reason := shop.why_not_order():
        raise DemoError(reason)
    processes.start("site", "runserver", "--noreload", f"{HOST}:{site_port}")
    processes.start("worker", "qcluster")
    question = shop.ask_worker()
    processes.wait_until(lambda: answers(site_port, "WSGIServer"), "site")
    processes.wait_until(lambda: shop.has_answered(question), "worker")
    print(
        f"\n  Site       http://{HOST}:{site_port}/  (user admin, password {password})"
        f"\n  Provider   {settings.GIFTCARDS['BASE_URL']}"
        f"\n  Logs       {processes.log('*')}\n"
    )

    keys = shop.place()
    table = shop.Table()
    table.show(orders := shop.find(keys))
    while not all(order.is_final for order in orders):
        if give_up_at is not None and time.monotonic() > give_up_at:
            raise DemoError(
                f"The orders have not settled within {PATIENCE} seconds;"
                f" {processes.log('worker')} may say why."
            )
        processes.wait(0.3)
        table.show(orders := shop.find(keys))
    print("", *shop.breakdowns(orders), "", sep="\n")
    if give_up_at is None:
        print("All have settled. The site and the worker go on: stop them with Ctrl-C.", flush=True)


if __name__ == "__main__":
    sys.exit(main())
