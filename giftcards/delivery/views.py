"""The customer's pages."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse, HttpResponseNotFound


def cards(request: HttpRequest, token: str) -> HttpResponse:  # noqa: ARG001
    return HttpResponseNotFound()


def my_cards(request: HttpRequest) -> HttpResponse:  # noqa: ARG001
    return HttpResponseNotFound()
