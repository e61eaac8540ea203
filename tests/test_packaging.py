"""The wheel: its files, new sites with each of the workers, and the commands of the containers."""

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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import requests
import yaml
from cryptography.fernet import Fernet

from tests.docs.pages import blocks, page, section
from tests.stage import ROOT, wait_until

pytestmark = pytest.mark.packaging

Begin = Callable[..., None]
RELEASE = os.environ.get("GIFTCARDS_TESTS_RELEASE")
PRODUCT = "507f1f77bcf86cd799439011"

SETTINGS = """
import os

import django

INSTALLED_APPS += ["giftcards", "giftcards.books", "giftcards.delivery", "shop"]
DATABASES["default"]["OPTIONS"] = {"timeout": 20, "transaction_mode": "IMMEDIATE"}
GIFTCARDS = {
    "API_KEY": "key-of-the-shop",
    "BASE_URL": os.environ.get("SIMULATOR_URL", "https://api.oneclickdz.com"),
    "ENCRYPTION_KEYS": [os.environ["ENCRYPTION_KEY"]],
    "POLL_INTERVAL": 0.5,
}
ALLOWED_HOSTS = ["shop.example"]
ROOT_URLCONF = "shop.pages"
GIFTCARDS_DELIVERY = {
    "SHOP_URL": "https://shop.example",
    "FROM_EMAIL": "shop@shop.example",
}
_backend = "django.core.mail.backends.filebased.EmailBackend"
if django.VERSION >= (6, 1):
    MAILERS = {"default": {"BACKEND": _backend, "OPTIONS": {"file_path": BASE_DIR / "mails"}}}
else:
    EMAIL_BACKEND, EMAIL_FILE_PATH = _backend, BASE_DIR / "mails"
"""
PAGES = """
from django.urls import include, path

urlpatterns = [path("cards/", include("giftcards.delivery.urls"))]
"""
# The settings that each worker needs in addition.
DJANGO_Q = """
INSTALLED_APPS += ["django_q"]
Q_CLUSTER = {"name": "shop", "orm": "default", "workers": 2, "timeout": 90, "retry": 240}
"""
CELERY = """
from pathlib import Path

_queue = str(Path(__file__).parent.parent / "queue")
CELERY_BROKER_URL = "filesystem://"
CELERY_BROKER_TRANSPORT_OPTIONS = {"data_folder_in": _queue, "data_folder_out": _queue}
"""
CELERY_APP = """
import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
app = Celery("shop")
app.config_from_object("django.conf:settings", namespace="CELERY")
"""
DJANGO_TASKS = """
INSTALLED_APPS += ["django_tasks_db"]
TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
"""
PLACE = f"""
from giftcards.fulfilment import place_order

place_order(
    product_id="{PRODUCT}", type_id="type_001", quantity=1, reference="%s",
    customer_email="lina@example.com",
)
"""


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command to its end in a clean environment and return its output."""
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
    """The wheel, built from a source distribution of a copy of the tree.

    For a release, it is downloaded from the package index instead (see release.py).
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
        self.bin = folder / "venv" / "bin"
        run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
        self.pip("install", wheel)
        run(self.bin / "python", "-m", "django", "startproject", "shop", folder, cwd=folder)
        self.settings = (folder / "shop" / "settings.py").read_text() + SETTINGS
        self.environment = {"ENCRYPTION_KEY": "only-to-make-a-real-one"}
        self.configure()
        self.environment["ENCRYPTION_KEY"] = self.manage("giftcards_generate_key").strip()

    def pip(self, *arguments: str | Path) -> None:
        pip = (self.bin / "python", "-m", "pip", "--disable-pip-version-check", "--quiet")
        run(*pip, *arguments, cwd=self.folder)

    def configure(self, more: str = "", **files: str) -> None:
        """Start with an empty site that has ``more`` settings and these modules."""
        for name in ("db.sqlite3", "mails", "queue"):
            run("rm", "-rf", self.folder / name, cwd=self.folder)
        (self.folder / "queue").mkdir()
        for name, text in {"settings": self.settings + more, "pages": PAGES, **files}.items():
            (self.folder / "shop" / f"{name}.py").write_text(text)

    def manage(self, *arguments: str) -> str:
        return self.run("python", "manage.py", *arguments)

    def run(self, program: str, *arguments: str) -> str:
        return run(self.bin / program, *arguments, cwd=self.folder, **self.environment)

    def place(self, reference: str) -> None:
        """Place an order as the shop does in a web request."""
        self.manage("shell", "-c", PLACE % reference)

    def status(self, reference: str) -> str:
        status: str = json.loads(self.manage("giftcards_status", reference, "--json"))["status"]
        return status

    @contextmanager
    def running(self, *command: str, stops: bool = True) -> Iterator[subprocess.Popen[str]]:
        """Run a process of the site; with ``stops``, it has to exit cleanly on SIGTERM."""
        shell = {"DJANGO_SETTINGS_MODULE": "shop.settings", "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(
            [self.bin / command[0], *command[1:]],
            cwd=self.folder,
            env=clean_environment() | self.environment | shell,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            yield process
            if stops:
                process.terminate()
                said, _ = process.communicate(timeout=60)
                assert process.returncode == 0, said
                assert "Traceback" not in said
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site"), wheel)


@pytest.fixture
def simulator_url(site: Site) -> Iterator[str]:
    """The address of the simulator that comes with the installed package."""
    instant = ("--port", "0", "--min-delay", "0", "--max-delay", "0")
    site.configure()
    with site.running("python", "manage.py", "giftcards_simulator", *instant) as process:
        assert process.stdout is not None
        greeting = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", greeting)
        assert found, greeting
        site.environment["SIMULATOR_URL"] = found[0]
        yield found[0]
        del site.environment["SIMULATOR_URL"]


@pytest.fixture
def begin(site: Site, simulator_url: str) -> Begin:
    """Configure the site with a worker, and prepare it as the documentation describes."""

    def prepare(more: str = "", **files: str) -> None:
        site.configure(more, **files)
        site.manage("migrate")
        site.manage("giftcards_setup")
        site.manage("check", "--fail-level", "WARNING")

    return prepare


def test_the_wheel_has_all_files_of_the_app_and_no_others(wheel: Path) -> None:
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    ours = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "giftcards").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == ours
    # The other tests would pass without this file.
    assert "giftcards/py.typed" in packed


