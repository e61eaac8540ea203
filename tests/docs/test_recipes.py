"""The code of the documentation, run unchanged."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from giftcards.engine.storing_cards import Arrival, store_cards
from giftcards.keys.secrecy import CardSecret
from giftcards.statuses import Status
from tests.builders import CARDS, make_guide_order
from tests.docs.pages import ROOT, blocks, page, section

# The pages that build one shop. Each page builds on the pages before it.
RECIPES = ("plain-cart", "own-mail", "chargily", "navio", "review")
PAGES = (*(f"recipes/{name}" for name in RECIPES), "shelf")


def write_project(folder: Path) -> None:
    """Write the files of the recipes' shop."""
    for block in [block for name in PAGES for block in blocks(page(name), "(?:python|html)")]:
        named = re.match(r"(?:# |\{# )(shop/[\w/]+\.\w+)(, at its end)?", block)
        if named:
            path = folder / named[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a" if named[2] else "w") as file:
                file.write(f"\n{block}")
    (folder / "shop" / "__init__.py").touch()
    for name in ("more", "paying", "navio"):
        shutil.copy(ROOT / "tests" / "recipes" / f"{name}.py", folder / "shop" / f"test_{name}.py")


def test_the_shop_of_the_recipes_passes_its_tests(tmp_path: Path) -> None:
    write_project(tmp_path)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "django", "test", "shop", "--pattern", "test*.py"],
        env=os.environ
        | {
            "DJANGO_SETTINGS_MODULE": "tests.recipes.settings",
            "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
        },
        capture_output=True,
        text=True,
    )
    assert re.search(r"^Ran 98 tests in .*\n\nOK$", done.stderr, re.MULTILINE), done.stderr


@pytest.mark.django_db
def test_surplus_cards_are_told_apart_by_their_position() -> None:
    order = make_guide_order(Status.HANDLING, quantity=2)
    store_cards([Arrival(order, CARDS[:1])])
    store_cards([Arrival(order, CARDS[1:3])])
    order.fulfilled_quantity = 2
    [snippet] = blocks(section(page("placing"), "More cards than ordered"), "python")
    names: dict[str, Any] = {"order": order}
    exec(snippet, names)
    shown = {
        name: [CardSecret(card.value, card.serial) for card in names[name]]
        for name in ("delivered", "surplus")
    }
    assert shown == {"delivered": [*CARDS[:2]], "surplus": [CARDS[2]]}


class Wallet:
    """A wallet that accepts each deposit once, by its reference.

    The power may fail before a deposit.
    """

    def __init__(self) -> None:
        self.deposits: dict[str, Decimal] = {}
        self.fails = False

    def deposit(self, amount: Decimal, *, reference: str) -> None:
        if self.fails:
            raise KeyboardInterrupt
        self.deposits.setdefault(reference, amount)


@pytest.mark.django_db
def test_what_is_owed_goes_to_the_wallet_once_wherever_it_is_interrupted() -> None:
    names: dict[str, Any] = {}
    [block] = blocks(section(page("refunds"), "Paying back"), "python")
    exec(block, names)
    sold = {"quantity": 3, "fulfilled_quantity": 2, "sale_amount": Decimal(1000)}
    order = make_guide_order(Status.PARTIALLY_FILLED, reference="cart-7", **sold)
    wallet = Wallet()
    wallet.fails = True
    with pytest.raises(KeyboardInterrupt):
        names["pay_back"](order, wallet)
    assert not order.refunds.exists()
    wallet.fails = False
    for _time in range(2):
        names["pay_back"](order, wallet)
    assert wallet.deposits == {"wallet-cart-7": Decimal("333.33")}
    assert order.refunds.get().state == "done"
    names["pay_back"](make_guide_order(Status.FULFILLED, sale_price=Decimal(550)), wallet)
    assert len(wallet.deposits) == 1


@pytest.mark.parametrize("database", ["SQLite", "MariaDB"])
@pytest.mark.parametrize("installed", [["shop"], ("shop",)])
def test_a_shop_that_installs_the_app_keeps_its_settings(
    installed: list[str] | tuple[str, ...], database: str
) -> None:
    names: dict[str, Any] = {
        "INSTALLED_APPS": installed,
        "DATABASES": {"default": {"OPTIONS": {"isolation_level": "read committed"}}},
    }
    for name, part in (("installation", "2. Add the apps"), ("databases", database)):
        [block] = blocks(section(page(name), part), "python")
        exec(block, names)
    assert names["INSTALLED_APPS"] == ["shop", "django_q", "giftcards", "giftcards.books"]
    options = names["DATABASES"]["default"]["OPTIONS"]
    assert options.keys() > {"isolation_level", "init_command"}
