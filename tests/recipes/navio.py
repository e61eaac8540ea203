"""Tests of payments into the provider's account; used as the shop's ``test_navio.py``."""

from __future__ import annotations

import logging
from datetime import timedelta
from decimal import Decimal
from typing import Any

from django.contrib.auth import get_user_model
from django.test import Client
from django.utils import timezone
from shop import navio
from shop.coupons import apply_coupon
from shop.models import Cart, NavioPayment, Product
from shop.test_more import PaymentTestCase, type_called

from giftcards.models import Order, ProductType, RequestSlot, Reservation
from giftcards.payments import PaymentAnswer

DAY = timedelta(days=1)
CONFIRMED = PaymentAnswer("CONFIRMED", Decimal(1100), "DZD", True)

# The events of a payment, one after the other ("late": the reservation has ended by then), and the
# outcome: the payment's status, the number of orders, and the number of reserved cards.
ENDS: dict[tuple[str, ...], tuple[str, int, int]] = {
    (): ("open", 0, 2),
    ("paid",): ("paid", 1, 0),
    ("late", "paid"): ("paid", 1, 0),
    ("declined",): ("ended", 0, 0),
    ("late", "declined"): ("ended", 0, 0),
}


class NavioTestCase(PaymentTestCase):
    def begin(self, cart: Cart, client: Client | None = None) -> Any:
        return (client or self.client).post(f"/navio/{cart.pk}/")

    def begun(self, quantity: int = 2) -> NavioPayment:
        """Return a payment whose link the customer has received, and whose cards are reserved."""
        answer = self.begin(self.make_cart(quantity=quantity))
        payment = NavioPayment.objects.latest("pk")
        self.assertRedirects(answer, payment.url, fetch_redirect_response=False)
        return payment

    def pass_time(self, **span: float) -> None:
        """Pretend that this much time has passed since everything that has happened."""
        for payment in NavioPayment.objects.all():
            payment.created_at -= timedelta(**span)
            payment.answered_at -= timedelta(**span)
            if payment.due_at is not None:
                payment.due_at -= timedelta(**span)
            payment.save()
        for held in Reservation.objects.all():
            held.until -= timedelta(**span)
            held.save()
        RequestSlot.objects.update(until=timezone.now() - timedelta(seconds=1))

    def come_back(self, payment: NavioPayment) -> Any:
        """Let the customer come back some seconds later, and return the response."""
        self.pass_time(seconds=6)
        return self.client.get(f"/navio/{payment.cart_id}/")

    def questions(self) -> list[str]:
        """Return the references of the payments about which the provider was asked."""
        paths = [request.path for request in self.provider.requests]
        return [path.rpartition("/")[2] for path in paths if "checkPayment" in path]


