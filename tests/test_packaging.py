"""The wheel: what is in it, a new site that has nothing but it, and what the containers run."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
import yaml
from cryptography.fernet import Fernet

pytestmark = pytest.mark.packaging

ROOT = Path(__file__).resolve().parent.parent
RELEASE = os.environ.get("GIFTCARDS_TESTS_RELEASE")
PRODUCT = "507f1f77bcf86cd799439011"

SETTINGS = """
import os

INSTALLED_APPS += ["django_q", "giftcards"]
Q_CLUSTER = {"name": "shop", "orm": "default", "workers": 2, "timeout": 90, "retry": 240}
GIFTCARDS = {
    "API_KEY": "key-of-the-shop",
    "BASE_URL": os.environ.get("SIMULATOR_URL", "https://api.oneclickdz.com"),
    "ENCRYPTION_KEYS": [os.environ["ENCRYPTION_KEY"]],
    "POLL_INTERVAL": 0.5,
}
"""


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run to the end and return what was printed; the environment is that of a new shell."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=clean_environment() | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def clean_environment() -> dict[str, str]:
    ours = ("DJANGO_", "GIFTCARDS_", "DATABASE_URL", "PYTHON", "COVERAGE_", "COV_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution, built from a copy of the tree.

    Of a release, what the package index has (release.py).
    """
    pytest.importorskip("build")
    pytest.importorskip("pip")
    folder = tmp_path_factory.mktemp("build")
    wanted = f"django-giftcards=={RELEASE}" if RELEASE else "hatchling"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--retries=10"]
    asked = subprocess.run(
        [*pip, "download", "--quiet", "--no-deps", "--dest", folder / "asked", wanted],
        capture_output=True,
        env=clean_environment(),
    )
    if asked.returncode:
        pytest.skip(f"no package index that has {wanted} can be reached")
    if RELEASE:
        [asked_for] = (folder / "asked").iterdir()
        return asked_for
    source = folder / "source"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "giftcards", source / "giftcards", ignore=ignore)
    for name in (
        ".gitignore",
        "pyproject.toml",
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "SECURITY.md",
    ):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "build", "--outdir", folder / "dist", cwd=source)
    [built] = (folder / "dist").glob("*.whl")
    return built


