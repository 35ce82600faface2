"""Events to a real web server that fails, is away, or says no; secrets stay inside."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from support.fleet import wait_until

from edgectl.core.errors import UsageError
from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.sinks.base import SinkContext, StreamOutput
from edgectl.pipelines.sinks.webhook import WebhookConfig, WebhookSink, verdict


class Server:
    """Answers with the codes of ``answers``, then 200; keeps what came."""

    def __init__(self, port: int = 0) -> None:
        self.got: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answers: list[int] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.headers.append(dict(self.headers))
                code = outer.answers.pop(0) if outer.answers else 200
                if code == 200:
                    outer.got.append(json.loads(body))
                self.send_response(code)
                if code == 302:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self.http.server_port
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,))
        self.thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr("edgectl.pipelines.sinks.webhook._BACKOFF_S", (0.01, 0.05))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    found = Server()
    yield found
    found.close()


def sink(port: int, out: Path | None = None, **options: Any) -> WebhookSink:
    url = f"http://127.0.0.1:{port}/hook/geheim?token=geheim"
    return WebhookSink(WebhookConfig(url=url, **options), SinkContext("gate", out))


def record(i: int, **more: Any) -> dict[str, Any]:
    return {"id": str(i), "type": "line_crossing", "rule": "gate", **more}


def ids(server: Server) -> list[str]:
    return [r["id"] for r in server.got]


def test_events_arrive_in_order_although_the_server_fails_now_and_then(
    server: Server, tmp_path: Path
) -> None:
    server.answers = [500, 429, 200, 503, 200]
    hook = sink(server.port, tmp_path, headers={"Authorization": "Bearer geheim"})
    for i in range(20):
        hook.write(StreamOutput((record(i),)))
    wait_until(lambda: len(server.got) == 20, "all arrive")
    assert ids(server) == [str(i) for i in range(20)]
    assert {h["Authorization"] for h in server.headers} == {"Bearer geheim"}
    assert {h["Content-Type"] for h in server.headers} == {"application/json"}
    hook.close()
    assert hook.trouble() is None


def test_what_no_retry_can_help_is_given_up_and_the_next_comes_through(
    server: Server, tmp_path: Path
) -> None:
    server.answers = [400, 302, 200]
    hook = sink(server.port, tmp_path)
    hook.write(StreamOutput((record(0), record(1), record(2))))
    wait_until(lambda: ids(server) == ["2"], "the last arrives")
    assert len(server.headers) == 3  # a redirection is not followed
    server.answers = [500] * 3
    hook.close()
    hook = sink(server.port, tmp_path, tries=3)
    hook.write(StreamOutput((record(3), record(4))))
    wait_until(lambda: ids(server) == ["2", "4"], "after three tries the next one goes")
    hook.close()


def test_a_server_that_is_away_is_told_of_without_secrets_and_gets_all_from_the_next_run(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    port = server.port
    server.close()
    hook = sink(port, tmp_path, headers={"X-Key": "geheim"}, tries=1000)
    hook.write(StreamOutput((record(0), record(1))))
    said = wait_until(hook.trouble, "it is told")
    assert "127.0.0.1" in said
    hook.close()
    assert "2 events wait" in caplog.text
    config = parse_config(
        "surveillance", {"webhook": {"url": "https://h/geheim", "headers": {"X": "geheim"}}}
    )
    assert "geheim" not in f"{said}{caplog.text}{config!r}"
    server.__init__(port)  # type: ignore[misc]
    hook = sink(port, tmp_path)
    wait_until(lambda: ids(server) == ["0", "1"], "the next run sends them")
    hook.close()


def test_only_what_is_asked_for_is_sent(server: Server) -> None:
    hook = sink(server.port, on=("gate",))
    hook.write(StreamOutput((record(0, rule="other"), record(1))))
    wait_until(lambda: server.got, "one arrives")
    hook.close()
    everything = sink(server.port)
    update = {"id": "u", "type": "tracked_object", "phase": "update"}
    everything.write(StreamOutput((update, {**update, "id": "n", "phase": "new"})))
    wait_until(lambda: len(server.got) == 2, "another")
    everything.close()
    assert ids(server) == ["1", "n"]


@pytest.mark.parametrize(
    ("status", "meaning"),
    [
        (200, "done"),
        (204, "done"),
        (302, "never"),
        (401, "never"),
        (404, "never"),
        (408, "again"),
        (429, "again"),
        (500, "again"),
        (503, "again"),
    ],
)
def test_an_answer_means(status: int, meaning: str) -> None:
    assert verdict(status) == meaning


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"url": "ftp://geheim"}, "webhook.url: it must be an address that begins with https://"),
        ({"url": "https://h", "headers": {"A\nB": "x"}}, "webhook.headers"),
        ({"url": "https://h", "headers": {"A": "geheim\r\nB: c"}}, "webhook.headers: 'A' is no header"),
        ({"url": "https://h", "on": ["nothing"]}, "webhook.on.0: 'nothing' is no rule or zone"),
        ({}, "webhook.url: it is missing"),
    ],
)
def test_a_mistake_in_the_configuration_is_one_sentence(options: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words) as e:
        parse_config("surveillance", {"webhook": options})
    assert "geheim" not in str(e.value)
