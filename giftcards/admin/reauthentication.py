"""Staff prove again who they are, before they see what is worth money.

By default with their password. A shop with a second factor or single sign-on names a page of its
own in ``GIFTCARDS["REAUTHENTICATE"]``; that page calls :func:`confirm`, which is public.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from django.contrib.admin.models import ADDITION, LogEntry
from django.contrib.auth import (
    BACKEND_SESSION_KEY,
    HASH_SESSION_KEY,
    authenticate,
    load_backend,
    update_session_auth_hash,
    user_logged_in,
)
from django.contrib.auth.backends import RemoteUserBackend
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import Q
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.crypto import constant_time_compare
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext

from giftcards.conf import conf
from giftcards.secrecy import Masked, contained

# How long a proof holds (seconds).
_HOLDS = 10 * 60
# How long a password is no proof that was set without the old one.
_NEW = timedelta(hours=1)
# Its place in the session.
_PROOF = "giftcards_proof"


def confirm(request: HttpRequest) -> HttpResponseRedirect:
    """Record that the person has just proven who they are, and send them back to what they did.

    The page that ``GIFTCARDS["REAUTHENTICATE"]`` names calls it when it is content, and returns
    what this returns. The address to go back to is the parameter ``next``; if it is missing or
    leads to another site, it is the start page of the admin.
    """
    if not request.user.is_authenticated:
        raise PermissionDenied
    _remember(request, request.user)
    return HttpResponseRedirect(_address_to_go_back_to(request))


def is_confirmed(request: HttpRequest) -> bool:
    """Whether the person has proven in the last ten minutes, in this session, who they are."""
    proof = request.session.get(_PROOF)
    if not isinstance(proof, dict) or proof.get("by") != _holder(request, request.user):
        return False
    if proof["is_login"] and conf.reauthenticate:
        # The page of the shop asks for more than that.
        return False
    # A proof of the future was made before the clock was set back.
    return bool(0 <= time.time() - proof["at"] <= _HOLDS)


def prove(request: HttpRequest, password: Masked) -> None:
    """Remember that the person has proven who they are with ``password``.

    Raises ``ValidationError``, for the form that asked for it, if it proves nothing.
    """
    if not _is_right(request, password):
        # The same whatever is wrong: this tells nobody whether they are locked out.
        raise ValidationError(gettext("That did not work. Try again."))
    if _has_new_password(request.user):
        raise ValidationError(
            gettext(
                "This password was set in the admin less than an hour ago, without the old one. It"
                " proves nothing yet: try again later."
            )
        )
    _remember(request, request.user)


@contained
def _is_right(request: HttpRequest, password: str) -> bool:
    """Whether ``password`` is that of the person who is signed in.

    It goes through the site's backends, so that those which lock people out after wrong passwords
    hear of it.
    """
    name = request.user.get_username()
    user = authenticate(request, username=name, password=password)
    if user is None or user.pk != request.user.pk:
        return False
    if not _has_hash_of(request, user):
        # It was hashed anew, as a change of Django's hashers has it: without this, the person
        # would be signed out.
        update_session_auth_hash(request, user)
    return True


def _has_new_password(user: Any) -> bool:
    """Whether the password was set within the last hour, without the old one.

    That is on the admin's pages of users. Whoever finds the screen of somebody who manages users
    unlocked can set any password there, theirs as well; the admin's log says so.
    """
    kind = ContentType.objects.get_for_model(user, for_concrete_model=False)
    lately = LogEntry.objects.filter(
        content_type=kind, object_id=str(user.pk), action_time__gt=timezone.now() - _NEW
    )
    is_set = Q(action_flag=ADDITION) | Q(change_message__icontains="password")
    return lately.filter(is_set).exists()


@receiver(user_logged_in, dispatch_uid="giftcards.remember_login")
def remember_login(request: HttpRequest | None, user: Any, **_named: object) -> None:
    """Signing in is a proof, too, if the person has typed something for it."""
    if request is None or not hasattr(request, "session") or not getattr(user, "is_staff", False):
        return
    if not (_is_automatic(request) or _has_new_password(user)):
        _remember(request, user, is_login=True)


def _is_automatic(request: HttpRequest) -> bool:
    """Whether this login is none of the person's doing.

    Middleware signs in by what a web server tells of any request, and the answer of a single
    sign-on comes as a GET: without a question, as long as the person is signed in there.
    """
    backend = load_backend(request.session[BACKEND_SESSION_KEY])
    return request.method in {"GET", "HEAD", "OPTIONS"} or isinstance(backend, RemoteUserBackend)


def _remember(request: HttpRequest, user: Any, *, is_login: bool = False) -> None:
    by = _holder(request, user)
    request.session[_PROOF] = {"at": time.time(), "by": by, "is_login": is_login}


def _holder(request: HttpRequest, user: Any) -> list[str]:
    """Whose proof it is. A changed password ends it, as it ends the person's other sessions."""
    return [str(user.pk), request.session.get(HASH_SESSION_KEY, "")]


def _has_hash_of(request: HttpRequest, user: Any) -> bool:
    if not hasattr(user, "get_session_auth_hash"):
        return True
    stored = request.session.get(HASH_SESSION_KEY, "")
    return constant_time_compare(stored, user.get_session_auth_hash())


def _address_to_go_back_to(request: HttpRequest) -> str:
    address = request.POST.get("next") or request.GET.get("next", "")
    is_safe = url_has_allowed_host_and_scheme(
        address, allowed_hosts={request.get_host()}, require_https=request.is_secure()
    )
    return address if is_safe else reverse("admin:index")


def address_of_proof(*, back_to: str) -> str:
    """Where the shop's own page asks for the proof, and then leads ``back_to``."""
    return reverse(conf.reauthenticate, query={"next": back_to})
