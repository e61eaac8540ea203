"""Builds a release, checks it as a shop gets it, and tags it. It pushes nothing.

RELEASE.md says when to run which. All of it happens in a clone: of this checkout, only ``dist`` and
the tag are new, and these only if nothing was wrong.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VERSION = re.compile(r"\d+\.\d+(\.\d+)?((a|b|rc)\d+)?")
HEADING = re.compile(r"^## (\S+) \((.+)\)$", re.MULTILINE)
# Where the shops of the releases are.
RECORDED = Path("tests", "upgrades", "recorded")
# What stands there until the project has addresses and is on PyPI, and what a rehearsal writes.
PLACEHOLDERS = {
    "OWNER/": "rehearsal/",
    "not on PyPI": "on PyPI",
    '"./django-giftcards': '"django-giftcards',
    '"../django-giftcards': '"django-giftcards',
}
# What tests/test_packaging.py installs beside the wheel.
WORKERS = ("celery", "django-tasks-db")
# Made by a rehearsal, which needs a name for its commit and tag.
NOBODY = ("-c", "user.name=Rehearsal", "-c", "user.email=rehearsal@localhost")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("version", help="such as 0.1.0, which is also the tag")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--rehearse", action="store_true", help="leave this checkout as it is")
    how.add_argument("--tagged", action="store_true", help="build what is tagged already")
    options = parser.parse_args()
    if unfit := unfit_python(*sys.version_info[:2]):
        sys.exit(unfit)
    if not options.rehearse:
        found = list(problems(ROOT, options.version, is_tagged=options.tagged))
        if found:
            sys.exit("\n".join(found))
    with tempfile.TemporaryDirectory(prefix="release-") as name:
        clone = Path(name) / "clone"
        run("git", "clone", "--quiet", ROOT, clone, cwd=ROOT)
        if options.rehearse:
            prepare(clone, options.version)
        if not options.tagged:
            git(clone, *NOBODY, "tag", "--annotate", options.version, "--message", "For the build")
        built = build(clone, options.version)
        check(clone, built, options.version)
        if not options.rehearse:
            shutil.rmtree(ROOT / "dist", ignore_errors=True)
            shutil.copytree(clone / "dist", ROOT / "dist")
    if options.rehearse:
        print(f"{options.version} would do. Nothing was changed.")
        return
    if not options.tagged:
        git(ROOT, "tag", "--annotate", options.version, "--message", options.version)
        print(f"{options.version} is tagged, not pushed: git push origin {options.version}")


def unfit_python(major: int, minor: int) -> str:
    """The reason why this Python cannot try a release; "" if there is none."""
    if (major, minor) >= (3, 12):
        return ""
    return (
        f"Python {major}.{minor} has no Django 6, which a release is tried with too."
        " `nox -s release` takes Python 3.13."
    )


def problems(root: Path, version: str, *, is_tagged: bool = False) -> Iterator[str]:
    """What keeps the checkout from being released as the version."""
    if not VERSION.fullmatch(version):
        yield f"{version} is not a version such as 0.1.0 or 0.2rc1."
    if git(root, "status", "--porcelain"):
        yield "There are changes that are not committed."
    if is_tagged:
        if version not in git(root, "tag", "--points-at", "HEAD").split():
            yield f"This commit is not tagged {version}."
    elif git(root, "tag", "--list", version):
        yield f"There is a tag {version} already."
    today = str(datetime.now().astimezone().date())
    [name, date] = HEADING.findall((root / "CHANGELOG.md").read_text())[0]
    if name != version or (date == "unreleased" if is_tagged else date != today):
        yield f"CHANGELOG.md begins with {name} ({date}), not with {version} ({today})."
    if not (root / RECORDED / f"{version}.json").exists():
        yield f"Its shop is not recorded: python -m tests.upgrades {version}"
    for page in pages(root):
        for placeholder in filter(page.read_text().__contains__, PLACEHOLDERS):
            yield f"{page.relative_to(root)} still says {placeholder!r}: see RELEASE.md."


def pages(root: Path) -> Iterator[Path]:
    """What a reader of the package index sees, and the documentation."""
    yield from filter(Path.exists, (root / "README.md", root / "pyproject.toml"))
    yield from sorted((root / "docs").rglob("*.md"))


def prepare(clone: Path, version: str) -> None:
    """Commit what a person would, before a release."""
    changelog = clone / "CHANGELOG.md"
    today = datetime.now().astimezone().date()
    changelog.write_text(HEADING.sub(f"## {version} ({today})", changelog.read_text(), count=1))
    for page in pages(clone):
        text = page.read_text()
        for placeholder, filled in PLACEHOLDERS.items():
            text = text.replace(placeholder, filled)
        page.write_text(text)
    run(sys.executable, "-m", "tests.upgrades", version, cwd=clone)
    git(clone, "add", "--all")
    git(clone, *NOBODY, "commit", "--allow-empty", "--message", f"Version {version}")
    assert not list(problems(clone, version))


def build(clone: Path, version: str) -> list[Path]:
    """The source distribution, and the wheel that is built from it."""
    run(sys.executable, "-m", "build", cwd=clone)
    built = sorted((clone / "dist").iterdir())
    names = [f"django_giftcards-{version}{end}" for end in ("-py3-none-any.whl", ".tar.gz")]
    if [file.name for file in built] != names:
        sys.exit(f"Built {[file.name for file in built]}, not {names}.")
    return built


def check(clone: Path, built: list[Path], version: str) -> None:
    """Check the files, and the app as it is installed from an index that has them."""
    run(sys.executable, "-m", "twine", "check", "--strict", *built, cwd=clone)
    run(sys.executable, "-m", "check_wheel_contents", built[0], cwd=clone)
    with index_of(built[0]) as address:
        environment = {
            "PYTHONPATH": str(clone),
            "PIP_INDEX_URL": address,
            "GIFTCARDS_TESTS_RELEASE": version,
            "GIFTCARDS_TESTS_REQUIRE_ALL": "1",
        }
        pytest = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "packaging")
        run(*pytest, "tests/test_packaging.py", cwd=clone, **environment)


@contextmanager
def index_of(wheel: Path) -> Iterator[str]:
    """The address of a package index on this machine: the wheel, the workers, what they need."""
    with tempfile.TemporaryDirectory(prefix="index-") as name:
        folder = Path(name)
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet")
        run(*pip, "--wheel-dir", folder, f"{wheel}[q2]", *WORKERS, cwd=folder)
        for file in list(folder.iterdir()):
            package = folder / file.name.partition("-")[0].lower().replace("_", "-")
            package.mkdir(exist_ok=True)
            file.rename(package / file.name)
        handler = functools.partial(Quiet, directory=name)
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{server.server_port}/"
            server.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    """Lists folders as links, which is what pip expects of an index."""

    def log_message(self, *_: object) -> None:
        pass


def git(root: Path, *arguments: str) -> str:
    command = ("git", *arguments)
    return subprocess.run(command, cwd=root, check=True, text=True, stdout=subprocess.PIPE).stdout


def run(*command: str | Path, cwd: Path, **environment: str) -> None:
    print("$", *command, flush=True)
    if subprocess.run(command, cwd=cwd, env=os.environ | environment).returncode:
        sys.exit("This failed. Nothing is tagged.")


if __name__ == "__main__":
    main()
