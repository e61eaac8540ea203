"""Tests of payments with Chargily as in the recipes; used as the shop's ``test_paying.py``."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import responses
from django.conf import settings
from django.contrib.auth import get_user_model
from django.test import Client
from django.utils import timezone
from shop import payments
from shop.coupons import apply_coupon
from shop.models import Cart, Payment, Product
from shop.test_more import PaymentTestCase, type_called

from giftcards.models import Order, ProductType, Reservation
from tests.fakes.chargily import Chargily

# What Chargily reports about a checkout, one event after the other ("late": the reservation has
# ended by then), and the outcome: the payment's status, the number of orders, and the number of
# reserved cards.
EVENTS: dict[tuple[str, ...], tuple[str, int, int]] = {
    (): ("open", 0, 2),
    ("pending", "processing"): ("open", 0, 2),
    ("paid",): ("paid", 1, 0),
    ("paid", "paid"): ("paid", 1, 0),
    ("paid", "failed", "expired"): ("paid", 1, 0),
    ("failed",): ("ended", 0, 0),
    ("canceled",): ("ended", 0, 0),
    ("expired", "expired"): ("ended", 0, 0),
    ("failed", "paid"): ("paid", 1, 0),
    ("expired", "paid", "canceled", "paid"): ("paid", 1, 0),
    ("late", "paid"): ("paid", 1, 0),
    ("late", "expired"): ("ended", 0, 0),
}


class PayingTestCase(PaymentTestCase):
    def setUp(self) -> None:
        super().setUp()
        mock = self.enterContext(responses.RequestsMock(assert_all_requests_are_fired=False))
        self.calls = mock.calls
        mock.add_passthru(self.provider.url)
        secret = settings.CHARGILY_SECRET
        self.chargily = Chargily(mock, url=settings.CHARGILY_URL, secret=secret)

    def begin(self, cart: Cart, client: Client | None = None) -> Any:
        return (client or self.client).post(f"/pay/{cart.pk}/")

    def begun(self, quantity: int = 2) -> Payment:
        """Return a payment about which Chargily has not reported anything, with reserved cards."""
        cart = self.make_cart(quantity=quantity)
        answer = self.begin(cart)
        payment = Payment.objects.latest("pk")
        self.assertRedirects(answer, payment.url, fetch_redirect_response=False)
        return payment

    def questions(self) -> list[str]:
        """Return the ids of the checkouts about which Chargily was asked."""
        asked = [call.request for call in self.calls if call.request.method == "GET"]
        return [
            str(request.url).rpartition("/")[2]
            for request in asked
            if str(request.url).startswith(settings.CHARGILY_URL)
        ]

    def pass_time(self, **span: float) -> None:
        """Pretend that this much time has passed since everything that has happened."""
        for payment in Payment.objects.all():
            for name in ("created_at", "answered_at", "due_at"):
                if (moment := getattr(payment, name)) is not None:
                    setattr(payment, name, moment - timedelta(**span))
            payment.save()

    def tell(self, payment: Payment, status: str, **changes: Any) -> int:
        """Send the shop an event as Chargily does, and return the status code of the response."""
        body, signature = self.chargily.event(payment.checkout_id, status, **changes)
        return self.send(body, signature)

    def send(self, body: bytes, signature: str | None) -> int:
        # Chargily sends neither cookies nor a CSRF token of the site.
        stranger = Client(enforce_csrf_checks=True, raise_request_exception=False)
        headers = {} if signature is None else {"signature": signature}
        sent = stranger.post("/chargily/", body, content_type="application/json", headers=headers)
        return int(sent.status_code)

    def end_reservations(self) -> None:
        Reservation.objects.update(until=timezone.now() - timedelta(seconds=1))


class Beginning(PayingTestCase):
    def test_chargily_is_asked_for_a_page_on_which_the_whole_cart_is_paid_in_dinars(self) -> None:
        cart = self.make_cart(quantity=2)
        cart.lines.create(product=Product.objects.get(), quantity=1, amount=Decimal("550.00"))
        Cart.objects.update(language="ar")
        self.begin(cart)
        back = f"https://shop.example/pay/{cart.pk}/"
        assert self.chargily.asked == [
            {
                "amount": 1650,
                "currency": "dzd",
                "locale": "ar",
                "success_url": back,
                "failure_url": back,
                "webhook_endpoint": "https://shop.example/chargily/",
            }
        ]
        assert not Order.objects.exists()

    def test_a_customer_who_comes_back_when_the_card_is_dearer_is_asked_again(self) -> None:
        payment = self.begun()
        ProductType.objects.update(price=Decimal(600))
        self.assertContains(self.begin(payment.cart), "A price has changed.")
        self.assertRedirects(
            self.begin(payment.cart),
            Payment.objects.latest("pk").url,
            fetch_redirect_response=False,
        )
        assert Payment.objects.latest("pk").amount == 1200

    def test_a_cart_with_a_coupon_costs_less_at_each_press_and_in_the_order(self) -> None:
        cart = self.make_cart(quantity=2)
        apply_coupon(cart, Decimal(50))
        for _press in range(2):
            self.begin(cart)
        [asked] = self.chargily.asked
        assert asked["amount"] == 1050
        self.tell(Payment.objects.get(), "paid")
        assert Order.objects.get().sale_amount == 1050

    def test_cards_are_reserved_for_longer_than_a_checkout_lives(self) -> None:
        self.begun()
        assert Reservation.objects.get().until > timezone.now() + timedelta(minutes=34)

    def test_two_presses_for_the_last_cards_lead_to_one_checkout(self) -> None:
        self.leave(stock=2)
        payment = self.begun()
        assert self.begin(payment.cart).url == payment.url
        assert len(self.chargily.asked) == 1

    def test_a_payment_begun_anew_after_a_while_or_a_failure_has_its_own_checkout(self) -> None:
        for old in ("failed", "a while"):
            with self.subTest(old):
                payment = self.begun()
                if old == "failed":
                    self.tell(payment, old)
                else:
                    long_ago = timezone.now() - timedelta(minutes=21)
                    Payment.objects.filter(pk=payment.pk).update(created_at=long_ago)
                assert self.begin(payment.cart).url != payment.url

    def test_cards_that_cannot_be_had_are_not_paid_for_and_none_of_the_cart_is_reserved(
        self,
    ) -> None:
        self.leave(stock=3)
        cart = self.make_cart(quantity=2)
        cart.lines.create(product=Product.objects.get(), quantity=2, amount=Decimal(1100))
        answer = self.begin(cart)
        self.assertContains(answer, "Only \u20681\u2069 of these cards is left.")
        assert self.chargily.asked == []
        assert not Reservation.objects.exists()

    def test_a_cart_that_cannot_be_ordered_or_paid_in_whole_dinars_is_refused(self) -> None:
        for change, error in (
            ({"quantity": 2001}, "2000"),
            ({"amount": Decimal("1100.50")}, "whole dinars"),
        ):
            with self.subTest(error):
                cart = self.make_cart(quantity=2)
                cart.lines.update(**change)
                self.assertContains(self.begin(cart), error)
        assert self.chargily.asked == []

    def test_cards_are_released_if_chargily_does_not_answer(self) -> None:
        self.chargily.is_silent_about.add("")
        with self.assertLogs("shop", "ERROR"):
            answer = self.begin(self.make_cart(quantity=2))
        self.assertContains(answer, "You cannot pay at the moment.")
        assert not Reservation.objects.exists()
        assert not Payment.objects.exists()

    def test_cards_stay_reserved_for_another_attempt_if_chargily_does_not_answer(self) -> None:
        payment = self.begun()
        payment.cart.payments.update(created_at=timezone.now() - timedelta(minutes=21))
        self.chargily.is_silent_about.add("")
        with self.assertLogs("shop", "ERROR"):
            self.begin(payment.cart)
        assert self.outcome(payment) == ("open", 0, 2)

    def test_a_refused_key_is_not_shown_and_not_logged(self) -> None:
        with self.settings(CHARGILY_SECRET="test_sk_WRONG"), self.assertLogs("shop") as logs:
            answer = self.begin(self.make_cart(quantity=2))
        self.assertContains(answer, "You cannot pay at the moment.")
        [line] = logs.output
        assert line.endswith("no answer: HTTPError")
        assert "test_sk" not in answer.content.decode()

    def test_nobody_pays_or_sees_the_cart_of_somebody_else(self) -> None:
        cart = self.make_cart(quantity=2)
        other = Client()
        other.force_login(get_user_model().objects.create_user("other"))
        for stranger, status in ((Client(), 302), (other, 404)):
            assert stranger.get(f"/pay/{cart.pk}/").status_code == status
            assert self.begin(cart, stranger).status_code == status
        assert not Payment.objects.exists()


class Events(PayingTestCase):
    def test_events_are_taken_in_however_often_and_in_whatever_order_they_come(self) -> None:
        for told, outcome in EVENTS.items():
            with self.subTest(told):
                payment = self.begun()
                for status in told:
                    if status == "late":
                        self.end_reservations()
                    else:
                        assert self.tell(payment, status) == 200
                assert self.outcome(payment) == outcome

    def test_a_paid_order_is_sent_and_has_what_the_customer_has_paid(self) -> None:
        payment = self.begun(quantity=3)
        self.tell(payment, "paid")
        self.work()
        order = Order.objects.get()
        assert (order.status, order.sale_amount) == ("FULFILLED", 1650)
        page = self.client.get(f"/pay/{payment.cart.pk}/")
        self.assertContains(page, "You have paid.")
        assert self.begin(payment.cart).status_code == 200
        assert len(self.chargily.asked) == 1

    def test_a_customer_who_is_back_before_the_event_has_not_paid(self) -> None:
        payment = self.begun()
        page = self.client.get(f"/pay/{payment.cart.pk}/")
        self.assertContains(page, "is not confirmed")
        assert self.outcome(payment) == ("open", 0, 2)

    def test_cards_that_others_have_bought_meanwhile_are_ordered_all_the_same(self) -> None:
        payment = self.begun()
        self.end_reservations()
        self.leave(stock=0)
        assert self.tell(payment, "paid") == 200
        assert self.outcome(payment) == ("paid", 1, 0)

    def test_money_that_buys_nothing_is_left_to_a_person(self) -> None:
        for amount in (1099, 1101, "1100", None):
            with self.subTest(amount):
                payment = self.begun()
                with self.assertLogs("shop", "ERROR") as logs:
                    assert self.tell(payment, "paid", amount=amount) == 200
                assert self.outcome(payment)[:2] == ("unclear", 0)
                assert f"{amount} of 1100 DA were paid" in logs.output[0]
                # Staff still have to decide about the payment, whatever Chargily reports later.
                for status in ("paid", "expired"):
                    self.tell(payment, status)
                assert self.outcome(payment)[:2] == ("unclear", 0)

    def test_a_cart_that_has_grown_is_not_had_for_the_price_of_before(self) -> None:
        payment = self.begun()
        payment.cart.lines.create(product=Product.objects.latest("pk"), quantity=9, amount=4950)
        assert self.begin(payment.cart).url != payment.url
        with self.assertLogs("shop", "ERROR"):
            assert self.tell(payment, "paid") == 200
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
                with self.assertLogs("shop", "ERROR"):
                    assert self.tell(payment, "paid") == 200
                assert self.outcome(payment)[:2] == ("unclear", 0)
                page = self.begin(payment.cart)
                self.assertContains(page, "We are looking at your payment")

    def test_a_second_payment_for_the_same_cart_buys_nothing(self) -> None:
        first = self.begun()
        self.tell(first, "failed")
        self.begin(first.cart)
        second = Payment.objects.latest("pk")
        assert self.tell(second, "paid") == 200
        with self.assertLogs("shop", "ERROR"):
            assert self.tell(first, "paid") == 200
        assert self.outcome(second) == ("paid", 1, 0)
        assert self.outcome(first) == ("unclear", 1, 0)

    def test_the_end_of_an_earlier_attempt_leaves_the_cards_to_the_later_one(self) -> None:
        first = self.begun()
        Payment.objects.update(created_at=timezone.now() - timedelta(minutes=29))
        self.begin(first.cart)
        assert self.tell(first, "expired") == 200
        assert self.outcome(first) == ("ended", 0, 2)
        assert self.tell(Payment.objects.latest("pk"), "expired") == 200
        assert self.outcome(first) == ("ended", 0, 0)

    def test_a_payment_of_which_the_shop_knows_nothing_is_told_to_a_person(self) -> None:
        with self.assertLogs("shop") as logs:
            for status in ("paid", "failed"):
                assert self.send(*self.chargily.event("01hjjjunknown", status)) == 200
        [line] = logs.output
        assert line.endswith("the checkout 01hjjjunknown was paid, but is unknown.")

    def test_an_event_whose_order_cannot_be_placed_is_refused_and_works_when_it_can(self) -> None:
        payment = self.begun()
        Cart.objects.filter(pk=payment.cart_id).update(email="nobody")
        assert self.tell(payment, "paid") == 500
        assert self.outcome(payment) == ("open", 0, 2)
        Cart.objects.filter(pk=payment.cart_id).update(email="customer@example.com")
        assert self.tell(payment, "paid") == 200
        assert self.outcome(payment) == ("paid", 1, 0)

    def test_what_chargily_has_not_signed_is_refused_and_not_logged(self) -> None:
        payment = self.begun()
        body, signature = self.chargily.event(payment.checkout_id, "paid")
        other_body, other = self.chargily.event(payment.checkout_id, "failed")
        for sent, signed in (
            (body, None),
            (body, ""),
            (body, "0" * 64),
            (body, signature.upper()),
            (body, f"sha256={signature}"),
            (body, "é"),
            (body, other),
            (body + b" ", signature),
            (other_body, signature),
        ):
            with self.subTest(signed), self.assertNoLogs("shop"):
                assert self.send(sent, signed) == 403
        assert self.outcome(payment) == ("open", 0, 2)

    def test_only_post_is_answered(self) -> None:
        for method in ("get", "put", "delete", "head"):
            assert getattr(Client(), method)("/chargily/").status_code == 405


class CatchingUp(PayingTestCase):
    def catch_up(self) -> None:
        """Let some minutes pass, and ask about the payments for which no event has arrived."""
        self.pass_time(minutes=6)
        payments.catch_up()

    def test_events_that_were_lost_are_asked_for(self) -> None:
        for status, outcome in (
            ("paid", ("paid", 1, 0)),
            ("expired", ("ended", 0, 0)),
            ("pending", ("open", 0, 2)),
        ):
            with self.subTest(status):
                payment = self.begun()
                self.chargily.checkouts[payment.checkout_id]["status"] = status
                self.catch_up()
                self.catch_up()
                assert self.outcome(payment) == outcome

    def test_one_that_is_not_answered_holds_up_no_other(self) -> None:
        silent, paid = self.begun(), self.begun()
        self.chargily.is_silent_about.add(silent.checkout_id)
        self.chargily.checkouts[paid.checkout_id]["status"] = "paid"
        with self.assertLogs("shop") as logs:
            self.catch_up()
        assert self.outcome(paid) == ("paid", 1, 0)
        assert self.outcome(silent) == ("open", 0, 2)
        [line] = logs.output
        assert line.endswith("no answer: ConnectTimeout")

    def test_an_answer_that_lacks_what_is_needed_holds_up_no_other(self) -> None:
        for name in ("status", "id"):
            with self.subTest(name):
                odd, paid = self.begun(), self.begun()
                del self.chargily.checkouts[odd.checkout_id][name]
                self.chargily.checkouts[paid.checkout_id]["status"] = "paid"
                with self.assertLogs("shop") as logs:
                    self.catch_up()
                assert self.outcome(paid) == ("paid", 1, 0)
                assert self.outcome(odd) == ("open", 0, 2)
                [line] = logs.output
                assert line.endswith("no answer: Unusable")
                Payment.objects.all().delete()

    def test_an_order_that_cannot_be_placed_holds_up_no_other(self) -> None:
        odd, paid = self.begun(), self.begun()
        Cart.objects.filter(pk=odd.cart_id).update(email="nobody")
        for payment in (odd, paid):
            self.chargily.checkouts[payment.checkout_id]["status"] = "paid"
        with self.assertLogs("shop", "ERROR"):
            self.catch_up()
        assert self.outcome(odd) == ("open", 0, 2)
        assert self.outcome(paid) == ("paid", 1, 0)

    def test_nothing_is_asked_about_what_is_paid_or_new(self) -> None:
        paid, _new = self.begun(), self.begun()
        self.tell(paid, "paid")
        Payment.objects.filter(pk=paid.pk).update(due_at=timezone.now())
        payments.catch_up()
        assert self.questions() == []

    def test_an_abandoned_payment_is_asked_about_more_and_more_rarely_for_a_day(self) -> None:
        payment = self.begun()
        for _minutes in range(0, 36 * 60, 5):
            self.catch_up()
        assert 5 < len(self.questions()) < 20
        assert self.outcome(payment) == ("ended", 0, 0)

    def test_many_abandoned_payments_cost_a_few_requests_in_each_run(self) -> None:
        cart = self.begun().cart
        Payment.objects.bulk_create(
            Payment(
                cart=cart,
                amount=1100,
                lines=[],
                checkout_id=f"01hjjjabandoned{number}",
                url="https://pay.chargily.dz/",
                due_at=timezone.now(),
            )
            for number in range(500)
        )
        with self.assertLogs("shop"):
            self.catch_up()
            self.catch_up()
        assert len(self.questions()) == len(set(self.questions())) == 40

    def test_what_was_paid_while_the_worker_was_away_for_days_is_ordered(self) -> None:
        for status in ("open", "ended"):
            with self.subTest(status):
                payment = self.begun()
                Payment.objects.filter(pk=payment.pk).update(status=status)
                self.chargily.checkouts[payment.checkout_id]["status"] = "paid"
                self.pass_time(days=3)
                payments.catch_up()
                assert self.outcome(payment)[:2] == ("paid", 1)

    def test_a_payment_is_asked_about_again_if_the_last_question_gets_no_answer(self) -> None:
        payment = self.begun()
        self.chargily.checkouts[payment.checkout_id]["status"] = "paid"
        self.chargily.is_silent_about.add(payment.checkout_id)
        self.pass_time(days=3)
        with self.assertLogs("shop", "WARNING"):
            payments.catch_up()
        self.chargily.is_silent_about.clear()
        self.pass_time(days=3)
        payments.catch_up()
        assert self.outcome(payment)[:2] == ("paid", 1)

    def test_who_has_paid_by_an_earlier_link_gets_no_other_one(self) -> None:
        first = self.begun()
        self.pass_time(minutes=21)
        self.begin(first.cart)
        assert first.cart.payments.count() == 2
        self.chargily.checkouts[first.checkout_id]["status"] = "paid"
        self.pass_time(minutes=21)
        self.assertContains(self.begin(first.cart), "You have paid.")
        assert self.outcome(first)[:2] == ("paid", 1)
        assert first.cart.payments.count() == 2

    def test_without_an_answer_about_an_earlier_link_there_is_no_link(self) -> None:
        payment = self.begun()
        self.chargily.is_silent_about.add(payment.checkout_id)
        self.pass_time(seconds=6)
        with self.assertLogs("shop", "ERROR"):
            self.assertContains(self.begin(payment.cart), "You cannot pay at the moment.")
        self.chargily.is_silent_about.clear()
        assert self.begin(payment.cart).url == payment.url
