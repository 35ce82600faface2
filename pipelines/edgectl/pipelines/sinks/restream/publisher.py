"""A client that publishes one stream at an RTSP server (RFC 2326: ANNOUNCE, SETUP, RECORD), with its packets in the same
TCP connection. Credentials stand in no request but the answer to the server's question, and in no error."""

from __future__ import annotations

import contextlib
import errno
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from edgectl.core.errors import LinkError, SourceError
from edgectl.core.uri import redact
from edgectl.pipelines.sinks.restream.messages import RtspAnswer, RtspLogin, RtspReader, framed, request
from edgectl.pipelines.sinks.restream.wire import BoundedSocket
from edgectl.pipelines.sources.media.network import find
from edgectl.pipelines.sources.media.reader import reason_of

__all__ = ["PublishAddress", "PublishError", "RtspPublisher", "refusal"]

_OPEN_S = 5.0
"""For each: the name, the connection, an answer."""
_STALL_S = 5.0
"""A server that takes nothing for so long hangs."""
_GOODBYE_S = 0.5
_MAX_READS = 16
"""Of what a server sends, between two pictures."""
_PORTS = {"rtsp": 554, "rtsps": 322}
_SESSION_S = 60.0
"""RFC 2326, section 12.37: how long a session lives where the server does not say."""
_CODES = {401: "auth", 403: "auth", 404: "not_found", 410: "not_found"}
_HINTS = {
    "auth": "check the user and the password in the address, and whether they may publish there",
    "not_found": "check the path of the address: does the server let anybody publish there?",
    "tls": "give the file of the certificate that signed it as ca",
}


@dataclass(frozen=True)
class PublishAddress:
    """Of a URL ``rtsp[s]://[user:password@]host[:port][/path]``; raises ValueError for what is none."""

    host: str
    port: int
    uri: str
    """Without credentials, as it stands in requests."""
    what: str
    """As it may be shown."""
    secure: bool
    login: tuple[str, str] | None = field(default=None, repr=False)

    @staticmethod
    def of(url: str) -> PublishAddress:
        if not url.isascii() or not url.isprintable() or " " in url:
            raise ValueError("it has characters that no address has")
        try:
            parts = urlsplit(url)
            scheme, port = parts.scheme.lower(), parts.port or _PORTS.get(parts.scheme.lower())
        except ValueError:  # which may hold a password
            raise ValueError("it is an address whose host or port cannot be read") from None
        if scheme not in _PORTS or port is None or not parts.hostname or parts.fragment:
            raise ValueError("it must be an address that begins with rtsp:// or rtsps://")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        place = host if parts.port is None else f"{host}:{parts.port}"
        uri = f"{scheme}://{place}{parts.path}" + (f"?{parts.query}" if parts.query else "")
        login = None
        if parts.username is not None:
            login = unquote(parts.username), unquote(parts.password or "")
        return PublishAddress(parts.hostname, port, uri, redact(url), scheme == "rtsps", login)


class PublishError(LinkError):
    """``reason``: a code, as those of a source that is away."""

    def __init__(self, message: str, reason: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint, retryable=True)
        self.reason = reason


def refusal(status: int) -> str:
    """Reason code of an answer that is no success."""
    return _CODES.get(status, "refused")


