"""Tests of the recipes' promises beside their own; becomes the shop's ``test_more.py``."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from asgiref.sync import async_to_sync
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core import mail
from django.test import TestCase
from django.utils import timezone
from django_q.models import OrmQ
from shop import checkout, tasks
from shop import tests as own
from shop.async_codes import codes
from shop.missing import first, parts
from shop.models import Delivery, Line
from shop.receivers import deliver

from giftcards.fulfilment import reorder_missing
from giftcards.models import Card, Order

DAY = timedelta(days=1)


class ShopTestCase(TestCase):
    """The stage of the recipe's own tests, without these tests."""

    setUp = own.BuyingTest.setUp
    make_cart = own.BuyingTest.make_cart
    work = own.BuyingTest.work

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
            # A worker that is quick must not find the task before the row.
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

    def test_an_order_that_is_not_the_shops_is_left_alone(self) -> None:
        order = self.settle()
        order.reference = "selftest-1"
        deliver(order, order.changes.get(to_status="FULFILLED"))
        assert Delivery.objects.count() == 1

    def test_a_page_shows_no_codes_to_another_customer(self) -> None:
        self.settle()
        self.client.force_login(get_user_model().objects.create_user("other"))
        assert self.client.get(f"/cards/{Line.objects.get().pk}/").status_code == 404

    def test_a_page_with_codes_is_not_stored(self) -> None:
        self.settle()
        page = self.client.get(f"/cards/{Line.objects.get().pk}/")
        assert "no-store" in page.headers["Cache-Control"]

    def test_a_page_shows_the_other_cards_if_one_does_not_open(self) -> None:
        order = self.settle()
        readable = self.damage_first_card()
        with self.assertLogs("shop.codes", "ERROR") as logs:
            page = self.client.get(f"/cards/{Line.objects.get().pk}/")
        self.assertContains(page, readable)
        self.assertContains(page, "Card 1 cannot be shown at the moment.")
        [line] = logs.output
        assert f"Card 1 of order {order.reference}: " in line
        assert readable not in line


class Async(ShopTestCase):
    def buy(self, line: Line) -> Any:
        async def ask() -> Any:
            await self.async_client.aforce_login(self.user)
            return await self.async_client.post(f"/buy/{line.pk}/")

        return async_to_sync(ask)()

    def test_a_double_click_in_an_async_view_places_one_order(self) -> None:
        cart = self.make_cart(quantity=2)
        line = cart.lines.get()
        assert self.buy(line).status_code == 404
        cart.paid_at = timezone.now()
        cart.save()
        assert [self.buy(line).json() for _ in range(2)] == [{"status": "PENDING"}] * 2
        assert Order.objects.get().reference == f"line-{line.pk}"

    def test_a_visitor_without_a_login_is_sent_to_the_login_by_an_async_view(self) -> None:
        cart = self.make_cart(quantity=2)
        answer = async_to_sync(self.async_client.post)(f"/buy/{cart.lines.get().pk}/")
        self.assertRedirects(
            answer,
            f"/accounts/login/?next=/buy/{cart.lines.get().pk}/",
            fetch_redirect_response=False,
        )
        assert not Order.objects.exists()

    def test_codes_can_be_read_in_async_code(self) -> None:
        order = self.settle()
        [bought] = self.provider.orders.values()
        shown = async_to_sync(codes)(order)
        assert [card["value"] for card in shown] == [card.value for card in bought.cards]

    def test_async_code_reads_the_other_cards_if_one_does_not_open(self) -> None:
        order = self.settle()
        readable = self.damage_first_card()
        with self.assertLogs("shop.codes", "ERROR"):
            shown = async_to_sync(codes)(order)
        assert [card["value"] for card in shown] == ["", readable]


class Values(ShopTestCase):
    def test_the_order_has_the_language_of_the_cart(self) -> None:
        cart = self.make_cart(quantity=2)
        cart.language = "ar"
        cart.save()
        checkout.mark_as_paid(cart)
        assert Order.objects.get().customer_language == "ar"


class Rules(ShopTestCase):
    def buy(self, *quantities: int) -> list[str]:
        """Buy so many cards in each of several orders; return the reasons why any are held."""
        configured = {**settings.GIFTCARDS, "REVIEW_ORDER": "shop.rules.review"}
        carts = [self.make_cart(quantity=quantity) for quantity in quantities]
        for cart in carts:
            checkout.mark_as_paid(cart)
        with self.settings(GIFTCARDS=configured):
            self.work()
        held = Order.objects.filter(status="PENDING", due_at=None).order_by("pk")
        return [
            problem.parameters["objection"] for order in held for problem in order.open_problems
        ]

    def test_a_first_order_above_the_sum_is_held_until_another_one_was_delivered(self) -> None:
        reason = "A first order above 10000 DA"
        assert self.buy(19) == [reason]
        assert self.buy(18) == [reason]
        assert self.buy(19) == [reason]
        assert [order.quantity for order in Order.objects.filter(status="FULFILLED")] == [19, 18]

    def test_orders_that_are_too_much_within_a_day_are_held(self) -> None:
        reason = "More than 50000 DA within 24 hours"
        assert self.buy(1) == []
        # The first of these would be too much with the others, which are not too much without it.
        assert self.buy(45, 44, 2) == [reason]
        assert self.buy(43) == [reason]
        assert self.buy(1) == [reason, reason]
        Order.objects.filter(status="FULFILLED").update(created_at=timezone.now() - DAY)
        assert self.buy(1) == [reason, reason]

    def test_orders_of_others_do_not_count(self) -> None:
        self.buy(1)
        Order.objects.update(customer_email="other@example.com")
        assert self.buy(19) == ["A first order above 10000 DA"]


class MissingCards(ShopTestCase):
    def order_again(self) -> Order:
        """Have 2 of 5 cards delivered, and the other 3 by a new order; return the first."""
        cart = self.make_cart(quantity=5, provider_type="TEST_PARTIAL")
        checkout.mark_as_paid(cart)
        self.work()
        order = Order.objects.get()
        assert order.missing_quantity == 3
        Order.objects.update(type_id="type_001")
        reorder_missing(order, by="amina")
        self.work()
        return order

    def test_a_card_that_does_not_open_has_a_number_of_its_own(self) -> None:
        order = self.order_again()
        Card.objects.exclude(order=order).filter(position=1).update(sealed="damaged")
        with self.assertLogs("shop.codes", "ERROR"):
            page = self.client.get(f"/cards/{Line.objects.get().pk}/")
        self.assertContains(page, "Card 3 cannot be shown at the moment.")
        self.assertNotContains(page, "{#")

    def test_async_code_reads_the_cards_that_were_ordered_again(self) -> None:
        shown = async_to_sync(codes)(self.order_again())
        assert [card["number"] for card in shown] == [1, 2, 3, 4, 5]
        assert {card["value"] for card in shown} == {card.value for card in Card.objects.all()}

    def test_cards_that_are_ordered_again_reach_the_customer_of_the_first_order(self) -> None:
        order = self.order_again()
        assert [first(part) for part in parts(order)] == [order, order]
        one, other = (message.body.split()[-1] for message in mail.outbox)
        assert one == other
        page = self.client.get(one)
        self.assertContains(page, "5 of 5 cards")
        for bought in self.provider.orders.values():
            for card in bought.cards:
                self.assertContains(page, card.value)
