"""A certificate and a TLS context are those of the tests of the transport."""

from __future__ import annotations

from tests.test_transport import _no_proxies, certificate, tls

__all__ = ["_no_proxies", "certificate", "tls"]
