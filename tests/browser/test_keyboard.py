"""The staff's pages by keyboard: which controls are reached, their sequence, and visible focus."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from selenium.webdriver import ActionChains
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from giftcards.models import CardReveal, Note, Order
from tests.browser.browser import PATIENCE, Browser
from tests.browser.visits import PAGES
from tests.builders import CARDS, PRODUCT, TYPE
from tests.pages import LIST, page_of, plain

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

# Pages with controls that other pages lack, in the order in which they are visited.
SEEN = (
    "list", "new order", "new order, before it is bought", "report", "search, several cards",
    "delayed", "reveal", "revealed", "what happened", "provider, paused",
    "product", "product, before it is saved", "many products", "shop", "categories",
)  # fmt: skip
# On any page, this many key presses are enough to get from one control to another.
FAR = 60

# Records each control's look without focus, then which controls get the focus, and which of them
# look the same with it.
_WATCH = """
// Only what can be seen: an outline that is not drawn has a colour, too.
const look = element => {
    const style = getComputedStyle(element);
    const borders = ['top', 'right', 'bottom', 'left'].map(side => {
        const is = part => style.getPropertyValue(`border-${side}-${part}`);
        return parseFloat(is('width')) ? is('width') + is('style') + is('color') : '';
    });
    const outline = style.outlineStyle === 'none' ? '' : style.outline;
    return [outline, style.boxShadow, ...borders].join(' / ');
};
// Of the radio buttons of one name, Tab reaches one; the others are reached by arrow keys.
const first = control => control.type === 'radio'
    ? document.querySelector(`[type=radio][name=${control.name}]`) : control;
const controls = [...document.querySelectorAll(
    '#content :is(a[href], button, input, select, textarea, summary, [tabindex])'
)];
// Django focuses the first field of a form.
document.querySelector('.skip-to-content-link').focus();
window.looks = new Map(controls.map(control => [control, look(control)]));
window.reached = [];
window.unseen = new Set();
document.addEventListener('focusin', ({target}) => {
    if (!window.looks.has(target)) return;
    window.reached.push(first(target));
    if (look(target) === window.looks.get(target)) window.unseen.add(target.outerHTML);
});
return controls.filter(control =>
    control.tabIndex >= 0 && control.type !== 'hidden' && !control.disabled
    && first(control) === control && control.checkVisibility({visibilityProperty: true}));
"""
_TRAP = "addEventListener('keydown', event => {} && event.preventDefault())"
# A date and time field has seven Tab stops for its parts and one for its calendar.
_COUNT = """
return document.querySelectorAll('a[href], button, input, select, textarea, summary').length
    + 7 * document.querySelectorAll('input[type="datetime-local"]').length;
"""


class Keyboard:
    """A keyboard that presses keys in the window, and never uses elements directly."""

    def __init__(self, window: Browser) -> None:
        self.window = window

    def press(self, *keys: str) -> None:
        ActionChains(self.window.driver, duration=0).send_keys(*keys).perform()

    def forth(self, times: int) -> None:
        self.press(Keys.TAB * times)

    def back(self, times: int) -> None:
        chain = ActionChains(self.window.driver, duration=0).key_down(Keys.SHIFT)
        chain.send_keys(Keys.TAB * times).key_up(Keys.SHIFT).perform()

    def is_trapped(self, turn: Callable[[int], None]) -> bool:
        """Return True if the focus stays on its element."""
        here = self.window.driver.switch_to.active_element
        turn(1)
        return here == self.window.driver.switch_to.active_element

    def go(self, key: str = Keys.ENTER) -> None:
        """Press a key that leads to another page."""
        with self.window.leaving():
            self.press(key)

    def skip(self) -> None:
        """Skip the navigation with the page's first link."""
        self.press(Keys.TAB)
        assert self.is_on(".skip-to-content-link")
        self.press(Keys.ENTER)

    def is_on(self, selector: str) -> bool:
        return bool(
            self.window.run("return document.activeElement.matches(arguments[0])", selector)
        )

    def wait_for(self, selector: str) -> None:
        """Wait until the page itself has put the focus there."""
        WebDriverWait(self.window.driver, PATIENCE).until(lambda _driver: self.is_on(selector))

    def tab_to(self, selector: str) -> None:
        for _press in range(FAR):
            self.press(Keys.TAB)
            if self.is_on(selector):
                return
        pytest.fail(f"{selector} is not reached with {FAR} presses of Tab.")

    def skip_to(self, selector: str) -> None:
        self.skip()
        self.tab_to(selector)


@pytest.fixture
def keyboard(shop: Browser) -> Keyboard:
    return Keyboard(shop)


def nameless(window: Browser) -> list[str]:
    """Return the roles of focusable elements without an accessible name."""
    tree = window.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})
    return [
        node["role"]["value"]
        for node in tree["nodes"]
        if {"name": "focusable", "value": {"type": "booleanOrUndefined", "value": True}}
        in node.get("properties", [])
        and not node["name"]["value"]
        # Django's skip link leads to this element.
        and node["role"]["value"] != "main"
    ]


def go_round(keyboard: Keyboard, turn: Callable[[int], None]) -> list[Any]:
    """Return the controls of the page in the sequence in which they get the focus."""
    window = keyboard.window
    window.run("window.reached = []")
    # The page's navigation precedes the content, and the browser's own controls follow it.
    turn(window.run(_COUNT) + 2)
    reached: list[Any] = window.run("return [...new Set(window.reached)]")
    assert not keyboard.is_trapped(turn), f"{window.path()}: a trap"
    return reached