class RtspPublisher:
    """For one thread. Methods raise :class:`PublishError`, and :class:`~.wire.Stopped` once ``stop`` is set. Whatever is
    raised, :meth:`close` follows."""

    def __init__(
        self, address: PublishAddress, stop: threading.Event, *, tls: ssl.SSLContext | None = None
    ) -> None:
        """``tls``: needed for ``rtsps``."""
        self._address = address
        self._tls = tls if address.secure else None
        self._stop = stop
        self._socket = BoundedSocket(stop)
        self._reader = RtspReader()
        self._login = None if address.login is None else RtspLogin(*address.login)
        self._number = 0
        self._session = ""
        self._channels = (0, 1)
        self._alive_s, self._asked_s = _SESSION_S / 2, 0.0
        self._recording = False

    def connect(self) -> None:
        """Find the host and connect, without a word yet."""
        a = self._address
        try:
            place = find(a.host, a.port, a.what, _OPEN_S, self._stop)
        except SourceError as e:
            cause = e.__cause__ or e
            raise self._away(e.message.removeprefix(f"cannot open {a.what}: "), reason_of(cause)) from cause
        with self._told():
            self._socket.connect(place, _OPEN_S, tls=self._tls, name=a.host)

    def record(self, description: bytes) -> None:
        """Announce the stream of an SDP, and begin."""
        uri = self._address.uri
        self._ask("ANNOUNCE", uri, {"Content-Type": "application/sdp"}, description)
        transport = "RTP/AVP/TCP;unicast;interleaved=0-1;mode=record"
        answer = self._ask("SETUP", f"{uri}/streamid=0", {"Transport": transport})
        session, *settings = answer.header("session").split(";")
        self._session = session.strip()
        self._channels = _channels(answer.header("transport"))
        for setting in settings:
            name, _, value = setting.strip().partition("=")
            if name.lower() == "timeout" and value.isascii() and value.isdigit():
                self._alive_s = min(_SESSION_S, max(2.0, int(value[:6]))) / 2
        self._ask("RECORD", uri, {"Range": "npt=0.000-"})
        self._recording, self._asked_s = True, time.monotonic()

    def send(self, packets: Sequence[bytes]) -> None:
        """RTP and RTCP packets, in order. What the server says meanwhile is read."""
        rtp, rtcp = self._channels
        with self._told():
            # RFC 5761, section 4: the types of RTCP
            data = b"".join(framed(rtcp if 192 <= p[1] <= 223 else rtp, p) for p in packets)
            self._socket.send(data, _STALL_S)
        self.listen()

    def listen(self) -> None:
        """Read what has come, without waiting, and tell the server now and then that we are there."""
        for _ in range(_MAX_READS):
            answers = self._hear(0)
            if any(answer.status == 454 for answer in answers or ()):
                raise self._away("the server has ended the session", "ended")
            if answers is None:
                break
        if self._recording and time.monotonic() - self._asked_s > self._alive_s:
            self._asked_s = time.monotonic()
            with self._told():
                self._tell("OPTIONS", self._address.uri)

    def close(self) -> None:
        """Say goodbye where the server still hears it."""
        if self._recording:
            self._recording = False
            with contextlib.suppress(PublishError), self._told():
                self._tell("TEARDOWN", self._address.uri, timeout_s=_GOODBYE_S)
        self._socket.close()

    def _ask(
        self, method: str, uri: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> RtspAnswer:
        """Send, and wait for the answer; where the server asks for a password, once more with it."""
        while True:
            with self._told():
                self._tell(method, uri, headers, body)
            answer = self._answered()
            if answer.status == 401 and self._login is not None and self._login.asked(answer):
                continue
            if not 200 <= answer.status < 300:
                said = f"the server answers {answer.status} {answer.reason}".rstrip()
                if answer.status == 401 and self._login is None:
                    said += ", and there is no user in the address"
                raise self._away(said, refusal(answer.status))
            return answer

    def _tell(
        self,
        method: str,
        uri: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        *,
        timeout_s: float = _OPEN_S,
    ) -> None:
        self._number += 1
        own = dict(headers or {})
        if self._session:
            own["Session"] = self._session
        if self._login is not None:
            own |= self._login.header(method, uri)
        self._socket.send(request(method, uri, self._number, own, body), timeout_s)

    def _answered(self) -> RtspAnswer:
        """The answer to the last request, however slowly it comes, within :data:`_OPEN_S`."""
        until = time.monotonic() + _OPEN_S
        while (left_s := until - time.monotonic()) > 0:
            for answer in self._hear(left_s) or ():
                if answer.number in (self._number, None):
                    return answer
        raise self._away("no answer in time", "timeout")

    def _hear(self, timeout_s: float) -> list[RtspAnswer] | None:
        """Answers in what came; None: nothing came in time."""
        with self._told():
            data = self._socket.receive(timeout_s)
            if data == b"":
                raise ConnectionResetError(errno.ECONNRESET, "the server hung up")
            return None if data is None else self._reader.feed(data)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Whatever goes wrong as one sentence."""
        try:
            yield
        except ssl.SSLCertVerificationError as e:
            raise self._away(f"its certificate is not trusted: {e.verify_message}", "tls") from e
        except ssl.SSLError as e:
            raise self._away(f"no secure connection: {e.reason}", "tls") from e
        except ValueError as e:
            raise self._away(str(e), "invalid") from e
        except OSError as e:
            raise self._away(e.strerror or str(e), reason_of(e)) from e

    def _away(self, said: str, reason: str) -> PublishError:
        hint = _HINTS.get(reason, "is the server up, and may this stream publish at that path?")
        return PublishError(f"cannot send to {self._address.what}: {said}", reason, hint=hint)


def _channels(transport: str) -> tuple[int, int]:
    """What the server chose for RTP and RTCP; 0 and 1 where it does not say."""
    for setting in transport.split(";"):
        name, _, value = setting.strip().partition("=")
        first, _, second = value.partition("-")
        rtp = _channel(first)
        if name.lower() == "interleaved" and rtp is not None and rtp < 255:
            rtcp = _channel(second)
            return rtp, rtp + 1 if rtcp is None else rtcp
    return 0, 1


def _channel(text: str) -> int | None:
    """0..255, or None."""
    good = text.isascii() and text.isdigit() and len(text) <= 3 and int(text) <= 255
    return int(text) if good else None
