"""Values that a shop gives with an order: stored as given, or refused before it is too late."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from inspect import signature
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone
from django_q.models import OrmQ
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from giftcards.catalogue import check_offer
from giftcards.exceptions import ConfigurationError, ReferenceConflict
from giftcards.fulfilment import aplace_order, place_order
from giftcards.models import Order
from giftcards.models.fields import complaint_about_metadata, is_same_json
from giftcards.rules.times import with_zone
from tests.stage import LINE, in_threads

pytest_plugins = ["tests.stage_fixtures"]

SOON = timezone.now() + timedelta(days=3)
EVERYTHING: dict[str, Any] = {
    **LINE,
    "reference": "cart-1",
    "sale_amount": Decimal("1099.80"),
    "sale_price": Decimal("549.90"),
    "max_price": 500,
    "group": "Facture n° 12",
    "metadata": {"cart": 7, "gift": True, "note": "عيد مبارك\n", "ids": [1, None, 0.5]},
    "customer_email": "amina@example.com",
    "customer_name": "آمنة بن علي",
    "customer_phone": "+213 555 01 02 03",
    "customer_language": "ar",
    "recipient_email": "lina@example.com",
    "recipient_name": "Lina",
    "recipient_language": "fr",
    "gift_message": "Joyeux anniversaire,\n\nعيد ميلاد سعيد 🎁",
    "deliver_at": SOON,
}
# Each of these differs from the values above in one respect.
DIFFERENCES: list[dict[str, Any]] = [
    {"product_id": "other"},
    {"type_id": "type_003"},
    {"quantity": 3, "sale_price": None},
    {"sale_price": None},
    {"sale_price": Decimal("549.91"), "sale_amount": None},
    {"max_price": Decimal("500.01")},
    {"max_price": None},
    {"group": ""},
    {"group": "facture n° 12"},
    {"metadata": None},
    {"metadata": EVERYTHING["metadata"] | {"gift": 1}},
    {"metadata": EVERYTHING["metadata"] | {"ids": [1, None]}},
    {"customer_email": "karim@example.com"},
    {"customer_email": "Amina@example.com"},
    {"customer_name": ""},
    {"customer_phone": "+213 555 01 02 04"},
    {"customer_language": "fr"},
    {"recipient_email": "Lina@example.com"},
    {"recipient_name": ""},
    {"recipient_language": ""},
    {"gift_message": "Joyeux anniversaire,\nعيد ميلاد سعيد 🎁"},
    {"deliver_at": SOON + timedelta(microseconds=1)},
    {"deliver_at": None},
]
CONFLICT = (
    "The reference cart-1 is already used for another order, or for the same order with different"
    " details. Use a new reference for a new order. To repeat an order, pass exactly the same"
    " details as the first time."
)
GIFT = {"recipient_email": "lina@example.com"}
NEEDS_RECIPIENT = "A gift needs the e-mail address of its recipient."
ZONE = "Enter a date and time with a time zone. The year must be from 1970 to 9998."

MARKS = (
    "Enter one line of text, without control characters or characters that change the text"
    " direction."
)
WITHOUT_LINES = {"allow_nan": False, "allow_infinity": False}
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(**WITHOUT_LINES)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abé", max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


def label(value: Any) -> str:
    """Return a test id without times, so that it is the same in each process."""
    if not isinstance(value, dict):
        return str(value)
    return str({name: "" if name == "deliver_at" else item for name, item in value.items()})


@pytest.mark.django_db
class TestPlaceOrder:
    def test_everything_given_with_an_order_is_stored(self) -> None:
        place_order(**EVERYTHING)
        stored = Order.objects.get()
        assert {name: getattr(stored, name) for name in EVERYTHING} == EVERYTHING

    def test_details_that_are_not_given_are_stored_empty(self) -> None:
        place_order(**LINE)
        stored = Order.objects.get()
        names = ("sale_price", "sale_amount", "max_price", "group", "metadata")
        assert [getattr(stored, name) for name in names] == [None, None, None, "", {}]
        names = ("customer_email", "customer_name", "customer_phone", "customer_language")
        names += ("recipient_email", "recipient_name", "recipient_language", "gift_message")
        assert [getattr(stored, name) for name in names] == [""] * 8
        assert (stored.deliver_at, stored.is_gift) == (None, False)

    @pytest.mark.parametrize("price", [Decimal("549.90"), 550, 0])
    def test_an_order_with_a_price_for_one_card_has_an_amount(self, price: Decimal | int) -> None:
        order = place_order(**LINE, reference="cart-1", sale_price=price)
        assert order.sale_amount == Order.objects.get().sale_amount == 2 * price
        assert place_order(**LINE, reference="cart-1", sale_price=price) == order
        assert (
            place_order(**LINE, reference="cart-1", sale_amount=2 * price, sale_price=price)
            == order
        )
        with pytest.raises(ReferenceConflict):
            place_order(**LINE, reference="cart-1", sale_amount=2 * price)

    def test_repeating_an_order_returns_the_same_order(self) -> None:
        first = place_order(**EVERYTHING)
        again = {"sale_amount": Decimal("1099.8"), "max_price": Decimal("500.00")}
        reordered = dict(reversed(EVERYTHING["metadata"].items()))
        assert place_order(**EVERYTHING | again | {"metadata": reordered}) == first

    @pytest.mark.parametrize(
        ("given", "again"),
        [
            ({"gift_message": "a\r\nb "}, {"gift_message": " a\nb"}),
            (
                {"deliver_at": SOON.astimezone(ZoneInfo("Asia/Tokyo"))},
                {"deliver_at": SOON.astimezone(ZoneInfo("America/New_York"))},
            ),
            ({"metadata": {}}, {"metadata": None}),
            # In the hour that the time zone repeats, Python never compares its times as equal to
            # those of other zones.
            (
                {"deliver_at": datetime(2027, 10, 31, 2, 30, tzinfo=ZoneInfo("Europe/Paris"))},
                {"deliver_at": datetime(2027, 10, 31, 0, 30, tzinfo=UTC)},
            ),
        ],
        ids=["line ends", "zones", "no metadata", "the repeated hour"],
    )
    def test_a_gift_that_is_told_in_another_way_is_the_same(
        self, given: dict[str, Any], again: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("giftcards.models.orders._LONGEST_AHEAD", timedelta(days=900))
        first = place_order(**LINE, **GIFT, reference="cart-1", **given)
        assert place_order(**LINE, **GIFT, reference="cart-1", **again) == first

    def test_a_gift_may_be_placed_again_after_its_time(self) -> None:
        """The shop repeats a call whose answer it did not receive."""
        at = timezone.now() - timedelta(days=30)
        first = place_order(**LINE, **GIFT, reference="cart-1", deliver_at=at)
        assert place_order(**LINE, **GIFT, reference="cart-1", deliver_at=at) == first

    @pytest.mark.parametrize("uses_tz", [True, False])
    def test_the_time_of_a_gift_is_stored_as_the_site_stores_times(
        self, uses_tz: bool, settings: Any
    ) -> None:
        settings.USE_TZ = uses_tz
        at = timezone.now() + timedelta(hours=1)
        order = place_order(**LINE, **GIFT, deliver_at=at)
        assert order.deliver_at == Order.objects.get().deliver_at == at
        again = {"reference": order.reference, "deliver_at": with_zone(at).astimezone(UTC)}
        assert place_order(**LINE, **GIFT, **again) == order

    @pytest.mark.parametrize("difference", DIFFERENCES, ids=label)
    def test_a_repetition_with_any_difference_is_a_conflict_without_details(
        self, difference: dict[str, Any]
    ) -> None:
        place_order(**EVERYTHING)
        with pytest.raises(ReferenceConflict) as caught:
            place_order(**EVERYTHING | difference)
        assert str(caught.value) == CONFLICT
        assert caught.value.__cause__ is None
        assert Order.objects.count() == 1

    def test_a_detail_added_in_a_repetition_is_a_conflict(self) -> None:
        place_order(**LINE, reference="cart-1")
        for name in ("customer_email", "customer_name", "sale_price", "max_price", "metadata"):
            with pytest.raises(ReferenceConflict):
                place_order(**LINE, reference="cart-1", **{name: EVERYTHING[name]})

    def test_a_reference_that_differs_in_letter_case_only_is_a_conflict(self) -> None:
        """If somebody has changed the collation of the table, the database ignores letter case."""
        Order.objects.record(Order(**LINE, reference="cart-1"))
        known = Order.objects.get()
        assert not known.was_given_as(Order(**LINE, reference="CART-1"))
        assert known.was_given_as(Order(**LINE, reference="cart-1"))

    @pytest.mark.parametrize(
        ("sale_price", "sale_amount"),
        [(None, 1000), (Decimal("333.33"), Decimal("999.99")), (0, 0), (Decimal("500.00"), 1500)],
    )
    def test_a_sale_price_and_a_sale_amount_that_agree_are_stored(
        self, sale_price: Any, sale_amount: Any
    ) -> None:
        line = LINE | {"quantity": 3}
        order = place_order(**line, sale_price=sale_price, sale_amount=sale_amount)
        order.refresh_from_db()
        assert (order.sale_price, order.sale_amount) == (sale_price, sale_amount)

    @pytest.mark.parametrize("sale_amount", [1000, Decimal("999.98"), Decimal("1000.00"), 0])
    def test_a_sale_price_and_a_sale_amount_that_contradict_are_refused(
        self, sale_amount: Any
    ) -> None:
        with pytest.raises(ValidationError) as caught:
            place_order(
                **LINE | {"quantity": 3}, sale_price=Decimal("333.33"), sale_amount=sale_amount
            )
        assert caught.value.message_dict == {
            "sale_amount": [
                "This amount must be the sale price multiplied by the quantity. If the two amounts"
                " differ, enter only one of them."
            ]
        }

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"sale_amount": 549.9}, "This must be a decimal number."),
            ({"sale_amount": -1}, "Ensure this value is greater than or equal to 0."),
            ({"sale_amount": Decimal("NaN")}, "“NaN” value must be a decimal number."),
            ({"max_price": "500"}, "This must be a decimal number."),
            ({"max_price": True}, "This must be a decimal number."),
            ({"max_price": -1}, "Ensure this value is greater than or equal to 0."),
            (
                {"max_price": Decimal("1.005")},
                "Ensure that there are no more than 2 decimal places.",
            ),
            ({"group": None}, "This must be text."),
            ({"group": "x" * 101}, "Ensure this value has at most 100 characters (it has 101)."),
            ({"group": "a\u202eb"}, MARKS),
            ({"customer_phone": "card"}, "Enter a phone number."),
            ({"customer_name": "Amina\n"}, MARKS),
            ({"customer_name": "\ud800"}, MARKS),
            ({"customer_name": "a\0b"}, MARKS),
            ({"customer_name": "a\u2028b"}, MARKS),
            ({"customer_name": "\u2067Amina\u2069"}, MARKS),
            (
                {"customer_name": "x" * 201},
                "Ensure this value has at most 200 characters (it has 201).",
            ),
            ({"customer_phone": "+213\u200e555"}, MARKS),
            ({"customer_phone": 213555}, "This must be text."),
            ({"customer_email": '"a\u0001b"@example.com'}, MARKS),
            ({"customer_email": "a@ex\u202eample.com"}, MARKS),
            ({"metadata": []}, "This must be a dict."),
            ({"metadata": ""}, "This must be a dict."),
            ({"metadata": "{}"}, "This must be a dict."),
            ({"metadata": [("a", 1)]}, "This must be a dict."),
            ({"recipient_email": "lina"}, "Enter a valid email address."),
            ({"recipient_email": "a@ex\u202eample.com"}, MARKS),
            ({"recipient_email": None}, "This must be text."),
            ({**GIFT, "recipient_name": "Lina\n"}, MARKS),
            ({**GIFT, "recipient_language": "f r"}, "Use letters, digits and punctuation only,"),
            ({**GIFT, "gift_message": None}, "This must be text."),
            (
                {**GIFT, "gift_message": "x" * 1001},
                "Ensure this value has at most 1000 characters (it has 1001).",
            ),
            *(
                (
                    {**GIFT, "gift_message": f"Happy\nbirth{char}day"},
                    "Enter text without control characters or characters that change the text"
                    " direction.",
                )
                for char in "\0\r\x1b\u202e\u2067\u2028\ufeff"
            ),
            ({**GIFT, "deliver_at": "2026-12-24"}, "This must be a date and a time."),
            ({**GIFT, "deliver_at": SOON.date()}, "This must be a date and a time."),
            ({**GIFT, "deliver_at": SOON.replace(tzinfo=None)}, ZONE),
            ({**GIFT, "deliver_at": datetime.max.replace(tzinfo=UTC)}, ZONE),
            ({**GIFT, "deliver_at": datetime.min.replace(tzinfo=UTC)}, ZONE),
            (
                {**GIFT, "deliver_at": SOON + timedelta(days=365)},
                "A gift must be delivered within a year.",
            ),
        ],
        ids=label,
    )
    def test_details_that_cannot_be_stored_are_refused(
        self, change: dict[str, Any], message: str
    ) -> None:
        name = list(change)[-1]
        for attempt in (lambda line: place_order(**line), lambda line: check_offer(**line)):
            with pytest.raises(ValidationError) as caught:
                attempt(LINE | change)
            assert list(caught.value.message_dict) == [name]
            assert any(text.startswith(message) for text in caught.value.message_dict[name])
        assert not Order.objects.exists()

    @pytest.mark.parametrize(
        "detail",
        [
            {"recipient_name": "Lina"},
            {"recipient_language": "fr"},
            {"gift_message": "Happy birthday!"},
            {"deliver_at": SOON},
        ],
        ids=label,
    )
    def test_a_gift_for_nobody_is_refused(self, detail: dict[str, Any]) -> None:
        for attempt in (lambda line: place_order(**line), lambda line: check_offer(**line)):
            with pytest.raises(ValidationError) as caught:
                attempt(LINE | detail)
            assert caught.value.message_dict == {"recipient_email": [NEEDS_RECIPIENT]}
        assert not Order.objects.exists()

    @pytest.mark.parametrize("name", ["status", "provider_order_id", "customer"])
    def test_a_detail_that_is_none_is_a_type_error(self, name: str) -> None:
        for attempt in (lambda line: place_order(**line), lambda line: check_offer(**line)):
            with pytest.raises(TypeError, match=rf"Unknown order details: {name}\.$"):
                attempt(LINE | {name: "FULFILLED"})
        assert not Order.objects.exists()

    @pytest.mark.parametrize("name", ["Zoë 🎁 O'Neil-Ben", "می\u200cخواهم", "👩\u200d👧"])
    def test_names_of_people_in_any_script_are_accepted(self, name: str) -> None:
        order = place_order(**LINE, customer_name=name, group=name)
        order.refresh_from_db()
        assert (order.customer_name, order.group) == (name, name)

    def test_placing_is_refused_if_orders_are_routed_to_another_database(
        self, settings: Any
    ) -> None:
        """If the caller's transaction were rolled back, the order would still be bought."""
        settings.DATABASE_ROUTERS = ["tests.test_checks.GiftcardsElsewhere"]
        with pytest.raises(ConfigurationError) as caught:
            place_order(**LINE)
        assert str(caught.value) == (
            "Orders are routed to a database other than 'default', so an order would still be"
            " bought if the transaction that placed it were rolled back. Run `manage.py check`."
        )
        settings.DATABASE_ROUTERS = []
        assert not Order.objects.exists()

    def test_an_order_is_found_by_the_beginning_of_its_group(self) -> None:
        order = place_order(**LINE, group="invoice-12")
        place_order(**LINE, group="other")
        assert Order.objects.search("invoice-", limit=10).keys == [order.pk]
        assert Order.objects.search("invoice-12", limit=10).keys == [order.pk]

    @pytest.mark.parametrize("typed", ["lina@example.com", "Lina@example.com", "lina@"])
    def test_an_order_is_found_by_the_address_of_its_recipient(self, typed: str) -> None:
        order = place_order(**LINE, **GIFT, customer_email="amina@example.com")
        place_order(**LINE)
        assert Order.objects.search(typed, limit=10).keys == [order.pk]


