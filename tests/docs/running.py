"""Run the blocks of a page in sequence, as a reader would."""

from __future__ import annotations

import builtins
import contextlib
import copy
import dis
import doctest
import importlib
import importlib.util
import io
import json
import logging.config
import re
import shlex
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from configparser import ConfigParser
from multiprocessing.connection import Connection
from pathlib import Path
from types import CodeType
from typing import Any

import yaml
from django.conf import settings
from django.core import checks
from django.core.management import CommandError, call_command
from django.template import engines
from django.test.utils import override_settings
from django.urls import URLResolver
from django.urls.resolvers import RegexPattern

from giftcards.simulator import Simulator
from tests.docs import scenes
from tests.docs.pages import Block, all_blocks, is_shown

# The time limit for a block in seconds.
_PATIENCE = 60
_SIGNATURE = re.compile(r"# giftcards[.\w]*\n")
_IMPORT = re.compile(r"^(?:from|import) ([\w.]+)(?: import ([\w, ]+))?", re.MULTILINE)
_MANAGE = re.compile(r"(?:\w+=\S+ )*(?:\S+/)?python3? manage\.py ")


def run(page: str, answer: Connection) -> None:
    """Run a page in a process of its own, and send what differs from the page to ``answer``."""
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        Simulator(delay=(0, 0), rate_limit=0) as simulator,
    ):
        reader = Reader(page, Path(folder), simulator)
        reader.follow()
    answer.send(reader.complaints)


def give_up(*_: object) -> None:
    raise TimeoutError(f"It takes longer than {_PATIENCE} seconds.")


def names_in_functions(code: CodeType) -> set[str]:
    """Return the names that functions take from the module or from the built-ins."""
    inner = [it for it in code.co_consts if isinstance(it, CodeType)]
    own = {it.argval for it in dis.get_instructions(code) if it.opname == "LOAD_GLOBAL"}
    return own.union(*map(names_in_functions, inner))


def modules(found: tuple[str, str]) -> set[str]:
    """Return the names in an import that may be modules."""
    module, names = found
    parents = [module.rsplit(".", depth)[0] for depth in range(module.count(".") + 1)]
    return {*parents, *(f"{module}.{name}" for name in names.split(", "))}


def module_of(file: str) -> str:
    return file.removesuffix(".py").replace("/", ".")


