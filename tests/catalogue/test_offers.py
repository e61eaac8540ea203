"""Which cards can be sold now, and which sales are refused before the customer pays."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
import responses
from django.core.exceptions import ValidationError
from django.db.models import Count, Max, Sum
from django.utils import timezone, translation

from giftcards.catalogue import check_offer, offers, reserve
from giftcards.exceptions import NotForSale
from giftcards.models import ApiKey, Order, Product, ProductType, ProviderState, Reservation
from giftcards.simulator import Denomination, Simulator
from giftcards.simulator import Product as SoldProduct
from giftcards.statuses import Status
from tests.builders import (
    PRICE,
    PRODUCT,
    TYPE,
    category,
    hide,
    make_offer,
    make_order,
    set_rule,
    set_shelf,
)
from tests.stage import PROVIDER, ago, fill_catalogue, prove_key, refuse_key

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

Conf = Callable[..., None]


@pytest.fixture(autouse=True)
def hourly(set_conf: Conf) -> None:
    set_conf(CATALOGUE_INTERVAL=3600)


def plain(text: str) -> str:
    """Return the text without isolating characters and with ordinary spaces."""
    return text.translate({0x2068: None, 0x2069: None, 0xA0: " "})


def order(status: Status, **values: Any) -> Order:
    """Create an order for two of the ten cards; times are in seconds from now."""
    moments = {name: ago(-it) for name, it in values.items() if name.endswith("_at") and it}
    return make_order(status, **{**values, **moments})


@pytest.fixture
def offer() -> None:
    make_offer()


def refusal(quantity: int = 2, **sale: Any) -> str:
    """Return the code with which the sale is refused, or "" if it is accepted."""
    try:
        check_offer(PRODUCT, TYPE, quantity, **sale)
    except NotForSale as error:
        return error.code
    return ""


class TestOffers:
    def test_an_offer_says_what_the_card_costs_and_how_old_that_is(
        self, simulator: Simulator
    ) -> None:
        before = timezone.now()
        fill_catalogue()
        offer = offers().get(type_id=TYPE)
        expected = ("PlayStation Network – PSN 500 DA", "PSN 500 DA", Decimal(490))
        assert (str(offer), offer.title, offer.cost) == expected
        assert (offer.stock, offer.available, offer.price) == (100_000, 100_000, None)
        assert offer.read_at is not None
        assert before <= offer.read_at <= timezone.now()

    @pytest.mark.parametrize(
        ("values", "is_offered"),
        [
            ({}, True),
            ({"stock": 0}, False),
            ({"stock": None}, True),
            ({"cost": None}, False),
            ({"cost": 0}, False),
            ({"missing_since": timezone.now()}, True),
        ],
    )
    def test_what_has_a_price_and_is_in_stock_is_offered(
        self, values: dict[str, Any], is_offered: bool
    ) -> None:
        make_offer(**values)
        assert offers().exists() == is_offered

    def test_a_product_that_is_disabled_is_not_offered(self, offer: None) -> None:
        Product.objects.update(is_enabled=False)
        assert not offers().exists()

    @pytest.mark.parametrize(
        ("title", "other", "is_same"),
        [
            ("Mobile & Internet", "MOBILE & internet", True),
            ("Mobile", "Mobile & Internet", False),
            ("100%", "1000", False),
            ("téléphonie", "TÉLÉPHONIE", True),
            ("TÉLÉPHONIE", "Téléphonie", True),
            ("هاتف", "هاتف", True),
            ("Gaming", "", False),
        ],
    )
    def test_a_category_has_one_row_however_its_title_is_written(
        self, offer: None, title: str, other: str, is_same: bool
    ) -> None:
        Product.objects.update(category=category(title))
        hide(other)
        assert offers().exists() != is_same
        assert refusal() == ("delisted" if is_same else "")

    @pytest.mark.parametrize(
        ("of_category", "of_product", "of_type", "is_offered"),
        [
            (True, None, None, True),
            (False, None, None, False),
            (False, True, None, True),
            (True, False, None, False),
            (True, True, False, False),
            (False, False, True, True),
            (False, None, True, True),
        ],
    )
    def test_the_most_specific_value_says_whether_a_type_is_sold_here(
        self, of_category: bool, of_product: Any, of_type: Any, is_offered: bool
    ) -> None:
        kind = make_offer()
        for row, value in (
            (kind.product.category, of_category),
            (kind.product, of_product),
            (kind, of_type),
        ):
            row.is_sold = value
            row.save()
        assert offers().exists() == is_offered
        assert refusal() == ("" if is_offered else "delisted")
        # Other types of a product that is sold may be on sale.
        is_read = is_offered or of_product is True
        assert Product.objects.on_sale().exists() == is_read

    @pytest.mark.parametrize(
        ("stock", "least", "available"),
        [(10, 0, 8), (10, 3, 5), (10, 8, None), (10, 9, None), (None, 9, None)],
    )
    def test_the_least_stock_is_left_at_the_provider(
        self, stock: int | None, least: int, available: int | None
    ) -> None:
        set_shelf(stock_buffer=least)
        make_offer(stock=stock)
        order(Status.PENDING)
        wanted = [] if stock and available is None else [available]
        assert [offer.available for offer in offers()] == wanted
        assert refusal(quantity=(available or 0) + 1) == ("out_of_stock" if stock else "")
        assert not available or refusal(quantity=available) == ""

    @pytest.mark.parametrize(
        ("status", "values", "available"),
        [
            (Status.PENDING, {}, 8),
            (Status.PENDING, {"due_at": None}, 8),
            (Status.PLACING, {}, 8),
            (Status.UNCONFIRMED, {}, 8),
            (Status.HANDLING, {"accepted_at": 9}, 8),
            (Status.DELAYED, {"accepted_at": 9}, 8),
            (Status.FULFILLED, {"accepted_at": 8, "finalized_at": 9}, 8),
            (Status.PARTIALLY_FILLED, {"accepted_at": 8, "finalized_at": 9}, 9),
            (Status.REFUNDED, {"accepted_at": 8, "finalized_at": 9}, 10),
            (Status.REJECTED, {"finalized_at": 9}, 10),
            # The stock was reported after the provider had accepted the order, so it already
            # excludes its cards.
            (Status.HANDLING, {}, 10),
            (Status.DELAYED, {}, 10),
            (Status.FULFILLED, {"finalized_at": 9}, 10),
            (Status.FULFILLED, {"finalized_at": -9}, 10),
            (Status.HANDLING, {"accepted_at": 9, "type_id": "other"}, 10),
            (Status.HANDLING, {"accepted_at": 9, "product_id": "other"}, 10),
        ],
    )
    def test_what_was_ordered_since_the_stock_was_told_is_not_available(
        self, status: Status, values: dict[str, Any], available: int
    ) -> None:
        make_offer(read_at=timezone.now())
        order(status, **values)
        assert [offer.available for offer in offers()] == [available]

    def test_more_was_ordered_than_there_is(self) -> None:
        make_offer(stock=3)
        order(Status.PENDING)
        order(Status.HANDLING, accepted_at=9)
        assert not offers().exists()

    def test_a_purchase_on_its_way_does_not_sell_out_what_the_provider_has_left(self) -> None:
        make_offer(stock=4)
        order(Status.HANDLING, quantity=6)
        assert offers().get().available == 4
        check_offer(PRODUCT, TYPE, 4)

    def test_each_kind_of_what_is_taken_counts_once_for_its_type(self) -> None:
        for type_id in ("a", "b"):
            make_offer(type_id, stock=100)
            for number in (1, 2):
                order(Status.PENDING, type_id=type_id, quantity=number)
                order(Status.UNCONFIRMED, type_id=type_id, quantity=3)
                reserve(
                    reference=f"{type_id}{number}", product_id=PRODUCT, type_id=type_id, quantity=7
                )
        order(Status.FULFILLED, type_id="b", accepted_at=8, finalized_at=9)
        assert dict(offers().values_list("type_id", "available")) == {"a": 77, "b": 75}

    def test_offers_are_one_query_that_can_go_on(self, django_assert_num_queries: Any) -> None:
        for number in range(6):
            make_offer(f"type_{number}", product_id=f"product_{number % 2}", stock=number)
        with django_assert_num_queries(1):
            assert len([str(offer.product) for offer in offers()]) == 5
        shelf = offers()
        assert (shelf.count(), len(shelf), len(shelf[1:4])) == (5, 5, 3)
        assert shelf.filter(product__product_id="product_0").count() == 2
        assert shelf.aggregate(total=Sum("available"))["total"] == 15
        assert Product.objects.filter(types__in=offers()).distinct().count() == 2
        assert ProductType.objects.filter(pk__in=offers()).count() == 5
        assert (shelf.filter(available=1) | offers().filter(available=5)).count() == 2
        one, other = (offers().order_by().filter(available=left) for left in (1, 5))
        assert one.union(other).count() == 2
        assert [each.pk for each in pickle.loads(pickle.dumps(shelf))] == [it.pk for it in shelf]
        by_product = shelf.order_by().values("product")
        assert by_product.annotate(Count("pk"), Max("available")).count() == 2


class TestCheck:
    @pytest.mark.parametrize(
        ("values", "sale", "code"),
        [
            ({}, {}, ""),
            ({}, {"quantity": 10, "sale_price": 490, "sale_amount": 4_900}, ""),
            ({"cost": None}, {}, "delisted"),
            ({"cost": 0}, {}, "delisted"),
            ({}, {"quantity": 11}, "out_of_stock"),
            ({"stock": None}, {"quantity": 2_000}, ""),
            ({}, {"max_price": 490}, ""),
            ({}, {"max_price": Decimal("489.99")}, "above_ceiling"),
            ({}, {"sale_price": Decimal("489.99")}, "below_cost"),
            # A voucher of 20 %, and a voucher that covers the whole amount.
            ({}, {"sale_amount": 880}, "below_cost"),
            ({}, {"sale_amount": 0}, "below_cost"),
            ({}, {"sale_amount": 980}, ""),
            # The price rose by 10 % since the card came into the basket.
            ({"cost": 539}, {"sale_price": 530}, "below_cost"),
            ({"read_at": ago(25 * 3600)}, {}, "stale"),
            ({"read_at": ago(23 * 3600)}, {}, ""),
        ],
    )
    def test_sale(self, values: dict[str, Any], sale: dict[str, Any], code: str) -> None:
        make_offer(**values)
        assert refusal(**sale) == code
        assert sale or offers().exists() == (not code)

    def test_unknown_card_is_not_sold(self) -> None:
        assert refusal() == "delisted"

    @pytest.mark.parametrize("environment", ["SANDBOX", "PRODUCTION"])
    def test_only_the_sandbox_sells_test_types_that_it_does_not_list(
        self, simulator: Simulator, environment: str
    ) -> None:
        prove_key()
        ApiKey.objects.update(environment=environment)
        make_offer()
        if environment == "SANDBOX":
            check_offer(PRODUCT, "TEST_PARTIAL", 5)
            return
        with pytest.raises(NotForSale, match="does not sell"):
            check_offer(PRODUCT, "TEST_PARTIAL", 5)

    @pytest.mark.parametrize(
        ("pricing", "sale", "code"),
        [
            ({"margin_percent": 1, "least_margin": 5}, {}, "below_cost"),
            # The sale price of the shop counts instead.
            ({"margin_percent": 1, "least_margin": 5}, {"sale_price": 500}, ""),
            ({"margin_percent": 10}, {}, ""),
        ],
    )
    def test_what_the_rule_takes_off_the_shelf_has_no_price(
        self, offer: None, set_conf: Conf, pricing: dict[str, Any], sale: dict[str, Any], code: str
    ) -> None:
        set_rule(set_conf, pricing)
        assert refusal(**sale) == code

    @pytest.mark.parametrize(
        ("every", "days", "code"),
        [(0, 6.9, ""), (0, 7.1, "stale"), (43_200, 1.9, ""), (43_200, 2.1, "stale")],
    )
    def test_facts_are_too_old_after_a_day_or_four_readings_or_a_week_by_hand(
        self, set_conf: Conf, every: int, days: float, code: str
    ) -> None:
        set_conf(CATALOGUE_INTERVAL=every)
        make_offer(read_at=timezone.now() - timedelta(days=days))
        assert refusal() == code
        assert offers().exists() == (not code)

    @pytest.mark.parametrize(
        ("orders", "balance", "code"),
        [
            ([], 980, ""),
            ([], Decimal("979.99"), "balance"),
            ([], None, ""),
            ([(Status.PENDING, {})], 1_960, ""),
            ([(Status.PENDING, {})], 1_959, "balance"),
            ([(Status.PENDING, {"due_at": None})], 1_959, "balance"),
            ([(Status.UNCONFIRMED, {"price_per_card": 490})], 1_959, "balance"),
            ([(Status.HANDLING, {"price_per_card": 490})], 1_959, ""),
            ([(Status.HANDLING, {"price_per_card": 490, "accepted_at": 9})], 1_959, "balance"),
            ([(Status.FULFILLED, {"fulfilled_amount": 980, "accepted_at": 9})], 1_959, "balance"),
            ([(Status.FULFILLED, {"fulfilled_amount": 980})], 1_959, ""),
        ],
    )
    def test_the_balance_has_to_cover_what_is_ordered_too(
        self,
        simulator: Simulator,
        orders: list[tuple[Status, dict[str, Any]]],
        balance: Any,
        code: str,
    ) -> None:
        fill_catalogue()
        ProviderState.objects.update(balance=balance, balance_read_at=timezone.now())
        for status, values in orders:
            settled = {"finalized_at": 10} if status == Status.FULFILLED else {}
            order(status, **{**settled, **values})
        assert refusal() == code

    @pytest.mark.every_row
    @pytest.mark.parametrize("reason", [*ProviderState.Pause, "refused key"])
    def test_nothing_is_sold_while_requests_are_paused(self, offer: None, reason: Any) -> None:
        if reason == "refused key":
            refuse_key()
        else:
            until = timezone.now() + timedelta(minutes=1)
            ProviderState.objects.pause(reason, detail="Away.", until=until)
        assert refusal() == "paused"

    @pytest.mark.parametrize("language", ["en", "fr", "ar"])
    @pytest.mark.parametrize(
        ("values", "sale", "customer"),
        [
            ({"cost": None}, {}, "This card is no longer for sale."),
            ({"stock": 0}, {}, "This card is sold out at the moment."),
            ({}, {"quantity": 11}, "Only 10 of these cards are left."),
            (
                {},
                {"sale_price": 1},
                "The price of this card has changed, or a discount is too large. Please reload the"
                " page and check the price.",
            ),
            (
                {"read_at": ago(99 * 3600)},
                {},
                "This card cannot be bought at the moment. Please try again later.",
            ),
        ],
    )
    def test_the_customer_reads_a_sentence_in_their_language_without_costs(
        self, values: dict[str, Any], sale: dict[str, Any], customer: str, language: str
    ) -> None:
        make_offer(**values)
        with translation.override(language), pytest.raises(NotForSale) as refused:
            check_offer(**{"product_id": PRODUCT, "type_id": TYPE, "quantity": 2, **sale})
        told = plain(refused.value.for_customer)
        assert (told == customer) == (language == "en")
        assert "490" not in told
        assert "PlayStation – PSN 500 DA" in str(refused.value)

    @pytest.mark.parametrize("price", [PRICE, None])
    @pytest.mark.parametrize("name", ["sale_price", "sale_amount", "max_price"])
    @pytest.mark.parametrize("amount", [Decimal(-1), Decimal("NaN"), Decimal("0.001")])
    def test_an_amount_that_no_order_can_have_is_an_error_whatever_a_card_costs(
        self, price: Decimal | None, name: str, amount: Decimal
    ) -> None:
        make_offer(cost=price)
        with pytest.raises(ValidationError) as error:
            check_offer(PRODUCT, TYPE, 2, **{name: amount})
        assert list(error.value.message_dict) == [name]

    @pytest.mark.parametrize(
        ("details", "name"),
        [
            ({"sale_price": Decimal("333.33"), "sale_amount": 1000}, "sale_amount"),
            ({"gift_message": "Happy birthday!"}, "recipient_email"),
            ({"customer_email": "amina"}, "customer_email"),
        ],
    )
    def test_details_that_no_order_can_have_are_refused_before_the_payment(
        self, offer: None, details: dict[str, Any], name: str
    ) -> None:
        with pytest.raises(ValidationError) as error:
            check_offer(PRODUCT, TYPE, 3, **details)
        assert list(error.value.message_dict) == [name]

    def test_staff_read_what_it_costs(self, offer: None) -> None:
        with pytest.raises(NotForSale) as refused:
            check_offer(PRODUCT, TYPE, 2, sale_amount=880)
        assert "980 DA" in plain(str(refused.value))
        assert "880 DA" in plain(str(refused.value))

    @pytest.mark.parametrize(
        ("buffer", "told"),
        [
            (
                7,
                "Open orders and reservations leave only 3 cards. In addition, your stock buffer"
                " holds back 7 of the provider's cards.",
            ),
            (0, "Your shop does not sell this card."),
        ],
    )
    def test_staff_read_which_value_keeps_a_card_from_being_sold(
        self, offer: None, buffer: int, told: str
    ) -> None:
        set_shelf(stock_buffer=buffer)
        if not buffer:
            hide("")
        with pytest.raises(NotForSale) as refused:
            check_offer(PRODUCT, TYPE, 4)
        assert plain(str(refused.value)) == f"PlayStation – PSN 500 DA: {told}"

    def test_asks_nothing_unless_told_to(self, offer: None, simulator: Simulator) -> None:
        check_offer(PRODUCT, TYPE, 2)
        assert simulator.requests == []

    @pytest.mark.parametrize(
        ("denomination", "code"),
        [
            (Denomination("PSN 500 DA", Decimal(490), 1), "out_of_stock"),
            (Denomination("PSN 500 DA", Decimal(490), -1), "out_of_stock"),
            (Denomination("PSN 500 DA", Decimal(551), 10), "below_cost"),
            (Denomination("PSN 500 DA", Decimal(0), 10), "delisted"),
            (None, "delisted"),
        ],
    )
    def test_fresh_facts_are_what_the_provider_says_now(
        self, simulator: Simulator, denomination: Denomination | None, code: str
    ) -> None:
        make_offer(read_at=ago(120))
        types = {TYPE: denomination} if denomination else {}
        simulator.catalogue = {PRODUCT: SoldProduct("PlayStation", "DZ", types)}
        assert refusal(sale_price=550) == ""
        assert refusal(sale_price=550, fresh=True) == code

    def test_a_provider_that_does_not_answer_sells_nothing(
        self, wire: responses.RequestsMock
    ) -> None:
        make_offer(read_at=ago(120))
        wire.replace("GET", f"{PROVIDER}/v3/gift-cards/checkProduct/{PRODUCT}", status=503)
        assert refusal() == ""
        assert refusal(fresh=True) == "paused"

    def test_a_reservation_of_the_customer_does_not_count_against_them(self, offer: None) -> None:
        reserve(reference="cart-1", product_id=PRODUCT, type_id=TYPE, quantity=10)
        assert refusal() == "out_of_stock"
        assert refusal(quantity=10, reference="cart-1") == ""
        Reservation.objects.update(until=ago(1))
        assert refusal() == ""