@pytest.mark.django_db(transaction=True)
def test_one_reference_for_two_concurrent_customers_is_a_conflict_for_one(
    shared_database: str,
) -> None:
    customers = iter(["amina@example.com", "karim@example.com"])
    # Inserts in MariaDB can deadlock beside a row with the same reference that another test has
    # deleted.
    reference = str(uuid.uuid4())

    def place() -> Order:
        return place_order(**LINE, reference=reference, customer_email=next(customers))

    results = in_threads(2, place)
    assert sorted(type(result).__name__ for result in results) == ["Order", "ReferenceConflict"]


class TestMetadata:
    @pytest.mark.parametrize(
        "value",
        [
            {1: "a"},
            {None: 1},
            {"a": float("nan")},
            {"a": [float("inf")]},
            {"a": Decimal(1)},
            {"a": (1, 2)},
            {"a": {1, 2}},
            {"a": b"b"},
            pytest.param({"a": object()}, id="an object"),
            {"a": "\0"},
            {"\0": 1},
            {"a": "\ud800"},
            {"a": 2**63},
            {"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": {}}}}}}}}},
        ],
        ids=str,
    )
    def test_metadata_that_not_every_database_stores_is_refused(self, value: Any) -> None:
        assert complaint_about_metadata(value) == (
            "Use strings as keys. Values can be strings, numbers, True, False, None, lists and"
            " dicts, nested at most 8 levels deep."
        )

    def test_metadata_that_contains_itself_is_refused(self) -> None:
        value: dict[str, Any] = {}
        value["self"] = value
        assert complaint_about_metadata(value)

    def test_metadata_larger_than_4096_bytes_is_refused(self) -> None:
        assert complaint_about_metadata({"a": "é" * 2044}) == ""
        assert complaint_about_metadata({"a": "é" * 2045}) == (
            "As JSON, the value is 4098 bytes long, but at most 4096 bytes are allowed."
        )

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            (True, 1),
            (False, 0),
            (None, False),
            (None, 0),
            ("1", 1),
            ([], {}),
            ([1], [1, 2]),
            (1, 2),
        ],
    )
    def test_metadata_that_differs_in_type_or_value_is_not_the_same(
        self, one: Any, other: Any
    ) -> None:
        assert not is_same_json({"a": one}, {"a": other})
        assert not is_same_json({"a": [other]}, {"a": [one]})


