"""Further tests of what the recipes promise; used as the shop's ``test_more.py``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core import mail
from django.core.exceptions import ValidationError
from django.core.mail.backends.locmem import EmailBackend
from django.core.management import CommandError, call_command
from django.test import TestCase, override_settings
from django.utils import timezone
from django_q.models import OrmQ
from shop import buying, checkout, tasks
from shop.coupons import apply_coupon, shares
from shop.models import Cart, Delivery, Product
from shop.receivers import deliver

from giftcards.exceptions import NotForSale, ReferenceConflict
from giftcards.fulfilment import change_customer, place_order, reorder_missing
from giftcards.models import Card, Order, ProductType, Reservation, Shelf
from giftcards.simulator import Simulator
from tests.builders import make_offer
from tests.fakes.mail import REFUSING, backend_settings

DAY = timedelta(days=1)


@contextmanager
def provider() -> Iterator[Simulator]:
    with Simulator(delay=(0, 0), rate_limit=0) as running, override_settings():
        settings.GIFTCARDS = {**settings.GIFTCARDS, "BASE_URL": running.url}
        yield running


def type_called(type_id: str) -> ProductType:
    """Return the type with this id, even if the catalogue has not been read."""
    return ProductType.objects.filter(type_id=type_id).first() or make_offer(type_id, stock=None)


class ShopTestCase(TestCase):
    """A test case with a provider, a customer who is logged in, and the work of the worker."""

    def setUp(self) -> None:
        self.provider = self.enterContext(provider())
        self.user = get_user_model().objects.create_user("customer")
        self.client.force_login(self.user)
        shelf = Shelf.objects.get()
        shelf.margin_percent, shelf.round_to = Decimal(12), 10
        shelf.save()

    def make_cart(self, *, quantity: int, provider_type: str = "type_001") -> Cart:
        product = Product.objects.create(
            name="PSN 500 DA",
            product_type=type_called(provider_type),
        )
        cart = Cart.objects.create(user=self.user, email="customer@example.com")
        cart.lines.create(product=product, quantity=quantity, amount=quantity * product.price)
        return cart

    def work(self) -> None:
        """Run the work of the worker."""
        is_refused = Order.objects.filter(status="PENDING", type_id="SIM_REJECT").exists()
        raised = pytest.raises(CommandError, match="OUT_OF_STOCK") if is_refused else nullcontext()
        with self.captureOnCommitCallbacks(execute=True), raised:
            call_command("giftcards_poll", verbosity=0)
        for delivery in Delivery.objects.filter(sent_at=None):
            tasks.send(delivery.pk)

    def settle(self) -> Order:
        cart = self.make_cart(quantity=2)
        checkout.mark_as_paid(cart)
        self.work()
        return Order.objects.get()

    def damage_first_card(self) -> str:
        """Damage the first of two cards; return the code of the second."""
        first, second = Card.objects.all()
        Card.objects.filter(pk=first.pk).update(sealed="damaged")
        return second.value


class PaymentTestCase(ShopTestCase):
    """A test case with a catalogue, so that cards can be reserved for customers who pay."""

    @classmethod
    def setUpTestData(cls) -> None:
        with provider():
            call_command("giftcards_catalogue", verbosity=0)

    def leave(self, stock: int) -> None:
        """Leave only ``stock`` cards at the provider."""
        ProductType.objects.filter(type_id="type_001").update(stock=stock)

    def outcome(self, payment: Any) -> tuple[str, int, int]:
        """Return the payment's status, and the numbers of the cart's orders and reserved cards."""
        references = [line.reference for line in payment.cart.lines.all()]
        payment.refresh_from_db()
        current = Reservation.objects.current(timezone.now()).filter(reference__in=references)
        orders = Order.objects.filter(reference__in=references).count()
        return payment.status, orders, sum(held.quantity for held in current)


def assert_is_mailed(message: Any, text: list[str], order: Order) -> None:
    """Assert that the message has these lines, and the card's code and serial after each number."""
    numbered = {f"{card.position}.": f"{card.value} {card.serial}" for card in order.cards.all()}
    expected = [f"{line} {numbered.pop(line)}" if line in numbered else line for line in text]
    assert message.body.splitlines() == expected
    assert numbered == {}


