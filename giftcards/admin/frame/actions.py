"""The actions that staff can take on orders.

An action consists of a button, a page, a function and a message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple, Protocol

from django import forms
from django.contrib import messages
from django.contrib.admin import AdminSite
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import models, router, transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, QueryDict
from django.urls import NoReverseMatch, reverse
from django.utils.crypto import constant_time_compare
from django.utils.translation import gettext_lazy as _

from giftcards.admin.frame.forms import state_token
from giftcards.engine.task_queue import wake_worker
from giftcards.exceptions import RefundError, ReorderError, SaleError
from giftcards.models import Order, OrderQuerySet
from giftcards.text.display import isolated, money_text


class Pages(Protocol):
    """The part of the shop's ``OrderAdmin`` that actions and extensions use."""

    admin_site: AdminSite
    search_help_text: ClassVar[Any]

    @property
    def media(self) -> forms.Media: ...
    def get_queryset(self, request: HttpRequest) -> QuerySet[Order]: ...
    def order_for(self, request: HttpRequest, object_id: str, *, allowed: bool) -> Order: ...
    def may_see(self, request: HttpRequest, order: Order) -> bool: ...
    def has_view_permission(self, request: HttpRequest) -> bool: ...
    def has_add_permission(self, request: HttpRequest) -> bool: ...
    def has_check_permission(self, request: HttpRequest) -> bool: ...
    def has_report_permission(self, request: HttpRequest) -> bool: ...
    def may_see_costs(self, request: HttpRequest) -> bool: ...
    def may_see_tails(self, request: HttpRequest) -> bool: ...
    def ask_for_checks(self, request: HttpRequest, orders: OrderQuerySet) -> int: ...
    def url_of(self, page: str, *args: Any) -> str: ...
    def to_order(self, order: Order) -> HttpResponse: ...
    def render_page(
        self, request: HttpRequest, name: str, *, title: str, status: int = 200, **context: Any
    ) -> HttpResponse: ...
    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any: ...
    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any: ...
    def message_user(self, request: HttpRequest, message: Any, level: Any = ...) -> None: ...


#: A function that returns True if the person who sent the request has a permission.
Permission = Callable[[Pages, HttpRequest], bool]


def may(*permissions: str) -> Permission:
    """Return a :data:`Permission` that requires all of ``permissions``.

    Each permission is a string such as ``giftcards.check_order``.
    """
    return lambda _pages, request: request.user.has_perms(permissions)


@dataclass(slots=True)
class Attempt:
    """A person's attempt to use an action on an order."""

    action: OrderAction
    pages: Pages
    request: HttpRequest
    order: Order
    #: The row that the action is about, or ``None`` for the order itself.
    row: Any = None
    form: Any = None

    @property
    def by(self) -> str:
        return self.request.user.get_username()

    @property
    def is_current(self) -> bool:
        """True if the order has not changed since the form was shown."""
        make_token = self.action.token
        posted = self.request.POST.get("state_token", "")
        return make_token is None or constant_time_compare(posted, make_token(self.order))

    def page(self, template: str = "", **context: Any) -> HttpResponse:
        """Render the page of the action, or another ``template``."""
        action = self.action
        return self.pages.render_page(
            self.request,
            template or action.template,
            **{
                "title": action.title or action.label_for(self.row or self.order),
                "original": self.order,
                "state_token": action.token(self.order) if action.token else "",
                "form": self.form,
                "errors": self.form.errors if self.form else {},
                **action.context(self),
                **context,
            },
        )


class Outcome(NamedTuple):
    """The result of an attempt.

    After the action, the person is redirected to the page of the order. ``says`` is a message for
    the person, or a tuple of messages. ``log`` is the entry in the history of the order, or "" if
    the action did not change anything. The entry must not name the customer or the cost, because it
    can be read by all people who are allowed to see the order. If ``wakes`` is True, a background
    worker is woken after the action. The optional ``shows`` attribute is another order, to whose
    page the person is redirected instead.
    """

    says: Any
    log: str = ""
    level: int = messages.SUCCESS
    wakes: bool = False
    shows: Order | None = None


#: The outcome if the order has changed since the person saw it.
LATE = Outcome(
    _(
        "The order has changed since you opened this page, so nothing was done. Check the order"
        " again."
    ),
    level=messages.ERROR,
)

