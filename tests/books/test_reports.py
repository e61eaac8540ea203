"""The figures of a report: they agree with the orders, whatever happened to these."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.utils import timezone

from giftcards.books.reports import By, Figures, Settling, report
from giftcards.fulfilment import reorder_missing
from giftcards.models import Order
from giftcards.rules.times import as_stored
from giftcards.settlement import record_refund
from giftcards.statuses import Status
from tests.builders import PRICE, PRODUCT, TYPE, build_guide_order, make_guide_order

pytestmark = pytest.mark.django_db

DAY = date(2026, 11, 24)
NOON = datetime(2026, 11, 24, 11, tzinfo=UTC)


def settled(status: Status = Status.PARTIALLY_FILLED, **values: Any) -> Order:
    """Make the guide's order, 3 of 5 cards at 490, settled at noon of the day."""
    charged = {Status.PARTIALLY_FILLED: 3 * PRICE, Status.FULFILLED: 5 * PRICE}.get(status)
    return make_guide_order(status, **{"finalized_at": NOON, "fulfilled_amount": charged, **values})


def total(start: date = DAY, end: date = DAY, **options: Any) -> Figures:
    return report(start, end, **options).total


def money(**amounts: int | str) -> dict[str, Decimal]:
    return {f"{name}_amount": Decimal(amount) for name, amount in amounts.items()}


class TestFigures:
    def test_the_guides_order_is_counted_on_both_sides(self) -> None:
        settled(sale_amount=Decimal(2750))
        found = total()
        assert found == Figures(
            orders=1,
            cards_ordered=5,
            cards_delivered=3,
            **money(ordered=2450, charged=1470, refunded=980),
            **money(paid=2750, kept=1650, owed=1100, open=1100, margin=180, lost_margin=120),
        )
        assert found.fill_rate == Decimal("0.6")
        assert str(found.margin_amount) == "180.00"

    def test_what_was_paid_back_and_what_is_still_owed_are_told_apart(self) -> None:
        order = settled(sale_amount=Decimal(2750))
        record_refund(order, amount=Decimal("200.50"), reference="1")
        record_refund(order, amount=Decimal("300.10"), reference="2")
        found = total()
        assert found.customer_paid_back_amount == Decimal("500.60")
        assert (found.owed_amount, found.open_amount) == (1100, Decimal("599.40"))

    def test_nothing_was_bought_by_a_rejected_order_and_everything_is_owed(self) -> None:
        settled(Status.REJECTED, sale_amount=Decimal(2750))
        owed = money(paid=2750, owed=2750, open=2750)
        assert total() == Figures(orders=1, rejected=1, cards_ordered=5, **owed)

    def test_a_refunded_order_was_charged_nothing_if_the_provider_names_no_charge(self) -> None:
        settled(Status.REFUNDED, sale_amount=Decimal(2750))
        found = total()
        expected = (2450, 0, 2450)
        assert (found.ordered_amount, found.charged_amount, found.refunded_amount) == expected
        assert (found.margin_amount, found.lost_margin_amount, found.unknown) == (0, 300, 0)

    def test_an_amount_that_is_not_known_is_counted_and_is_no_part_of_the_sums(self) -> None:
        settled(price_per_card=None, sale_amount=Decimal(2750))
        settled(fulfilled_amount=None, sale_amount=Decimal(2750))
        settled(Status.FULFILLED, price_per_card=None, sale_amount=Decimal(2750))
        found = total()
        assert found.unknown == 3
        expected = (2450, 1470 + 2450, 980)
        assert (found.ordered_amount, found.charged_amount, found.refunded_amount) == expected
        # The cost of the second order is unknown.
        assert found.margin_amount == 1650 - 1470 + 2750 - 2450
        # The amount credited back for the first order is unknown.
        assert found.lost_margin_amount == 1100 - 980

    def test_figures_that_contradict_each_other_are_counted(self) -> None:
        settled(fulfilled_amount=Decimal(1))
        assert total().contradictory == 1

    def test_an_order_without_a_sale_amount_has_no_customers_side_and_no_margin(self) -> None:
        settled()
        found = total()
        assert found.unpaid == 1
        assert (found.paid_amount, found.owed_amount, found.margin_amount) == (0, 0, 0)
        assert found.charged_amount == 1470

    def test_cards_that_are_ordered_again_are_paid_for_once(self) -> None:
        order = settled(sale_amount=Decimal(2750))
        new = reorder_missing(order, by="amina")
        assert total().paid_amount == 1650
        # The new order has not earned the amount yet, and the old order has not lost it.
        assert (total().owed_amount, total().lost_margin_amount) == (0, 0)
        named = {"provider_order_id": "B", "accepted_at": NOON, "finalized_at": NOON}
        Order.objects.filter(pk=new.pk).update(
            status=Status.FULFILLED,
            fulfilled_quantity=2,
            price_per_card=PRICE,
            fulfilled_amount=980,
            open_amount=0,
            is_consistent=True,
            **named,
        )
        expected = (2750, 2750, 300)
        assert (total().paid_amount, total().kept_amount, total().margin_amount) == expected

    def test_amounts_are_summed_without_binary_fractions(self) -> None:
        for price in ("0.10", "0.20", "0.30", "0.29", "999999999999.99"):
            amount = Decimal(price)
            settled(
                Status.FULFILLED,
                quantity=1,
                price_per_card=amount,
                fulfilled_amount=amount,
                sale_amount=amount,
            )
        found = total()
        assert str(found.charged_amount) == str(found.paid_amount) == "1000000000000.88"

    def test_open_orders_are_no_part_of_it(self) -> None:
        make_guide_order(Status.HANDLING, sale_amount=Decimal(2750))
        assert total(date(2020, 1, 1), date(2030, 1, 1)) == Figures()

    def test_there_is_no_fill_rate_of_nothing(self) -> None:
        assert total().fill_rate is None

    def test_a_fill_rate_is_whole_only_if_nothing_is_missing(self) -> None:
        assert Figures(cards_ordered=100_000, cards_delivered=99_999).fill_rate == Decimal("0.9999")