class Overtaken(EmailBackend):
    """A mail backend that lets a second task send the mails before the first task has sent them."""

    def send_messages(self, messages: Any) -> int:
        for delivery in Delivery.objects.all():
            tasks.send(delivery.pk)
        return super().send_messages(messages)


class Buying(ShopTestCase):
    def test_the_customer_gets_the_codes_once(self) -> None:
        cart = self.make_cart(quantity=2)
        checkout.mark_as_paid(cart)
        checkout.mark_as_paid(cart)
        self.work()
        self.work()
        [bought] = self.provider.orders.values()
        [message] = mail.outbox
        assert message.to == ["customer@example.com"]
        for card in bought.cards:
            assert f"{card.value} {card.serial}" in message.body

    def test_the_mail_has_the_cards_that_came_and_says_what_becomes_of_the_others(self) -> None:
        later = "You will get the missing cards later, or your money back."
        sorry = "We are sorry: your cards could not be delivered."
        for provider_type, text in {
            "type_001": ["5 of 5 cards were delivered.", "1.", "2.", "3.", "4.", "5."],
            "TEST_PARTIAL": ["2 of 5 cards were delivered.", "1.", "2.", later],
            "TEST_REFUND": [sorry, later],
            "SIM_REJECT": [sorry, later],
        }.items():
            with self.subTest(provider_type):
                cart = self.make_cart(quantity=5, provider_type=provider_type)
                checkout.mark_as_paid(cart)
                self.work()
                message = mail.outbox.pop()
                assert message.subject == f"Your order cart-{cart.pk}"
                assert_is_mailed(message, text, Order.objects.latest("pk"))
                assert mail.outbox == []

    def test_a_line_that_cannot_be_ordered_is_refused_before_the_payment(self) -> None:
        with pytest.raises(ValidationError):
            checkout.check(self.make_cart(quantity=2001))


class ShelfPage(PaymentTestCase):
    def press(self, reference: str, *, quantity: int = 2) -> str:
        line = {
            "reference": reference,
            "product_id": "507f1f77bcf86cd799439011",
            "type_id": "type_001",
            "quantity": quantity,
        }
        customer = f"user {self.user.pk}"
        return buying.begin_payment(line, sale_amount=quantity * 550, customer=customer)

    def test_a_customer_who_presses_again_for_the_last_cards_can_still_pay(self) -> None:
        self.leave(stock=2)
        assert [self.press("line-1") for _time in range(2)] == ["", ""]
        assert self.press("line-2") == "This card is sold out at the moment."
        buying.payment_failed("line-1")
        assert self.press("line-2") == ""

    def test_one_customer_cannot_reserve_more_cards_than_one_may(self) -> None:
        assert self.press("line-1", quantity=100) == ""
        assert "You have reserved too many cards." in self.press("line-2", quantity=1)

    def test_a_customer_who_presses_again_after_the_payment_reserves_nothing(self) -> None:
        cart = self.make_cart(quantity=2)
        checkout.mark_as_paid(cart)
        with pytest.raises(ReferenceConflict):
            self.press(cart.lines.get().reference)
        assert not Reservation.objects.exists()


