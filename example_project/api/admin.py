from __future__ import annotations

from typing import Any

from django.contrib import admin

from example_project.api.models import Reveal


@admin.register(Reveal)
class RevealAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Staff see who was shown codes and when; nobody changes it."""

    list_display = ("order", "user", "at")
    list_select_related = ("order", "user")
    search_fields = ("order__reference", "user__username")

    def has_add_permission(self, *_: Any) -> bool:
        return False

    def has_change_permission(self, *_: Any) -> bool:
        return False

    def has_delete_permission(self, *_: Any) -> bool:
        return False