class Beginning(NavioTestCase):
    def test_the_link_is_about_the_whole_cart_and_leads_back_to_it(self) -> None:
        cart = self.make_cart(quantity=2)
        cart.lines.create(product=Product.objects.get(), quantity=1, amount=Decimal("550.00"))
        self.begin(cart)
        [link] = self.provider.payments.values()
        assert link.told == {
            "productInfo": {"title": f"Cart {cart.pk}", "amount": 1650},
            "feeMode": "NO_FEE",
            "redirectUrl": f"https://shop.example/navio/{cart.pk}/",
        }
        assert not Order.objects.exists()

    def test_cards_are_reserved_for_longer_than_a_link_lives(self) -> None:
        self.begun()
        assert Reservation.objects.get().until > timezone.now() + timedelta(minutes=24)

    def test_a_cart_with_a_coupon_costs_less_at_each_press_and_in_the_order(self) -> None:
        cart = self.make_cart(quantity=2)
        apply_coupon(cart, Decimal(50))
        for _press in range(2):
            self.begin(cart)
        [link] = self.provider.payments.values()
        assert link.told["productInfo"]["amount"] == 1050
        payment = NavioPayment.objects.get()
        self.provider.pay(payment.ref)
        self.assertContains(self.come_back(payment), "You have paid.")
        assert Order.objects.get().sale_amount == 1050

    def test_two_presses_for_the_last_cards_lead_to_one_link_and_one_after_ten_minutes_to_another(
        self,
    ) -> None:
        self.leave(stock=2)
        payment = self.begun()
        assert self.begin(payment.cart).url == payment.url
        self.pass_time(minutes=11)
        assert self.begin(payment.cart).url != payment.url
        assert len(self.provider.payments) == 2

    def test_amounts_that_the_provider_does_not_take_are_refused_without_a_request(self) -> None:
        for amount in ("499", "500001", "1100.50"):
            with self.subTest(amount):
                cart = self.make_cart(quantity=1)
                cart.lines.update(amount=Decimal(amount))
                ProductType.objects.update(price=1)
                self.assertContains(self.begin(cart), "Here you can pay 500 to 500,000 dinars")
        assert self.provider.payments == {}
        assert not Reservation.objects.exists()

    def test_cards_that_cannot_be_had_are_not_paid_for(self) -> None:
        self.leave(stock=1)
        self.assertContains(self.begin(self.make_cart(quantity=2)), "is left.")
        assert self.provider.payments == {}

    def test_without_an_answer_the_cards_are_released_and_the_next_press_makes_a_link(self) -> None:
        cart = self.make_cart(quantity=2)
        self.provider.outage = True
        with self.assertLogs("shop", "ERROR"):
            self.assertContains(self.begin(cart), "There is no answer at the moment.")
        assert not Reservation.objects.exists()
        self.provider.outage = False
        assert self.begin(cart).status_code == 302
        assert len(self.provider.payments) == 1

    def test_cards_stay_reserved_for_an_earlier_link_that_can_still_be_paid(self) -> None:
        payment = self.begun()
        self.pass_time(minutes=11)
        self.provider.outage = True
        with self.assertLogs("shop", "ERROR"):
            self.begin(payment.cart)
        assert self.outcome(payment) == ("open", 0, 2)

    def test_without_an_answer_about_an_earlier_link_there_is_no_link(self) -> None:
        payment = self.begun()
        self.provider.outage = True
        self.pass_time(seconds=6)
        with self.assertLogs("shop", "ERROR"):
            self.assertContains(self.begin(payment.cart), "There is no answer at the moment.")
        self.provider.outage = False
        assert self.begin(payment.cart).url == payment.url

    def test_nobody_pays_or_sees_the_cart_of_somebody_else(self) -> None:
        cart = self.make_cart(quantity=2)
        other = Client()
        other.force_login(get_user_model().objects.create_user("other"))
        for stranger, status in ((Client(), 302), (other, 404)):
            assert stranger.get(f"/navio/{cart.pk}/").status_code == status
            assert self.begin(cart, stranger).status_code == status
        assert self.provider.payments == {}


