"""Cameras of the local network that answer a probe (WS-Discovery 1.1 as ONVIF uses it, ONVIF Core Specification §7),
and the addresses of their streams (ONVIF Media, GetStreamUri).

Everything that comes is from strangers: answers are bounded, an answer with a document type is not parsed (entities
are declared there), and a camera is asked at the address alone from which it answered. A password goes out as a digest
(RFC 7616), never as it is.
"""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from edgectl.core.errors import SourceError
from edgectl.pipelines.sources.media.http_fetch import HttpServer

__all__ = ["PLACE", "FoundCamera", "discover", "stream_uris"]

PLACE = ("239.255.255.250", 3702)
"""Group and port of WS-Discovery."""
_MAX_ANSWER = 64 << 10
_MAX_CAMERAS = 256
_MAX_PROFILES = 16
_SOAP = "http://www.w3.org/2003/05/soap-envelope"
_PROBE = (
    f'<?xml version="1.0" encoding="utf-8"?><e:Envelope xmlns:e="{_SOAP}"'
    ' xmlns:w="http://schemas.xmlsoap.org/ws/2004/08/addressing"'
    ' xmlns:d="http://schemas.xmlsoap.org/ws/2005/04/discovery"'
    ' xmlns:n="http://www.onvif.org/ver10/network/wsdl"><e:Header><w:MessageID>uuid:{id}</w:MessageID>'
    "<w:To>urn:schemas-xmlsoap-org:ws:2005:04:discovery</w:To>"
    "<w:Action>http://schemas.xmlsoap.org/ws/2005/04/discovery/Probe</w:Action></e:Header>"
    "<e:Body><d:Probe><d:Types>n:NetworkVideoTransmitter</d:Types></d:Probe></e:Body></e:Envelope>"
)
_DEVICE = "http://www.onvif.org/ver10/device/wsdl"
_MEDIA = "http://www.onvif.org/ver10/media/wsdl"


@dataclass(frozen=True)
class FoundCamera:
    host: str
    """The address that it answered from."""
    name: str
    """As it calls itself, with its hardware; may be empty."""
    service: str
    """Address of its device service."""


def discover(
    wait_s: float, *, place: tuple[str, int] = PLACE, interface: str | None = None
) -> list[FoundCamera]:
    """Those that answer within ``wait_s``, in the order of their addresses. ``interface``: the address of this
    machine in the network that is asked. Raises :class:`SourceError` where nothing can be sent."""
    found: dict[str, FoundCamera] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
        try:
            if interface is not None:
                s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(interface))
            s.sendto(_PROBE.replace("{id}", str(uuid.uuid4())).encode(), place)
        except OSError as e:
            raise SourceError(
                f"cameras cannot be asked: {e.strerror or e}",
                hint="name the address of this machine in their network with --interface",
            ) from e
        deadline = time.monotonic() + wait_s
        while (left := deadline - time.monotonic()) > 0 and len(found) < _MAX_CAMERAS:
            s.settimeout(left)
            try:
                data, (host, *_) = s.recvfrom(_MAX_ANSWER)
            except OSError:
                break
            camera = answer_of(data, host)
            if camera is not None:
                found.setdefault(host, camera)
    return sorted(found.values(), key=lambda c: socket.inet_aton(c.host))


def answer_of(data: bytes, host: str) -> FoundCamera | None:
    """What ``host`` answered to a probe; None where that is no camera at its own address."""
    root = _parsed(data)
    if root is None:
        return None
    services = " ".join(_texts(root, "XAddrs")).split()
    service = next((x for x in services if _is_at(x, host)), None)
    if service is None:
        return None
    scopes = " ".join(_texts(root, "Scopes")).split()
    names = [
        unquote(scope.rpartition("/")[2])[:60]
        for kind in ("name", "hardware")
        for scope in scopes
        if scope.startswith(f"onvif://www.onvif.org/{kind}/")
    ]
    return FoundCamera(host, " ".join(dict.fromkeys(names)), service)


def stream_uris(camera: FoundCamera, user: str | None = None, password: str | None = None) -> list[str]:
    """The addresses of its streams, without credentials. Raises :class:`SourceError`."""
    asked = _ask(
        camera,
        camera.service,
        f'<GetCapabilities xmlns="{_DEVICE}"><Category>Media</Category></GetCapabilities>',
        user,
        password,
    )
    media = next(
        (x for x in (t.strip() for t in _texts(asked, "XAddr")) if _is_at(x, camera.host)), camera.service
    )
    profiles = _ask(camera, media, f'<GetProfiles xmlns="{_MEDIA}"/>', user, password)
    tokens = [p.get("token", "") for p in _elements(profiles, "Profiles")]
    uris = []
    for token in tokens[:_MAX_PROFILES]:
        setup = (
            '<Stream xmlns="http://www.onvif.org/ver10/schema">RTP-Unicast</Stream>'
            '<Transport xmlns="http://www.onvif.org/ver10/schema"><Protocol>RTSP</Protocol></Transport>'
        )
        body = f'<GetStreamUri xmlns="{_MEDIA}"><StreamSetup>{setup}</StreamSetup><ProfileToken>{escape(token)}</ProfileToken></GetStreamUri>'
        uris += [t.strip() for t in _texts(_ask(camera, media, body, user, password), "Uri")]
    return [uri for uri in dict.fromkeys(uris) if urlsplit(uri).scheme in ("rtsp", "rtsps")]


def _ask(
    camera: FoundCamera, url: str, body: str, user: str | None, password: str | None
) -> ElementTree.Element:
    envelope = f'<?xml version="1.0" encoding="utf-8"?><e:Envelope xmlns:e="{_SOAP}"><e:Body>{body}</e:Body></e:Envelope>'
    server = HttpServer(url, login=None if user is None else (user, password or ""), digest_only=True)
    data = server.post(url, envelope.encode(), "application/soap+xml; charset=utf-8", limit=_MAX_ANSWER)
    root = _parsed(data)
    if root is None:
        raise SourceError(f"the camera at {camera.host} gives no answer that can be read")
    return root


def _parsed(data: bytes) -> ElementTree.Element | None:
    """The document, or None for what is none, is too long, or declares a document type."""
    if len(data) >= _MAX_ANSWER:
        return None
    try:
        text = data.decode("utf-8")
        if "<!" in text.replace("<!--", "").replace("<![CDATA[", ""):
            return None
        return ElementTree.fromstring(text)  # noqa: S314  no document type, so no entities
    except (UnicodeDecodeError, ElementTree.ParseError, ValueError):
        return None


def _elements(root: ElementTree.Element, name: str) -> Iterator[ElementTree.Element]:
    """By their name in any namespace: firmware differs in those."""
    return (e for e in root.iter() if isinstance(e.tag, str) and e.tag.rpartition("}")[2] == name)


def _texts(root: ElementTree.Element, name: str) -> Iterator[str]:
    return (e.text or "" for e in _elements(root, name))


def _is_at(url: str, host: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and parts.hostname == host
    except ValueError:
        return False
