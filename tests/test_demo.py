"""The demo, as a person runs it: it settles every order, says what it cost, and leaves nothing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from giftcards.simulator import Simulator

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).resolve().parent.parent
KEY = "a-key-of-the-provider"


class Demo:
    """A running demo, with a database of its own."""

    def __init__(self, folder: Path, *arguments: str, **more: str) -> None:
        # Its processes inherit the mark and so can be told from all others.
        self._mark = f"DEMO_TEST={folder}"
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("GIFTCARDS_", "DJANGO_", "COVERAGE_", "COV_"))
        }
        environment |= {
            "DATABASE_URL": f"sqlite:///{folder / 'demo.sqlite3'}",
            "DEMO_TEST": str(folder),
            # The demo has to be readable where nothing but ASCII is.
            "LC_ALL": "C",
            "PYTHONIOENCODING": "ascii",
            "PYTHONUNBUFFERED": "1",
            "PYTHONUTF8": "0",
        } | more
        self._output = (folder / "output").open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "example_project.demo", *arguments],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
        )

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        self._output.close()

    @property
    def output(self) -> str:
        return Path(self._output.name).read_text("ascii")

    def processes(self) -> dict[int, str]:
        """What runs on behalf of the demo: command lines by process id."""
        found = {}
        for folder in Path("/proc").iterdir():
            try:
                if self._mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                    command = (folder / "cmdline").read_bytes()
                    found[int(folder.name)] = command.replace(b"\0", b" ").decode()
            except (OSError, ValueError):
                continue  # not a process, or not any more
        return found

    def wait_until(self, condition: Callable[[], bool]) -> None:
        give_up_at = time.monotonic() + 60
        while not condition():
            assert self.process.poll() is None, self.output
            assert time.monotonic() < give_up_at, self.output
            time.sleep(0.05)


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


def test_once(start: Callable[..., Demo]) -> None:
    demo = start("--once")
    assert demo.process.wait(timeout=120) == 0, demo.output
    breakdowns = re.sub(r"demo-\d{4}-\d{6}-", "", demo.output.partition("Refund breakdown")[2])
    assert breakdowns == (
        ", in DZD:\n"
        "  refund: ordered 980.00 = charged 0.00 + refunded 980.00 (2 of 2 cards refunded)\n"
        "  partial: ordered 1960.00 = charged 980.00 + refunded 980.00 (2 of 4 cards refunded)\n"
        "  ordinary: ordered 980.00 = charged 980.00 + refunded 0.00 (0 of 2 cards refunded)\n"
        "  larger: ordered 12250.00 = charged 12250.00 + refunded 0.00 (0 of 25 cards refunded)\n"
        "\n"
    )
    assert re.search(r"http://127.0.0.1:\d+/  \(user admin, password \S+\)", demo.output)
    assert demo.processes() == {}


def test_stopped_while_orders_are_open(start: Callable[..., Demo]) -> None:
    demo = start()
    demo.wait_until(lambda: "HANDLING" in demo.output)
    assert len(demo.processes()) > 3
    demo.process.send_signal(signal.SIGTERM)
    assert demo.process.wait(timeout=30) == 0, demo.output
    assert demo.output.endswith("Stopping ...\n")
    assert demo.processes() == {}


def test_a_process_that_ends_by_itself(start: Callable[..., Demo]) -> None:
    demo = start()

    def sites() -> list[int]:
        return [pid for pid, command in demo.processes().items() if "runserver" in command]

    demo.wait_until(lambda: bool(sites()))
    os.kill(sites()[0], signal.SIGKILL)
    assert demo.process.wait(timeout=30) == 1, demo.output
    log = ROOT / ".demo" / "site.log"
    assert demo.output.endswith(f"\nThe site ended by itself; {log} says why.\n")
    assert demo.processes() == {}


def test_with_a_key_it_talks_to_the_provider(start: Callable[..., Demo]) -> None:
    with Simulator(delay=(0, 1), keys=[KEY]) as provider:
        demo = start("--once", GIFTCARDS_API_KEY=KEY, GIFTCARDS_BASE_URL=provider.url)
        demo.wait_until(lambda: "HANDLING" in demo.output)
        assert not any("giftcards_simulator" in command for command in demo.processes().values())
        assert demo.process.wait(timeout=120) == 0, demo.output
        assert f"Provider   {provider.url}" in demo.output
        assert KEY not in demo.output
        assert len(provider.orders) == 4
    assert demo.processes() == {}


def test_with_a_key_that_spends_money_it_orders_nothing(start: Callable[..., Demo]) -> None:
    with Simulator(keys=[KEY], key_type="PRODUCTION") as provider:
        demo = start(GIFTCARDS_API_KEY=KEY, GIFTCARDS_BASE_URL=provider.url)
        assert demo.process.wait(timeout=60) == 1
        assert "The key is for PRODUCTION, not for the SANDBOX" in demo.output
        assert provider.orders == {}
    assert demo.processes() == {}