class Confirming(NavioTestCase):
    def end(self, payment: NavioPayment, steps: tuple[str, ...]) -> None:
        for step in steps:
            if step == "late":
                self.pass_time(minutes=26)
            else:
                self.provider.pay(payment.ref, confirmed=step == "paid")

    def test_the_schedule_finds_out_what_has_become_of_payments(self) -> None:
        for steps, outcome in ENDS.items():
            with self.subTest(steps):
                payment = self.begun()
                self.end(payment, steps)
                for _time in range(2):
                    self.pass_time(seconds=31)
                    navio.catch_up()
                assert self.outcome(payment) == outcome
                NavioPayment.objects.all().delete()

    def test_the_customer_who_comes_back_has_paid_only_if_the_provider_says_so(self) -> None:
        payment = self.begun()
        self.assertContains(self.come_back(payment), "is not confirmed")
        self.provider.pay(payment.ref)
        self.assertContains(self.come_back(payment), "You have paid.")
        self.work()
        order = Order.objects.get()
        assert (order.status, order.sale_amount) == ("FULFILLED", 1100)
        assert self.begin(payment.cart).status_code == 200
        assert len(self.provider.payments) == 1

    def test_cards_that_others_have_bought_meanwhile_are_ordered_all_the_same(self) -> None:
        payment = self.begun()
        self.pass_time(minutes=26)
        self.leave(stock=0)
        self.provider.pay(payment.ref)
        navio.catch_up()
        assert self.outcome(payment) == ("paid", 1, 0)

    def test_money_that_comes_after_a_link_has_failed_still_orders(self) -> None:
        payment = self.begun()
        navio.record(payment, PaymentAnswer("FAILED", None, "", None))
        assert self.outcome(payment) == ("ended", 0, 0)
        self.provider.pay(payment.ref)
        self.pass_time(minutes=61)
        navio.catch_up()
        assert self.outcome(payment) == ("paid", 1, 0)

    def test_the_same_answer_orders_once_and_a_new_word_changes_nothing(self) -> None:
        payment = self.begun()
        navio.record(payment, PaymentAnswer("REVIEW", None, "", None))
        assert self.outcome(payment) == ("open", 0, 2)
        for _time in range(2):
            navio.record(payment, CONFIRMED)
        navio.record(payment, PaymentAnswer("FAILED", None, "", None))
        assert self.outcome(payment) == ("paid", 1, 0)

    def test_an_answer_that_does_not_fit_buys_nothing_and_is_left_to_a_person(self) -> None:
        for told in (
            PaymentAnswer("CONFIRMED", Decimal(1099), "DZD", True),
            PaymentAnswer("CONFIRMED", Decimal(1101), "DZD", True),
            PaymentAnswer("CONFIRMED", Decimal(1100), "EUR", True),
            PaymentAnswer("CONFIRMED", Decimal(1100), "DZD", False),
            PaymentAnswer("CONFIRMED", None, "", None),
        ):
            with self.subTest(told):
                payment = self.begun()
                with self.assertLogs("shop", "ERROR") as logs:
                    navio.record(payment, told)
                assert payment.ref in logs.output[0]
                navio.record(payment, CONFIRMED)
                assert self.outcome(payment)[:2] == ("unclear", 0)
                page = self.begin(payment.cart)
                self.assertContains(page, "We are looking at your payment")

    def test_a_cart_that_has_grown_is_not_had_for_the_price_of_before(self) -> None:
        payment = self.begun()
        payment.cart.lines.create(product=Product.objects.latest("pk"), quantity=9, amount=4950)
        self.provider.pay(payment.ref)
        with self.assertLogs("shop", "ERROR"):
            page = self.come_back(payment)
        self.assertContains(page, "We are looking at your payment")
        assert self.outcome(payment)[:2] == ("unclear", 0)

    def test_other_cards_are_not_had_for_the_same_amount(self) -> None:
        other = type_called("type_101")
        for change in (
            {"product": Product.objects.create(name="Other", product_type=other)},
            {"quantity": 1},
        ):
            with self.subTest(change):
                payment = self.begun()
                payment.cart.lines.update(**change)
                self.provider.pay(payment.ref)
                with self.assertLogs("shop", "ERROR"):
                    self.come_back(payment)
                assert self.outcome(payment)[:2] == ("unclear", 0)

    def test_who_has_paid_by_an_earlier_link_gets_no_other_one(self) -> None:
        for press in (False, True):
            with self.subTest(press):
                first = self.begun()
                self.pass_time(minutes=11)
                self.begin(first.cart)
                assert first.cart.navio_payments.count() == 2
                self.provider.pay(first.ref)
                self.pass_time(minutes=11)
                page = self.begin(first.cart) if press else self.come_back(first)
                self.assertContains(page, "You have paid.")
                assert self.outcome(first)[:2] == ("paid", 1)
                assert first.cart.navio_payments.count() == 2

    def test_a_second_payment_for_the_same_cart_buys_nothing(self) -> None:
        first = self.begun()
        self.pass_time(minutes=11)
        self.begin(first.cart)
        second = NavioPayment.objects.latest("pk")
        for payment in (first, second):
            self.provider.pay(payment.ref)
        with self.assertLogs("shop", "ERROR"):
            self.pass_time(minutes=6)
            navio.catch_up()
        outcomes = [self.outcome(first), self.outcome(second)]
        assert sorted(outcomes) == [("paid", 1, 0), ("unclear", 1, 0)]

    def test_the_end_of_an_earlier_link_leaves_the_cards_to_the_later_one(self) -> None:
        first = self.begun()
        self.pass_time(minutes=11)
        self.begin(first.cart)
        self.provider.pay(first.ref, confirmed=False)
        self.pass_time(minutes=6)
        navio.catch_up()
        assert self.outcome(first) == ("ended", 0, 2)

    def test_an_order_that_cannot_be_placed_leaves_the_payment_open_until_it_can(self) -> None:
        payment = self.begun()
        self.provider.pay(payment.ref)
        Cart.objects.filter(pk=payment.cart_id).update(email="nobody")
        other = self.begun()
        self.provider.pay(other.ref)
        self.pass_time(seconds=31)
        with self.assertLogs("shop", "ERROR"):
            navio.catch_up()
        assert self.outcome(payment) == ("open", 0, 2)
        assert self.outcome(other) == ("paid", 1, 0)
        Cart.objects.filter(pk=payment.cart_id).update(email="customer@example.com")
        self.pass_time(seconds=31)
        navio.catch_up()
        assert self.outcome(payment) == ("paid", 1, 0)


