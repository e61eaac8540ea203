"""Reading single fields and cards; the tests of whole answers are in test_client."""

from __future__ import annotations

import contextlib
import datetime
import json
from decimal import ROUND_UP, Context, Decimal, Inexact, localcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giftcards.keys.secrecy import CardSecret
from giftcards.provider.answers import (
    Flaw,
    LedgerPage,
    LedgerRow,
    OrderAnswer,
    Unreadable,
    parse,
    plain,
    read_ledger,
    read_order,
)

UTC = datetime.UTC
HANDLING = {"status": "HANDLING"}


def order(**fields: Any) -> OrderAnswer:
    return read_order({**HANDLING, **fields})


def written(text: str) -> OrderAnswer:
    """Read an order whose other fields are given as JSON text."""
    return read_order(parse(f'{{"status": "HANDLING", {text}}}'.encode()))


def doubt(name: str, code: str, fault: str, value: str) -> Flaw:
    parameters = {"field": name, "fault": fault, "value": value}
    return Flaw(code, {key: told for key, told in parameters.items() if told})


def unreadable(fault: str, value: str = "", *, name: str = "quantity") -> Flaw:
    return doubt(name, "figure_unreadable", fault, value)


def negative(value: str = "", *, name: str = "quantity") -> Flaw:
    return doubt(name, "figure_negative", "", value)


AMOUNT = {"name": "fulfilled_amount"}


