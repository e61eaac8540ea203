"""Recognise a person by e-mail addresses, phone numbers or accounts.

The customer of a gift and its recipient are two different people. Each app that stores personal
data has a :class:`Keeper`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Protocol, Self

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db.models import QuerySet

from giftcards.keys.secrecy import Masked
from giftcards.models import CustomerChange, Order
from giftcards.models.order_queries import batches
from giftcards.models.orders import OF_CUSTOMER, OF_GIFT
from giftcards.models.searching import OrderTerm
from giftcards.text.search_terms import terms_of_contact
from giftcards.text.spelling import (
    COUNTRY,
    TELLING_DIGITS,
    digits,
    folded,
    numbers,
    numbers_among_words,
)

# The number of rows that are compared at a time. Python compares the rows, because databases differ
# in how they fold case, and cannot compare phone numbers.
_BATCH = 10_000
# Texts shorter than this are not searched for, because they are part of too many other texts.
_SHORTEST = 3
# Patterns for the text directly before and after an e-mail address. With certain characters there,
# it would be a different address. Apostrophes are allowed, because they may quote the address.
_AROUND_EMAIL = r"(?<![\w.+%&~-])(?<!\w')", r"(?![\w@-]|\.\w)"
#: Replaces a text with the name of an erased person.
ERASED = "(erased)"
# JSON keys with names of staff.
_OF_STAFF = {"by", "acknowledged_by"}


@dataclass(frozen=True, slots=True)
class Role:
    """A person's role in an order, and the columns with the person's data."""

    label: str
    #: The columns with addresses and numbers.
    contacts: tuple[str, ...]
    #: The column with the name.
    name: str
    #: The column with the language.
    language: str
    #: All columns that belong to the person.
    columns: tuple[str, ...]

    def contacts_in(self, row: Order | CustomerChange) -> list[str]:
        return [text for name in self.contacts if (text := getattr(row, name))]


# A gift's message belongs to both roles: the customer writes it, and the recipient gets it.
CUSTOMER = Role(
    "customer",
    ("customer_email", "customer_phone"),
    "customer_name",
    "customer_language",
    (*OF_CUSTOMER, "gift_message"),
)
RECIPIENT = Role("recipient", ("recipient_email",), "recipient_name", "recipient_language", OF_GIFT)
ROLES = (CUSTOMER, RECIPIENT)
#: The columns of all roles with addresses and numbers.
_CONTACTS = tuple(chain.from_iterable(role.contacts for role in ROLES))


@dataclass(frozen=True, slots=True)
class Person:
    """A person's e-mail addresses, phone numbers and accounts.

    Addresses are stored in the form that :func:`folded` returns, and numbers in the form that
    :func:`dialled` returns. ``users`` contains the primary keys of the person's accounts. Only
    customers have accounts.
    """

    emails: frozenset[str] = frozenset()
    phones: frozenset[str] = frozenset()
    users: frozenset[Any] = frozenset()

    @classmethod
    def of(cls, *texts: str) -> Self:
        """Return the person with these addresses and numbers.

        Addresses and numbers can be written in different ways. Other strings are ignored. If no
        address or number is found, the result is false in a boolean context.
        """
        return cls._named_in(
            [text for text in texts if "@" in text or not any(map(str.isalpha, text))]
        )

    @classmethod
    def of_user(cls, user: Any) -> Self:
        """Return the person with the account ``user``."""
        return cls(users=frozenset({user.pk}))

    @classmethod
    def behind(cls, parts: Collection[Part]) -> Self:
        """Return a person with all contacts and accounts from ``parts``.

        Each part is an order with a role. Values from before a correction are included. This method
        also finds numbers inside other text, which :meth:`of` does not.
        """
        return replace(cls._named_in(contacts(parts)), users=owners(parts))

    @classmethod
    def _named_in(cls, texts: Collection[str]) -> Self:
        emails = {Masked(folded(text)) for text in texts if "@" in text}
        phones = [_numbers(text) for text in texts if "@" not in text]
        return cls(frozenset(emails), frozenset(chain.from_iterable(phones)))

    def __bool__(self) -> bool:
        return bool(self.emails or self.phones or self.users)

    def without(self, other: Person) -> Person:
        return Person(
            self.emails - other.emails, self.phones - other.phones, self.users - other.users
        )

    def is_named_by(self, *texts: str) -> bool:
        """True if one of the strings in ``texts`` names the person.

        A string names the person if it is the person's address or contains the person's number.
        """
        return any(
            bool(self.emails) and folded(text) in self.emails
            if "@" in text
            else bool(self.phones) and not self.phones.isdisjoint(_numbers(text))
            for text in texts
        )

    def rows(self, rows: QuerySet[Any], *columns: str) -> Iterator[int]:
        """Yield the primary keys of the rows that name the person.

        A row is included if at least one of the given columns names the person. The method reads
        these columns of all rows, in batches.
        """
        if not (self.emails or self.phones):
            return
        last = 0
        while found := list(
            rows.filter(pk__gt=last).order_by("pk").values_list("pk", *columns)[:_BATCH]
        ):
            yield from (key for key, *texts in found if self.is_named_by(*texts))
            last = found[-1][0]

    def roles_in(self, order: Order) -> list[Role]:
        """Return the person's roles in ``order``.

        If ``order`` does not contain any personal data, the result is the customer's role.
        """
        named = [
            role
            for role in ROLES
            if self.is_named_by(*role.contacts_in(order))
            or (role is CUSTOMER and order.user_id in self.users)
        ]
        return [CUSTOMER] if is_anonymous(order) else named

    def parts_of(self, orders: Iterable[Order]) -> list[Part]:
        return [(order, role) for order in orders for role in self.roles_in(order)]

    def orders(self) -> set[int]:
        """Return the primary keys of the person's orders.

        The person is the customer or the recipient of these orders.
        """
        owned = Order.objects.filter(user__in=self.users).order_by()
        found = set(owned.values_list("pk", flat=True)) if self.users else set()
        for keys in batches(sorted(self._keys_by_terms())):
            found.update(self.rows(Order.objects.filter(pk__in=keys), *_CONTACTS))
        return found

    def _keys_by_terms(self) -> set[int]:
        """Look up the primary keys of orders that might name the person."""
        contacts = chain(self.emails, self.phones)
        terms = set(chain.from_iterable(map(terms_of_contact, contacts)))
        rows = (OrderTerm.objects.filter(term__in=some) for some in batches(sorted(terms)))
        return {key for some in rows for key in some.values_list("order_id", flat=True)}

    def former_orders(self) -> set[int]:
        """Return the primary keys of orders that once named the person.

        These orders named the person before a correction. They might belong to other people,
        because a mistyped address can be the address of a stranger.
        """
        former = set(self.rows(CustomerChange.objects.all(), *_CONTACTS))
        rows = (CustomerChange.objects.filter(pk__in=some) for some in batches(sorted(former)))
        return {key for some in rows for key in some.values_list("order", flat=True)}


#: An order, and a role that a person has in it.
Part = tuple[Order, Role]


def _with_former(order: Order) -> Iterator[Order | CustomerChange]:
    yield order
    yield from order.customer_changes.all()


def contacts(parts: Iterable[Part]) -> set[str]:
    """Return the addresses and numbers in ``parts`` as they were entered.

    Addresses and numbers that were corrected later are included.
    """
    return {
        text
        for order, role in parts
        for row in _with_former(order)
        for text in role.contacts_in(row)
    }


def owners(parts: Iterable[Part]) -> frozenset[Any]:
    """Return the primary keys of the customers' accounts.

    Parts in which the person is the gift recipient are ignored.
    """
    return frozenset(order.user_id for order, role in parts if role is CUSTOMER) - {None}


def is_anonymous(order: Order) -> bool:
    """True if ``order`` does not contain an account, an address or a number."""
    return order.user_id is None and not any(role.contacts_in(order) for role in ROLES)


def find_account(name: str) -> Any:
    """Return the user with this user name, or ``None``."""
    users = get_user_model()
    return users._default_manager.filter(**{users.USERNAME_FIELD: name}).first()  # noqa: SLF001


def is_staff(name: str) -> bool:
    """True if ``name`` is the user name of a staff account."""
    return bool(getattr(find_account(name), "is_staff", False))


def _account_names(users: Collection[Any]) -> set[str]:
    model = get_user_model()
    accounts = model._base_manager.filter(pk__in=users).order_by() if users else ()  # noqa: SLF001
    return {account.get_username() for account in accounts}


class Traces:
    """The strings that can identify a person in that person's orders.

    The strings are addresses, numbers, names and user names.
    """

    def __init__(self, person: Person, orders: Iterable[Order]) -> None:
        parts = person.parts_of(orders)
        typed = contacts(parts) | _account_names(person.users | owners(parts))
        names = {getattr(row, role.name) for order, role in parts for row in _with_former(order)}
        # People often leave out the country code, so numbers are compared without it.
        dialled_ones = person.phones.union(*(_numbers(text) for text in typed if "@" not in text))
        self._numbers = set(map(_national, dialled_ones)) - {""}
        emails = {*person.emails, *filter(_is_email, typed)}
        #: The addresses and numbers as they were typed. Other texts in the same columns are left
        #: out.
        self.contacts = {text for text in typed if text in emails or self._dialled_in(text)}
        # A short name is part of many words, so texts count as whole words only.
        texts = {*person.emails, *typed, *names}
        word = r"[^\W_]"
        self._pattern = _pattern(
            (text for text in texts if len(text.strip()) >= _SHORTEST),
            f"(?<!{word})",
            f"(?!{word})",
        )
        self._emails = _pattern(emails, *_AROUND_EMAIL)

    def __repr__(self) -> str:
        return "<traces of a person>"

    def are_in(self, text: str) -> bool:
        """True if ``text`` contains one of the strings that identify the person.

        Use this method only for rows about the person, because in other rows the same name might
        refer to another person.
        """
        number = digits(text)
        is_called = any(known in number for known in self._numbers)
        return is_called or bool(self._pattern.search(folded(text)))

    def are_whole_in(self, text: str) -> bool:
        """True if ``text`` contains a complete address or number of the person.

        You can use this method for any row. This method ignores names, because other people can
        have the same name.
        """
        return bool(self._emails.search(folded(text)) or self._dialled_in(text))

    def _dialled_in(self, text: str) -> bool:
        return not self._numbers.isdisjoint(map(_national, numbers_among_words(text)))

    def erased(self, value: Any) -> Any:
        """Return a JSON value without the strings that identify the person.

        Each of these strings is replaced by :data:`ERASED`. Names of staff are erased as in
        :meth:`erased_name`.
        """
        match value:
            case str():
                return ERASED if self.are_in(value) else value
            case list():
                return [self.erased(item) for item in value]
            case dict():
                return {
                    name: self.erased_name(item) if name in _OF_STAFF else self.erased(item)
                    for name, item in value.items()
                }
        return value

    def erased_name(self, name: Any) -> Any:
        """Return ``name``, or :data:`ERASED` if it names the person.

        ``name`` is the name of the person who made a change. In some shops, customers can make
        changes themselves, for example to their address. Names of staff are not erased, because a
        staff member might have the same name as the person, or might be the person in another role.
        """
        if not (isinstance(name, str) and self.are_in(name)):
            return name
        account = find_account(name)
        if account is None:
            # The name of a customer without an account is an address or a number.
            return ERASED if self.are_whole_in(name) else name
        return name if is_staff(name) else ERASED


def _numbers(text: str) -> frozenset[str]:
    return frozenset(map(Masked, numbers(text)))


def _national(number: str) -> str:
    """Return ``number`` without the country code.

    Returns "" if too few digits remain.
    """
    national = number.removeprefix(COUNTRY)
    return Masked(national) if len(national) >= TELLING_DIGITS else ""


def _is_email(text: str) -> bool:
    try:
        validate_email(text.strip())
    except ValidationError:
        return False
    return True


def _pattern(texts: Iterable[str], before: str, after: str) -> re.Pattern[str]:
    whole = sorted(re.escape(folded(text)) for text in texts)
    return re.compile(f"{before}(?:{'|'.join(whole) or '(?!)'}){after}")


class Keeper(Protocol):
    """An app that stores data about customers or gift recipients."""

    #: The label of the app. It is used to find the app's entries in the admin's log.
    app_label: str

    def orders(self, person: Person) -> Iterable[int]:
        """Return the primary keys of orders that have a row about the person."""

    def addresses(self, order: Order) -> Iterable[str]:
        """Return the addresses and numbers in the app's rows about ``order``."""

    def describe(self, order: Order) -> dict[str, Any]:
        """Return the app's data about ``order`` for an export.

        The result is JSON with headings in the active language. A keeper can list relations of the
        order model in its ``prefetched`` attribute. The app prefetches these relations before it
        calls this method.
        """

    def erase(self, order: Order, traces: Traces) -> None:
        """Erase the person from the app's rows about ``order``.

        The caller has locked ``order``.
        """


#: The keepers for each role, by app label.
keepers: dict[Role, dict[str, Keeper]] = {role: {} for role in ROLES}


def add_keeper(role: Role, keeper: Keeper) -> None:
    """Register ``keeper`` as storing data about people in ``role``.

    Call this function from the ``ready`` method of your app.
    """
    keepers[role][keeper.app_label] = keeper


def all_keepers() -> list[Keeper]:
    return [keeper for each in keepers.values() for keeper in each.values()]
