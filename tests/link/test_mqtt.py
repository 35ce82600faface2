"""The link against a real mosquitto and against the embedded broker."""

from __future__ import annotations

import contextlib
import queue
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path

import pytest
from conftest import Broker, free_port, start_mosquitto
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from edgectl.core.errors import LinkError
from edgectl.fleet.broker.embedded import run_broker
from edgectl.link.mqtt import BrokerOptions, Link, Tls


@pytest.fixture(params=["mosquitto", "amqtt"])
def broker(request: pytest.FixtureRequest) -> Iterator[BrokerOptions]:
    if request.param == "mosquitto":
        yield BrokerOptions("127.0.0.1", request.getfixturevalue("mosquitto").port)
        return
    port, stop, ready = free_port(), threading.Event(), threading.Event()
    thread = threading.Thread(target=run_broker, args=("127.0.0.1", port, stop, ready))
    thread.start()
    assert ready.wait(10)
    yield BrokerOptions("127.0.0.1", port)
    stop.set()
    thread.join(20)
    assert not thread.is_alive()


def listen(link: Link, topic: str) -> queue.Queue[tuple[str, bytes]]:
    inbox: queue.Queue[tuple[str, bytes]] = queue.Queue()
    link.subscribe(topic, lambda t, p: inbox.put((t, p)))
    return inbox


def test_large_payloads_reach_several_clients_in_order(broker: BrokerOptions) -> None:
    links = [Link(broker, f"reader-{i}") for i in range(3)]
    inboxes = [listen(link, "x/+/b") for link in links]
    with Link(broker, "writer") as writer:
        for link in links:
            link.connect()
        writer.connect()
        # a round trip proves that the subscriptions are in force
        for i, link in enumerate(links):
            echo = listen(link, f"echo/{i}")
            link.publish(f"echo/{i}", b"?").wait(5)
            assert echo.get(timeout=5)
        payloads = [bytes([i]) * (65536 + 16) for i in range(64)]
        for payload in payloads:
            writer.publish("x/y/b", payload)
        for inbox in inboxes:
            assert [inbox.get(timeout=10)[1] for _ in payloads] == payloads
    for link in links:
        link.close()


def test_retained_messages_come_to_those_who_subscribe_later(broker: BrokerOptions) -> None:
    with Link(broker, "a") as a, Link(broker, "b") as b:
        a.connect()
        assert a.publish("r/1", b"one", retain=True).wait(5)
        assert a.publish("r/2", b"x" * 40_000, retain=True).wait(5)
        inbox = listen(b, "r/+")
        b.connect()
        assert dict(inbox.get(timeout=5) for _ in range(2)) == {"r/1": b"one", "r/2": b"x" * 40_000}


def test_will_is_sent_on_a_cut_and_not_on_a_good_bye(broker: BrokerOptions) -> None:
    with Link(broker, "watcher") as watcher:
        inbox = listen(watcher, "w/+")
        watcher.connect()
        polite = Link(broker, "polite", will=("w/polite", b"gone"))
        polite.connect()
        polite.close()
        rude = Link(broker, "rude", will=("w/rude", b"gone"))
        rude.connect()
        sock = rude._client.socket()
        assert sock is not None
        sock.shutdown(2)  # the network goes away
        assert inbox.get(timeout=10) == ("w/rude", b"gone")
        rude.close()
        assert inbox.empty()


def test_no_broker_fails_in_one_sentence_and_leaves_no_thread() -> None:
    link = Link(BrokerOptions("127.0.0.1", free_port()), "early")
    with pytest.raises(LinkError, match="there is no MQTT broker to use at"):
        link.connect(1.0)
    assert not [t for t in threading.enumerate() if t.name.startswith("mqtt-early")]


def test_link_outlives_a_broker_restart_and_sends_what_was_waiting(tmp_path: Path) -> None:
    port = free_port()
    broker = start_mosquitto(tmp_path, port)
    ups = queue.Queue[int]()
    with Link(BrokerOptions("127.0.0.1", port), "survivor") as link:
        inbox = listen(link, "t")
        link.on_up = lambda: ups.put(1)
        link.connect()
        ups.get(timeout=5)
        broker.process.kill()
        broker.process.wait()
        deadline = time.monotonic() + 10
        while link.is_up and time.monotonic() < deadline:
            time.sleep(0.01)
        handle = link.publish("t", b"meanwhile")
        assert not handle.done
        broker = start_mosquitto(tmp_path, port)
        ups.get(timeout=30)
        assert handle.wait(10)
        link.publish("t", b"after")
        received = {inbox.get(timeout=10)[1]}
        while b"after" not in received:
            received.add(inbox.get(timeout=10)[1])
    broker.process.terminate()
    broker.process.wait()


