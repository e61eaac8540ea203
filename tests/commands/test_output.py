"""What all commands have in common: closed pipes, help, languages, times and progress."""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command, get_commands, load_command_class
from django.core.management.base import BaseCommand
from django.utils import timezone, translation
from django_q.models import OrmQ

from giftcards.management.output import Progress, clock_time, counted, duration
from giftcards.models import Order, ProviderState
from giftcards.simulator import Simulator
from giftcards.statuses import Status
from tests.builders import make_order
from tests.conftest import Call
from tests.stage import PSN, ROOT, ago

pytest_plugins = ["tests.stage_fixtures"]

APPS = {name: str(app) for name, app in get_commands().items() if str(app).startswith("giftcards")}
COMMANDS = sorted(APPS)


class ClosedPipe(io.StringIO):
    """A pipe whose reader closes it after ``lines`` lines."""

    def __init__(self, lines: int = 0) -> None:
        super().__init__()
        self._left = lines

    def write(self, text: str) -> int:
        if not self._left:
            raise BrokenPipeError
        self._left -= text.count("\n")
        return super().write(text)


@pytest.mark.django_db
class TestAPipeThatIsClosed:
    @pytest.mark.parametrize(
        "command",
        [
            "giftcards_setup",
            "giftcards_setup --json",
            "giftcards_generate_key",
            "giftcards_poll",
            "giftcards_poll --json",
            "giftcards_poll --reference cart-1",
            "giftcards_reconcile",
            "giftcards_status",
            "giftcards_status --json",
            "giftcards_status cart-1",
            "giftcards_selftest",
            f"giftcards_place {PSN} type_001 1 --wait",
            "giftcards_simulator --port 0",
        ],
    )
    def test_a_closed_pipe_ends_every_command_with_1_and_no_message(
        self, command: str, simulator: Simulator, set_conf: Callable[..., None]
    ) -> None:
        set_conf(POLL_INTERVAL=0.1)
        make_order(reference="cart-1")
        errors = io.StringIO()
        with pytest.raises(SystemExit) as ended:
            call_command(*command.split(), stdout=ClosedPipe(), stderr=errors)
        assert (ended.value.code, errors.getvalue()) == (1, "")

    @pytest.mark.django_db(transaction=True)
    def test_a_closed_pipe_leaves_an_order_that_was_followed_to_the_worker(
        self, simulator: Simulator, set_conf: Callable[..., None]
    ) -> None:
        set_conf(POLL_INTERVAL=0.1)
        with pytest.raises(SystemExit):
            call_command(
                "giftcards_place", PSN, "SIM_NEVER", "1", "--wait", "-v1", stdout=ClosedPipe()
            )
        assert Order.objects.get().status == Status.HANDLING
        assert OrmQ.objects.count() == 1

    @pytest.mark.django_db(transaction=True)
    def test_a_closed_pipe_ends_a_command_in_a_process_of_its_own_with_1(
        self, child: Callable[..., subprocess.Popen[str]]
    ) -> None:
        for arguments in (["giftcards_generate_key"], ["giftcards_simulator", "--port", "0"]):
            with child(*arguments, PYTHONUNBUFFERED="") as process:
                assert process.stdout
                process.stdout.close()
                # Python itself exits with 120 if it cannot write the rest of the output.
                assert process.wait(timeout=60) == 1


