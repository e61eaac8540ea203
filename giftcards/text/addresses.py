"""Return the IP address and the network from which a request was sent."""

from __future__ import annotations

import ipaddress

from django.http import HttpRequest


def ip_address(request: HttpRequest) -> str | None:
    """Return the client's address, or ``None`` if the address is unusable.

    The address is read from ``REMOTE_ADDR``.
    """
    try:
        # An address such as fe80::1%eth0 names a network interface, which is left out.
        told, *_interface = request.META.get("REMOTE_ADDR", "").split("%")
        address = ipaddress.ip_address(told)
    except ValueError:
        return None
    return str(getattr(address, "ipv4_mapped", None) or address)


# IPv6 addresses with the same first 64 bits usually belong to one subscriber.
_SUBSCRIBER = 64


def client_network(request: HttpRequest) -> str:
    """Return the network of the client that sent the request.

    The network is an IPv4 address, or the first 64 bits of an IPv6 address, because one person
    usually controls all addresses with the same 64 bits. Many people can share one IPv4 address,
    and then belong to the same network. All clients without a usable address belong to the same
    network.
    """
    address = ip_address(request)
    if address is None:
        return "unknown"
    if ":" not in address:
        return address
    return str(ipaddress.ip_network(f"{address}/{_SUBSCRIBER}", strict=False))
