"""A broker as one address: ``mqtt://user:secret@host:1883``, ``mqtts://host``."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from edgectl.core.errors import UsageError
from edgectl.link.mqtt import BrokerOptions, Tls

__all__ = ["broker_of_url"]

_PORTS = {"mqtt": 1883, "mqtts": 8883}


def broker_of_url(url: str, *, ca: Path | None = None) -> BrokerOptions:
    """With ``mqtts`` the certificate is checked: against ``ca``, or the system's authorities. Raises
    :class:`UsageError`, which does not show the password."""
    hint = "write mqtt://user:password@host:1883 or mqtts://host; / ? # @ : in a password are %2F %3F %23 %40 %3A"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as e:
        raise UsageError("the address of the MQTT broker cannot be read", hint=hint) from e
    if parts.scheme not in _PORTS or not host or parts.path.strip("/") or parts.query or parts.fragment:
        raise UsageError("the address of the MQTT broker is none", hint=hint)
    if ca is not None and parts.scheme != "mqtts":
        raise UsageError("a broker with an authority (ca) is one with TLS", hint="write mqtts://…")
    return BrokerOptions(
        host,
        port or _PORTS[parts.scheme],
        None if parts.username is None else unquote(parts.username),
        None if parts.password is None else unquote(parts.password),
        Tls(ca) if parts.scheme == "mqtts" else None,
    )