class TestHelp:
    @pytest.mark.parametrize("name", COMMANDS)
    def test_help_fits_80_columns_and_has_examples_that_the_command_understands(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        command: Any = load_command_class(APPS[name], name)
        parser = command.create_parser("manage.py", name)
        text = parser.format_help()
        assert max(map(len, text.splitlines())) <= 80
        shown = re.findall(rf"^  manage\.py {name}(.*)$", text, re.MULTILINE)
        assert shown
        assert len(shown) == len(command.examples)
        for line in shown:
            parser.parse_args(shlex.split(line.partition(">")[0]))

    @pytest.mark.parametrize("name", COMMANDS)
    def test_help_names_the_default_of_every_option(self, name: str) -> None:
        parser = load_command_class(APPS[name], name).create_parser("manage.py", name)
        common = BaseCommand().create_parser("manage.py", name)
        inherited = {option for action in common._actions for option in action.option_strings}
        for action in parser._actions:
            if not inherited.intersection(action.option_strings) and not action.required:
                assert "(default: " in str(action.help), action


@pytest.mark.django_db
class TestLanguage:
    @pytest.fixture(autouse=True)
    def _in_a_french_shop(self) -> Any:
        with translation.override("fr"):
            yield

    def test_the_overview_is_in_english_whatever_the_site_speaks(self, call: Call) -> None:
        ProviderState.objects.pause(ProviderState.Pause.RATE, detail="Slower.", until=ago(-60))
        ProviderState.objects.update(last_tick_at=ago(600))
        paused = (
            "The provider asked for fewer requests. Slower. Requests will resume automatically."
        )
        down = "Background work has stopped. The workers have not reported for more than 3 minutes."
        for options in ([], ["--json"]):
            out, err, code = call("giftcards_status", *options, "--fail-on", "paused,worker")
            assert paused in out
            assert down in out
            assert (err.startswith(f"{paused} {down} Start a worker: "), code) == (True, 1)

    def test_the_reason_why_an_order_is_not_sent_is_in_english(
        self, call: Call, simulator: Simulator
    ) -> None:
        ProviderState.objects.pause(ProviderState.Pause.RATE, detail="Slower.", until=ago(-60))
        _, err, _ = call("giftcards_place", PSN, "t", "1", "--reference", "cart-1")
        assert err.endswith(
            "is waiting to be sent. The provider asked for fewer requests. Slower. Requests will"
            " resume automatically.\n"
        )

    def test_errors_about_arguments_are_in_english(self, call: Call) -> None:
        make_order(reference="cart-1")
        assert call("giftcards_place", PSN, "t", "0").err == (
            "quantity: Ensure this value is greater than or equal to 1.\n"
        )
        assert (
            "is already used for another order"
            in call("giftcards_place", PSN, "t", "9", "--reference", "cart-1").err
        )


# A site that stores times without a time zone, in the time zone of Algiers.
NAIVE = """
from example_project.settings import *
USE_TZ = False
"""


@pytest.mark.cluster
def test_commands_show_times_with_a_zone_where_the_database_has_none(tmp_path: Path) -> None:
    (tmp_path / "naive_settings.py").write_text(NAIVE)
    environment = {
        **os.environ,
        "DATABASE_URL": f"sqlite:///{tmp_path / 'db.sqlite3'}",
        "DJANGO_SETTINGS_MODULE": "naive_settings",
        "GIFTCARDS_POLL_INTERVAL": "0.2",
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
    }
    printed = {}
    with Simulator(delay=(0, 0), rate_limit=0) as simulator:
        environment["GIFTCARDS_BASE_URL"] = simulator.url
        for name, command in {
            "migrate": "migrate -v0",
            "placed": f"giftcards_place {PSN} type_001 2 --reference cart-1 --wait --json",
            "lost": f"giftcards_place {PSN} SIM_LOST 2 --reference cart-2 --json",
            "found": "giftcards_reconcile --json",
            "order": "giftcards_status cart-1 --json",
            "overview": "giftcards_status --json",
        }.items():
            done = subprocess.run(
                [sys.executable, "manage.py", *command.split()],
                cwd=ROOT,
                env=environment,
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert done.returncode == (name == "lost"), done.stderr
            printed[name] = done.stdout
    assert '"explained": 1' in printed["found"]
    times = re.findall(r'_at": "(.+)"', printed["order"] + printed["overview"])
    assert len(times) >= 5
    for time in times:
        assert datetime.fromisoformat(time).utcoffset() == timedelta(hours=1)


class TestProgress:
    @pytest.fixture
    def output(self) -> io.StringIO:
        return io.StringIO()

    def progress(self, output: io.StringIO, *, is_live: bool) -> Progress:
        def put(text: str, ending: str = "\n") -> None:
            output.write(text + ending)

        return Progress(put, is_live=is_live)

    def test_progress_in_a_log_is_a_line_per_change_and_one_a_minute(
        self, output: io.StringIO, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = 1_000.0
        monkeypatch.setattr("time.monotonic", lambda: now)
        with self.progress(output, is_live=False) as progress:
            for second in range(125):
                now = 1_000.0 + second
                progress.show("HANDLING", since=ago(second))
            progress.end("FULFILLED")
            progress.end("FULFILLED")
        # A time of yesterday is shown with its date.
        moment = r"(\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d"
        lines = [re.sub(moment, "TIME", line) for line in output.getvalue().splitlines()]
        assert lines == [
            "HANDLING (since TIME, 0 s)",
            "HANDLING (since TIME, 1 min 0 s)",
            "HANDLING (since TIME, 2 min 0 s)",
            "FULFILLED",
        ]

    def test_progress_of_a_short_wait_leaves_no_line_in_a_log(self, output: io.StringIO) -> None:
        with self.progress(output, is_live=False) as progress:
            progress.show("Asking", unless_short=True)
            progress.show("Asking", unless_short=True)
        assert output.getvalue() == ""

    def test_progress_on_a_terminal_is_one_line_that_is_redrawn(
        self, output: io.StringIO, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "40")
        with self.progress(output, is_live=True) as progress:
            now = ago(0.1)
            for seconds in (0, 0, 1, 2):
                since = now - timedelta(seconds=seconds)
                progress.show("HANDLING, and much more than fits", since=since, unless_short=True)
            progress.end("FULFILLED")
        # The line is drawn when it changes and does not wrap. It leaves the cursor at its start, so
        # that a line of the log replaces it.
        line = r"\rHANDLING, and muc \(since \d\d:\d\d:\d\d, \d s\)\x1b\[K\r"
        assert re.fullmatch(rf"({line}){{3}}\nFULFILLED\n", output.getvalue())

    def test_work_that_is_counted_is_a_bar_on_a_terminal(
        self, output: io.StringIO, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        with self.progress(output, is_live=True) as progress:
            for done in (0, 129, 199, 200, 300):
                progress.advance("Sealing 200 cards", done, 200)
        text, ending = output.getvalue().rsplit("\r", 1)
        bars = re.findall(r"\rSealing 200 cards (.*?) \(since [0-9:]{8}, \d s\)\x1b\[K", text)
        assert bars == [
            "[....................] 0 %",
            "[############........] 64 %",
            "[###################.] 99 %",
            "[####################] 100 %",
        ]
        assert ending == "\n"

    def test_work_that_is_counted_is_a_line_for_each_tenth_in_a_log(
        self, output: io.StringIO
    ) -> None:
        with self.progress(output, is_live=False) as progress:
            for done in range(41):
                progress.advance("Sealing 40 cards", done, 40)
        shares = re.findall(r"Sealing 40 cards: (\d+) % ", output.getvalue())
        assert [int(share) for share in shares] == list(range(0, 101, 10))

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min 0 s"),
            (3_599, "59 min 59 s"),
            (11_460, "3 h 11 min"),
        ],
    )
    def test_durations_are_shown_in_hours_minutes_and_seconds(
        self, seconds: int, text: str
    ) -> None:
        assert duration(seconds) == text

    def test_a_time_of_another_day_is_shown_with_its_date(self) -> None:
        now = timezone.localtime()
        assert clock_time(now) == f"{now:%H:%M:%S}"
        assert clock_time(ago(2 * 86_400)).startswith(f"{now - timedelta(days=2):%Y-%m-%d} ")

    def test_counts_are_shown_in_the_singular_and_plural(self) -> None:
        expected = ["0 orders", "1 order", "2 orders"]
        assert [counted(number, "order") for number in (0, 1, 2)] == expected
        expected = ["1 entry", "2 entries"]
        assert [counted(number, "entry", "entries") for number in (1, 2)] == expected


@pytest.mark.all_apps
@pytest.mark.django_db(transaction=True)
def test_missing_tables_of_an_optional_app_are_found_before_its_command_begins(
    call: Call, simulator: Simulator
) -> None:
    app = "giftcards_books"
    call_command("migrate", app, "zero", verbosity=0)
    try:
        out, err, code = call("giftcards_ledger")
        # The commands of the core still work without these tables.
        assert call("giftcards_poll").code == 0
    finally:
        call_command("migrate", app, verbosity=0)
    assert (out, code) == ("", 2)
    assert "Check that `manage.py migrate` has been run for this database." in err
    assert simulator.requests == []