class TestPeriod:
    def test_an_order_belongs_to_the_day_of_the_sites_time_zone(self, settings: Any) -> None:
        """At 23:30 UTC, the next day and the next month have begun in Algiers."""
        settled(finalized_at=datetime(2026, 11, 30, 23, 30, tzinfo=UTC))
        assert total(date(2026, 11, 1), date(2026, 11, 30)) == Figures()
        [row] = report(date(2026, 12, 1), date(2026, 12, 31)).rows
        assert (row.key, row.label) == (date(2026, 12, 1), "2026-12-01")
        settings.TIME_ZONE = "UTC"
        assert total(date(2026, 11, 30), date(2026, 11, 30)).orders == 1

    def test_the_language_and_the_time_zone_of_a_visitor_change_nothing(self) -> None:
        settled(finalized_at=datetime(2026, 11, 30, 23, 30, tzinfo=UTC))
        with timezone.override("Asia/Tokyo"):
            assert total(date(2026, 12, 1), date(2026, 12, 1)).orders == 1

    @pytest.mark.parametrize(
        ("zone", "around"),
        [
            # The clock changes at midnight, forwards or backwards; it changes by half an hour; or
            # the zone skips a day.
            ("Africa/Cairo", date(2024, 4, 26)),
            ("Africa/Cairo", date(2024, 11, 1)),
            ("America/Havana", date(2024, 3, 10)),
            ("America/Havana", date(2024, 11, 3)),
            ("Australia/Lord_Howe", date(2024, 4, 7)),
            ("Pacific/Apia", date(2011, 12, 30)),
        ],
    )
    def test_every_hour_belongs_to_one_day_where_clocks_are_set(
        self, settings: Any, zone: str, around: date
    ) -> None:
        settings.TIME_ZONE = zone
        first = datetime(around.year, around.month, around.day, 0, 0, 1, tzinfo=UTC)
        moments = [first + timedelta(minutes=30 * number) for number in range(-72, 72)]
        Order.objects.bulk_create(
            build_guide_order(Status.FULFILLED, finalized_at=moment) for moment in moments
        )
        days = [moment.astimezone(ZoneInfo(zone)).date() for moment in moments]
        found = report(days[0], days[-1])
        assert {row.key: row.figures.orders for row in found.rows} == Counter(days)

    def test_days_are_those_of_the_clock_where_times_have_no_zone(self, settings: Any) -> None:
        settings.USE_TZ = False
        midnight = datetime.combine(DAY + timedelta(days=1), time.min)
        settled(finalized_at=midnight - timedelta(microseconds=1), created_at=midnight)
        settled(finalized_at=midnight, created_at=midnight)
        assert total().orders == 1

    def test_the_hour_that_autumn_repeats_belongs_to_its_day(self, settings: Any) -> None:
        settings.TIME_ZONE, settings.USE_TZ = "Europe/Paris", False
        night = date(2026, 10, 25)
        begin = datetime(2026, 10, 24, 21, 55, tzinfo=UTC)
        moments = [begin + timedelta(minutes=minutes) for minutes in range(0, 26 * 60, 10)]
        Order.objects.bulk_create(
            build_guide_order(
                Status.FULFILLED,
                finalized_at=as_stored(at),
                created_at=as_stored(at - timedelta(minutes=5)),
            )
            for at in moments
        )
        found = report(night, night, By.DAY)
        # The day has 25 hours.
        assert [(row.key, row.figures.orders) for row in found.rows] == [(night, 25 * 6)]
        assert found.settling == Settling(p50=300, p95=300)

    def test_weeks_are_named_after_iso_8601_and_cut_by_the_period(self) -> None:
        for day in (date(2026, 12, 30), date(2026, 12, 31), date(2027, 1, 3), date(2027, 1, 4)):
            settled(finalized_at=datetime(day.year, day.month, day.day, 12, tzinfo=UTC))
        found = report(date(2026, 12, 31), date(2027, 1, 31), By.WEEK)
        expected = [(date(2026, 12, 28), "2026-W53", 2), (date(2027, 1, 4), "2027-W01", 1)]
        assert [(row.key, row.label, row.figures.orders) for row in found.rows] == expected

    def test_months_begin_with_their_first_day(self) -> None:
        for month in (1, 2, 12):
            settled(finalized_at=datetime(2026, month, 28, 12, tzinfo=UTC))
        found = report(date(2026, 1, 15), date(2026, 12, 31), By.MONTH)
        assert [(row.key, row.label) for row in found.rows] == [
            (date(2026, month, 1), f"2026-{month:02}") for month in (1, 2, 12)
        ]

    def test_a_period_without_orders_has_no_rows(self) -> None:
        found = report(date.min, date.max)
        assert (found.rows, found.total, found.settling) == ((), Figures(), None)

    def test_a_period_that_ends_before_it_starts_is_refused(self) -> None:
        with pytest.raises(ValueError, match="must not be before its start"):
            report(DAY, DAY - timedelta(days=1))

    def test_all_years_may_be_asked_for(self) -> None:
        settled()
        for by in By:
            assert len(report(date.min, date.max, by).rows) == 1


