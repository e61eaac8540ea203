"""Every page of the admin, how a person gets there, and what is found wrong with it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import timedelta

from django.urls import reverse
from django.utils import timezone

from giftcards.conf import conf
from giftcards.engine.approvals import put_on_hold_for_review
from giftcards.models import Category, CustomerRefund, Order, Product, ProviderState
from giftcards.provider.client import Client
from giftcards.rules.times import today
from tests.browser.axe import NARROW, Look, load, violations
from tests.browser.browser import Browser
from tests.browser.targets import small_targets
from tests.builders import CARDS, PRODUCT, TYPE
from tests.pages import LEDGER, LIST, PROVIDER_PAGE, page_of
from tests.stage import fill_catalogue

PRODUCTS = "/admin/giftcards/product/"
SUBMIT = ".submit-row [type=submit]"
SEARCH_BUTTON = ".giftcards-search button"
Visit = Callable[[Browser], None]


def at(address: str) -> Visit:
    return lambda browser: browser.open(address)


def about(reference: str, name: str = "change") -> Visit:
    """Return a visit to a page about an order."""

    def visit(browser: Browser) -> None:
        browser.open(page_of(reference, name))

    return visit


def unsold(browser: Browser) -> None:
    """Visit the page on which staff enter what the customer of a final order paid."""
    Order.objects.filter(reference="web-1039").update(sale_amount=None, open_amount=None)
    about("web-1039", "sale")(browser)


def taking_back(browser: Browser) -> None:
    """Visit the page on which staff take back a refund."""
    refund = CustomerRefund.objects.get(reference="cart-38")
    browser.open(f"{LIST}refunds/{refund.pk}/take-back/")


def here(_browser: Browser) -> None:
    """Stay on the page of the previous visit."""


def sent(visit: Visit, button: str = SUBMIT, **values: str) -> Visit:
    """Return a visit to the page that answers another page's form, filled in with ``values``."""

    def press(browser: Browser) -> None:
        visit(browser)
        browser.fill(**values)
        browser.run(
            "document.querySelectorAll('form').forEach(form => { form.noValidate = true; })"
        )
        browser.press(button)

    return press


def comparison(browser: Browser) -> None:
    """Visit the page that compares a lost order with an order at the provider."""
    with Client(base_url=conf.base_url, api_key=conf.api_key, timeout=5) as client:
        other = client.place(product_id=PRODUCT, type_id=TYPE, quantity=3)
    about("web-1040", "resolve")(browser)
    browser.find("[value=adopt-other]").click()
    browser.fill(provider_order_id=other)
    browser.find("[name=is_sure]").click()
    browser.press(SUBMIT)


def adopted(name: str) -> Visit:
    """Return a visit to a lost order for which staff adopted one of the provider's orders."""

    def visit(browser: Browser) -> None:
        comparison(browser)
        browser.find("[name=is_sure]").click()
        browser.press(SUBMIT)
        about("web-1040", name)(browser)

    return visit


def asking(browser: Browser) -> None:
    """Visit the page that asks for a reason before it reveals a code."""
    about("web-1042")(browser)
    browser.press("a[href*='/cards/']")


def with_catalogue(visit: Visit) -> Visit:
    """Return a visit to a page after the provider's catalogue has been read."""

    def read(browser: Browser) -> None:
        fill_catalogue()
        visit(browser)

    return read


def chosen(browser: Browser) -> None:
    """Visit the page that confirms a new order."""
    browser.open(f"{LIST}add/")
    browser.run(f"document.querySelector('[name=card]').value = '{PRODUCT} {TYPE}'")
    browser.fill(quantity="2")
    browser.press("[name=_save]")


def a_product(browser: Browser) -> None:
    browser.open(f"{PRODUCTS}{Product.objects.get(product_id=PRODUCT).pk}/change/")


def product_with(column: str, value: str) -> Visit:
    """Return a visit to the answer after a value of a product or its types was changed."""

    def visit(browser: Browser) -> None:
        a_product(browser)
        name = browser.find(f"[name$={column}]").get_attribute("name")
        browser.fill(**{str(name): value})
        browser.press(SUBMIT)

    return visit


def many_products(browser: Browser) -> None:
    """Visit the page that asks what to do with the selected products."""
    browser.open(PRODUCTS)
    browser.find(".action-select").click()
    browser.choose("action", "change_shelf")
    browser.press("#changelist-form .actions button")


def more_categories(browser: Browser) -> None:
    """Visit the second page of a long list of categories."""
    Category.objects.named([f"Games {number:03}" for number in range(201)])
    browser.open("/admin/giftcards/category/?p=2")


def redemption_of(name: str) -> Visit:
    """Return a visit to the redemption instructions of the product or its category."""

    def visit(browser: Browser) -> None:
        product = Product.objects.get(product_id=PRODUCT)
        key = product.pk if name == "product" else product.category_id
        browser.open(reverse(f"admin:giftcards_{name}_redemption", args=[key]))

    return visit


def first_entry(browser: Browser) -> None:
    browser.open(LEDGER)
    browser.press("#result_list .field-when a")


def paused_at_the_provider(browser: Browser) -> None:
    paused(browser)
    browser.open(PROVIDER_PAGE)


def paused(browser: Browser) -> None:
    until = timezone.now() + timedelta(minutes=5)
    ProviderState.objects.pause("outage", detail="It is away.", until=until)
    browser.open(LIST)


def on_hold_for_review(browser: Browser) -> None:
    """Visit the page on which staff approve or reject an order."""
    put_on_hold_for_review(Order.objects.get(reference="web-1044"), objection="Third order today")
    about("web-1044", "review")(browser)


def ticking_off(browser: Browser) -> None:
    about("web-1040")(browser)
    browser.press(".giftcards-problems .giftcards-button")