class TestNumbers:
    @pytest.mark.parametrize(
        ("text", "quantity", "problems"),
        [
            ("2", 2, ()),
            ("0", 0, ()),
            ("2.0", 2, ()),
            ("2e0", 2, ()),
            ('"2"', 2, ()),
            ('"2.00"', 2, ()),
            ("null", None, ()),
            ("2147483647", 2147483647, ()),
            ("-1", -1, (negative("-1"),)),
            ('"-1"', -1, (negative("-1"),)),
            ("-2147483648", None, (negative(), unreadable("out_of_range"))),
            ("2147483648", None, (unreadable("out_of_range"),)),
            ("1e400000", None, (unreadable("out_of_range"),)),
            ("2.5", None, (unreadable("not_whole", "2.5"),)),
            ("2.123456789", None, (unreadable("not_whole"),)),
            ("1e-400000", None, (unreadable("not_whole"),)),
            *(
                (text, None, (unreadable("not_a_number"),))
                for text in (
                    "true", "false", "[]", "{}", '""', '"two"', '" 2"', '"2\\n"', '"+2"', '"2."',
                    '".5"', '"1_0"', '"1e1"', '"0x2"', '"nan"', '"Infinity"', '"٢"', '"２"',
                    '"' + "7" * 21 + '"',
                )
            ),
        ],
    )  # fmt: skip
    def test_whole_numbers_are_read_and_others_are_problems(
        self, text: str, quantity: int | None, problems: tuple[Flaw, ...]
    ) -> None:
        answer = written(f'"quantity": {text}')
        assert (answer.quantity, answer.flaws) == (quantity, problems)
        assert type(answer.quantity) is type(quantity)

    @pytest.mark.parametrize(
        ("text", "amount", "problems"),
        [
            ("490", "490.00", ()),
            ("490.5", "490.50", ()),
            ("490.500000", "490.50", ()),
            ('"490.50"', "490.50", ()),
            ("4.9e2", "490.00", ()),
            ("0", "0.00", ()),
            ("-0.0", "0.00", ()),
            ("9999999999.99", "9999999999.99", ()),
            # Rounding errors of binary fractions: a JavaScript backend sends 3 × 490.10 like this.
            ("1470.3000000000002", "1470.30", ()),
            ("0.30000000000000004", "0.30", ()),
            ("489.99999999999994", "490.00", ()),
            ('"1470.3000000000002"', "1470.30", ()),
            ("490.0099999", "490.01", ()),
            ("490." + "0" * 99 + "1", "490.00", ()),
            ("1e-999999", "0.00", ()),
            ("-5.551115123125783e-17", "0.00", ()),
            ("-490", "-490.00", (negative("-490", **AMOUNT),)),
            ("1e10", None, (unreadable("out_of_range", **AMOUNT),)),
            ("1e999999", None, (unreadable("out_of_range", **AMOUNT),)),
            ("1.005", None, (unreadable("more_than_two_decimals", "1.005", **AMOUNT),)),
            ("490.005", None, (unreadable("more_than_two_decimals", "490.005", **AMOUNT),)),
            ("490.000001", None, (unreadable("more_than_two_decimals", **AMOUNT),)),
            ("489.999999", None, (unreadable("more_than_two_decimals", **AMOUNT),)),
            (
                "-0.000001",
                None,
                (negative(**AMOUNT), unreadable("more_than_two_decimals", **AMOUNT)),
            ),
            ("9999999999.999", None, (unreadable("more_than_two_decimals", **AMOUNT),)),
            # Rounded, this amount would be larger than the column can hold.
            ("9999999999.9999999", None, (unreadable("out_of_range", **AMOUNT),)),
            ("true", None, (unreadable("not_a_number", **AMOUNT),)),
            ('"1,5"', None, (unreadable("not_a_number", **AMOUNT),)),
        ],
    )
    def test_amounts_have_two_decimals_or_are_a_problem(
        self, text: str, amount: str | None, problems: tuple[Flaw, ...]
    ) -> None:
        answer = written(f'"fulfilled_amount": {text}')
        assert answer.flaws == problems
        assert amount == (None if answer.fulfilled_amount is None else str(answer.fulfilled_amount))

    def test_the_decimal_context_of_the_site_does_not_matter(self) -> None:
        with localcontext(Context(prec=3, rounding=ROUND_UP, traps=[Inexact])):
            answer = written('"fulfilled_amount": 123456.78, "price_per_card": "98765.43"')
            with pytest.raises(Unreadable):
                written('"quantity": 1e99999999999999999999')
        assert answer.fulfilled_amount == Decimal("123456.78")
        assert answer.price_per_card == Decimal("98765.43")

    @given(st.decimals(allow_nan=False, allow_infinity=False) | st.integers())
    def test_any_number_is_exact_or_a_problem(self, number: Decimal | int) -> None:
        answer = written(f'"fulfilled_amount": {number}, "quantity": {number}')
        assert answer.quantity == number or (answer.quantity is None and answer.flaws)
        amount = answer.fulfilled_amount
        if amount is None:
            assert answer.flaws
        else:
            assert abs(amount - number) < Decimal("0.000001")

    @given(st.integers(0, 100_000_00), st.integers(1, 100))
    def test_the_noise_of_binary_fractions_is_rounded_away(self, cents: int, cards: int) -> None:
        price = cents / 100
        exact = Decimal(cents * cards).scaleb(-2)
        added = 0.0  # not sum(), which makes up for the noise since Python 3.12
        for _card in range(cards):
            added += price
        for amount in (price * cards, added):
            answer = written(f'"fulfilled_amount": {json.dumps(amount)}')
            assert (answer.fulfilled_amount, answer.flaws) == (exact, ())