#: The result of an action, which is an outcome or a response.
Answer = Outcome | HttpResponse


class Refused(Exception):
    """Raised by an action that cannot be carried out.

    ``explain`` returns the reason, and is called after the transaction has been rolled back.
    """

    def __init__(self, explain: Callable[[], str]) -> None:
        super().__init__()
        self.explain = explain


class OrderButton(NamedTuple):
    """A button on the page of an order.

    The button opens a page that explains the action. If ``is_post`` is True, the action has no such
    page, and the button posts ``state_token`` to ``url``. If ``is_minor`` is True, the button is
    shown as a link. If ``is_final`` is True, the button comes last, because its action cannot be
    undone.
    """

    label: str
    url: str
    is_post: bool = False
    is_minor: bool = False
    is_final: bool = False


def in_order(found: Iterable[OrderButton]) -> list[OrderButton]:
    """Sort the buttons, with main buttons first.

    Final buttons come last in each group.
    """
    return sorted(found, key=lambda button: (button.is_minor, button.is_final))


class Page(NamedTuple):
    """A page whose path begins with the path of the list of orders.

    The name of the URL is ``admin:giftcards_<name>``. ``view(pages, request, **values)`` must check
    the person's permissions. The ``decorators`` wrap the result of ``AdminSite.admin_view``.
    ``help_topic`` is the topic of the page in the manual.
    """

    name: str
    route: str
    view: Callable[..., Any]
    decorators: tuple[Callable[[Any], Any], ...] = ()
    help_topic: str = "order"


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderAction:
    """A staff action on an order, or on a row that belongs to an order.

    ``act`` does the work, in the same transaction as the entry in the history of the order. ``act``
    can return a page instead of an outcome, or can raise ``ValidationError``, :exc:`RefundError`,
    :exc:`ReorderError`, :exc:`SaleError` or :exc:`Refused`. If the action has a ``form``, a page
    shows the form first. An action with a ``view`` does not have an ``act`` function.
    """

    #: The name of the URL, without its prefix ``admin:giftcards_``.
    name: str
    #: The path below the list of orders; ``<key>`` stands for the order or the row.
    route: str
    #: The text of the button, or a function that returns the text for the order or the row.
    label: Any
    permission: Permission
    act: Callable[[Attempt], Answer] | None = None
    view: Callable[..., HttpResponse] | None = None
    #: A function that returns whether the button is shown for an order or a row.
    is_offered: Callable[[Any], bool] = lambda _subject: True
    is_minor: bool = False
    #: The required permissions. If a person lacks one of them, the page says whom to ask.
    takes: tuple[str, ...] = ()
    #: True if the action cannot be undone. A page then asks for confirmation, and the button comes
    #: last.
    is_final: bool = False
    #: The part of the page that contains the button, or "" if there is no button.
    place: str = "order"
    #: The model of the row that the action is about, or ``None`` for the order itself.
    of: type[models.Model] | None = None
    #: A function that returns a hash of the order's state. A form with an old hash is refused.
    #: ``None`` if an outdated form is harmless.
    token: Callable[[Order], str] | None = state_token
    #: A function that is called before the page is shown, and before ``act``. If it returns an
    #: answer, the page is not shown, and ``act`` is not called.
    before: Callable[[Attempt], Answer | None] = lambda _attempt: None
    #: A function that returns True for a repeated request, such as the second one of a double
    #: click.
    is_repeated: Callable[[Attempt], bool] = lambda _attempt: False
    form: Callable[[Attempt, QueryDict | None], forms.BaseForm] | None = None
    title: Any = ""
    template: str = ""
    context: Callable[[Attempt], Mapping[str, Any]] = lambda _attempt: {}
    decorators: tuple[Callable[[Any], Any], ...] = ()
    help_topic: str = "order"

    def __post_init__(self) -> None:
        if self.is_final and self.is_post:
            raise ValueError(
                f"{self.name} cannot be undone, so it needs a page that asks for confirmation."
            )

    @property
    def page(self) -> Page:
        kind = "path" if self.of is None else "int"
        route = self.route.replace("<key>", f"<{kind}:key>")
        view = self.view or partial(carry_out, self)
        return Page(self.name, route, view, self.decorators, self.help_topic)

    def label_for(self, subject: models.Model) -> str:
        return str(self.label(subject) if callable(self.label) else self.label)

    @property
    def is_post(self) -> bool:
        """True if the button acts directly, without a page for confirmation."""
        return self.form is None and self.view is None


