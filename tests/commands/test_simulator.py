"""``giftcards_simulator``: what it prints, how it stops, and what keeps it from starting."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from django.core.management import CommandError, call_command
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from giftcards.simulator import SPECIAL_TYPES
from tests.builders import ODD_AMOUNTS
from tests.simulator.shop import LOST, PSN, raw
from tests.stage import ROOT, unused_port

pytest_plugins = ["tests.stage_fixtures"]


class Terminal(io.StringIO):
    """A terminal that sends requests to the simulator once it listens, and then stops it."""

    def __init__(self, stop_with: signal.Signals) -> None:
        super().__init__()
        self.stop_with = stop_with
        self.url = ""

    def write(self, text: str) -> int:
        written = super().write(text)
        if match := re.match(r"The simulator listens on (http://127\.0\.0\.1:(\d+))\. ", text):
            self.url = match[1]
            self.place("type_001")
            requests.get(
                f"{self.url}/v3/gift-cards/list?token=SECRET",
                headers={"X-Access-Token": "SECRET-KEY"},
                timeout=30,
            )
            raw(int(match[2]), b"GET /\x9b2J HTTP/1.1\r\n\r\n")
            with pytest.raises(LOST):
                self.place("SIM_LOST")
            signal.raise_signal(self.stop_with)
        return written

    def place(self, type_id: str) -> None:
        requests.post(
            f"{self.url}/v3/gift-cards/placeOrder",
            json={"productId": PSN, "typeId": type_id, "quantity": 1},
            headers={"X-Access-Token": "SECRET-KEY"},
            timeout=30,
        )


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("stop_with", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("keys", "shown"),
    [([], "any-text"), (["--key=SECRET-KEY"], "one of the keys given with --key")],
)
def test_simulator_command_prints_its_settings_and_requests_until_stopped(
    stop_with: signal.Signals, keys: list[str], shown: str
) -> None:
    terminal = Terminal(stop_with)
    call_command("giftcards_simulator", "--port=0", *keys, stdout=terminal)
    text = terminal.getvalue()
    types = "".join(f"  {name:<13} {special.summary}\n" for name, special in SPECIAL_TYPES.items())
    assert re.sub(r"(?m)^\d\d:\d\d:\d\d", "TIME", text) == (
        f"The simulator listens on {terminal.url}. Ctrl+C stops it.\n\n"
        f'  GIFTCARDS["BASE_URL"] = "{terminal.url}"\n'
        f'  GIFTCARDS["API_KEY"] = "{shown}"\n\n'
        f"Every product also has these types:\n\n{types}"
        "TIME POST /v3/gift-cards/placeOrder 200\n"
        "TIME GET /v3/gift-cards/list 200\n"
        "TIME GET /?2J 404\n"
        "TIME POST /v3/gift-cards/placeOrder closed\n"
    )
    with pytest.raises(requests.ConnectionError):
        requests.get(terminal.url, timeout=30)


@pytest.mark.usefixtures("handlers")
def test_simulator_command_explains_what_keeps_it_from_starting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        for arguments, message in {
            (f"--port={port}",): f"Cannot listen on 127.0.0.1:{port}: the port is in use.",
            ("--host=192.0.2.1",): (
                "Cannot listen on 192.0.2.1:8378: Cannot assign requested address."
            ),
            ("--port=70000",): "The port must be from 0 to 65535.",
            (
                "--min-delay=50",
            ): "The delays must not be negative, and the minimum must not exceed the maximum.",
            ("--ledger-oddities=late,odd",): "Unknown ledger oddities: odd.",
            ("--offer-change", "60", "type_001", "name", "PSN"): (
                "--offer-change is not valid: 60 type_001 name PSN"
            ),
            ("--offer-change", "60", "type_001", "price", "x"): (
                "--offer-change is not valid: 60 type_001 price x"
            ),
            ("--offer-change", "60", "type_002", "stock", "0"): (
                "Unknown product types: type_002."
            ),
            ("--shortfall", "type_001", "5", "some"): ("--shortfall is not valid: type_001 5 some"),
            ("--price-factor=x",): "Error: argument --price-factor: 'x' is not a number",
            **{
                (f"--balance={text}",): (
                    f"Error: argument --balance: {text!r} is not an amount in dinar"
                )
                for text in ("x", *ODD_AMOUNTS)
            },
        }.items():
            with pytest.raises(CommandError) as caught:
                call_command("giftcards_simulator", *arguments)
            assert str(caught.value) == message
            if not message.startswith("Error"):  # argparse exits with 2 by itself
                assert caught.value.returncode == 2


@contextlib.contextmanager
def own_process(directory: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run the command in a project that configures nothing."""
    (directory / "bare_settings.py").write_text('INSTALLED_APPS = ["giftcards"]\n')
    environment = {"PYTHONPATH": f"{directory}:{ROOT}", "DJANGO_SETTINGS_MODULE": "bare_settings"}
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "django", "giftcards_simulator", *arguments],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()  # else a test that fails would wait for it


def test_simulator_command_in_its_own_process_stops_on_sigterm(tmp_path: Path) -> None:
    with own_process(tmp_path, "--port=0") as process:
        assert process.stdout
        line = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert line.startswith("The simulator listens on http://127.0.0.1:")
    assert (process.returncode, errors) == (0, "")


def test_simulator_command_with_verbosity_0_prints_nothing(tmp_path: Path) -> None:
    port = unused_port()
    with own_process(tmp_path, f"--port={port}", "-v0") as process, requests.Session() as session:
        # No line announces the start, so the request is repeated until the simulator answers.
        retries = Retry(total=100, backoff_factor=0.1, backoff_max=0.1)
        session.mount("http://", HTTPAdapter(max_retries=retries))
        session.get(f"http://127.0.0.1:{port}/v3/validate", timeout=30)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (0, "", "")