class Reader:
    """A reader with a shop who follows a page, writes its files and types its lines."""

    def __init__(self, page: str, folder: Path, simulator: Simulator) -> None:
        self.page = page
        self.folder = folder
        self.simulator = simulator
        self.complaints: list[str] = []
        #: The names that are available to the page's Python code. Names in capitals are settings.
        self.names: dict[str, Any] = {"__name__": "shop"}
        self.blocks = scenes.blocks_to_run(page)
        #: The successive texts of each file, by the line of the block that begins them. The text at
        #: line 0 is there already.
        self.versions: dict[str, dict[int, str]] = {}
        #: The files that a console line has to run, by the line of their blocks.
        self.scripts: dict[str, int] = {}
        #: Modules of the shop that cannot be imported here; see :data:`scenes.ABSENT`.
        self.absent: set[str] = set()

    def follow(self) -> None:
        for name in dir(settings):
            if name.isupper():
                self.names[name] = copy.deepcopy(getattr(settings, name))
        self.change({"GIFTCARDS": {**settings.GIFTCARDS, "BASE_URL": self.simulator.url}})
        with self.at(1):
            self.write_files()
        heading = None
        for block in self.blocks:
            if block.heading != heading:
                heading = block.heading
                with self.at(block.line):
                    self.set_scene(heading)
            with self.at(block.line):
                self.run(block)
        for name, line in self.scripts.items():
            self.complain(line, f"No line of a console runs {name}.")
        with self.at(1):
            self.check_settings()

    def complain(self, line: int, text: str) -> None:
        self.complaints.append(f"{self.page}:{line}: {text.rstrip()}")

    def differ(self, line: int, typed: str, shown: str, printed: str) -> None:
        self.complain(line, f"{typed}\n  shown:\n{indent(shown)}  printed:\n{indent(printed)}")

    @contextlib.contextmanager
    def at(self, line: int) -> Iterator[None]:
        """Turn an exception into a complaint, with its line if the page's own code failed."""
        signal.signal(signal.SIGALRM, give_up)
        signal.alarm(_PATIENCE)
        try:
            yield
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a page may do anything
            frames = traceback.extract_tb(error.__traceback__)
            own = [frame for frame in frames if frame.filename == self.page]
            files = [frame for frame in frames if Path(frame.filename).is_relative_to(self.folder)]
            if isinstance(error, SyntaxError) and error.filename == self.page:
                line = error.lineno or line
            elif own:
                line = own[-1].lineno or line
            where = "".join(
                f"\n    {Path(it.filename).relative_to(self.folder)}:{it.lineno}: {it.line}"
                for it in files
            )
            self.complain(line, f"{type(error).__name__}: {error}{where}")
        finally:
            signal.alarm(0)

    def set_scene(self, heading: str) -> None:
        if scene := scenes.SCENES.get((self.page, heading)):
            scene(self.simulator)

    # Settings

    def change(self, values: dict[str, Any]) -> None:
        override_settings(**values).enable()
        self.names |= copy.deepcopy(values)

    def take_settings(self) -> None:
        """Use the values that the page has assigned to names in capitals as settings."""
        changed = {}
        for name, value in self.names.items():
            if name.isupper() and name != "DATABASES" and value != getattr(settings, name, None):
                changed[name] = self.as_setting(name, value)
        if changed:
            self.change(changed)
        if "LOGGING" in changed:
            logging.config.dictConfig(settings.LOGGING)

    def check_settings(self) -> None:
        """Run Django's system checks with the settings of the page."""
        for message in checks.run_checks():
            is_absent = any(f"{module}." in message.msg for module in self.absent)
            if message.level >= checks.ERROR and not is_absent:
                self.complain(1, f"With the settings of the page: {message}")

    def as_setting(self, name: str, value: Any) -> Any:
        if name == "INSTALLED_APPS":
            # The apps that the page adds may be there already.
            return list(dict.fromkeys(value))
        if name.startswith("GIFTCARDS"):
            # The values that are there already are kept. The reader has to fill in values with "…".
            given = {key: told for key, told in value.items() if "…" not in str(told)}
            kept = {**getattr(settings, name, {}), **given}
            return {**kept, "BASE_URL": self.simulator.url} if name == "GIFTCARDS" else kept
        return value

    # Files

    def write_files(self) -> None:
        """Write the first version of the shop's files, and install the shop if it has any."""
        self.gather_files()
        for name, versions in self.versions.items():
            self.write(name, next(iter(versions.values())))
        if any(name.startswith("shop/") for name in self.versions):
            self.write("shop/__init__.py", "")
            sys.path.insert(0, str(self.folder))
            self.change({"INSTALLED_APPS": [*settings.INSTALLED_APPS, "shop"]})
        if "shop/models.py" in self.versions:
            call_command("makemigrations", "shop", verbosity=0)
            call_command("migrate", "shop", verbosity=0)

    def gather_files(self) -> None:
        if self.builds_on_the_shop():
            for block in filter(self.is_file, all_blocks(scenes.SHOP)):
                self.take_version(block, number=0)
        for block in filter(self.is_file, self.blocks):
            self.take_version(block, number=block.line)

    def builds_on_the_shop(self) -> bool:
        """Return True if the page extends or imports a file that it does not write itself."""
        written: set[str] = set()
        used: set[str] = set()
        for block in self.blocks:
            if block.language == "python":
                used.update(*map(modules, re.findall(_IMPORT, block.text)))
            if self.is_file(block) and block.named:
                module = module_of(block.named[1])
                if block.named[2] and module not in written:
                    return True
                written.add(module)
        used = {name for name in used if re.fullmatch(r"shop\.\w+", name)}
        return not used <= written

    def is_file(self, block: Block) -> bool:
        """Return True if the block is a file that is not the settings module."""
        return bool(
            block.language in {"python", "html"}
            and block.named
            and not block.named[1].endswith("settings.py")
        )

    def is_absent(self, block: Block) -> bool:
        """Return True if the block imports a missing library, or a file that does so."""
        imported = set().union(*map(modules, re.findall(_IMPORT, block.text)))
        libraries = imported & scenes.ABSENT.keys()
        return bool(imported & self.absent) or not all(map(importlib.util.find_spec, libraries))

    def take_version(self, block: Block, *, number: int) -> None:
        assert block.named
        name, is_end = block.named.groups()
        if self.is_absent(block):
            self.absent.add(module_of(name))
            return
        versions = self.versions.setdefault(name, {})
        if is_end and versions:
            versions[[*versions][-1]] += f"\n\n{block.text}"
            return
        versions.pop(0, None)
        versions[number] = block.text
        if is_end:
            self.complain(block.line, f"There is no {name} to add this to.")

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    # Blocks

    def run(self, block: Block) -> None:
        if block.language not in _RUNS:
            self.complain(block.line - 1, f"Nothing runs or reads a block of {block.language!r}.")
        else:
            _RUNS[block.language](self, block)

    def run_python(self, block: Block) -> None:
        if _SIGNATURE.match(block.text) or self.is_absent(block):
            return
        if self.is_file(block):
            self.use_file(block)
            return
        # The code has the same line numbers as the page, for error messages.
        source = "\n" * (block.line - 1) + block.text
        before = dict(self.names)
        code = compile(source, self.page, "exec")
        for name in scenes.NAMES.keys() & {*code.co_names} - self.names.keys():
            self.names[name] = scenes.NAMES[name](self.simulator)
        exec(code, self.names)
        self.look_for_names(block, code, self.names)
        self.take_settings()
        for name, value in self.names.items():
            if name.startswith("test_") and before.get(name) is not value:
                self.run_test(value)

    def look_for_names(self, block: Block, code: CodeType, names: dict[str, Any]) -> None:
        """Complain about undefined names in functions, which fail only when they are called."""
        for name in sorted(names_in_functions(code) - names.keys() - vars(builtins).keys()):
            self.complain(block.line, f"There is no {name!r}.")

    def run_test(self, test: Callable[..., None]) -> None:
        """Run a test for pytest-django, with its fixtures."""
        fixtures = {"db": None, "settings": settings}
        words = test.__code__.co_varnames[: test.__code__.co_argcount]
        # The test may change the settings until it ends.
        with override_settings():
            test(**{word: fixtures[word] for word in words})

    def use_file(self, block: Block) -> None:
        """Import the file if it is a module of the shop. A console line runs scripts later."""
        assert block.named
        name = block.named[1]
        if block.line not in self.versions[name]:
            return  # a part of what is there
        self.write(name, self.versions[name][block.line])
        if not name.startswith("shop/"):
            self.scripts[name] = block.line
            return
        if next(iter(self.versions[name])) != block.line:
            sys.modules.pop(module_of(name), None)
        importlib.invalidate_caches()
        module = importlib.import_module(module_of(name))
        code = compile(self.versions[name][block.line], name, "exec")
        self.look_for_names(block, code, vars(module))
        if hasattr(module, "urlpatterns"):
            for message in URLResolver(RegexPattern(r"^/"), module).check():
                self.complain(block.line, str(message))

    def run_examples(self, block: Block) -> None:
        parser, runner = doctest.DocTestParser(), Examples(self)
        test = parser.get_doctest(block.text, self.names, self.page, self.page, block.line)
        runner.run(test, clear_globs=False)
        self.names |= test.globs

    def run_script(self, block: Block) -> None:
        """Run a block of shell lines that shows no output."""
        text = re.sub(r"^(?!#|$)", "$ ", block.text, flags=re.MULTILINE)
        self.run_console(block._replace(text=re.sub(r"^#.*\n", "\n", text, flags=re.MULTILINE)))

    def run_console(self, block: Block) -> None:
        if not block.text.lstrip().startswith(("$ ", "#")):
            self.complain(block.line, "No line here prints what is shown.")
        for line, typed, shown in block.commands():
            if scenes.line_elsewhere(typed):
                continue
            if not _MANAGE.match(typed):
                self.complain(
                    line, f"Nothing runs this line, and no row of LINES_ELSEWHERE: {typed}"
                )
                continue
            printed, code = self.type(typed)
            if not is_shown(shown, printed):
                self.differ(line, typed, shown, printed)
            elif code and not may_fail(typed, shown, code):
                self.complain(line, f"{typed}\n  failed:\n{indent(printed)}")

    def type(self, typed: str) -> tuple[str, int]:
        """Run a line of ``manage.py``, and return its output and its exit code."""
        words = shlex.split(_MANAGE.sub("", typed, count=1), comments=True)
        source = target = None
        if "<" in words:
            words, source = words[: words.index("<")], words[words.index("<") + 1]
        if ">" in words:
            words, target = words[: words.index(">")], words[words.index(">") + 1]
        out, code = io.StringIO(), 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            try:
                if source:
                    self.scripts.pop(source, None)
                    exec((self.folder / source).read_text(), {"__name__": "__main__"})
                else:
                    call_command(*words)
            except CommandError as error:
                code = error.returncode
                out.write(f"CommandError: {error}\n")
            except SystemExit as error:
                code = int(error.code or 0)
        if target:
            (self.folder / target).write_text(out.getvalue())
            return "", code
        return out.getvalue(), code

    def read_template(self, block: Block) -> None:
        engines["django"].from_string(block.text)


