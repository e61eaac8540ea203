"""The IP address from which a request comes."""

from __future__ import annotations

import ipaddress

from django.http import HttpRequest


def ip_address(request: HttpRequest) -> str | None:
    """Return the client's address from ``REMOTE_ADDR``; ``None`` if that is not usable."""
    try:
        # An address such as fe80::1%eth0 names a network interface, which is left out.
        told, *_interface = request.META.get("REMOTE_ADDR", "").split("%")
        address = ipaddress.ip_address(told)
    except ValueError:
        return None
    return str(getattr(address, "ipv4_mapped", None) or address)