class TestCards:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ('"XXXX-1"', "XXXX-1"),
            ('" two words\\n"', " two words\n"),
            ('"بطاقة\\u0000"', "بطاقة\0"),
            ("1234567890123456789012345", "1234567890123456789012345"),
            ("12.50", "12.50"),
        ],
    )
    def test_the_value_of_a_card_is_kept_as_it_was_sent(self, text: str, value: str) -> None:
        answer = written(f'"cards": [{{"value": {text}, "serial": {text}}}]')
        assert answer.cards == (CardSecret(value, value),)
        assert answer.flaws == ()

    @pytest.mark.parametrize(
        "card",
        [
            "7",
            "null",
            '"XXXX"',
            "[]",
            "{}",
            *(
                f'{{"value": {value}, "serial": "1"}}'
                for value in ("null", '""', '" \\t\\u00a0"', "true", "[]", "12e3", '"\\ud800"')
            ),
        ],
    )
    def test_a_card_without_a_usable_value_is_counted_as_lost(self, card: str) -> None:
        answer = written(f'"cards": [{card}, {{"value": "good"}}]')
        assert answer.cards == (CardSecret("good", ""),)
        assert answer.flaws == (Flaw("cards_unreadable", {"lost": 1, "total": 2}),)

    @pytest.mark.parametrize("length", [900_000, 4_001, 4_000])
    def test_a_code_or_serial_of_more_than_4000_characters_is_none(self, length: int) -> None:
        text, is_usable = "A" * length, length <= 4_000
        answer = order(cards=[{"value": text}, {"value": "good", "serial": text}])
        lost = {"lost": 1, "total": 2}
        flaws = (Flaw("cards_unreadable", lost), Flaw("serials_unreadable", lost))
        assert answer.flaws == (() if is_usable else flaws)
        good = CardSecret("good", text if is_usable else "")
        assert answer.cards == ((CardSecret(text, ""), good) if is_usable else (good,))

    @pytest.mark.parametrize("serial", ["true", "[]", "{}", '"\\udfff"', "1e99"])
    def test_a_card_with_an_unusable_serial_is_kept_without_it(self, serial: str) -> None:
        answer = written(f'"cards": [{{"value": "good", "serial": {serial}}}]')
        assert answer.cards == (CardSecret("good", ""),)
        assert answer.flaws == (Flaw("serials_unreadable", {"lost": 1, "total": 1}),)

    @pytest.mark.parametrize("serial", ["", ', "serial": null', ', "serial": ""'])
    def test_a_card_without_a_serial_is_no_problem(self, serial: str) -> None:
        answer = written(f'"cards": [{{"value": "good"{serial}}}]')
        assert answer.cards == (CardSecret("good", ""),)
        assert answer.flaws == ()

    @pytest.mark.parametrize("cards", [{}, "XXXX", 7, True])
    def test_cards_that_are_no_list_are_a_problem(self, cards: object) -> None:
        answer = order(cards=cards)
        assert answer.cards == ()
        assert answer.flaws == (Flaw("cards_not_listed"),)

    def test_an_answer_without_cards_yet_is_no_problem(self) -> None:
        assert (order().cards, order(cards=None).cards, order(cards=[]).cards) == ((), (), ())

    def test_the_repr_of_an_answer_shows_no_code(self) -> None:
        assert "XXXX" not in repr(order(cards=[{"value": "XXXX", "serial": "XXXX"}]))

    @given(st.text().filter(lambda text: text.strip()), st.text())
    def test_any_text_of_a_card_is_kept(self, value: str, serial: str) -> None:
        body = json.dumps({"cards": [{"value": value, "serial": serial}]}).encode()
        assert read_order(parse(body)).cards == (CardSecret(value, serial),)