class Examples(doctest.DocTestRunner):
    """A runner that tells a reader which examples have different output."""

    def __init__(self, reader: Reader) -> None:
        super().__init__(verbose=False)
        self.reader = reader

    def report_failure(self, out: Any, test: Any, example: Any, got: str) -> None:
        line = test.lineno + example.lineno
        self.reader.differ(line, example.source.strip(), example.want, got)

    def report_unexpected_exception(self, out: Any, test: Any, example: Any, exc_info: Any) -> None:
        self.report_failure(out, test, example, f"{exc_info[0].__name__}: {exc_info[1]}")


def may_fail(typed: str, shown: str, code: int) -> bool:
    """Return True if the page shows an error or leaves the output open.

    A monitoring command may also fail, because it may find a problem.
    """
    is_open = shown != "…\n" and shown.endswith("…\n")
    return "CommandError" in shown or is_open or (code == 1 and "--fail-on" in typed)


def indent(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines()) or "    (nothing)\n"


def read_ini(reader: Reader, block: Block) -> None:
    ConfigParser(strict=False, interpolation=None).read_string(block.text)
    read_text(reader, block)


def read_text(reader: Reader, block: Block) -> None:
    """Run the commands in lines for cron or systemd. They may fail, depending on the shop."""
    for typed in re.findall(r"\S*python manage\.py [^&|>\n]*", block.text):
        if not scenes.line_elsewhere(typed):
            printed, code = reader.type(typed)
            if code not in {0, 1}:
                reader.complain(block.line, f"{typed}\n  failed:\n{indent(printed)}")


def read_nothing(_reader: Reader, _block: Block) -> None:
    """Do nothing, because nothing here reads this language."""


_RUNS: dict[str, Callable[[Reader, Block], None]] = {
    "python": Reader.run_python,
    "pycon": Reader.run_examples,
    "console": Reader.run_console,
    "sh": Reader.run_script,
    "html": Reader.read_template,
    "ini": read_ini,
    "json": lambda _reader, block: json.loads(block.text),
    "nginx": read_nothing,
    "sql": read_nothing,
    "text": read_text,
    "yaml": lambda _reader, block: yaml.safe_load(block.text),
}