class HandingOver(ShopTestCase):
    def test_a_receiver_that_is_called_again_sends_no_second_message(self) -> None:
        order = self.settle()
        change = order.changes.get(to_status="FULFILLED")
        with self.captureOnCommitCallbacks(execute=True) as callbacks:
            deliver(order, change)
        assert callbacks == []
        assert len(mail.outbox) == 1

    def test_a_message_that_was_never_queued_is_queued_by_the_next_call(self) -> None:
        order = self.settle()
        Delivery.objects.update(sent_at=None)
        OrmQ.objects.all().delete()
        with self.captureOnCommitCallbacks(execute=True):
            deliver(order, order.changes.get(to_status="FULFILLED"))
            # A fast worker must not find the task before the row is committed.
            assert not OrmQ.objects.exists()
        [queued] = OrmQ.objects.all()
        assert queued.func() == "shop.tasks.send"
        assert queued.task["args"] == (Delivery.objects.get().pk,)

    def test_a_message_that_failed_is_queued_again_and_sent_once(self) -> None:
        self.settle()
        Delivery.objects.update(sent_at=None, created_at=timezone.now() - timedelta(minutes=3))
        OrmQ.objects.all().delete()
        tasks.send_again()
        tasks.send_again()
        queued = [task.task["args"] for task in OrmQ.objects.all()]
        assert queued == [(Delivery.objects.get().pk,)] * 2
        for arguments in queued:
            tasks.send(*arguments)
        assert len(mail.outbox) == 2

    def test_a_message_that_the_mail_server_refuses_can_be_sent_later(self) -> None:
        self.settle()
        Delivery.objects.update(sent_at=None)
        delivery = Delivery.objects.get()
        refused = self.settings(**backend_settings(REFUSING))
        with refused, pytest.raises(ConnectionRefusedError):
            tasks.send(delivery.pk)
        tasks.send(delivery.pk)
        assert len(mail.outbox) == 2

    def test_a_second_task_that_begins_before_the_mail_is_out_sends_none(self) -> None:
        self.settle()
        Delivery.objects.update(sent_at=None)
        with self.settings(**backend_settings("shop.test_more.Overtaken")):
            tasks.send(Delivery.objects.get().pk)
        assert len(mail.outbox) == 2

    def test_an_order_that_is_not_the_shops_is_left_alone(self) -> None:
        order = self.settle()
        order.reference = "selftest-1"
        deliver(order, order.changes.get(to_status="FULFILLED"))
        assert Delivery.objects.count() == 1

    def test_a_mail_has_the_other_cards_if_one_does_not_open(self) -> None:
        order = self.settle()
        readable = self.damage_first_card()
        Delivery.objects.update(sent_at=None)
        with self.assertLogs("shop.codes", "ERROR") as logs:
            tasks.send(Delivery.objects.get().pk)
        [_head, lost, other] = mail.outbox[-1].body.splitlines()
        assert lost.startswith("1. We will write to you.")
        assert other.startswith(f"2. {readable}")
        [line] = logs.output
        assert f"Card 1 of order {order.reference}: " in line
        assert readable not in line


class Values(ShopTestCase):
    def test_the_order_has_the_language_of_the_cart(self) -> None:
        cart = self.make_cart(quantity=2)
        cart.language = "ar"
        cart.save()
        checkout.mark_as_paid(cart)
        assert Order.objects.get().customer_language == "ar"


class Coupons(PaymentTestCase):
    def test_the_shares_of_a_coupon_add_up_to_the_centime(self) -> None:
        for coupon in ("0", "0.01", "100", "1649.99", "1650", "2101"):
            for amounts in (["550"] * 3, ["1649.99", "0.01"], ["0", "1650"], ["0.07"] * 30_000):
                known = [Decimal(amount) for amount in amounts]
                parts = shares(Decimal(coupon), known)
                assert sum(parts) == min(Decimal(coupon), sum(known))
                assert all(0 <= part <= amount for part, amount in zip(parts, known, strict=True))

    def make_cart_of_two(self) -> Cart:
        cart = self.make_cart(quantity=2)
        cart.lines.create(product=Product.objects.get(), quantity=1, amount=550)
        return cart

    def amounts(self, cart: Cart) -> list[str]:
        return [f"{line.amount:.2f}" for line in cart.lines.order_by("pk")]

    def test_a_coupon_is_left_alone_by_the_check_before_the_payment_and_ordered(self) -> None:
        cart = self.make_cart_of_two()
        apply_coupon(cart, Decimal(100))
        for _press in range(2):
            checkout.check(cart)
        assert self.amounts(cart) == ["1033.34", "516.66"]
        checkout.mark_as_paid(cart)
        orders = Order.objects.order_by("pk")
        assert [f"{order.sale_amount}" for order in orders] == ["1033.34", "516.66"]

    def test_a_dearer_card_costs_a_customer_with_a_coupon_the_new_price_less_the_coupon(
        self,
    ) -> None:
        cart = self.make_cart_of_two()
        apply_coupon(cart, Decimal(100))
        ProductType.objects.update(price=600)
        with pytest.raises(ValidationError, match="A price has changed"):
            checkout.check(cart)
        assert self.amounts(cart) == ["1133.34", "566.66"]
        checkout.check(cart)

    def test_a_coupon_that_is_applied_again_replaces_the_first(self) -> None:
        cart = self.make_cart_of_two()
        for coupon, amounts in {
            100: ["1033.34", "516.66"],
            # The cards cost more than the customer would pay.
            300: ["900.00", "450.00"],
            # A coupon never reduces the price below zero.
            1651: ["0.00", "0.00"],
            0: ["1100.00", "550.00"],
        }.items():
            for _time in range(2):
                apply_coupon(cart, Decimal(coupon))
                assert self.amounts(cart) == amounts
                with nullcontext() if coupon <= 100 else pytest.raises(NotForSale):
                    checkout.check(cart)

    def test_a_coupon_is_shared_anew_after_a_change_of_the_cart(self) -> None:
        cart = self.make_cart_of_two()
        apply_coupon(cart, Decimal(100))
        cart.lines.filter(quantity=2).update(quantity=1)
        apply_coupon(cart, Decimal(100))
        assert self.amounts(cart) == ["500.00", "500.00"]

    def test_a_coupon_on_a_free_cart_takes_nothing_off(self) -> None:
        cart = self.make_cart(quantity=1)
        ProductType.objects.update(price=0)
        apply_coupon(cart, Decimal(100))
        assert self.amounts(cart) == ["0.00"]


