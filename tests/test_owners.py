"""The account that owns an order: set once, never changed, any user model."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import ValidationError
from django.utils.functional import SimpleLazyObject

from giftcards.exceptions import ReferenceConflict
from giftcards.fulfilment import aplace_order, place_order
from giftcards.models import Order
from tests.builders import LINE
from tests.stage import ROOT

pytestmark = pytest.mark.django_db


def user_of(name: str) -> Any:
    return get_user_model().objects.get_or_create(username=name)[0]


@pytest.mark.parametrize("place", [place_order, async_to_sync(aplace_order)])
def test_an_order_keeps_the_user_who_was_given(place: Any) -> None:
    # In a view, the user of a request is also a lazy object that is read when needed.
    order = place(**LINE, user=SimpleLazyObject(lambda: user_of("lina")))
    assert Order.objects.get(pk=order.pk).user == user_of("lina")
    assert list(Order.objects.of_user(user_of("lina"))) == [order]


@pytest.mark.parametrize("guest", [None, AnonymousUser(), SimpleLazyObject(AnonymousUser)])
def test_the_order_of_a_guest_has_no_user(guest: Any) -> None:
    assert Order.objects.get(pk=place_order(**LINE, user=guest).pk).user is None


@pytest.mark.parametrize("wrong", [7, "lina", get_user_model()(username="unsaved"), object()])
def test_something_else_than_an_account_is_refused(wrong: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        place_order(**LINE, user=wrong)
    assert caught.value.message_dict == {"user": ["This must be a saved user account."]}
    assert not Order.objects.exists()


def test_placing_again_for_another_user_is_refused() -> None:
    order = place_order(**LINE, reference="web-1", user=user_of("lina"))
    for other in (user_of("sami"), None):
        with pytest.raises(ReferenceConflict):
            place_order(**LINE, reference="web-1", user=other)
    assert place_order(**LINE, reference="web-1", user=user_of("lina")) == order


def test_placing_again_finds_the_order_of_a_deleted_account() -> None:
    order = place_order(**LINE, reference="web-1", user=user_of("lina"))
    user_of("lina").delete()
    again = place_order(**LINE, reference="web-1")
    assert (again, again.user) == (order, None)


MODELS = """
import django
from django.conf import settings
settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "tests.people",
        "giftcards"],
    AUTH_USER_MODEL="people.Person",
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    USE_TZ=True,
)
django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0, run_syncdb=True)
from giftcards.fulfilment import place_order
from giftcards.models import Order
from giftcards.privacy.erasure import find_orders
from giftcards.privacy.person import Person as Customer
from tests.people.models import Person, Regular, Reseller
line = {"product_id": "p", "type_id": "t", "quantity": 1}
lina, sami = (Person.objects.create(address=f"{name}@example.com") for name in ("lina", "sami"))
dealer = Reseller.objects.create(address="dealer@example.com", shop="Oran")
lina_by_proxy = Regular.objects.get(pk=lina.pk)
for user in (lina, lina_by_proxy, sami, dealer):
    place_order(**line, user=user)
print(*(Order.objects.of_user(user).count() for user in (lina, lina_by_proxy, sami, dealer)))
print(*(len(find_orders(Customer.of_user(user))[0]) for user in (lina_by_proxy, sami, dealer)))
lina.delete()
print(Order.objects.count(), Order.objects.filter(user=None).count())
"""


def test_any_user_model_works_with_its_proxies_and_heirs() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", MODELS], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert (ran.stdout, ran.stderr) == ("2 2 1 1\n2 1 1\n4 2\n", "")