class TestWords:
    @pytest.mark.parametrize(
        ("fields", "status"),
        [
            ({"status": "FULFILLED"}, "FULFILLED"),
            ({"status": "Some_new_one"}, "Some_new_one"),
            # The provider's other endpoints use these words.
            ({"status": "PENDING"}, "HANDLING"),
            ({"status": "QUEUED"}, "HANDLING"),
            ({"status": "UNKNOWN_ERROR"}, "UNKNOWN_ERROR"),
            ({"orderStatus": "REFUNDED"}, "REFUNDED"),
            ({"status": None, "orderStatus": "QUEUED"}, "HANDLING"),
            ({"status": "FULFILLED", "orderStatus": "REFUNDED"}, "FULFILLED"),
        ],
    )
    def test_a_status_is_read_as_it_was_sent_or_as_the_word_that_it_stands_for(
        self, fields: Any, status: str
    ) -> None:
        assert read_order(fields).status == status

    @pytest.mark.parametrize(
        ("fields", "reference"),
        [
            ({"orderRef": "cart-1"}, "cart-1"),
            ({"ref": "cart-1"}, "cart-1"),
            ({"orderRef": None, "ref": "cart-1"}, "cart-1"),
            ({"orderRef": "cart-1", "ref": "other"}, "cart-1"),
            ({"orderRef": "cart:1"}, ""),
            ({"orderRef": "x" * 41}, ""),
            ({"orderRef": 7}, ""),
            ({}, ""),
        ],
    )
    def test_a_reference_is_read_if_we_may_have_sent_it(self, fields: Any, reference: str) -> None:
        assert read_order(fields).reference == reference

    @pytest.mark.parametrize(
        "status", [None, "", "FULFILLED ", "FULFILLED\n", "x" * 33, 7, ["FULFILLED"]]
    )
    def test_an_unusable_status_is_read_as_none(self, status: object) -> None:
        assert order(status=status).status is None
        assert read_order({}).status is None

    @pytest.mark.parametrize("name", ["_id", "product", "type"])
    @pytest.mark.parametrize("value", [7, "a\u202eb", "a\x00", " a", "x" * 101, "\ud800", {}])
    def test_unusable_identifiers_are_read_as_empty(self, name: str, value: object) -> None:
        answer = order(**{name: value})
        assert (answer.provider_id, answer.product_id, answer.type_id) == ("", "", "")
        # The app does not store these identifiers, so staff do not have to look into them.
        assert answer.flaws == ()

    @pytest.mark.parametrize("value", ["a/b", "é", "a b"])
    def test_an_order_id_is_read_more_strictly_than_a_product_id(self, value: str) -> None:
        answer = order(_id=value, product=value, type=value)
        assert (answer.provider_id, answer.product_id, answer.type_id) == ("", value, value)

    @pytest.mark.parametrize(
        ("text", "limit", "expected"),
        [
            (" a\t\nb\u2028c ", 9, "a b c"),
            ("a\u202eb\x00\u200fc\ud800", 9, "abc"),
            ("abcd", 3, "abc"),
            ("\x00 a", 9, "a"),
        ],
    )
    def test_texts_are_cleaned_of_control_characters_and_cut(
        self, text: str, limit: int, expected: str
    ) -> None:
        assert plain(text, limit) == expected


class TestTime:
    @pytest.mark.parametrize(
        ("text", "moment"),
        [
            ("2025-10-29T01:00:00.250Z", datetime.datetime(2025, 10, 29, 1, 0, 0, 250_000, UTC)),
            ("2025-10-29T01:00:00+01:00", datetime.datetime(2025, 10, 29, tzinfo=UTC)),
            ("2025-10-29T01:00:00", datetime.datetime(2025, 10, 29, 1, tzinfo=UTC)),
            (None, None),
        ],
    )
    def test_readable_times_are_in_utc(
        self, text: str | None, moment: datetime.datetime | None
    ) -> None:
        answer = order(time=text)
        assert answer.created_at == moment
        assert moment is None or str(answer.created_at) == str(moment)

    @pytest.mark.parametrize("value", ["soon", "", 1761699600, True, "0001-01-01T00:00:00+09:00"])
    def test_unreadable_times_are_read_as_none(self, value: object) -> None:
        answer = order(time=value)
        assert (answer.created_at, answer.flaws) == (None, ())


BOOKED = {"type": "ORDER", "amount": 490, "time": "2025-10-29T01:00:00.000Z"}
MONEY = st.decimals(0, 9_999_999, places=2)


def ledger(*rows: Any, **pagination: Any) -> LedgerPage:
    body = json.dumps({"items": list(rows), "pagination": pagination}, default=float).encode()
    return read_ledger(parse(body))


def transaction(**fields: Any) -> LedgerRow:
    [row] = ledger({**BOOKED, **fields}).rows
    return row