class Rules(ShopTestCase):
    def buy(self, *quantities: int) -> list[str]:
        """Buy these quantities in one order each; return the reasons why orders are on hold."""
        carts = [self.make_cart(quantity=quantity) for quantity in quantities]
        for cart in carts:
            checkout.mark_as_paid(cart)
        return list(self.review().values())

    def review(self) -> dict[str, str]:
        """Run the worker; return the orders on hold, each with the reason."""
        configured = {**settings.GIFTCARDS, "REVIEW_ORDER": "shop.rules.review"}
        with self.settings(GIFTCARDS=configured):
            self.work()
        held = Order.objects.filter(status="PENDING", due_at=None).order_by("pk")
        return {
            order.reference: problem.parameters["objection"]
            for order in held
            for problem in order.open_problems
        }

    def test_a_first_order_above_the_sum_is_reserved_until_another_one_was_delivered(self) -> None:
        reason = "A first order above 10000 DA"
        assert self.buy(19) == [reason]
        assert self.buy(18) == [reason]
        assert self.buy(19) == [reason]
        assert [order.quantity for order in Order.objects.filter(status="FULFILLED")] == [19, 18]

    def test_orders_that_are_too_much_within_a_day_are_on_hold(self) -> None:
        reason = "More than 50000 DA within 24 hours"
        assert self.buy(1) == []
        # Together with the others, the first of these orders exceeds the limit. Without it, the
        # others do not.
        assert self.buy(45, 44, 2) == [reason]
        assert self.buy(43) == [reason]
        assert self.buy(1) == [reason, reason]
        Order.objects.filter(status="FULFILLED").update(created_at=timezone.now() - DAY)
        assert self.buy(1) == [reason, reason]

    def test_an_order_that_was_placed_with_a_price_for_one_card_is_reviewed_like_others(
        self,
    ) -> None:
        cart = self.make_cart(quantity=1)
        line = {**checkout.order_values(cart.lines.get()), "sale_amount": None}
        for name, price in {"cheap": 550, "dear": 10_001, "unknown": None}.items():
            place_order(**{**line, "reference": name, "sale_price": price})
        assert self.review() == {
            "dear": "A first order above 10000 DA",
            "unknown": "The sale amount is not known",
        }

    def test_a_large_order_without_an_address_is_reviewed(self) -> None:
        cart = self.make_cart(quantity=1)
        Cart.objects.update(email="", phone="0555123456")
        line = checkout.order_values(Cart.objects.get(pk=cart.pk).lines.get())
        for name, amount in {"small": 10_000, "large": 10_001, "unknown": None}.items():
            place_order(**{**line, "reference": name, "sale_amount": amount})
        assert self.review() == {"large": "Above 10000 DA, without an e-mail address"}

    def test_orders_of_others_do_not_count(self) -> None:
        self.buy(1)
        Order.objects.update(customer_email="other@example.com")
        assert self.buy(19) == ["A first order above 10000 DA"]