class Asking(NavioTestCase):
    def test_a_payment_is_asked_about_once_in_its_time_by_whoever_comes_first(self) -> None:
        payment = self.begun()
        for _time in range(3):
            self.client.get(f"/navio/{payment.cart_id}/")
            navio.catch_up()
        assert self.questions() == []
        self.pass_time(seconds=31)
        for _time in range(3):
            navio.catch_up()
            self.client.get(f"/navio/{payment.cart_id}/")
        assert self.questions() == [payment.ref]

    def test_a_payment_is_asked_about_although_the_clock_was_set_back(self) -> None:
        payment = self.begun()
        self.pass_time(hours=-2)
        navio.catch_up()
        navio.catch_up()
        assert self.questions() == [payment.ref]

    def test_what_may_still_come_is_asked_about_more_and_more_rarely_for_a_day(self) -> None:
        payment = self.begun()
        for _minutes in range(0, 38 * 60, 5):
            self.pass_time(minutes=5)
            navio.catch_up()
        assert 10 < len(self.questions()) < 25
        assert self.outcome(payment) == ("ended", 0, 0)

    def test_what_was_paid_while_the_worker_was_away_for_days_is_ordered(self) -> None:
        for status in ("open", "ended"):
            with self.subTest(status):
                payment = self.begun()
                NavioPayment.objects.filter(pk=payment.pk).update(status=status)
                self.provider.pay(payment.ref)
                self.pass_time(days=3)
                navio.catch_up()
                assert self.outcome(payment)[:2] == ("paid", 1)

    def test_a_payment_is_asked_about_again_if_the_last_question_gets_no_answer(self) -> None:
        payment = self.begun()
        self.provider.pay(payment.ref)
        self.provider.outage = True
        self.pass_time(days=3)
        with self.assertLogs("shop", "WARNING"):
            navio.catch_up()
        self.provider.outage = False
        self.pass_time(days=3)
        navio.catch_up()
        assert self.outcome(payment)[:2] == ("paid", 1)

    def test_what_is_paid_or_unclear_is_not_asked_about(self) -> None:
        for status in ("paid", "unclear"):
            payment = self.begun()
            NavioPayment.objects.filter(pk=payment.pk).update(status=status)
        self.pass_time(hours=2)
        navio.catch_up()
        assert self.questions() == []

    def test_one_of_which_the_provider_does_not_know_holds_up_no_other(self) -> None:
        unknown, paid = self.begun(), self.begun()
        NavioPayment.objects.filter(pk=unknown.pk).update(ref="OCPL-UNKNOWN")
        self.provider.pay(paid.ref)
        self.pass_time(seconds=31)
        with self.assertLogs("shop", "WARNING") as logs:
            navio.catch_up()
        assert self.outcome(paid) == ("paid", 1, 0)
        assert logs.output == [
            "WARNING:shop.navio:Payment OCPL-UNKNOWN: The provider refused the request (NOT_FOUND)."
        ]

    def test_nobody_is_asked_about_after_an_answer_that_did_not_come(self) -> None:
        for _payment in range(3):
            self.begun()
        self.provider.outage = True
        self.pass_time(seconds=31)
        with self.assertLogs("shop", "WARNING"):
            navio.catch_up()
        assert len(self.questions()) == 1
        # The other payments have their turn before this one.
        self.provider.outage = False
        logging.disable()
        self.addCleanup(logging.disable, logging.NOTSET)
        navio.catch_up()
        assert len(set(self.questions())) == 3
