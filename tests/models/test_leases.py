"""Leases, which one holder has at a time, and the slots of the request quota."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from giftcards.models import Lease, RequestSlot
from tests.stage import ago, hold_lease

pytestmark = pytest.mark.django_db

LENGTH = timedelta(seconds=10)


class TestLease:
    def test_every_name_fits_its_column(self) -> None:
        names = [value for name, value in vars(Lease).items() if name.isupper() and name[0] != "_"]
        longest = Lease._meta.get_field("name").max_length
        assert names
        assert longest is not None
        assert all(len(name) <= longest for name in names)

    def test_one_process_holds_a_lease_and_may_renew_it(self) -> None:
        token = Lease.objects.take("work", LENGTH)
        assert token is not None
        assert Lease.objects.is_taken("work")
        assert Lease.objects.take("work", LENGTH) is None
        before = Lease.objects.get().until
        assert Lease.objects.keep("work", token, LENGTH)
        assert before < Lease.objects.get().until  # type: ignore[operator]

    def test_an_expired_lease_can_be_taken_and_its_old_holder_cannot_interfere(self) -> None:
        hold_lease("work", token="dead", until=ago(0.1))
        assert not Lease.objects.is_taken("work")
        assert Lease.objects.take("work", LENGTH) is not None
        assert not Lease.objects.keep("work", "dead", LENGTH)
        Lease.objects.release("work", "dead")
        assert Lease.objects.is_taken("work")

    def test_a_released_lease_is_free(self) -> None:
        token = Lease.objects.take("work", LENGTH)
        assert token is not None
        Lease.objects.release("work", token)
        assert not Lease.objects.is_taken("work")
        assert Lease.objects.take("work", LENGTH) is not None

    def test_a_lease_can_be_revoked_without_its_token(self) -> None:
        Lease.objects.take("work", LENGTH)
        Lease.objects.revoke("work")
        assert Lease.objects.take("work", LENGTH) is not None

    def test_each_name_is_a_lease_of_its_own(self) -> None:
        assert Lease.objects.take(Lease.LOOP, LENGTH) is not None
        token = Lease.objects.take(Lease.OUTBOX, LENGTH)
        assert token is not None
        assert not Lease.objects.keep(Lease.LOOP, token, LENGTH)


class TestRequestSlot:
    def test_there_are_as_many_request_slots_as_the_limit_says(self) -> None:
        for count in (2, 2, 5, 3):
            RequestSlot.objects.make(count)
            numbers = sorted(RequestSlot.objects.values_list("number", flat=True))
            assert numbers == list(range(count))

    def test_requests_of_the_last_minute_still_count_when_the_limit_shrinks(self) -> None:
        RequestSlot.objects.make(5)
        until = timezone.now() + LENGTH
        RequestSlot.objects.filter(number__in=[0, 3, 4]).update(until=until)
        RequestSlot.objects.make(3)
        assert list(RequestSlot.objects.values_list("until", flat=True)) == [until] * 3
        RequestSlot.objects.make(1)
        assert RequestSlot.objects.count() == 1

    def test_of_several_request_slots_the_first_free_one_is_taken(self) -> None:
        RequestSlot.objects.make(3)
        now = timezone.now()
        until = now + LENGTH
        assert RequestSlot.objects.take_one([1, 2], now=now, until=until) == 1
        assert RequestSlot.objects.take_one([1, 2], now=now, until=until) == 2
        assert RequestSlot.objects.take_one([1, 2], now=now, until=until) is None
        assert list(RequestSlot.objects.free(now).values_list("number", flat=True)) == [0]
