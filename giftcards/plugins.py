"""The interface through which the optional apps extend the core.

It is private. Each app declares one plugin, and installs it in its ``ready`` method.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from django.apps import apps
from django.apps.registry import Apps
from django.core.checks import CheckMessage, register
from django.db import router
from django.db.backends.signals import connection_created
from django.db.models.signals import post_migrate

from giftcards.catalogue import keep_current, keep_prices
from giftcards.checks import TAG
from giftcards.engine import outbox
from giftcards.engine.background import WORK, MayGoOn, Work
from giftcards.engine.clock import clock_set_back
from giftcards.engine.task_queue import follow_clock
from giftcards.models import OfferChange, StatusChange
from giftcards.privacy.person import Keeper, Role, add_keeper
from giftcards.privacy.retention import REASONS, Reason, overwrite_deleted, purge_if_due
from giftcards.rules import roles
from giftcards.watch.conditions import CONDITIONS, Condition
from giftcards.watch.core_conditions import CONDITIONS as OF_CORE
from giftcards.watch.overview import BACKLOGS, WaitingRows, count_final_orders


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Everything that an app adds to ``giftcards``.

    ``app`` is the label of the app.
    """

    app: str
    #: The conditions that monitors, digests and the start page show.
    conditions: Iterable[Condition] = ()
    #: Functions that return the rows waiting for a worker, by the name in the metrics.
    backlogs: Mapping[str, WaitingRows] = field(default_factory=dict)
    #: The work that workers do besides following orders.
    work: Iterable[Work] = ()
    #: The objects that export and erase the app's personal data, by the person's role.
    keepers: Mapping[Role, Keeper] = field(default_factory=dict)
    #: The reasons why an old order keeps its codes, by name.
    kept_because: Mapping[str, Reason] = field(default_factory=dict)
    #: The import path of the ``Extension`` of the admin's pages. The admin imports it.
    order_pages: str = ""
    #: The codenames of the app's permissions, by the name of a group of staff.
    roles: Mapping[str, Collection[str]] = field(default_factory=dict)
    checks: Iterable[Callable[..., list[CheckMessage]]] = ()
    #: Connects the app's receivers of signals.
    connect: Callable[[], None] = lambda: None


#: The installed plugins, by app label.
INSTALLED: dict[str, Plugin] = {}


def install(plugin: Plugin) -> None:
    """Install ``plugin``.

    Call this function from the ``ready`` method of the plugin's app.
    """
    INSTALLED[plugin.app] = plugin
    CONDITIONS.update({condition.code: condition for condition in plugin.conditions})
    BACKLOGS.update(plugin.backlogs)
    WORK.update({work.name: work for work in plugin.work})
    REASONS.update(plugin.kept_because)
    roles.BY_APP[plugin.app] = plugin.roles
    for role, keeper in plugin.keepers.items():
        add_keeper(role, keeper)
    for check in plugin.checks:
        register(check, TAG)
    plugin.connect()


def _connect() -> None:
    clock_set_back.connect(follow_clock, dispatch_uid="giftcards.follow_clock")
    connection_created.connect(overwrite_deleted, dispatch_uid="giftcards.overwrite_deleted")
    core = apps.get_app_config("giftcards")
    post_migrate.connect(make_shelf, sender=core, dispatch_uid="giftcards.make_shelf")


def make_shelf(using: str, apps: Apps = apps, **_: object) -> None:
    """After a migration, create the row of the shop if it does not exist."""
    # Without the app's migrations, there is no table yet.
    with suppress(LookupError):
        shelf = apps.get_model("giftcards", "Shelf")
        if router.allow_migrate_model(using, shelf):
            # bulk_create() is used because save() would take the lock of prices, although there are
            # no prices to store.
            shelf.objects.using(using).bulk_create([shelf(pk=1)], ignore_conflicts=True)


def _announce_offers(may_go_on: MayGoOn) -> None:
    outbox.announce(may_go_on, outbox=outbox.OFFERS)


CORE = Plugin(
    app="giftcards",
    conditions=OF_CORE,
    backlogs={
        "changes": lambda _now: StatusChange.objects.waiting(),
        "offers": lambda _now: OfferChange.objects.waiting(),
    },
    work=(
        # This work repeats failed announcements, and makes announcements that sweeps have not made.
        # It comes last, because receivers may hang.
        Work(
            name="the announcement of order changes",
            do=outbox.announce,
            is_prompt=True,
            is_last=True,
        ),
        Work(name="the destruction of old codes", do=purge_if_due),
        Work(name="the count of final orders", do=count_final_orders),
        # The prices come before the work of other apps, which needs them.
        Work(name="the update of prices", do=keep_prices),
        # The catalogue is read last. Because some product is always due, work after it would not
        # get any requests.
        Work(name="the reading of the catalogue", do=keep_current, is_last=True),
        Work(name="the announcement of offer changes", do=_announce_offers, is_last=True),
    ),
    roles=roles.ROLES,
    connect=_connect,
)
