"""The manual for staff: every page leads to its topic, in every language."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin import AdminSite
from django.test import Client, RequestFactory
from django.urls import URLPattern, path
from django.utils import translation

from giftcards.admin import OrderAdmin
from giftcards.admin.frame import manual as module
from giftcards.admin.frame.manual import FOLDER, TOPICS, as_html, manual, topics
from giftcards.models import Order
from giftcards.plugins import INSTALLED
from tests.builders import PARTIAL, settle
from tests.docs.pages import PAGES
from tests.manual import LANGUAGES, names, quoted, shape, source
from tests.pages import LEDGER, LIST, PROVIDER_PAGE, SEARCH, order_page, read, sign_in, text

pytestmark = pytest.mark.django_db

HELP = "/admin/giftcards/desk/help/"
APPS = ("giftcards", *INSTALLED)


def own_pages() -> list[URLPattern]:
    """Return the pages of the apps, except the manual and views that only redirect to a page."""
    found = []
    for model, pages in admin.site._registry.items():
        if model._meta.app_label in APPS:
            found += [url for url in pages.get_urls() if url.name]
    without = {"giftcards_help", "giftcards_catalogue_read", "giftcards_providerstate_resume"}
    return [url for url in found if url.name not in without]


def link(html: str) -> list[str]:
    return re.findall(r'<p class="giftcards-help"><a href="([^"]+)">', html)


def test_every_page_has_a_topic_of_the_manual_and_every_topic_a_page() -> None:
    request: Any = RequestFactory().get("/")
    found = {}
    for page in own_pages():
        request.resolver_match = type("Match", (), {"func": page.callback})
        found[page.name] = module._topic_of(request)
    assert {name: topic for name, topic in found.items() if topic not in topics()} == {}
    assert set(topics()) - set(found.values()) == set()


ADDRESSES = {
    "/admin/giftcards/": "start",
    "/admin/giftcards/desk/": "start",
    LIST: "list",
    f"{LIST}add/": "adding",
    "/admin/giftcards/product/": "products",
    "/admin/giftcards/category/": "prices",
    "/admin/giftcards/shelf/": "prices",
    "/admin/giftcards/customerrefund/": "refunds",
    "/admin/giftcards/cardreveal/": "revealing",
    PROVIDER_PAGE: "provider",
    f"{LIST}report/": "reports",
    f"{LIST}report/close/": "closing",
    LEDGER: "ledger",
    "/admin/giftcards_books/": "reports",
    "/admin/giftcards_delivery/": "messages",
    "/admin/giftcards_delivery/delivery/": "messages",
    "/admin/giftcards_delivery/cardlink/": "messages",
    "/admin/giftcards_delivery/staffdigest/": "messages",
}


@pytest.mark.all_apps
@pytest.mark.parametrize(("address", "topic"), ADDRESSES.items())
def test_a_page_leads_to_its_topic(boss: Client, address: str, topic: str) -> None:
    assert link(read(boss.get(address))) == [f"{HELP}#{topic}"]


def test_the_answer_to_a_search_leads_to_its_topic(boss: Client) -> None:
    html = read(boss.post(SEARCH, {"secret": "nobody"}))
    assert link(html) == [f"{HELP}#finding"]


@pytest.mark.parametrize(
    ("name", "topic"),
    {
        "change": "order",
        "history": "order",
        "reorder": "reordering",
        "pay_back": "refunds",
        "customer": "correcting",
        "dispute": "complaints",
    }.items(),
)
def test_a_page_about_an_order_leads_to_its_topic(boss: Client, name: str, topic: str) -> None:
    order = settle("web-1042", PARTIAL, sale_price=Decimal(550), customer_email="amina@example.com")
    assert link(read(boss.get(order_page(order, name)))) == [f"{HELP}#{topic}"]


def test_the_manual_has_every_topic_under_its_anchor(boss: Client) -> None:
    html = read(boss.get(HELP))
    assert re.findall(r'<section id="([\w-]+)"', html) == list(topics())
    assert re.findall(r'<li><a href="#([\w-]+)">', html) == list(topics())
    assert "Press &quot;Order the missing cards again&quot;." in html
    # The manual has no help link to itself.
    assert link(html) == []


@pytest.mark.parametrize(
    ("permissions", "status"),
    [((), 403), (("view_order",), 200), (("reveal_card",), 200)],
)
def test_staff_with_a_permission_of_the_app_may_read_the_manual(
    permissions: tuple[str, ...], status: int
) -> None:
    assert sign_in(*permissions).get(HELP).status_code == status


def test_a_permission_of_another_app_does_not_open_the_manual(db: None) -> None:
    from django.contrib.auth import get_user_model
    from django.contrib.auth.models import Permission

    user = get_user_model().objects.create_user("karim", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_user"))
    browser = Client()
    browser.force_login(user)
    assert browser.get(HELP).status_code == 403
    assert link(read(browser.get("/admin/"))) == []


def test_who_is_not_staff_signs_in_first(client: Client) -> None:
    response = client.get(HELP)
    assert (response.status_code, response["Location"]) == (302, f"/admin/login/?next={HELP}")


@pytest.mark.parametrize(
    ("person", "site", "expected"),
    [
        ("en", "fr", "en"),
        ("fr-dz", "en", "fr"),
        ("ar-dz", "en", "ar"),
        ("de", "fr", "fr"),
        ("de", "ar-dz", "ar"),
        ("de", "de", "en"),
    ],
)
def test_the_manual_is_in_the_language_of_the_person_or_of_the_site_or_in_english(
    person: str, site: str, expected: str, settings: Any
) -> None:
    settings.LANGUAGE_CODE = site
    with translation.override(person):
        found = manual()
    assert found.language == expected
    assert found.direction == ("rtl" if expected == "ar" else "ltr")


def test_a_page_in_arabic_shows_the_manual_in_arabic(boss: Client) -> None:
    html = read(boss.get(HELP, headers={"accept-language": "ar"}))
    assert '<div class="giftcards-manual" lang="ar" dir="rtl">' in html
    assert "طلب البطاقات الناقصة" in text(html)


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("a <b onclick=x>b</b>", "&lt;b onclick=x&gt;b&lt;/b&gt;"),
        ("[a](javascript:alert(1))", "[a](javascript:alert(1))"),
        ("[a](https://example.com)", "[a](https://example.com)"),
        ("![a](https://example.com/a.png)", "![a](https://example.com/a.png)"),
        ("<https://example.com>", "&lt;https://example.com&gt;"),
        ("[a](#start)", '<a href="#start">a</a>'),
    ],
)
def test_a_text_of_the_manual_becomes_no_html_of_its_own_and_no_other_link(
    typed: str, shown: str
) -> None:
    html = as_html(typed, ("start",))
    assert shown in html
    assert re.findall(r"<(?:script|b|img)\b", html) == []


def test_a_link_to_the_topic_of_an_absent_app_is_a_plain_text() -> None:
    assert as_html("See [the report](#reports).", TOPICS) == "<p>See the report.</p>\n"


# A custom admin site without the start page.
lonely = AdminSite()
lonely.register(Order, OrderAdmin)
urlpatterns = [path("admin/", lonely.urls)]


@pytest.mark.urls(__name__)
def test_a_site_without_the_start_page_has_no_link(boss: Client) -> None:
    order = settle("web-1042", PARTIAL)
    assert link(read(boss.get(order_page(order, "dispute")))) == []


@pytest.mark.all_apps
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_the_same_topics(language: str) -> None:
    files = {path.name for path in (FOLDER / language).iterdir()}
    assert files == {f"{topic}.md" for topic in topics()}


@pytest.mark.all_apps
@pytest.mark.every_row
@pytest.mark.parametrize("topic", topics())
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_topic_has_the_same_headings_and_links_in_every_language(
    language: str, topic: str
) -> None:
    levels, links = shape(source(language, topic))
    assert levels[0] == 2
    assert set(levels[1:]) <= {3}
    assert set(links) <= set(topics())
    assert (levels, links) == shape(source("en", topic))


@pytest.mark.all_apps
@pytest.mark.every_row
@pytest.mark.parametrize("topic", topics())
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_topic_names_buttons_and_headings_as_the_pages_show_them(
    language: str, topic: str
) -> None:
    """In English, every quoted name must be a text of the pages; elsewhere, its translation."""
    shown = names(language)
    originals = quoted(source("en", topic))
    assert [name for name in originals if name not in shown] == []
    found = quoted(source(language, topic))
    allowed = {name: shown[name] for name in originals}
    assert [name for name in found if not any(name in texts for texts in allowed.values())] == []
    assert [name for name, texts in allowed.items() if not texts & set(found)] == []


@pytest.mark.all_apps
@pytest.mark.parametrize("language", LANGUAGES)
def test_the_documentation_has_every_topic_in_every_language(language: str) -> None:
    page = PAGES["docs/manual.md" if language == "en" else f"docs/manual.{language}.md"]
    included = re.findall(rf"^\(manual-{language}-([\w-]+)\)=$", page, re.MULTILINE)
    assert sorted(included) == sorted(topics())
    assert source(language, "start").splitlines()[0] in page.splitlines()
