"""A shop's own page on which staff confirm their identity before a code is revealed."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import include, path

from giftcards.admin.frame.reauthentication import record_proof
from giftcards.keys.secrecy import CardSecret
from giftcards.models import Card, CardReveal
from tests.builders import receive
from tests.pages import PASSWORD, ask_address, codes_on, let_pass, person, read, reveal

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = [pytest.mark.django_db, pytest.mark.urls(__name__)]

CODE, SERIAL = "CANARY-CODE-4711", "CANARY-SERIAL-8812"


def prove(request: HttpRequest) -> HttpResponse:
    """The shop's page, which asks for a token and accepts 4711."""
    if request.POST.get("token") == "4711":
        return record_proof(request)
    return HttpResponse("Your token?")


staff = ([path("prove/", prove, name="prove")], "staff")
urlpatterns = [path("admin/", admin.site.urls), path("staff/", include(staff))]


@pytest.fixture(autouse=True)
def _shop(set_conf: Any) -> None:
    set_conf(REAUTHENTICATE="staff:prove")


@pytest.fixture
def card() -> Card:
    return receive("web-1042", CardSecret(CODE, SERIAL)).cards.get()


def test_the_question_and_a_reveal_lead_to_the_page_of_the_shop(card: Card) -> None:
    # Signing in is not enough proof here, because the shop asks for more.
    browser = person()
    for response in (browser.get(ask_address(card)), reveal(browser, card, password=PASSWORD)):
        assert response.status_code == 302
        assert response["Location"] == f"/staff/prove/?next={quote(ask_address(card), safe='')}"
    # The shop's page rejects this token.
    browser.post("/staff/prove/", {"token": "0815"})
    assert reveal(browser, card).status_code == 302
    assert Client().post("/staff/prove/", {"token": "4711"}).status_code == 403
    assert person("view_order").get(ask_address(card)).status_code == 403
    assert not CardReveal.objects.exists()


def test_a_proof_leads_back_to_the_question_and_the_code_is_revealed(card: Card) -> None:
    browser = person()
    address = browser.get(ask_address(card))["Location"]
    response = browser.post(address, {"token": "4711"}, follow=True)
    assert response.redirect_chain == [(ask_address(card), 302)]
    assert 'name="password"' not in read(response)
    # The proof is valid for ten minutes.
    let_pass(browser, 590)
    assert codes_on(read(reveal(browser, card))) == [CODE, SERIAL]
    let_pass(browser, 601)
    assert reveal(browser, card).status_code == 302


@pytest.mark.parametrize(
    "address",
    ["https://evil.example/", "//evil.example/", "/\\evil.example", "javascript:alert(1)", "", " "],
)
def test_a_proof_leads_to_no_other_site(address: str) -> None:
    for data in ({}, {"next": address}):
        response = person().post(f"/staff/prove/?next={address}", {"token": "4711", **data})
        assert response["Location"] == "/admin/"