class TestStoredMetadata(TestCase):
    @given(st.dictionaries(st.text("abcé", max_size=5), JSON, max_size=3))
    def test_accepted_metadata_is_recognised_when_it_is_given_again(
        self, metadata: dict[str, Any]
    ) -> None:
        if complaint_about_metadata(metadata):
            return
        reference = Order().reference
        first = place_order(**LINE, reference=reference, metadata=metadata)
        assert place_order(**LINE, reference=reference, metadata=metadata) == first


@pytest.mark.django_db(transaction=True)
class TestAsync:
    def test_aplace_order_has_committed_the_order_when_it_returns_and_refuses_another(self) -> None:
        order = async_to_sync(aplace_order)(**EVERYTHING)
        assert Order.objects.get() == order
        assert async_to_sync(aplace_order)(**EVERYTHING) == order
        assert OrmQ.objects.count() == 1
        with pytest.raises(ReferenceConflict):
            async_to_sync(aplace_order)(**EVERYTHING | {"group": ""})

    def test_placing_in_a_transaction_from_async_code_works_as_documented(self) -> None:
        class NotPaid(Exception):
            pass

        def check_out() -> None:
            with transaction.atomic():
                place_order(**LINE)
                raise NotPaid

        async def view() -> None:
            await sync_to_async(check_out)()

        with pytest.raises(NotPaid):
            async_to_sync(view)()
        assert not Order.objects.exists()

    def test_aplace_order_takes_the_arguments_of_place_order(self) -> None:
        assert signature(aplace_order) == signature(place_order)