class TestTransactions:
    @pytest.mark.parametrize("amount", [490, -490, "490.00", "-490", 490.0000000001])
    @pytest.mark.parametrize(
        ("kind", "sign"),
        [
            *((kind, 1) for kind in ("DEPOSIT", "RECEIVE", "POINT-EXCHANGE")),
            *((kind, 1) for kind in ("REFUND-ORDER", "REFUND-FLEXY", "REFUND-SOME-NEW-ONE")),
            *((kind, -1) for kind in ("ORDER", "FLEXY", "ADSL", "WITHDRAW", "SEND", "SERVICE")),
        ],
    )
    def test_the_type_tells_the_sign_whatever_the_rest_says(
        self, kind: str, sign: int, amount: object
    ) -> None:
        row = transaction(
            type=kind,
            amount=amount,
            operation="OUT" if sign > 0 else "IN",
            oldBalance=1000,
            newBalance=1000 - sign * 490,
        )
        assert (row.type, row.amount) == (kind, sign * Decimal(490))

    @pytest.mark.parametrize(
        ("fields", "amount"),
        [
            ({"oldBalance": 1000, "newBalance": 510, "operation": "IN"}, -490),
            ({"oldBalance": 510, "newBalance": 1000, "operation": "OUT"}, 490),
            ({"oldBalance": 510, "newBalance": 510, "operation": "OUT"}, -490),
            ({"oldBalance": 510, "operation": "out"}, -490),
            ({"newBalance": 510, "amount": -490, "operation": "credit"}, 490),
            ({"operation": "+", "amount": -490}, 490),
            ({"operation": "transfer", "amount": -490}, -490),
            ({"operation": {}, "amount": 490}, 490),
            ({"amount": -490}, -490),
        ],
    )
    def test_the_sign_of_an_unknown_type_follows_from_what_else_is_told(
        self, fields: dict[str, Any], amount: int
    ) -> None:
        assert transaction(type="BONUS", **fields).amount == amount

    @pytest.mark.parametrize(
        ("fields", "kind"),
        [
            *(({"type": told}, "OCPAY") for told in ("DEPOSIT", "RECEIVE", "NAVIO", "ocpay")),
            ({"type": "NEW", "oldBalance": 0, "newBalance": 490}, "OCPAY"),
            # An amount that leaves the account may be the provider's fee.
            ({"type": "SERVICE"}, "SERVICE"),
            ({"type": "NEW", "oldBalance": 490, "newBalance": 0}, "NEW"),
            ({"type": "DEPOSIT", "objid": "6901616fe9e88196b4eb64b3"}, "DEPOSIT"),
            ({"type": "DEPOSIT", "objid": None}, "DEPOSIT"),
        ],
    )
    def test_what_comes_in_by_a_payment_is_known_by_its_reference_whatever_its_type(
        self, fields: dict[str, Any], kind: str
    ) -> None:
        assert transaction(**{"objid": "OCPL-ABC123-XY12", **fields}).type == kind

    def test_nothing_is_booked_without_a_sign(self) -> None:
        assert (
            str(transaction(amount=0).amount) == str(transaction(amount="-0.00").amount) == "0.00"
        )

    @pytest.mark.parametrize(
        "fields",
        [
            *({"amount": amount} for amount in (None, "", "dear", True, [], "nan", "1e3", 490.005)),
            *({"amount": amount} for amount in (1e10, -(10**400), "Infinity")),
            *({"time": time} for time in (None, "", "soon", 1761699600, {})),
            *({"type": kind} for kind in (None, "", " \u202e", "\ud800", 7, ["ORDER"])),
        ],
    )
    def test_a_row_without_usable_type_amount_or_time_is_counted_and_skipped(
        self, fields: dict[str, Any]
    ) -> None:
        page = ledger({**BOOKED, **fields}, BOOKED, None, "ORDER", [])
        assert (page.rows, page.unreadable) == ((transaction(),), 4)

    def test_what_else_is_missing_or_unusable_is_left_out(self) -> None:
        bare = LedgerRow("", "ORDER", Decimal(-490), datetime.datetime(2025, 10, 29, 1, tzinfo=UTC))
        assert transaction() == bare
        nonsense = (7, True, {}, "a b", "../x", "\ud800", "x" * 101)
        for value in nonsense:
            assert transaction(_id=value, objid=value) == bare
        for value in ("dear", 490.005, "NaN", False, 1e300):
            assert transaction(oldBalance=value, newBalance=value) == bare

    @pytest.mark.parametrize(
        ("told", "kind"),
        [
            ("order", "ORDER"),
            ("Refund_Order", "REFUND-ORDER"),
            ("refund-adsl", "REFUND-ADSL"),
            ("Point_Exchange", "POINT-EXCHANGE"),
            ("New_Thing", "New_Thing"),
        ],
    )
    def test_a_type_is_known_however_it_is_written(self, told: str, kind: str) -> None:
        assert transaction(type=told).type == kind

    def test_a_type_is_cleaned_and_cut(self) -> None:
        assert transaction(type="ORDER\u202e\n" + "X" * 99).type == ("ORDER " + "X" * 99)[:40]

    def test_balances_that_contradict_the_amount_are_kept_as_told(self) -> None:
        row = transaction(oldBalance="100.50", newBalance=-7)
        told = (row.amount, row.balance_before, row.balance_after)
        assert told == (-490, Decimal("100.50"), -7)

    @pytest.mark.parametrize("count", [None, -1, 2.5, "many", True, 2**31])
    def test_a_number_of_pages_that_is_nonsense_is_not_told(self, count: object) -> None:
        page = ledger(totalPages=count, totalResults=count)
        assert (page.total_pages, page.total_results) == (None, None)

    def test_a_page_without_pagination_is_read(self) -> None:
        assert read_ledger({"items": [], "pagination": 3}) == LedgerPage((), 0, None, None)

    def test_the_decimal_context_of_the_site_does_not_matter(self) -> None:
        with localcontext(Context(prec=3, rounding=ROUND_UP, traps=[Inexact])):
            assert str(transaction(amount="123456.78").amount) == "-123456.78"

    @given(before=MONEY, change=MONEY, comes_in=st.booleans(), kind=st.sampled_from(["ORDER", "X"]))
    def test_whole_transactions_explain_their_balances(
        self, before: Decimal, change: Decimal, *, comes_in: bool, kind: str
    ) -> None:
        kind = "REFUND-ORDER" if comes_in and kind == "ORDER" else kind
        after = before + change if comes_in else before - change
        row = transaction(type=kind, amount=change, oldBalance=before, newBalance=after)
        assert row.amount == after - before
        assert (row.balance_before, row.balance_after) == (before, after)

    @given(
        st.lists(
            st.dictionaries(
                st.sampled_from([*BOOKED, "_id", "objid", "operation", "oldBalance", "newBalance"]),
                st.sampled_from(list(BOOKED.values()))
                | st.text(max_size=9)
                # Other numbers cannot occur, because the parser refuses the whole answer.
                | st.floats(allow_nan=False, allow_infinity=False)
                | st.integers()
                | st.none(),
            ),
            max_size=4,
        )
    )
    def test_any_row_is_read_or_counted(self, rows: list[dict[str, Any]]) -> None:
        page = ledger(*rows)
        assert len(page.rows) + page.unreadable == len(rows)
        for row in page.rows:
            assert 0 < len(row.type) <= 40
            assert row.amount.is_finite()
            assert row.amount == round(row.amount, 2)
            assert abs(row.amount) < 10**10


class TestStrictness:
    def test_the_error_about_an_unreadable_answer_quotes_nothing(self) -> None:
        with pytest.raises(Unreadable) as caught:
            parse(b'{"value": "CANARY-CODE"')
        assert str(caught.value) == "the answer is not a JSON object"
        assert caught.value.__context__ is None

    @given(st.binary())
    def test_any_bytes_are_parsed_or_raise_unreadable(self, body: bytes) -> None:
        with contextlib.suppress(Unreadable):
            assert isinstance(parse(body), dict)
