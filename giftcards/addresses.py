"""Where requests come from."""

from __future__ import annotations

import ipaddress

from django.http import HttpRequest


def ip_address(request: HttpRequest) -> str | None:
    """The address that the request came from, as the server tells it; ``None`` if it does not."""
    try:
        # Without the name of an interface, as in fe80::1%eth0.
        told, *_interface = request.META.get("REMOTE_ADDR", "").split("%")
        address = ipaddress.ip_address(told)
    except ValueError:
        return None
    return str(getattr(address, "ipv4_mapped", None) or address)