class TestQueries:
    @pytest.mark.parametrize("by", By)
    def test_their_number_depends_on_neither_days_nor_products(
        self, by: By, django_assert_max_num_queries: Any
    ) -> None:
        Order.objects.bulk_create(
            build_guide_order(
                Status.FULFILLED,
                finalized_at=NOON - timedelta(days=day),
                product_id=f"product-{day}",
            )
            for day in range(60)
        )
        with django_assert_max_num_queries(4):
            found = report(DAY - timedelta(days=59), DAY, by)
        assert found.total.orders == 60


class TestProducts:
    def test_a_row_has_the_name_of_the_newest_order(self) -> None:
        settled(product_name="PSN", type_name="PSN 500 DA")
        settled(product_name="PlayStation Network", type_name="PSN 500 DA")
        [row] = report(DAY, DAY, By.TYPE).rows
        assert (row.key, row.label) == ((PRODUCT, TYPE), "PlayStation Network · PSN 500 DA")
        [row] = report(DAY, DAY, By.PRODUCT).rows
        assert (row.key, row.label) == ((PRODUCT, ""), "PlayStation Network")

    def test_ids_stand_in_for_names_that_are_not_known(self) -> None:
        settled()
        assert report(DAY, DAY, By.TYPE).rows[0].label == f"{PRODUCT} · {TYPE}"

    def test_denominations_of_a_product_add_up_to_it(self) -> None:
        settled(type_id="type_001")
        settled(type_id="type_003")
        settled(product_id="steam")
        assert [row.figures.orders for row in report(DAY, DAY, By.TYPE).rows] == [1, 1, 1]
        assert [row.figures.orders for row in report(DAY, DAY, By.PRODUCT).rows] == [2, 1]

    @pytest.mark.parametrize("by", By)
    def test_a_report_can_be_about_one_product(self, by: By) -> None:
        settled()
        settled(product_id="steam")
        found = report(DAY, DAY, by, product_id="steam")
        assert (found.total.orders, len(found.rows)) == (1, 1)


class TestSettling:
    def test_half_and_95_of_a_hundred_took_no_longer(self) -> None:
        for seconds in (3, 5, 7, 300):
            settled(created_at=NOON - timedelta(seconds=seconds))
        assert report(DAY, DAY).settling == Settling(5, 300)

    @pytest.mark.parametrize(
        ("microseconds", "seconds"), [(999_999, 0), (1_000_000, 1), (1_000_001, 1), (-5, 0)]
    )
    @pytest.mark.parametrize("fraction", [0, 1, 500_000, 999_999])
    def test_seconds_are_rounded_down_whatever_the_fractions(
        self, microseconds: int, seconds: int, fraction: int
    ) -> None:
        until = NOON + timedelta(microseconds=fraction)
        settled(finalized_at=until, created_at=until - timedelta(microseconds=microseconds))
        assert report(DAY, DAY).settling == Settling(seconds, seconds)

    def test_rejected_orders_have_not_settled(self) -> None:
        settled(Status.REJECTED)
        assert report(DAY, DAY).settling is None
