"""What a web server sends, as a file that FFmpeg reads: certificates checked, every wait bounded, credentials given
to the server of the address alone."""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from edgectl.core.errors import SourceError
from edgectl.core.uri import redact
from edgectl.pipelines.sources.media.reader import Away

__all__ = ["HttpBody", "HttpServer", "WatchedHttp", "WatchedHttps", "authorities", "hang_up"]

_OPEN_S = 10.0
"""For the whole answer, however slowly its headers come."""
_READ_S = 5.0
_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
"""Where Debian, Fedora, SUSE and Alpine keep the authorities that they trust."""
_CODES = {401: "auth", 403: "auth", 404: "not_found", 410: "not_found"}
_HOPS = 5


def authorities(ca: str | None) -> str:
    """The file of the certificates that are trusted: ``ca``, or this machine's. Raises :class:`SourceError`."""
    if ca is not None:
        if not os.path.isfile(ca):
            raise SourceError(f"there is no file {ca} of certificates", hint="check the path behind #ca=")
        return ca
    own = ssl.get_default_verify_paths()
    found = next((p for p in (own.cafile, *_BUNDLES) if p and os.path.isfile(p)), None)
    if found is None:
        raise SourceError(
            "this machine has no list of certificates that it trusts",
            hint="install the package ca-certificates, or give a file behind #ca=",
        )
    return found


