"""QR codes as inline SVG, where ``segno`` is installed: ``pip install django-giftcards[qr]``."""

from __future__ import annotations

import importlib.util

from giftcards.keys.secrecy import Masked, contained


def can_draw() -> bool:
    """True if segno is installed."""
    return importlib.util.find_spec("segno") is not None


@contained
def qr(text: str) -> Masked:
    """An SVG element that shows ``text`` as a QR code; "" if it is too long for one.

    The element has no size of its own. Raises :exc:`ImportError` unless :func:`can_draw`.
    """
    import segno

    try:
        code = segno.make_qr(text)
    except segno.DataOverflowError:
        return Masked()
    # On white in a dark theme as well: not every camera reads the inverse.
    return _Drawing(code.svg_inline(light="#fff", omitsize=True))


class _Drawing(Masked):
    """Our own markup, which templates do not escape."""

    __slots__ = ()

    def __html__(self) -> str:
        return self
