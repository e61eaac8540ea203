"""Notes by staff about an order: added under its timeline, and never changed."""

from __future__ import annotations

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.db import router, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.urls import URLPattern, path
from django.utils.translation import gettext

from giftcards.admin.pages import OrderPages
from giftcards.models import Note, Order


class NotesPages(OrderPages):
    """The address that a new note is posted to."""

    def may_note(self, request: HttpRequest) -> bool:
        """True if the person may write notes: anybody who may check, resolve or add orders."""
        return (
            self.has_check_permission(request)
            or self.has_resolve_permission(request)
            or self.has_add_permission(request)
        )

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.note_view)
        page = path("<path:object_id>/note/", view, name="giftcards_order_note")
        return [page, *super().get_urls()]

    def note_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        order = self.order_for(request, object_id, allowed=self.may_note(request))
        by, typed = request.user.get_username(), request.POST.get("note", "")
        try:
            # Both or neither: no note without a trace.
            with transaction.atomic(using=router.db_for_write(Order)):
                if Note.objects.add(order, typed, by=by):
                    self.log_change(request, order, "Added a note.")
        except ValidationError as error:
            # A page of its own, so that the typed text is not lost.
            title = gettext("The note was not added")
            return self.render_page(
                request, "note", title=title, original=order, typed=typed, errors=error.messages
            )
        self.message_user(request, gettext("The note was added."), messages.SUCCESS)
        return self.to_order(order)