class Site:
    """A new Django project in a new virtual environment that has the wheel installed."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.folder = folder
        self.python = folder / "venv" / "bin" / "python"
        run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
        pip = (self.python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
        run(*pip, wheel, cwd=folder)
        run(self.python, "-m", "django", "startproject", "shop", folder, cwd=folder)
        with (folder / "shop" / "settings.py").open("a") as settings:
            settings.write(SETTINGS)
        self.environment = {"ENCRYPTION_KEY": "only-to-make-a-real-one"}
        self.environment["ENCRYPTION_KEY"] = self.manage("giftcards_generate_key").strip()

    def manage(self, *arguments: str) -> str:
        return run(self.python, "manage.py", *arguments, cwd=self.folder, **self.environment)


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site"), wheel)


@pytest.fixture
def simulator_url(site: Site) -> Iterator[str]:
    """The address of the simulator that the installed package brings."""
    instant = ("--port", "0", "--min-delay", "0", "--max-delay", "0")
    process = subprocess.Popen(
        [site.python, "manage.py", "giftcards_simulator", *instant],
        cwd=site.folder,
        env=clean_environment() | site.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        greeting = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", greeting)
        assert found, greeting
        yield found[0]
    finally:
        process.terminate()
        process.communicate()


def test_the_wheel_has_all_files_of_the_app_and_no_others(wheel: Path) -> None:
    """Everything of the app, and of nothing else."""
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    ours = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "giftcards").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == ours
    for pattern in (
        r"giftcards/py\.typed",
        r"giftcards/migrations/0001_initial\.py",
        r"giftcards/management/commands/giftcards_place\.py",
        r"giftcards/templates/.+",
        r"giftcards/static/giftcards/.+",
        r"giftcards/delivery/migrations/0001_initial\.py",
        r"giftcards/delivery/management/commands/giftcards_deliver\.py",
        r"giftcards/delivery/templates/giftcards_delivery/messages/delivered/body\.txt",
        r"giftcards/delivery/templates/giftcards_delivery/page/cards\.html",
        r"giftcards/delivery/static/giftcards_delivery/.+\.css",
        r"giftcards/delivery/static/giftcards_delivery/.+\.js",
        r"giftcards/oscar/management/commands/giftcards_oscar_sync\.py",
        r"giftcards/oscar/templates/oscar/customer/baseaccountpage\.html",
        r"giftcards/oscar/static/giftcards_oscar/.+\.css",
        r"giftcards/locale/ar/LC_MESSAGES/django\.mo",
        r"giftcards/locale/fr/LC_MESSAGES/django\.mo",
    ):
        assert any(re.fullmatch(pattern, name) for name in packed), pattern


def test_the_wheel_names_its_version_licence_and_requirements(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    names = [name for name in archive.namelist() if ".dist-info/" in name]
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    [metadata] = (name for name in names if name.endswith("/METADATA"))
    text = archive.read(metadata).decode()
    required = re.findall(r"^Requires-Dist: ([\w-]+)(.*)$", text, re.MULTILINE)
    optional = [library for library, condition in required if "extra ==" in condition]
    assert sorted({library for library, _condition in required} - {*optional}) == [
        "cryptography",
        "django",
        "django-q2",
        "requests",
        "urllib3",
    ]
    [version] = re.findall(r"^Version: (.*)$", text, re.MULTILINE)
    # Where git is missing, the build does not know it.
    assert version == (RELEASE or "0.0")
    assert sorted(optional) == ["django-health-check", "django-oscar", "openpyxl", "segno"]


def test_the_installed_app_knows_its_version(site: Site) -> None:
    ask = "from giftcards.conf import VERSION; print(VERSION)"
    assert run(site.python, "-c", ask, cwd=site.folder).strip() == (RELEASE or "0.0")


def test_a_new_site_with_the_wheel_places_and_settles_an_order(
    site: Site, simulator_url: str
) -> None:
    site.environment["SIMULATOR_URL"] = simulator_url
    site.manage("migrate")
    site.manage("giftcards_setup")
    site.manage("check", "--fail-level", "WARNING")
    order = json.loads(
        site.manage("giftcards_place", PRODUCT, "TEST_PARTIAL", "4", "--wait", "--json")
    )
    assert order["status"] == "PARTIALLY_FILLED"
    assert order["cards"] == 2
    assert order["refund"] == {
        "ordered_amount": "1960.00",
        "charged_amount": "980.00",
        "refunded_quantity": 2,
        "refunded_amount": "980.00",
        "is_consistent": True,
    }


class Container:
    """What the image has, without Docker: Dockerfile and compose.yaml say which commands."""

    def __init__(self, folder: Path, simulator_url: str) -> None:
        self.folder = folder
        self.image = (ROOT / "Dockerfile").read_text()
        self.services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
        self.environment = {
            **{
                name: re.sub(r"\$\{\w+:(?:-(.*?)|\?)\}", lambda it: it[1] or "for-the-test", value)
                for name, value in self.services["web"]["environment"].items()
            },
            "DATABASE_URL": f"sqlite:///{folder / 'db.sqlite3'}",
            "DJANGO_SETTINGS_MODULE": "example_project.container",
            "EXAMPLE_DIR": str(folder / "data"),
            "GIFTCARDS_BASE_URL": simulator_url,
            "GIFTCARDS_ENCRYPTION_KEYS": Fernet.generate_key().decode(),
            "PATH": f"{folder / 'venv' / 'bin'}:{os.environ['PATH']}",
            "UV_PROJECT_ENVIRONMENT": str(folder / "venv"),
        }
        [sync] = re.findall(r"&& (uv sync .*)", self.image)
        run(sys.executable, "-m", *shlex.split(sync), cwd=ROOT, **self.environment)
        shutil.copy(ROOT / "manage.py", folder)
        shutil.copytree(ROOT / "example_project", folder / "example_project")
        [collect] = re.findall(r"manage\.py (collectstatic .*)", self.image)
        self.run("python", "manage.py", *shlex.split(collect))
        self.run(*self.services["setup"]["command"])

    def run(self, *command: str) -> str:
        return run(*command, cwd=self.folder, **self.environment)

    @contextmanager
    def running(self, command: list[str]) -> Iterator[subprocess.Popen[str]]:
        """A process that is stopped as Docker does it, and has to end well."""
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=clean_environment() | self.environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=100)
            assert process.returncode == 0
        finally:
            process.kill()
            process.communicate()


@pytest.fixture
def container(tmp_path: Path, simulator_url: str) -> Container:
    pytest.importorskip("uv")
    return Container(tmp_path, simulator_url)


def test_what_the_containers_run_serves_the_shop_and_settles_an_order(container: Container) -> None:
    [line] = re.findall(r"^CMD (.*)$", container.image, re.MULTILINE)
    web = [argument.replace("0.0.0.0:8000", "127.0.0.1:0") for argument in json.loads(line)]
    with container.running(web) as process:
        assert process.stderr is not None
        while not (found := re.search(r"http://127\.0\.0\.1(:\d+)", process.stderr.readline())):
            assert process.poll() is None
        address = f"http://localhost{found[1]}"
        page = requests.get(address, timeout=30)
        assert page.status_code == 200
        styles = re.findall(r'<link rel="stylesheet" href="([^"]+)"', page.text)
        assert {requests.get(address + it, timeout=30).status_code for it in styles} == {200}
    container.run("python", "manage.py", "giftcards_place", PRODUCT, "TEST_PARTIAL", "4")
    ask = "from giftcards.models import Order; print(Order.objects.get().status)"
    give_up_at = time.monotonic() + 60
    with container.running(container.services["worker"]["command"]):
        while "PARTIALLY_FILLED" not in container.run("python", "manage.py", "shell", "-c", ask):
            assert time.monotonic() < give_up_at