class MissingCards(ShopTestCase):
    def order_some(self, provider_type: str = "TEST_PARTIAL", **configured: Any) -> Order:
        """Order five cards, some of which are not delivered, and return the order."""
        cart = self.make_cart(quantity=5, provider_type=provider_type)
        checkout.mark_as_paid(cart)
        with self.settings(GIFTCARDS={**settings.GIFTCARDS, **configured}):
            self.work()
        order = Order.objects.get(repeats=None)
        # When the missing cards are ordered again, all of them are delivered.
        Order.objects.update(type_id="type_001")
        return order

    def order_again(self, order: Order) -> Order:
        again = reorder_missing(order, by="amina")
        self.work()
        again.refresh_from_db()
        return again

    def test_cards_that_are_ordered_again_are_mailed_once_each_to_the_customer(self) -> None:
        order = self.order_some()
        again = self.order_again(order)
        assert [part.original for part in order.parts] == [order, order]
        [some, others] = mail.outbox
        assert some.to == others.to == ["customer@example.com"]
        later = "You will get the missing cards later, or your money back."
        assert_is_mailed(some, ["2 of 5 cards were delivered.", "1.", "2.", later], order)
        text = ["3 of 3 missing cards were delivered.", "1.", "2.", "3."]
        assert_is_mailed(others, text, again)

    def test_a_mail_that_goes_out_after_the_others_were_ordered_again_has_its_own_cards(
        self,
    ) -> None:
        order = self.order_some()
        self.order_again(order)
        Delivery.objects.filter(change__order=order).update(sent_at=None)
        tasks.send(Delivery.objects.get(sent_at=None).pk)
        again = "We have ordered the missing cards again."
        text = ["2 of 5 cards were delivered.", "1.", "2.", again]
        assert_is_mailed(mail.outbox[-1], text, order)

    def test_a_mail_says_that_the_rule_has_ordered_the_missing_cards_again(self) -> None:
        for provider_type in ("TEST_REFUND", "SIM_REJECT"):
            with self.subTest(provider_type):
                order = self.order_some(provider_type, REORDER_MISSING={"times": 1, "hours": 1})
                again = "We have ordered the missing cards again."
                text = ["We are sorry: your cards could not be delivered.", again]
                assert_is_mailed(mail.outbox.pop(), text, order)
                Order.objects.filter(repeats=order).delete()
                order.delete()

    def test_cards_that_are_ordered_again_in_vain_are_told_of_as_missing_cards(self) -> None:
        order = self.order_some()
        Order.objects.update(type_id="SIM_REJECT")
        order.refresh_from_db()
        again = self.order_again(order)
        sorry = "We are sorry: your missing cards could not be delivered."
        later = "You will get the missing cards later, or your money back."
        assert_is_mailed(mail.outbox[-1], [sorry, later], again)

    def test_a_corrected_address_gets_the_mail_and_that_of_cards_ordered_again(self) -> None:
        cart = self.make_cart(quantity=5, provider_type="TEST_PARTIAL")
        checkout.mark_as_paid(cart)
        order = Order.objects.get()
        change_customer(order, email="right@example.com", by="amina")
        self.work()
        order.refresh_from_db()
        self.order_again(order)
        assert [message.to for message in mail.outbox] == [["right@example.com"]] * 2

    def test_a_mail_that_went_to_a_wrong_address_is_sent_to_the_corrected_one(self) -> None:
        order = self.settle()
        change_customer(order, email="right@example.com", by="amina")
        long_ago = timezone.now() - timedelta(minutes=3)
        Delivery.objects.update(sent_at=None, created_at=long_ago)
        OrmQ.objects.all().delete()
        tasks.send_again()
        [queued] = OrmQ.objects.all()
        tasks.send(*queued.task["args"])
        assert [message.to for message in mail.outbox] == [
            ["customer@example.com"], ["right@example.com"],
        ]  # fmt: skip