def waiting(browser: Browser) -> None:
    """Visit the page on which staff end the wait of an order."""
    soon = timezone.now() + timedelta(minutes=5)
    order = Order.objects.filter(reference="web-1044")
    order.update(due_at=None, send_after=soon, review="", **Order().problem_columns())
    about("web-1044", "wait")(browser)


# Pages that change what the others show come last.
PAGES: dict[str, Visit] = {
    "start": at("/admin/giftcards/desk/"),
    "start, with the list of pages": at("/admin/giftcards/"),
    "help": at("/admin/giftcards/desk/help/"),
    "list": at(LIST),
    "search, nothing": sent(here, SEARCH_BUTTON, secret="nobody"),
    "search, found": sent(at(LIST), SEARCH_BUTTON, secret=CARDS[0].value),
    "list, filtered": at(f"{LIST}?status__exact=DELAYED"),
    "search without a result": at(f"{LIST}?q=nobody"),
    "new order": at(f"{LIST}add/"),
    "new order, wrong": sent(here, "[name=_save]", quantity="0"),
    "new order by catalogue": with_catalogue(at(f"{LIST}add/")),
    "new order, before it is bought": chosen,
    "catalogue": at(PRODUCTS),
    "product": a_product,
    "product, wrong": product_with("margin_percent", "-1"),
    "product, before it is saved": product_with("fixed_price", "480"),
    "many products": many_products,
    "redemption": redemption_of("product"),
    "redemption of a category": redemption_of("category"),
    "shop": at("/admin/giftcards/shelf/"),
    "categories": at("/admin/giftcards/category/"),
    "categories, second page": more_categories,
    "report": at(f"{LIST}report/"),
    "report by product": at(f"{LIST}report/?by=product"),
    "report, wrong": at(f"{LIST}report/?from=2026-11-31"),
    "report, empty": at(f"{LIST}report/?from=2020-01-01&to=2020-01-31"),
    "close a month": at(f"{LIST}report/close/"),
    "close a month, wrong": sent(here, ".giftcards-closing form[method=post] button"),
    "this month": at(f"{LIST}report/close/?month={today():%Y-%m}"),
    "search, several cards": sent(at(LIST), SEARCH_BUTTON, secret=f"code: {CARDS[0].value[-4:]}"),
    "delivered": about("web-1036"),
    "credited back": about("web-1038"),
    "rejected": about("web-1039"),
    "lost": about("web-1040"),
    "delayed": about("web-1041"),
    "partly delivered": about("web-1042"),
    "note, wrong": sent(here, "button[form=giftcards-note]"),
    "in progress": about("web-1043"),
    "to be sent": about("web-1044"),
    "held": about("web-1035"),
    "what may it cost": about("web-1035", "price"),
    "what may it cost, wrong": sent(here),
    "reveal": asking,
    "reveal, wrong": sent(here),
    "revealed": sent(asking, reason="Lost the e-mail"),
    "revealed codes": at("/admin/giftcards/cardreveal/"),
    "ledger": at(LEDGER),
    "ledger, a period": at(f"{LEDGER}?period=week"),
    "ledger, filtered": at(f"{LEDGER}?order=guessed&type=REFUND-ORDER"),
    "ledger, an entry": first_entry,
    "what the customer paid": unsold,
    "correct the customer": about("web-1042", "customer"),
    "correct the customer, wrong": sent(here),
    "order again": about("web-1042", "reorder"),
    "complain": about("web-1042", "dispute"),
    "acknowledge": ticking_off,
    "pay back": about("web-1042", "pay_back"),
    "pay back, wrong": sent(here, amount="", reference=""),
    "pay back, before it is recorded": sent(about("web-1042", "pay_back")),
    "take back": taking_back,
    "take back, wrong": sent(here),
    "refunds": at("/admin/giftcards/customerrefund/"),
    "a customer's data": at(f"{LIST}customer-data/"),
    "a customer's data, wrong": sent(here, "#content-main .submit-row button", customer="x"),
    "a customer's data, found": sent(
        at(f"{LIST}customer-data/"), ".submit-row button", customer="customer-42@example.com"
    ),
    "cancel": about("web-1044", "cancel"),
    "ordered again": sent(about("web-1042", "reorder")),
    "what happened": about("web-1040", "resolve"),
    "what happened, wrong": sent(here),
    "compare": comparison,
    "release": adopted("release"),
    "review": on_hold_for_review,
    "wait": waiting,
    "history": about("web-1040", "history"),
    "provider": at(PROVIDER_PAGE),
    "list, paused": paused,
    "provider, paused": paused_at_the_provider,
}


# Django's table of past changes may be wider.
WIDER = {"history"}


class Findings:
    """The faults that were found, each with the pages that have it; empty if there are none."""

    def __init__(self) -> None:
        self._places: dict[str, list[str]] = defaultdict(list)

    def look_at(self, browser: Browser, name: str, looks: Iterable[Look]) -> None:
        """Add the faults of the current page in these themes and windows.

        This includes content that does not fit into a narrow window, and targets too small for a
        finger.
        """
        load(browser)
        for theme, window in looks:
            browser.look(theme, window)
            for violation in violations(browser):
                self._places[str(violation)].append(f"{name} ({theme}, {window[0]} px)")
        browser.resize(*NARROW)
        if browser.overflow() and name not in WIDER:
            self._places[f"wider than a window of {NARROW[0]} px"].append(name)
        for target in small_targets(browser):
            self._places[target].append(name)

    def __bool__(self) -> bool:
        return bool(self._places)

    def __str__(self) -> str:
        return "\n".join(f"{what}\n  in {', '.join(at)}" for what, at in self._places.items())
