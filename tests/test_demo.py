"""The demo as a user runs it: it settles every order, shows costs, and ends its processes."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import pytest
import requests

from example_project.demo import shop
from example_project.demo.__main__ import OFFER_CHANGES
from example_project.storefront.catalogue import open_shop
from giftcards.simulator import OfferChange, Simulator
from tests.site import Demo
from tests.stage import fill_catalogue

pytestmark = pytest.mark.cluster

KEY = "a-key-of-the-provider"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Demo]]:
    if not Path("/proc/self/environ").exists():
        pytest.skip("it finds processes in /proc, which only Linux has")
    started: list[Demo] = []

    def start(*arguments: str, **more: str) -> Demo:
        started.append(Demo(tmp_path, *arguments, **more))
        return started[-1]

    yield start
    for demo in started:
        demo.close()


def orders_in(database: Path) -> list[tuple[str, str]]:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT reference, problems FROM giftcards_order ORDER BY id")
        return [(reference.rpartition("-")[2], problems) for reference, problems in rows]


def test_the_demo_with_once_ends_when_the_orders_have_settled(
    start: Callable[..., Demo], tmp_path: Path
) -> None:
    demo = start("--once")
    assert demo.process.wait(timeout=240) == 0, demo.output
    breakdowns = re.sub(r"demo-\d{4}-\d{6}-", "", demo.output.partition("What became of")[2])
    breakdowns, _, mails = breakdowns.partition("The mails to the customers")
    breakdowns, _, picture = breakdowns.partition("The order of which some cards came")
    owed = "The customer is owed 2 x 550.00 = 1100.00."
    assert [" ".join(line.split()) for line in breakdowns.splitlines()] == [
        "the money, in DZD:",
        "ordered = cost + credited back delivered",
        "none 980.00 = 0.00 + 980.00 0 of 2",
        owed,
        "partial 2450.00 = 1470.00 + 980.00 3 of 5",
        owed,
        "all 1470.00 = 1470.00 + 0.00 3 of 3",
        "many 12250.00 = 12250.00 + 0.00 25 of 25",
        "",
    ]
    assert re.search(r"http://127.0.0.1:\d+/admin/giftcards/order/2/change/", picture)
    assert re.search(r"http://127.0.0.1:\d+/  \(user admin, password \S+\)", demo.output)
    table = demo.output[demo.output.index("order    ") :]
    assert max(map(len, table.splitlines())) < 80
    # The table describes the purchases and their outcomes in words.
    assert re.search(r"-partial 5 x PSN 500 DA    Partly delivered +\d+ s\n", table)
    assert not re.search("TEST_|SIM_|type_0|_FILLED", demo.output)
    assert demo.processes() == {}
    # Only the owner can read the demo's files, and the database of the shop was never opened.
    folder = tmp_path / "files"
    files = [path for path in folder.iterdir() if path.is_file()]
    assert {path.name for path in files} >= {"demo.sqlite3", "encryption-keys", "lock"}
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in (folder, folder / "mails")} == {0o700}
    # Each customer gets a mail, and customers who received cards get a link to them. Django may
    # write mails of the same second into one file.
    written = [path.read_text() for path in (folder / "mails").iterdir()]
    assert "".join(written).count("\nSubject: ") == 4
    link = r"http://127.0.0.1:\d+/cards/[\w-]{32}/"
    linked = re.findall(rf"^  (\w+)@example\.com:\n    {link}$", mails, re.MULTILINE)
    assert sorted(linked) == ["amina", "sara", "yacine"]
    assert not (tmp_path / "of-the-shop.sqlite3").exists()


def test_the_demo_stopped_while_orders_are_open_leaves_no_process(
    start: Callable[..., Demo],
) -> None:
    demo = start()
    demo.wait_until(lambda: "In progress" in demo.output)
    assert len(demo.processes()) > 3
    demo.process.send_signal(signal.SIGTERM)
    assert demo.process.wait(timeout=240) == 0, demo.output
    assert demo.output.endswith("Stopping ...\n")
    assert demo.processes() == {}


def test_a_demo_after_a_killed_one_starts_afresh_and_a_third_is_refused(
    start: Callable[..., Demo], tmp_path: Path
) -> None:
    killed = start()
    killed.wait_until(lambda: "In progress" in killed.output)
    killed.process.kill()
    killed.process.wait()
    # The demo was killed, so its processes have to end by themselves.
    give_up_at = time.monotonic() + 120
    while killed.processes():
        assert time.monotonic() < give_up_at
        time.sleep(0.05)
    demo = start()
    demo.wait_until(lambda: "In progress" in demo.output)
    expected = [("none", "[]"), ("partial", "[]"), ("all", "[]"), ("many", "[]")]
    assert orders_in(tmp_path / "files" / "demo.sqlite3") == expected
    other = start()
    assert other.process.wait(timeout=240) == 1
    assert other.output == (
        f"Another demo is running in this checkout (process {demo.process.pid})."
        " Stop it with Ctrl-C in its terminal first.\n"
    )
    assert demo.process.poll() is None


def test_the_site_of_the_demo_shows_its_pages_without_debug(
    start: Callable[..., Demo], tmp_path: Path
) -> None:
    demo = start()
    demo.wait_until(lambda: "password" in demo.output)
    found = re.search(r"http://127.0.0.1:\d+/", demo.output)
    assert found
    assert requests.get(f"{found[0]}admin/login/", timeout=10).status_code == 200
    style = requests.get(f"{found[0]}static/admin/css/base.css", timeout=10)
    assert style.headers["Content-Type"].startswith("text/css")
    assert f"    {found[0]}mailbox/ " in demo.output
    token = (tmp_path / "files" / "metrics-token").read_text()
    metrics = requests.get(
        f"{found[0]}metrics", headers={"Authorization": f"Bearer {token}"}, timeout=10
    )
    assert 'giftcards_orders{status="PENDING"}' in metrics.text
    assert requests.get(f"{found[0]}metrics", timeout=10).status_code == 401
    shelf = requests.get(found[0], timeout=10)
    assert (shelf.status_code, shelf.text.count('href="/buy/')) == (200, 7)
    style = requests.get(f"{found[0]}static/storefront/shop.css", timeout=10)
    assert style.status_code == 200
    missing = requests.get(f"{found[0]}missing", timeout=10)
    assert (missing.status_code, "DEBUG" in missing.text) == (404, False)


@pytest.mark.django_db
def test_the_demo_tells_only_of_changes_that_are_to_come_and_of_each_that_is_noticed_once(
    simulator: Simulator,
) -> None:
    open_shop()
    fill_catalogue()
    price = "PSN 500 DA: price 520.00 instead of 490.00"
    stock = "Steam 5 USD: stock 0 instead of 100000"
    expected = [f"  in  46 s  {price}", f"  in  76 s  {stock}"]
    assert list(shop.forecast(OFFER_CHANGES, age=14.2)) == expected
    assert list(shop.forecast(OFFER_CHANGES, age=60)) == [f"  in  30 s  {stock}"]
    noticed = shop.noticed()
    assert next(noticed) == []
    simulator.offer_changes = [
        OfferChange(0, "type_001", price=Decimal(520)),
        OfferChange(0, "type_101", stock=0),
    ]
    fill_catalogue()
    expected = [f"{price}; on the shelf, at 590.00", f"{stock}; on the shelf, sold out"]
    assert [line.partition("  ")[2].partition("  ")[2] for line in next(noticed)] == expected
    assert next(noticed) == []


def test_the_demo_ends_if_one_of_its_processes_ends_by_itself(
    start: Callable[..., Demo], tmp_path: Path
) -> None:
    demo = start()

    def sites() -> list[int]:
        return [pid for pid, command in demo.processes().items() if "runserver" in command]

    demo.wait_until(lambda: bool(sites()))
    os.kill(sites()[0], signal.SIGKILL)
    assert demo.process.wait(timeout=240) == 1, demo.output
    log = tmp_path / "files" / "site.log"
    assert demo.output.endswith(f"\nThe site ended by itself; {log} says why.\n")
    assert demo.processes() == {}


def test_the_demo_makes_up_no_secrets_for_the_provider(
    start: Callable[..., Demo], tmp_path: Path
) -> None:
    demo = start(GIFTCARDS_API_KEY=KEY)
    assert demo.process.wait(timeout=240) == 1
    # The demo may also report that a port is taken, but nothing else.
    assert re.sub(r"^Port \d+ is taken: .*\n", "", demo.output, flags=re.MULTILINE) == (
        "\nDJANGO_SECRET_KEY is not set, and GIFTCARDS['BASE_URL'] is https://api.oneclickdz.com."
        " The example project makes up secrets for the simulator only.\n"
    )
    assert [path.name for path in (tmp_path / "files").iterdir()] == ["lock"]


def test_the_demo_with_a_key_uses_the_provider_and_no_simulator(
    start: Callable[..., Demo], tmp_path: Path
) -> None:
    with Simulator(delay=(0, 1), keys=[KEY], lists_test_types=False) as provider:
        demo = start("--once", GIFTCARDS_API_KEY=KEY, GIFTCARDS_BASE_URL=provider.url)
        demo.wait_until(lambda: "In progress" in demo.output)
        assert not any("giftcards_simulator" in command for command in demo.processes().values())
        assert demo.process.wait(timeout=240) == 0, demo.output
        assert f"Provider   {provider.url}" in demo.output
        assert KEY not in demo.output
        assert len(provider.orders) == 4
    with contextlib.closing(sqlite3.connect(tmp_path / "files" / "sandbox.sqlite3")) as database:
        [[amounts]] = database.execute("SELECT COUNT(sale_amount) FROM giftcards_order")
    assert amounts == 4
    assert demo.processes() == {}


def test_the_demo_with_a_production_key_orders_nothing(start: Callable[..., Demo]) -> None:
    with Simulator(keys=[KEY], key_type="PRODUCTION") as provider:
        demo = start(GIFTCARDS_API_KEY=KEY, GIFTCARDS_BASE_URL=provider.url)
        assert demo.process.wait(timeout=60) == 1
        assert "The key is for PRODUCTION, not for SANDBOX" in demo.output
        assert provider.orders == {}
    assert demo.processes() == {}
