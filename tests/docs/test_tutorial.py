"""The tutorial, followed to the letter: its files are written, its console blocks are run."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.docs.pages import is_shown, page
from tests.stage import ROOT, unused_port

pytestmark = pytest.mark.cluster

BLOCK = re.compile(r"^```(python|console)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# These lines install the package in an environment. tests/test_packaging.py does that.
INSTALLING = """\
$ python3 -m venv venv
$ . venv/bin/activate
$ pip install "../django-giftcards[q2]"
"""
LASTING = ("giftcards_simulator", "qcluster", "runserver")
# The tutorial says that some things happen within some seconds. A slow machine may take this long.
PATIENCE = 60


class Reader:
    """A reader with an empty folder, a shell, and further terminals."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.terminals: list[subprocess.Popen[bytes]] = []
        ours = ("DJANGO_", "GIFTCARDS_", "DATABASE_URL", "PYTEST_", "EXAMPLE_")
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(ours)},
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
        }

    def write(self, block: str) -> None:
        """Write the file that the first line of a block names, or add to it."""
        named = re.match(r"# ([\w/]+\.py)(, at its end)?\n", block)
        assert named, block
        with (self.folder / named[1]).open("a" if named[2] else "w") as file:
            file.write(f"\n{block}")

    def follow(self, block: str) -> None:
        for line, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
            if any(name in line for name in LASTING):
                self.open_terminal(line, expected)
            else:
                self.run(line, expected)

    def run(self, line: str, expected: str) -> None:
        """Run the line until it prints what is shown, because some results take a few seconds."""
        ends = time.monotonic() + PATIENCE
        while True:
            done = subprocess.run(
                ["bash", "-c", line], cwd=self.folder, env=self.environment, capture_output=True
            )
            printed = done.stdout.decode()
            assert done.returncode == 0, f"{line}\n{printed}\n{done.stderr.decode()}"
            if is_shown(expected, printed):
                return
            assert time.monotonic() < ends, f"{line}\n{printed}\n{expected}"
            time.sleep(1)

    def open_terminal(self, line: str, expected: str) -> None:
        log = self.folder / f"terminal-{len(self.terminals)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {line}"],
                cwd=self.folder,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.terminals.append(process)
        ends = time.monotonic() + PATIENCE
        while not is_shown(expected, log.read_text()):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < ends, f"{line}\n{log.read_text()}\n{expected}"
            time.sleep(0.05)

    def leave(self) -> None:
        for process in self.terminals:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    reader = Reader(tmp_path)
    yield reader
    reader.leave()


def test_the_tutorial_leads_from_an_empty_folder_to_a_customer_with_codes(
    reader: Reader, tmp_path: Path
) -> None:
    # The ports of the tutorial may be in use on this machine.
    provider, site = unused_port(), unused_port()
    text = page("tutorial").replace(":8378", f":{provider}").replace(":8000", f":{site}")
    text = text.replace("giftcards_simulator ", f"giftcards_simulator --port {provider} ")
    text = text.replace("manage.py runserver", f"manage.py runserver {site}")
    blocks = BLOCK.findall(text)
    assert blocks[0] == ("console", INSTALLING)
    for language, block in blocks[1:]:
        if language == "python":
            reader.write(block)
        else:
            reader.follow(block)
    mails = [path.read_text() for path in sorted((tmp_path / "mails").iterdir())]
    codes = codes_for_the_customer_of(mails[0])
    assert len(set(codes)) == 2
    assert not any(code in mail for code in codes for mail in mails)


def codes_for_the_customer_of(mail: str) -> list[str]:
    """Press the button of the page that the mail links to, and return the codes."""
    found = re.search(r"http://127\.0\.0\.1:\d+/cards/[^ <\"\n]+", mail)
    assert found
    asking = requests.get(found[0], timeout=30).text
    [token] = re.findall(r'name="token" value="([^"]+)"', asking)
    # The page ignores a press within the first second, as from a program.
    time.sleep(1.1)
    shown = requests.post(found[0], data={"token": token}, timeout=30).text
    codes: list[str] = re.findall(r'id="gc-code-\d+">([^<]+)<', shown)
    assert not any(code in asking for code in codes)
    return codes