def walk(keyboard: Keyboard) -> list[Any]:
    """Tab through the page and back; return its controls, in the order of the page."""
    window = keyboard.window
    where = window.path()
    controls: list[Any] = window.run(_WATCH)
    assert go_round(keyboard, keyboard.forth) == controls, f"{where}: not in order"
    assert set(go_round(keyboard, keyboard.back)) == set(controls), f"{where}: the way back"
    assert window.run("return [...window.unseen]") == [], f"{where}: no sign of the focus"
    assert nameless(window) == [], f"{where}: a control without a name"
    return controls


def test_a_shops_work_is_done_by_keyboard(shop: Browser, keyboard: Keyboard) -> None:
    for permission in ("clipboardReadWrite", "clipboardSanitizedWrite"):
        shop.driver.execute_cdp_cmd(
            "Browser.grantPermissions", {"origin": shop.site, "permissions": [permission]}
        )
    # Filter the list.
    shop.open(LIST)
    keyboard.skip_to(".giftcards-filters summary")
    keyboard.press(Keys.SPACE)
    keyboard.tab_to(".giftcards-filter-groups [href='?attention=needed']")
    keyboard.go()
    assert len(shop.texts("#result_list .field-name")) == 2
    keyboard.skip_to(".giftcards-chosen li:last-child a")
    keyboard.go()
    # Search, and open the order.
    keyboard.skip_to("[name=secret]")
    keyboard.press("web-1042")
    keyboard.go()
    assert shop.texts("#result_list .field-name") == ["web-1042 invoice-42"]
    # The address still has the skip link's anchor, so Tab starts there.
    keyboard.tab_to("#result_list .field-name a")
    keyboard.go()
    assert shop.path() == page_of("web-1042")
    # Write a note.
    keyboard.skip_to("[name=note]")
    keyboard.press("She has called.", Keys.TAB)
    assert keyboard.is_on("button[form=giftcards-note]")
    keyboard.go(Keys.SPACE)
    assert Note.objects.get().text == "She has called."
    # Reveal a code, copy it, and hide it.
    keyboard.skip_to("[aria-label='Reveal card 2']")
    keyboard.go()
    keyboard.wait_for("[name=reason]")
    keyboard.press("Lost the e-mail")
    keyboard.go()
    assert shop.texts(".giftcards-secret")[0] == CARDS[1].value
    assert CardReveal.objects.get().reason == "Lost the e-mail"
    keyboard.skip_to("[data-copies]")
    keyboard.press(Keys.SPACE)
    shop.wait_for_text(".giftcards-revealed [role=status]", "Copied.")
    keyboard.press(Keys.TAB)
    assert keyboard.is_on(".giftcards-decide a")
    keyboard.go()
    assert shop.path() == page_of("web-1042")
    # Decide about a lost order, without pressing the button.
    shop.open(page_of("web-1040"))
    keyboard.skip_to(".giftcards-decide a")
    keyboard.go()
    keyboard.skip_to("[type=radio]")
    keyboard.press(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert keyboard.is_on("[value=reject]:checked")
    keyboard.press(Keys.ARROW_UP)
    assert keyboard.is_on("[value=send-again]:checked")
    keyboard.tab_to("[name=is_sure]")
    keyboard.press(Keys.SPACE)
    assert keyboard.is_on(":checked")
    keyboard.press(Keys.TAB)
    assert keyboard.is_on(".submit-row [type=submit]")
    # Place an order, up to the confirmation.
    shop.open(LIST)
    before = Order.objects.count()
    keyboard.skip_to(".object-tools .addlink")
    keyboard.go()
    # The first field of the form has the focus.
    assert keyboard.is_on("[name=card]")
    keyboard.press(Keys.ARROW_DOWN)
    chosen = shop.run("return document.activeElement.value")
    assert chosen == f"{PRODUCT} {TYPE}"
    keyboard.tab_to("[name=quantity]")
    keyboard.press("2")
    keyboard.go()
    assert shop.texts("button.giftcards-button") == ["Buy 2 for 980 DA"]
    keyboard.skip_to("button.giftcards-button")
    keyboard.press(Keys.TAB)
    assert keyboard.is_on("[name=_change]")
    assert Order.objects.count() == before
    assert shop.complaints() == []


def test_the_controls_of_an_order_are_reached_in_the_order_of_its_page(
    shop: Browser, keyboard: Keyboard
) -> None:
    shop.open(page_of("web-1042"))
    assert [plain(control.accessible_name) for control in walk(keyboard)] == [
        "Help",
        "+213 550 12 34 56",
        "customer-42@example.com",
        "Other orders of this customer: 9",
        "If the customer asks for their data, or wants it deleted",
        "web-1041",
        "Pay back the customer",
        "Order the missing cards again",
        "Correct the customer's address",
        "Record a complaint about a code",
        "For your developer",
        "Reveal card 1",
        "Reveal card 2",
        "Reveal card 3",
        "https://psn.example/redeem",
        "A note for your colleagues",
        "Add the note",
        "Close",
    ]


def test_each_control_has_a_name_and_shows_its_focus(shop: Browser, keyboard: Keyboard) -> None:
    for name in SEEN:
        PAGES[name](shop)
        shop.run("document.querySelectorAll('details').forEach(part => { part.open = true; })")
        assert walk(keyboard), name


def test_mistakes_are_noticed(shop: Browser, keyboard: Keyboard) -> None:
    for mistake, noticed in {
        "style.outline = 'none'": "no sign of the focus",
        "textContent = ''": "a control without a name",
        "tabIndex = 1": "not in order",
        _TRAP.format("event.key === 'Tab'"): "a trap",
        _TRAP.format("event.shiftKey"): "a trap",
    }.items():
        shop.open(page_of("web-1042"))
        shop.run(f"document.querySelector('.giftcards-decide a').{mistake}")
        with pytest.raises(AssertionError, match=noticed):
            walk(keyboard)