class HttpServer:
    """The server of one address. Its methods raise :class:`SourceError` with a cause that has a reason code."""

    def __init__(
        self,
        url: str,
        *,
        ca: str | None = None,
        login: tuple[str, str] | None = None,
        digest_only: bool = False,
    ) -> None:
        """``url`` with credentials, as a person wrote it, or beside them as ``login``. ``digest_only``: the password
        is not given to a server that asks for it as it is."""
        self._digest_only = digest_only
        parts = urlsplit(url)
        self.what = redact(url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        netloc = host if parts.port is None else f"{host}:{parts.port}"
        path = quote(parts.path or "/", safe="/%:=&;,+$!*'()@~")
        self.url = urlunsplit((parts.scheme, netloc or "", path, parts.query, ""))
        """Without credentials."""
        self._context = None
        if parts.scheme == "https" or ca is not None:
            self._context = ssl.create_default_context(cafile=authorities(ca))
        self._passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        if parts.username is not None:
            login = unquote(parts.username), unquote(parts.password or "")
        if login is not None:
            origin = urlunsplit((parts.scheme, netloc or "", "/", "", ""))
            self._passwords.add_password(None, origin, *login)

    def get(self, url: str | None = None) -> HttpBody:
        """``url``, or the address itself."""
        return HttpBody(self, self.response(url or self.url))

    def response(self, url: str, offset: int = 0) -> Any:
        """Python's own answer, from byte ``offset`` on. To be closed."""
        headers = {"User-Agent": "edgectl", "Accept": "*/*"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        return self._answer(urllib.request.Request(url, headers=headers))  # noqa: S310

    def post(self, url: str, data: bytes, content_type: str, *, limit: int) -> bytes:
        """The answer to ``data``, no more than ``limit`` bytes of it."""
        request = urllib.request.Request(url, data, {"User-Agent": "edgectl", "Content-Type": content_type})  # noqa: S310
        response = self._answer(request)
        with response, self._told():
            return bytes(response.read(limit))

    def _answer(self, request: urllib.request.Request) -> Any:
        sockets: list[socket.socket] = []
        opener = urllib.request.OpenerDirector()
        for handler in (
            WatchedHttp(sockets),
            WatchedHttps(sockets, self._context),
            _Redirects(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
            *(() if self._digest_only else (_Basic(self._passwords),)),
            _Digest(self._passwords),
        ):
            opener.add_handler(handler)

        timer = threading.Timer(_OPEN_S, hang_up, (sockets,))
        timer.daemon = True
        timer.start()
        try:
            with self._told():
                return opener.open(request, timeout=_READ_S)
        finally:
            timer.cancel()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Whatever goes wrong as one sentence."""
        try:
            yield
        except urllib.error.HTTPError as e:
            e.close()
            reason = _CODES.get(e.code, "refused")
            raise self._error(f"the server says {e.code} {e.reason}", reason) from Away(reason)
        except ssl.SSLCertVerificationError as e:
            raise self._error(f"its certificate is not trusted: {e.verify_message}", "tls") from Away("tls")
        except urllib.error.URLError as e:
            inner = e.reason if isinstance(e.reason, OSError) else e
            if isinstance(inner, ssl.SSLCertVerificationError):
                said = f"its certificate is not trusted: {inner.verify_message}"
                raise self._error(said, "tls") from Away("tls")
            if isinstance(inner, ssl.SSLError):
                raise self._error(f"no secure connection: {inner.reason}", "tls") from Away("tls")
            if isinstance(inner, socket.gaierror):
                raise self._error("its name does not resolve", "unreachable") from Away("unreachable")
            if inner is e:
                raise self._error(str(e.reason), "invalid") from Away("invalid")
            raise self._error(inner.strerror or "no answer in time", "") from inner
        except (OSError, http.client.HTTPException, ValueError) as e:
            said = getattr(e, "strerror", None) or f"{type(e).__name__}"
            raise self._error(said, "") from (e if isinstance(e, OSError) else Away("invalid"))

    def _error(self, said: str, reason: str) -> SourceError:
        hints = {
            "auth": "check the user and the password in the address",
            "not_found": "check the path of the address",
            "tls": "give the file of the certificate that signed it behind #ca=",
        }
        return SourceError(
            f"cannot open {self.what}: {said}",
            hint=hints.get(reason, "check the address and the network"),
            retryable=reason not in ("auth", "not_found", "tls"),
        )


class HttpBody(io.RawIOBase):
    """The body of an answer. A file for FFmpeg: what goes wrong while it is read is an :class:`OSError`."""

    def __init__(self, server: HttpServer, response: Any) -> None:
        super().__init__()
        self.name = str(response.geturl())
        self.content_type = str(response.headers.get("Content-Type", "")).lower()
        self.length: int | None = None
        """Bytes of the whole file; None where the server does not say, as for what has no end."""
        with contextlib.suppress(TypeError, ValueError):
            self.length = int(response.headers.get("Content-Length"))
        self.boundary = response.headers.get_param("boundary")
        self.limit: int | None = None
        """More than so many bytes are not read."""
        self._ranges = response.headers.get("Accept-Ranges") == "bytes"
        self._server, self._response, self._at, self._wanted = server, response, 0, 0
        self._has_failed = False

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self.length is not None and self._ranges

    def read(self, size: int = -1) -> bytes:
        """At most ``size`` bytes, as they come; empty at the end. A file whose server hangs up in the middle, as one
        does that a slow reader keeps waiting, is asked for the rest."""
        if self._has_failed:
            return b""  # FFmpeg asks again, and the first error is the one that counts
        try:
            data = self._read(size)
        except OSError:
            self._has_failed = True
            raise
        self._at = self._wanted = self._at + len(data)
        if self.limit is not None and self._at > self.limit:
            raise OSError(f"it is longer than {self.limit} bytes")
        return data

    def _read(self, size: int) -> bytes:
        for last in (False, True):
            try:
                if self._wanted != self._at:
                    self._go_to(self._wanted)
                data = bytes(self._response.read1(size))
                if data or not size or self.length is None or self._at >= self.length:
                    return data
                error = ConnectionResetError("the answer is cut short")
            except SourceError as e:
                raise e.__cause__ if isinstance(e.__cause__, OSError) else OSError(e.message) from e
            except (http.client.HTTPException, ConnectionError) as e:
                error = ConnectionResetError(f"the answer is cut short ({type(e).__name__})")
            if last or not self.seekable():
                raise error
            self._at = -1  # nothing is left of the answer
        raise AssertionError

    def _go_to(self, at: int) -> None:
        self._response.close()
        if at == self.length:  # nothing to ask for
            self._response, self._at = io.BytesIO(), at
            return
        self._response, self._at = self._server.response(self.name, at), at
        if at and self._response.status != 206:
            raise OSError("the server does not send a part of a file")

    def start(self, limit: int) -> bytes:
        """The first bytes, no more than ``limit``. Raises :class:`SourceError`."""
        held = b""
        try:
            while len(held) < limit and (data := self.read(limit - len(held))):
                held += data
        except OSError as e:
            raise SourceError(f"reading {self._server.what} failed: {e}", retryable=True) from e
        return held

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if not self.seekable():
            raise io.UnsupportedOperation("the server sends this once, from the start")
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._wanted, os.SEEK_END: self.length or 0}[whence]
        self._wanted = max(0, base + offset)
        return self._wanted

    def tell(self) -> int:
        return self._wanted

    def close(self) -> None:
        if not self.closed:
            with contextlib.suppress(OSError):
                self._response.close()
        super().close()


def hang_up(sockets: Sequence[socket.socket]) -> None:
    """End what waits for them, from any thread."""
    for s in sockets:
        with contextlib.suppress(OSError):
            s.shutdown(socket.SHUT_RDWR)


class WatchedHttp(urllib.request.HTTPHandler):
    """Puts its sockets into a list, so that somebody else can end what they wait for (:func:`hang_up`)."""

    def __init__(self, sockets: list[socket.socket]) -> None:
        super().__init__()
        self._sockets = sockets

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        sockets = self._sockets

        class Connection(http.client.HTTPConnection):
            def connect(self) -> None:
                super().connect()
                sockets.append(self.sock)

        return self.do_open(Connection, req)


class WatchedHttps(urllib.request.HTTPSHandler):
    """The same over TLS."""

    def __init__(self, sockets: list[socket.socket], context: ssl.SSLContext | None) -> None:
        self._trusted = context or ssl.create_default_context()
        super().__init__(context=self._trusted)
        self._sockets = sockets

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        sockets = self._sockets

        class SecureConnection(http.client.HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                sockets.append(self.sock)

        return self.do_open(SecureConnection, req, context=self._trusted)


class _Basic(urllib.request.HTTPBasicAuthHandler):
    """Leaves a server that asks for another kind of password alone, where Python's own raises."""

    def http_error_401(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any
    ) -> Any | None:
        if not any(h.lower().startswith("basic") for h in headers.get_all("WWW-Authenticate", [])):
            return None
        return super().http_error_401(req, fp, code, msg, headers)


class _Digest(urllib.request.HTTPDigestAuthHandler):
    """Asked first. Closes the answer that wants a password, which Python's own leaves to the garbage collector."""

    def http_error_401(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any
    ) -> Any | None:
        fp.close()
        return super().http_error_401(req, fp, code, msg, headers)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """A few, and never from a secure address to one that is not."""

    max_redirections = _HOPS

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if not newurl.startswith(
            "https://" if req.full_url.startswith("https://") else ("http://", "https://")
        ):
            fp.close()
            raise urllib.error.URLError("it leads to an address that is not as safe")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