def test_window_bounds_outstanding_publishes_while_the_broker_is_away() -> None:
    link = Link(BrokerOptions("127.0.0.1", free_port()), "bounded", window=3)
    link.start()
    for _ in range(3):
        link.publish("t", b"x")
    with pytest.raises(LinkError, match="3 messages wait"):
        link.publish("t", b"x", timeout_s=0.1)
    link.close()


def test_topic_that_is_none_takes_no_place_in_the_window() -> None:
    link = Link(BrokerOptions("127.0.0.1", free_port()), "dev", window=2)
    for _ in range(3):
        with pytest.raises(ValueError, match="wildcard"):
            link.publish("t/#", b"", timeout_s=0.0)
    link.publish("t/1", b"", timeout_s=0.0)
    link.close()


def test_handler_that_fails_does_not_stop_the_others(
    mosquitto: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    with Link(BrokerOptions("127.0.0.1", mosquitto.port), "a") as link:
        link.subscribe("bad", lambda _t, _p: 1 / 0)  # type: ignore[arg-type, return-value]
        inbox = listen(link, "good")
        link.connect()
        link.publish("bad", b"")
        link.publish("good", b"1")
        assert inbox.get(timeout=5) == ("good", b"1")
    assert "the handler of 'bad' failed" in caplog.text


def test_payload_over_the_bound_is_dropped_and_counted(mosquitto: Broker) -> None:
    with Link(BrokerOptions("127.0.0.1", mosquitto.port), "a", max_payload=100) as link:
        inbox = listen(link, "t")
        link.connect()
        link.publish("t", b"x" * 101)
        link.publish("t", b"small")
        assert inbox.get(timeout=5) == ("t", b"small")
        assert link.dropped == 1


def test_connection_outlives_a_fault_of_the_client_library(
    mosquitto: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Link(BrokerOptions("127.0.0.1", mosquitto.port), "a") as link:
        inbox = listen(link, "t")
        link.connect()
        real, raised = link._client.loop, threading.Event()

        def loop(timeout: float) -> object:
            if not raised.is_set():
                raised.set()
                raise KeyError("of a packet that nobody thought of")
            return real(timeout)

        monkeypatch.setattr(link._client, "loop", loop)
        assert raised.wait(10)
        deadline = time.monotonic() + 20
        while inbox.empty() and time.monotonic() < deadline:
            link.publish("t", b"after", timeout_s=1.0).wait(1.0)
        assert inbox.get(timeout=1) == ("t", b"after")


def test_packet_without_end_is_not_collected() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        link = Link(BrokerOptions("127.0.0.1", server.getsockname()[1]), "a")
        link.start()
        client, _ = server.accept()
        with client:
            client.settimeout(20)
            client.recv(4096)
            client.sendall(b"\x20\x02\x00\x00")
            client.sendall(b"\x30\xff\xff\xff\x7f\x00\x01t")
            sent = 0
            with contextlib.suppress(OSError):  # it hangs up
                while sent < 200 << 20:
                    sent += client.send(bytes(1 << 20))
        link.close(drain_s=0)
    assert sent < 64 << 20


def test_wrong_tls_files_are_one_clear_error(tmp_path: Path) -> None:
    options = BrokerOptions("127.0.0.1", 8883, tls=Tls(ca=tmp_path / "absent.pem"))
    with pytest.raises(LinkError, match="TLS"):
        Link(options, "a").connect()
    with pytest.raises(LinkError, match="TLS"):
        options.check()


def test_link_that_runs_for_ever_waits_for_tls_files_that_are_not_right_yet(
    mosquitto: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device whose key has rotted, or is just being replaced, goes on without a broker and not without
    its agent."""
    tried = queue.Queue[None]()

    def rotten(_: Tls) -> None:
        tried.put(None)
        raise LinkError("cannot use the TLS files: PEM lib")

    monkeypatch.setattr(Tls, "context", rotten)
    with Link(BrokerOptions("127.0.0.1", mosquitto.port, tls=Tls()), "a") as link:
        link.start()
        for _ in range(2):
            tried.get(timeout=10)
        link.broker = BrokerOptions("127.0.0.1", mosquitto.port)  # as a file that is right now
        deadline = time.monotonic() + 20
        while not link.is_up and time.monotonic() < deadline:
            time.sleep(0.02)
        assert link.is_up


def test_refused_subscription_is_told_and_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A broker may open its door before its access rules are there. Mosquitto grants every filter, so this
    one is played."""
    monkeypatch.setattr("edgectl.link.mqtt._ASK_AGAIN_S", 0.1)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        Link(BrokerOptions(*server.getsockname()), "late") as link,
    ):
        got = listen(link, "ours")
        link.start()
        connection, _ = server.accept()
        with connection:
            connection.settimeout(10)
            connection.recv(1024)
            connection.sendall(b"\x20\x02\x00\x00")
            for granted in (0x80, 0x01):
                asked = connection.recv(1024)
                assert asked[0] == 0x82
                connection.sendall(b"\x90\x03" + asked[2:4] + bytes([granted]))
            connection.sendall(b"\x30\x07\x00\x04ours!")
            assert got.get(timeout=10) == ("ours", b"!")
            assert "refuses ours" in caplog.text


def test_link_says_from_when_until_when_it_heard_everything(mosquitto: Broker) -> None:
    handling, done = threading.Event(), threading.Event()

    def slow(_topic: str, _payload: bytes) -> None:
        handling.set()
        done.wait(10)

    link = Link(BrokerOptions(mosquitto.host, mosquitto.port), "listener", keepalive_s=1)
    link.subscribe("t", slow)
    assert link.hears is None
    link.connect()
    with link, Link(BrokerOptions(mosquitto.host, mosquitto.port), "speaker") as speaker:
        speaker.connect()
        speaker.publish("t", b"x")
        assert handling.wait(10)
        now = time.monotonic()
        heard = link.hears
        assert heard is not None
        assert heard[0] <= heard[1] <= now, "what is being handled is not heard yet"
        done.set()
        while (heard := link.hears) is not None and heard[1] < now:
            # nobody says anything: a ping of the link itself is the proof
            time.sleep(0.01)
        assert heard is not None
        assert link.address == "127.0.0.1"
    assert link.hears is None


def test_link_that_stood_still_begins_to_hear_anew(mosquitto: Broker) -> None:
    """A process that was stopped for long does not know what the broker threw away for it meanwhile."""
    with Link(BrokerOptions(mosquitto.host, mosquitto.port), "sleeper", keepalive_s=1) as link:
        link.connect()
        before = link.hears
        assert before is not None
        link._came_s -= 60.0
        while (heard := link.hears) is None or heard[0] == before[0]:
            time.sleep(0.01)
        assert heard[0] > before[0]


# paho leaves the socket whose handshake failed to the collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("begins", "ends", "what"), [(-20, -10, "expired"), (10, 20, "not yet valid")])
def test_certificate_that_the_clock_calls_over_makes_the_clock_the_first_suspect(
    tmp_path: Path, begins: int, ends: int, what: str
) -> None:
    """A device whose clock says 2030, or 1970, may well be the one that is wrong."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(timezone.utc)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
    )
    made = made.not_valid_before(now + timedelta(days=begins)).not_valid_after(now + timedelta(days=ends))
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    made = made.add_extension(
        x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
    )
    (tmp_path / "crt").write_bytes(made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    (tmp_path / "key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "crt", tmp_path / "key")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            client, _ = server.accept()
            speaker = context.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
            with speaker, contextlib.suppress(OSError):
                speaker.do_handshake()

        thread = threading.Thread(target=answer)
        thread.start()
        options = BrokerOptions("127.0.0.1", server.getsockname()[1], tls=Tls(tmp_path / "crt"))
        with pytest.raises(
            LinkError, match=f"this machine's clock says 20.*, and by it: certificate .*{what}"
        ):
            Link(options, "a").connect()
        thread.join()


def test_handler_can_tell_what_the_broker_had_kept_from_what_is_said_now(mosquitto: Broker) -> None:
    options = BrokerOptions(mosquitto.host, mosquitto.port)
    got: queue.Queue[tuple[bytes, bool]] = queue.Queue()
    with Link(options, "speaker") as speaker, Link(options, "listener") as listener:
        speaker.connect()
        assert speaker.publish("t", b"kept", retain=True).wait(5)
        listener.subscribe("t", lambda _, payload: got.put((payload, listener.is_kept)))
        listener.connect()
        assert got.get(timeout=10) == (b"kept", True)
        speaker.publish("t", b"said", retain=True)
        assert got.get(timeout=10) == (b"said", False)
