"""Reauthentication, which makes staff prove their identity again.

Staff must prove their identity before they see codes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from django.contrib.admin.models import ADDITION, CHANGE, LogEntry
from django.contrib.auth import (
    BACKEND_SESSION_KEY,
    HASH_SESSION_KEY,
    authenticate,
    get_user_model,
    update_session_auth_hash,
    user_logged_in,
)
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import connection, transaction
from django.db.models import Q, QuerySet
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.crypto import constant_time_compare, get_random_string
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext

from giftcards.conf import conf
from giftcards.keys.secrecy import Masked, contained
from giftcards.models import Card
from giftcards.rules.times import SLACK

logger = logging.getLogger(__name__)

# The time for which a proof of identity is valid (seconds).
_HOLDS = 10 * 60
# If a new password was set without entering the old one, it is not accepted as proof for this long.
_NEW = timedelta(hours=1)
# After this number of wrong passwords in a session within a day, the session does not accept
# further passwords. The number is small, because the site may lock users out, often after five
# wrong passwords, and these passwords also count.
_MOST_WRONG = 4
_COUNTED_FOR = timedelta(days=1)
# The maximum number of password fields of a login form that are checked. Each check may take a
# fraction of a second.
_MOST_TYPED = 2
# The text of the entry in the admin's log.
WRONG_PASSWORD = "Wrong password"  # noqa: S105
_PROOF = "giftcards_proof"
_SESSION = "giftcards_session"


def record_proof(request: HttpRequest) -> HttpResponseRedirect:
    """Record that a person has proven their identity.

    The shop's page in ``GIFTCARDS["REAUTHENTICATE"]`` calls this function after the user has
    confirmed their identity. Returns a redirect to the URL in the ``next`` parameter. If ``next``
    is missing or points to another site, the redirect leads to the start page of the admin. Raises
    ``PermissionDenied`` if the person is not logged in.
    """
    if not request.user.is_authenticated:
        raise PermissionDenied
    _remember(request, request.user)
    back_to = request.POST.get("next") or request.GET.get("next", "")
    is_safe = url_has_allowed_host_and_scheme(
        back_to, allowed_hosts={request.get_host()}, require_https=request.is_secure()
    )
    return HttpResponseRedirect(back_to if is_safe else reverse("admin:index"))


def is_confirmed(request: HttpRequest) -> bool:
    """Return True if the person has recently proven their identity.

    The person must have proven their identity in this session, within the last ten minutes.
    """
    proof = request.session.get(_PROOF)
    if not isinstance(proof, dict) or proof.get("by") != _holder(request, request.user):
        return False
    if proof["is_login"] and conf.reauthenticate:
        # The shop's own page requires more than a login, so a login is not a proof.
        return False
    # The time of a proof may be slightly in the future, because the clocks of two servers differ,
    # or because a clock was set back.
    return bool(-SLACK.total_seconds() <= time.time() - proof["at"] <= _HOLDS)


def asks_for_password(request: HttpRequest) -> bool:
    """Return True if the person must enter a password as a proof of identity."""
    return not (is_confirmed(request) or conf.reauthenticate) and has_password(request)


def has_password(request: HttpRequest) -> bool:
    """Return True if the person has a password that this site can check."""
    if request.session.get(BACKEND_SESSION_KEY) in conf.password_backends:
        return True
    # Some backends create users with an empty password. Django's has_usable_password() returns True
    # for these users.
    user: Any = request.user
    return bool(getattr(user, "password", "")) and user.has_usable_password()


def prove(request: HttpRequest, password: Masked) -> None:
    """Check ``password``, and record that the user has proved their identity.

    Raises ``ValidationError`` if the password is wrong, if it was set so recently that it does not
    prove anything, or if too many wrong passwords were entered in this session.
    """
    attempt = _begin(request)
    if attempt is None:
        raise ValidationError(
            gettext(
                "Too many wrong passwords have been entered since you signed in. Sign out, and sign"
                " in again."
            )
        )
    if not _is_right(request, password):
        logger.warning("%s entered a wrong password to prove their identity.", request.user)
        # Every failure has the same message, so that the message does not reveal whether a person
        # is locked out.
        raise ValidationError(gettext("Your identity could not be confirmed. Try again."))
    attempt.delete()
    if _has_new_password(request.user):
        raise ValidationError(
            gettext(
                "This password was set in the admin less than an hour ago, without the old"
                " password. It cannot be used to confirm your identity yet. Try again later."
            )
        )
    _remember(request, request.user)


def _begin(request: HttpRequest) -> LogEntry | None:
    """Count a password as wrong before it is checked.

    Returns ``None`` if too many wrong passwords have already been entered in this session. The
    record is written first, so that simultaneous requests cannot exceed the limit. Passwords are
    counted separately for each session, so that somebody with a stolen session cannot lock the
    owner out of other sessions.
    """
    person: Any = request.user.pk
    session = request.session.get(_SESSION, "")
    about = {
        "user_id": person,
        "content_type": ContentType.objects.get_for_model(Card),
        "object_repr": WRONG_PASSWORD,
        "change_message": f"{WRONG_PASSWORD} (session {session})",
    }
    with transaction.atomic():
        take_turn(request)
        attempt = LogEntry.objects.create(**about, action_flag=CHANGE)
        since = timezone.now() - _COUNTED_FOR
        if LogEntry.objects.filter(**about, action_time__gt=since).count() <= _MOST_WRONG:
            return attempt
        attempt.delete()
    return None


@contained
def _is_right(request: HttpRequest, password: str) -> bool:
    """Return True if ``password`` belongs to the person who is signed in.

    The site's authentication backends check the password, because a backend might lock people out
    after wrong passwords.
    """
    name = request.user.get_username()
    user = authenticate(request, username=name, password=password)
    if user is None or user.pk != request.user.pk:
        return False
    # A backend for single sign-on may have logged the person in without checking the password.
    if not _is_checked(user, password, by=user.backend):
        return False
    stored = request.session.get(HASH_SESSION_KEY, "")
    has_hash = hasattr(user, "get_session_auth_hash")
    if has_hash and not constant_time_compare(stored, user.get_session_auth_hash()):
        # The check may have updated the hash of the password. Without this call, the new hash would
        # sign the person out.
        update_session_auth_hash(request, user)
    return True


def _is_checked(user: Any, password: str, *, by: str) -> bool:
    """Return True if ``password`` is the password of ``user``.

    ``by`` is the backend that logged the user in. If the backend is listed in
    ``GIFTCARDS["PASSWORD_BACKENDS"]``, the function trusts that the backend has checked the
    password. Otherwise, the function checks the password against the hash in the database.
    """
    if by in conf.password_backends:
        return bool(password)
    return hasattr(user, "check_password") and user.check_password(password)


def _has_new_password(user: Any) -> bool:
    """Return True if a new password was recently set.

    A password counts as new if it was set within the last hour by a person who did not have to
    enter the old password. A new password is not a proof, because anyone at a manager's unlocked
    screen can set passwords in the admin, even the manager's own password. The admin's log records
    such changes.
    """
    kind = ContentType.objects.get_for_model(user, for_concrete_model=False)
    lately = LogEntry.objects.filter(
        content_type=kind, object_id=str(user.pk), action_time__gt=timezone.now() - _NEW
    )
    is_set = Q(action_flag=ADDITION) | Q(change_message__icontains="password")
    return lately.filter(is_set).exists()


@receiver(user_logged_in, dispatch_uid="giftcards.remember_login")
def remember_login(request: HttpRequest | None, user: Any, **_named: object) -> None:
    """Record a staff login as a proof of identity if a password was entered."""
    if request is None or not hasattr(request, "session") or not getattr(user, "is_staff", False):
        return
    request.session[_SESSION] = get_random_string(12)
    if _has_typed_password(request, user) and not _has_new_password(user):
        _remember(request, user, is_login=True)


@contained
def _has_typed_password(request: HttpRequest, user: Any) -> bool:
    """Return True if the login form contained the password of ``user``.

    The name of the backend does not show whether a password was entered, because single sign-on can
    use Django's own backend and a POST request without any action by the person.
    """
    if request.method is None:
        return True  # Django's test client logs in without an HTTP request.
    posted: Mapping[str, str] = request.POST
    typed = [posted[name] for name in posted if name.endswith("password")]
    by = request.session[BACKEND_SESSION_KEY]
    return any(_is_checked(user, password, by=by) for password in typed[:_MOST_TYPED])


def _remember(request: HttpRequest, user: Any, *, is_login: bool = False) -> None:
    by = _holder(request, user)
    request.session[_PROOF] = {"at": time.time(), "by": by, "is_login": is_login}


def _holder(request: HttpRequest, user: Any) -> list[str]:
    """Return the user id and the hash of the password.

    A proof contains these values, so that a new password makes the proof invalid.
    """
    return [str(user.pk), request.session.get(HASH_SESSION_KEY, "")]


def url_of_proof(*, back_to: str) -> str:
    """Return the URL of the shop's page where people prove their identity.

    After the person has proved their identity, this page redirects to ``back_to``.
    """
    return reverse(conf.reauthenticate, query={"next": back_to})


def take_turn(request: HttpRequest) -> None:
    """Lock the person's row in the user table until the transaction ends.

    Other calls for the same person must wait. SQLite allows only one writer at a time, so it does
    not need a lock if the transaction begins with a write.
    """
    if connection.features.has_select_for_update:
        # The default manager of a user model may leave out users.
        users: QuerySet[Any] = QuerySet(get_user_model())
        users.select_for_update().values_list("pk").get(pk=request.user.pk)
