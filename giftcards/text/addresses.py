"""The IP address from which a request comes."""

from __future__ import annotations

import ipaddress

from django.http import HttpRequest


def ip_address(request: HttpRequest) -> str | None:
    """The client's IP address from ``REMOTE_ADDR``; ``None`` without a usable address."""
    try:
        # The name of the network interface is dropped: "eth0" in fe80::1%eth0.
        told, *_interface = request.META.get("REMOTE_ADDR", "").split("%")
        address = ipaddress.ip_address(told)
    except ValueError:
        return None
    return str(getattr(address, "ipv4_mapped", None) or address)
