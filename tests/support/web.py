"""A web server for the sources: pictures of a camera, lists, files, with a password or without, over TLS or not."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def web(answer: Answer, *, tls: tuple[Path, Path] | None = None, port: int = 0) -> Iterator[str]:
    """The address of a server on this machine. ``tls``: certificate and key."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                answer(self)
            except OSError:
                self.close_connection = True

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            return

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            return

    server = Server(("127.0.0.1", port), Handler)
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        # the handshake in the thread of the request, not in that of the server
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def send(
    handler: BaseHTTPRequestHandler, body: bytes, content_type: str, code: int = 200, **headers: str
) -> None:
    handler.send_response(code)
    handler.send_header("Content-Type", content_type)
    handler.send_header("Content-Length", str(len(body)))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def files(folder: Path) -> Answer:
    """Serves a folder, in parts where they are asked for."""
    types = {".m3u8": "application/vnd.apple.mpegurl", ".ts": "video/mp2t", ".mp4": "video/mp4"}

    def answer(handler: BaseHTTPRequestHandler) -> None:
        path = folder / handler.path.lstrip("/").split("?")[0]
        if not path.is_file():
            send(handler, b"", "text/plain", 404)
            return
        body, kind = path.read_bytes(), types.get(path.suffix, "application/octet-stream")
        part = handler.headers.get("Range")
        if part:
            start = int(part.removeprefix("bytes=").rstrip("-"))
            span = f"bytes {start}-{len(body) - 1}/{len(body)}"
            send(handler, body[start:], kind, 206, Content_Range=span)
        else:
            send(handler, body, kind, Accept_Ranges="bytes")

    return answer


def pictures(
    jpegs: Iterable[bytes], *, header: str = "--cut", mark: bytes = b"--cut", length: bool = True
) -> Answer:
    """A camera that sends each picture once and hangs up."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", f"multipart/x-mixed-replace; boundary={header}")
        handler.end_headers()
        for jpeg in jpegs:
            size = b"Content-Length: %d\r\n" % len(jpeg) if length else b""
            handler.wfile.write(mark + b"\r\nContent-Type: image/jpeg\r\n" + size + b"\r\n" + jpeg + b"\r\n")
        handler.wfile.write(mark)
        handler.close_connection = True

    return answer


def own_certificate(folder: Path) -> tuple[Path, Path]:
    """Certificate and key of a camera that signs its own."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "camera")])
    now = datetime.datetime.now(datetime.timezone.utc)
    hosts = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "camera.pem", folder / "camera.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return paths