def carry_out(action: OrderAction, pages: Pages, request: HttpRequest, key: Any) -> HttpResponse:
    """Check the person's permissions, run ``action``, and return the response."""
    attempt = begin(action, pages, request, key)
    if request.method != "POST" and action.form is None:
        return HttpResponseNotAllowed(["POST"])
    answer = action.before(attempt)
    return end(attempt, _answer(attempt) if answer is None else answer)


def begin(action: OrderAction, pages: Pages, request: HttpRequest, key: Any) -> Attempt:
    """Return a new :class:`Attempt` to use an action on an order or a row.

    ``key`` is the primary key of the order, or of another row that the action is about. Raises
    ``PermissionDenied`` if the row is missing, or if the person is not allowed to see the order or
    use the action.
    """
    row = None
    if action.of is not None:
        row = action.of._default_manager.filter(pk=key).first()  # noqa: SLF001
        if row is None:
            raise PermissionDenied
        key = str(row.order_id)  # type: ignore[attr-defined]
    order = pages.order_for(request, key, allowed=action.permission(pages, request))
    return Attempt(action, pages, request, order, row)


def _answer(attempt: Attempt) -> Answer:
    action, request = attempt.action, attempt.request
    is_posted = request.method == "POST"
    if action.form:
        attempt.form = action.form(attempt, request.POST if is_posted else None)
    is_valid = attempt.form is None or attempt.form.is_valid()
    if is_posted and not (attempt.is_current or action.is_repeated(attempt)):
        return LATE
    return _act(attempt) if is_posted and is_valid else attempt.page()


def _act(attempt: Attempt) -> Answer:
    try:
        with transaction.atomic(using=router.db_for_write(Order)):
            assert attempt.action.act is not None  # noqa: S101 (carry_out is not the view otherwise)
            answer = attempt.action.act(attempt)
            if isinstance(answer, Outcome) and answer.log:
                attempt.pages.log_change(attempt.request, attempt.order, answer.log)
    except Refused as refusal:
        return Outcome(refusal.explain(), level=messages.ERROR)
    except RefundError as error:
        return Outcome(error.shown(in_words), level=messages.ERROR)
    except (ReorderError, SaleError, ValidationError) as error:
        texts = getattr(error, "messages", [str(error)])
        return Outcome(tuple(texts), level=messages.ERROR)
    return answer


def in_words(part: Any) -> str:
    """Format an amount or a reference in a :exc:`RefundError` for staff."""
    return isolated(part) if isinstance(part, str) else money_text(part)


def end(attempt: Attempt, answer: Answer) -> HttpResponse:
    """Return the response to an attempt.

    If the attempt ended with an outcome, the person sees its messages and is redirected to the
    order's page.
    """
    if not isinstance(answer, Outcome):
        return answer
    texts = answer.says if isinstance(answer.says, tuple) else (answer.says,)
    for text in texts:
        attempt.pages.message_user(attempt.request, text, answer.level)
    if answer.wakes:
        wake_worker()
    return attempt.pages.to_order(answer.shows or attempt.order)


def buttons(
    pages: Pages,
    request: HttpRequest,
    subject: models.Model,
    actions: Iterable[OrderAction],
) -> list[OrderButton]:
    """Return the buttons that the person is allowed to use.

    ``subject`` is the order or the row that the ``actions`` are about. An action has a button only
    if it is offered for this order or row.
    """
    return in_order(
        OrderButton(
            action.label_for(subject), url, action.is_post, action.is_minor, action.is_final
        )
        for action in actions
        if action.permission(pages, request) and action.is_offered(subject)
        if (url := _url(pages, action, subject))
    )


def _url(pages: Pages, action: OrderAction, subject: models.Model) -> str:
    name, site = f"admin:giftcards_{action.name}", pages.admin_site.name
    try:
        return reverse(name, args=[subject.pk], current_app=site)
    except NoReverseMatch:
        return ""  # the shop's own page of orders does not have the action