def metadata(wheel: Path) -> str:
    archive = zipfile.ZipFile(wheel)
    [name] = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    return archive.read(name).decode()


def test_the_wheel_names_its_version_licence_and_requirements(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    text = metadata(wheel)
    required = re.findall(r"^Requires-Dist: ([\w-]+)(.*)$", text, re.MULTILINE)
    optional = [library for library, condition in required if "extra ==" in condition]
    expected = ["cryptography", "django", "markdown-it-py", "requests", "urllib3"]
    assert sorted({library for library, _condition in required} - {*optional}) == expected
    [version] = re.findall(r"^Version: (.*)$", text, re.MULTILINE)
    # The copy is built without git, so the build does not find out its version.
    assert version == (RELEASE or "0.0")
    extras = ["django-health-check", "django-oscar", "django-q2", "openpyxl", "prometheus-client"]
    assert sorted({*optional}) == [*extras, "segno"]


def test_links_and_pictures_on_the_page_of_the_index_lead_to_files_of_the_release(
    wheel: Path,
) -> None:
    """The package index shows README.md alone, so relative links would lead nowhere."""
    found = re.findall(r"(!?)\[[^]]*\]\(([^)#]+)", metadata(wheel))
    relative = [target for _mark, target in found if not target.startswith(("https://", "http://"))]
    assert relative == []
    own = re.compile(rf"https://github\.com/[^/]+/[^/]+/(raw|blob)/{RELEASE or '0.0'}/(.+)")
    files = [(mark, *it.groups()) for mark, target in found if (it := own.fullmatch(target))]
    assert len(files) == len(re.findall(r"\]\((?!http)", (ROOT / "README.md").read_text())) > 20
    assert [path for _mark, _view, path in files if not (ROOT / path).is_file()] == []
    assert {(mark, view) for mark, view, _path in files} == {("!", "raw"), ("", "blob")}


def is_settled(site: Site, reference: str) -> bool:
    """Return True if the order is delivered and the customer has received a mail."""
    is_told = (site.folder / "mails").exists() and any((site.folder / "mails").iterdir())
    return is_told and site.status(reference) == "FULFILLED"


def test_the_installed_app_knows_its_version(site: Site) -> None:
    ask = "from giftcards.conf import VERSION; print(VERSION)"
    assert site.run("python", "-c", ask).strip() == (RELEASE or "0.0")


def test_a_new_site_with_the_wheel_places_and_settles_an_order(site: Site, begin: Begin) -> None:
    begin()
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


def test_a_site_without_a_queue_follows_orders_with_the_loop(site: Site, begin: Begin) -> None:
    begin()
    with pytest.raises(AssertionError, match="No module named 'django_q'"):
        site.manage("shell", "-c", "import django_q")
    with site.running("python", "manage.py", "giftcards_worker"):
        site.place("cart-1")
        wait_until(lambda: is_settled(site, "cart-1"))


def test_a_site_without_a_queue_follows_orders_from_cron(site: Site, begin: Begin) -> None:
    begin()
    site.place("cart-1")
    lines = re.findall(r"manage\.py (.*)$", section(page("workers"), "cron"), re.MULTILINE)
    assert [site.manage(*line.split()) for line in lines] == [""]
    assert is_settled(site, "cart-1")


def test_a_site_with_the_extra_follows_orders_with_django_q(
    site: Site, wheel: Path, begin: Begin
) -> None:
    site.pip("install", f"{wheel}[q2]")
    begin(DJANGO_Q)
    site.place("cart-1")
    # django-q2 does not always stop on SIGTERM (its issue 346).
    with site.running("python", "manage.py", "qcluster", stops=False):
        wait_until(lambda: is_settled(site, "cart-1"))
    site.pip("uninstall", "--yes", "django-q2")


def test_a_site_follows_orders_with_the_documented_tasks_of_celery(
    site: Site, begin: Begin
) -> None:
    site.pip("install", "celery")
    tasks, discovery, settings = blocks(page("recipes/celery"), "python")
    begin(CELERY + settings, celery_tasks=tasks, celery=CELERY_APP + discovery)
    (site.folder / "shop" / "__init__.py").write_text("from shop.celery import app")
    worker = ("celery", "-A", "shop", "worker", "--beat", "--concurrency", "3")
    with site.running(*worker):
        site.place("cart-1")
        wait_until(lambda: is_settled(site, "cart-1"), seconds=45)
        # Beat would run this task only after a minute.
        site.run("celery", "-A", "shop", "call", "shop.celery_tasks.tick")
        wait_until(lambda: "celery@" in site.manage("giftcards_status"))
    (site.folder / "shop" / "__init__.py").write_text("")


def test_a_site_follows_orders_with_the_documented_task_of_django(site: Site, begin: Begin) -> None:
    if "(5," in site.manage("shell", "-v0", "-c", "import django; print(django.VERSION)"):
        pytest.skip("django.tasks came with Django 6.0")
    site.pip("install", "django-tasks-db")
    task, settings = blocks(section(page("workers"), "django.tasks"), "python")
    # With Django's default, the task runs in the process that places the order.
    begin(settings, background=task)
    site.place("cart-1")
    assert site.status("cart-1") == "PENDING"
    begin(settings + DJANGO_TASKS, background=task)
    with site.running("python", "manage.py", "db_worker", "--no-reload"):
        site.place("cart-1")
        wait_until(lambda: site.status("cart-1") == "FULFILLED")


class Container:
    """The image without Docker, with the commands of Dockerfile and compose.yaml."""

    def __init__(self, folder: Path, simulator_url: str) -> None:
        self.folder = folder
        self.image = (ROOT / "Dockerfile").read_text()
        self.services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
        self.environment = {
            **{
                name: re.sub(
                    r"\$\{\w+:(?:-(.*?)|\?)\}",
                    lambda it: "for-the-test" if it[1] is None else it[1],
                    value,
                )
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
        """Run a process, stop it as Docker does, and check that it exits cleanly."""
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
