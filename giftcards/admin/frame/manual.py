"""The manual for staff.

The "Help" link on every page opens the manual at the topic of that page. The manual consists of the
files ``giftcards/manual/<language>/<topic>.md``. The documentation includes the same files.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from django.conf import settings
from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse
from django.utils.safestring import SafeString
from django.utils.translation import get_language, get_language_info
from markdown_it import MarkdownIt

import giftcards
from giftcards.admin.frame import extensions
from giftcards.plugins import INSTALLED

FOLDER = Path(giftcards.__file__).parent / "manual"
#: The topics of the core, in sequence. An :class:`Extension` adds the topics of its app.
TOPICS = (
    "start",
    "finding",
    "list",
    "order",
    "adding",
    "holding",
    "cancelling",
    "lost",
    "revealing",
    "complaints",
    "correcting",
    "reordering",
    "refunds",
    "products",
    "prices",
    "provider",
    "person",
)
_LINK = re.compile(r"\[([^\]]+)\]\(#([\w-]+)\)")


class Topic(NamedTuple):
    #: The anchor of the topic, and the name of its file.
    name: str
    title: str
    text: SafeString


class Manual(NamedTuple):
    #: The code of the language, such as ``fr``.
    language: str
    topics: tuple[Topic, ...]

    @property
    def direction(self) -> str:
        """The direction of the language, for the ``dir`` attribute in HTML."""
        return "rtl" if get_language_info(self.language)["bidi"] else "ltr"


def may_read(request: HttpRequest) -> bool:
    """Return True if the person is allowed to read the manual.

    The person needs at least one permission for ``giftcards`` or for one of its optional apps.
    """
    return any(map(request.user.has_module_perms, ("giftcards", *INSTALLED)))


def manual() -> Manual:
    """Return the manual in the language of the person.

    If the manual is not available in this language, the function returns it in the site's language,
    or else in English.
    """
    wanted = (get_language() or "", settings.LANGUAGE_CODE)
    codes = (code.split("-")[0].lower() for code in wanted)
    language = next((code for code in codes if (FOLDER / code).is_dir() and code), "en")
    return _read(language, topics())


def topics() -> tuple[str, ...]:
    """Return the topics of the core and of the installed apps."""
    more = (topic for extension in extensions.installed() for topic in extension.help_topics)
    return (*TOPICS, *more)


@cache
def _read(language: str, names: tuple[str, ...]) -> Manual:
    files = (FOLDER / language / f"{name}.md" for name in names)
    return Manual(language, tuple(_topic(file, names) for file in files))


def _topic(file: Path, names: tuple[str, ...]) -> Topic:
    source = file.read_text(encoding="utf-8")
    title = source.partition("\n")[0].removeprefix("## ")
    return Topic(file.stem, title, as_html(source, names))


def as_html(source: str, names: tuple[str, ...]) -> SafeString:
    """Convert Markdown to HTML.

    ``names`` lists the topics of the manual. Only links to these topics become HTML links. HTML in
    the text is escaped. A link to a topic of an app that is not installed becomes plain text. For
    images and all other links, the result contains the Markdown source as text.
    """
    known = _LINK.sub(lambda link: link[0] if link[2] in names else link[1], source)
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    markdown.validateLink = lambda url: url.removeprefix("#") in names  # type: ignore[method-assign]
    return SafeString(markdown.render(known))


def help_url(request: HttpRequest, topic: str = "") -> str:
    """Return the URL of the ``topic`` in the manual.

    Returns "" if the person is not allowed to read the manual. If ``topic`` is empty, the function
    uses the topic of the requested page. Returns "" if the page does not have a topic.
    """
    topic = topic or _topic_of(request)
    if not (topic and may_read(request)):
        return ""
    site = getattr(request, "current_app", None) or getattr(request.resolver_match, "namespace", "")
    try:
        return f"{reverse('admin:giftcards_help', current_app=site)}#{topic}"
    except NoReverseMatch:
        return ""  # the site does not have the start page


def _topic_of(request: HttpRequest) -> str:
    """Return the topic that the view or its admin class declares, or ""."""
    view = request.resolver_match and request.resolver_match.func
    if topic := getattr(view, "help_topic", ""):
        return str(topic)
    # Django sets ``model_admin`` on the views of a ModelAdmin.
    pages = getattr(view, "model_admin", None)
    others = getattr(pages, "help_topics", {})
    return str(others.get(getattr(view, "__name__", "")) or getattr(pages, "help_topic", ""))
