"""What a web server sends: a camera's pictures, HLS, a file; passwords, certificates, and servers that misbehave."""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import free_port
from support.pipelines import write_clip
from support.web import files, own_certificate, pictures, send, web

from edgectl.core.errors import EdgectlError, SourceError
from edgectl.pipelines.sources import EndOfStream, Source, open_source
from edgectl.pipelines.sources.media import http_fetch
from edgectl.pipelines.sources.media.reader import reason_of
from edgectl.pipelines.stream.frame import Frame


def jpeg(value: int, size: tuple[int, int] = (64, 48)) -> bytes:
    return cv2.imencode(".jpg", np.full((size[1], size[0], 3), value, np.uint8))[1].tobytes()


def until_away(source: Source) -> list[Frame]:
    frames = []
    source.open()
    while source.outage is None:
        frame = source.read(5)
        if frame is not None:
            frames.append(frame)
    source.close()
    return frames


def drain(source: Source) -> list[Frame]:
    frames: list[Frame] = []
    try:
        while (frame := source.read(5)) is not None:
            frames.append(frame)
    except EndOfStream:
        source.close()
        return frames
    raise AssertionError("a recording does not wait")


def lights(frames: list[Frame]) -> list[int]:
    return [round(float(f.bgr().mean()) / 10) * 10 for f in frames]


@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize(
    ("header", "mark"), [("cut", b"--cut"), ("--cut", b"--cut"), ('"cut"', b"\r\n--cut")]
)
def test_each_picture_of_a_camera_is_a_frame(length: bool, header: str, mark: bytes) -> None:
    shown = pictures([jpeg(v) for v in (10, 60, 110)], header=header, mark=mark, length=length)
    with web(shown) as address:
        source = open_source(f"{address}/video.mjpg")
        frames = until_away(source)
    assert lights(frames) == [10, 60, 110]
    assert [f.stamp.seq for f in frames] == [0, 1, 2]
    assert frames[0].stamp.quality == "arrival"
    assert frames[0].colour.full
    assert source.outage == "ended"


def test_a_picture_that_does_not_decode_is_counted_and_the_next_is_seen() -> None:
    with web(pictures([jpeg(10), b"no picture", jpeg(60)[:200], jpeg(110)])) as address:
        source = open_source(f"{address}/x")
        frames = until_away(source)
    assert lights(frames)[-1] == 110
    assert len(frames) + source.decode_errors + source.corrupt_frames == 4
    assert source.decode_errors >= 1


def test_a_picture_of_a_size_that_is_not_supported_is_refused_before_it_is_decoded() -> None:
    small = jpeg(10)
    at = small.index(b"\xff\xc0") + 5
    huge = small[:at] + (65000).to_bytes(2, "big") + (65000).to_bytes(2, "big") + small[at + 4 :]
    with web(pictures([huge])) as address:
        source = open_source(f"{address}/x")
        assert until_away(source) == []
        assert source.outage == "invalid"


def test_a_camera_that_hangs_up_is_read_again_and_its_frames_go_on() -> None:
    with web(pictures([jpeg(10), jpeg(60)])) as address:
        source = open_source(f"{address}/x")
        source.open()
        frames: list[Frame] = []
        while len(frames) < 5:
            frame = source.read(5)
            frames += [] if frame is None else [frame]
        source.close()
    assert [f.stamp.seq for f in frames] == [0, 1, 2, 3, 4]
    assert np.diff([f.stamp.t_ns for f in frames]).min() > 0


def test_a_file_is_a_recording_with_all_its_frames_also_where_its_index_comes_last(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4")
    with web(files(tmp_path)) as address:
        source = open_source(f"{address}/clip.mp4")
        info = source.open()
        assert (info.width, info.height, info.fps, info.realtime, info.frames) == (64, 48, 15.0, False, 30)
        frames = drain(source)
    assert [round(f.stamp.t_s * 15) for f in frames] == list(range(30))


def test_a_server_that_hangs_up_in_the_middle_of_a_file_is_asked_for_the_rest(tmp_path: Path) -> None:
    body = write_clip(tmp_path / "clip.mp4").read_bytes()
    asked: list[int] = []

    def cuts(handler: BaseHTTPRequestHandler) -> None:
        start = int((handler.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        asked.append(start)
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(body) - start))
        handler.send_header("Accept-Ranges", "bytes")
        handler.end_headers()
        handler.wfile.write(body[start : start + len(body) // 5])
        handler.close_connection = True

    with web(cuts) as address:
        source = open_source(f"{address}/clip.mp4")
        source.open()
        frames = drain(source)
    assert len(frames) == 30
    assert len(set(asked)) > 4


def test_a_server_that_never_sends_a_byte_of_a_file_is_given_up_without_a_traceback(
    capfd: pytest.CaptureFixture[str],
) -> None:
    def nothing(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(206 if handler.headers.get("Range") else 200)
        handler.send_header("Content-Length", "1000")
        handler.send_header("Accept-Ranges", "bytes")
        handler.end_headers()
        handler.close_connection = True

    with web(nothing) as address, pytest.raises(SourceError):
        open_source(f"{address}/clip.mp4").open()
    assert capfd.readouterr().err == ""


def hls(folder: Path, *, ended: bool) -> None:
    write_clip(folder / "clip.mp4", frames=60, fps=25)
    more = [] if ended else ["-hls_flags", "omit_endlist"]
    command = f"ffmpeg -v error -i {folder}/clip.mp4 -c:v libx264 -g 10 -f hls -hls_time 0.4 -hls_list_size 0"
    subprocess.run([*command.split(), *more, str(folder / "list.m3u8")], check=True, stdin=subprocess.DEVNULL)


def test_a_list_that_has_an_end_is_a_recording(tmp_path: Path) -> None:
    hls(tmp_path, ended=True)
    with web(files(tmp_path)) as address:
        source = open_source(f"{address}/list.m3u8")
        assert not source.open().realtime
        frames = drain(source)
    assert len(frames) == 60
    assert frames[-1].stamp.t_s == pytest.approx(59 / 25, abs=0.05)


def test_a_list_that_goes_on_is_live_over_tls_with_every_piece_from_a_server_that_is_trusted(
    tmp_path: Path,
) -> None:
    hls(tmp_path, ended=False)
    tls = own_certificate(tmp_path)
    with web(files(tmp_path), tls=tls) as address:
        source = open_source(f"{address}/list.m3u8#ca={tls[0]}")
        info = source.open()
        assert info.realtime
        assert info.kind == "live"
        frame = None
        while frame is None:
            frame = source.read(5)
        source.close()
    assert (frame.width, frame.height) == (64, 48)


def test_a_list_names_nothing_of_this_machine(tmp_path: Path) -> None:
    hls(tmp_path, ended=True)
    text = (tmp_path / "list.m3u8").read_text()
    (tmp_path / "list.m3u8").write_text(re.sub(r"(list\d+\.ts)", rf"file://{tmp_path}/\1", text))
    with web(files(tmp_path)) as address, pytest.raises(EdgectlError) as caught:
        open_source(f"{address}/list.m3u8").open()
    assert "\n" not in caught.value.message


def test_a_piece_that_is_gone_is_left_out_of_a_live_list_and_is_an_error_of_a_recording(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    hls(tmp_path, ended=False)
    live = (tmp_path / "list.m3u8").read_text()
    pieces = sorted(tmp_path.glob("list*.ts"))
    # FFmpeg begins three pieces before the end of a live list
    pieces[-2].unlink()
    with web(files(tmp_path)) as address:
        source = open_source(f"{address}/list.m3u8")
        source.open()
        for _ in range(12):
            assert source.read(5) is not None
        source.close()
        assert "a piece is left out" in caplog.text
        (tmp_path / "list.m3u8").write_text(live + "#EXT-X-ENDLIST\n")
        recording = open_source(f"{address}/list.m3u8")
        recording.open()
        with pytest.raises(SourceError):
            drain(recording)
        recording.close()
    assert capfd.readouterr().err == ""


def refused(uri: str) -> SourceError:
    with pytest.raises(SourceError) as caught:
        open_source(uri, patient=False).open()
    assert "\n" not in caught.value.message
    assert "secret" not in caught.value.message
    assert caught.value.hint
    return caught.value


def test_a_certificate_that_nobody_signed_is_refused_with_its_reason(tmp_path: Path) -> None:
    with web(files(tmp_path), tls=own_certificate(tmp_path)) as address:
        e = refused(f"{address}/x.mp4")
    assert reason_of(e.__cause__ or e) == "tls"
    assert "self-signed certificate" in e.message or "self signed certificate" in e.message


@pytest.mark.parametrize(
    ("code", "reason"),
    [(401, "auth"), (403, "auth"), (404, "not_found"), (410, "not_found"), (503, "refused")],
)
def test_what_the_server_says_is_a_reason(code: int, reason: str) -> None:
    with web(lambda h: send(h, b"", "text/plain", code)) as address:
        e = refused(f"{address.replace('//', '//admin:secret@')}/x")
    assert reason_of(e.__cause__ or e) == reason
    assert e.retryable == (reason == "refused")


def test_who_does_not_answer_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    e = refused(f"http://127.0.0.1:{free_port()}/x")
    assert reason_of(e.__cause__ or e) == "refused"
    e = refused("http://camera.invalid/x")
    assert reason_of(e.__cause__ or e) == "unreachable"
    monkeypatch.setattr(http_fetch, "_READ_S", 0.2)
    silent = threading.Event()
    with web(lambda h: silent.wait() and None) as address:
        e = refused(f"{address}/x")
        silent.set()
    assert reason_of(e.__cause__ or e) == "timeout"


def test_headers_that_come_byte_by_byte_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them in time, all of them never."""
    monkeypatch.setattr(http_fetch, "_OPEN_S", 0.5)
    done = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        while not done.wait(0.02):
            handler.wfile.write(b"x")

    with web(drip) as address:
        e = refused(f"{address}/x")
        done.set()
    assert e.retryable


def basic(handler: BaseHTTPRequestHandler) -> bool:
    given = handler.headers.get("Authorization", "")
    if given == "Basic " + base64.b64encode(b"admin:se/cret").decode():
        return True
    send(handler, b"", "text/plain", 401, WWW_Authenticate='Basic realm="camera"')
    return False


def digest(handler: BaseHTTPRequestHandler) -> bool:
    """RFC 7616, as cameras do it: MD5."""
    given = dict(re.findall(r'(\w+)="?([^",]+)', handler.headers.get("Authorization", "")))

    def md5(*parts: str) -> str:
        return hashlib.md5(":".join(parts).encode()).hexdigest()

    if given:
        a1, a2 = md5("admin", "camera", "se/cret"), md5(handler.command, handler.path)
        wanted = md5(a1, "n0nce", given["nc"], given["cnonce"], given["qop"], a2)
        if given["response"] == wanted:
            return True
    send(handler, b"", "text/plain", 401, WWW_Authenticate='Digest realm="camera", nonce="n0nce", qop="auth"')
    return False


@pytest.mark.parametrize("door", [basic, digest])
def test_a_password_opens_and_a_wrong_one_is_told(door: object, tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4")
    serve = files(tmp_path)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if door(handler):  # type: ignore[operator]
            serve(handler)

    with web(answer) as address:
        place = address.removeprefix("http://")
        source = open_source(f"http://admin:se%2Fcret@{place}/clip.mp4")
        assert source.open().frames == 30
        source.close()
        e = refused(f"http://admin:secret@{place}/clip.mp4")
    assert reason_of(e.__cause__ or e) == "auth"
    assert not e.retryable


def test_a_password_goes_to_no_other_server_and_no_secure_address_leads_to_an_open_one(
    tmp_path: Path,
) -> None:
    seen: list[str | None] = []

    def other(handler: BaseHTTPRequestHandler) -> None:
        seen.append(handler.headers.get("Authorization"))
        send(handler, b"", "text/plain", 401, WWW_Authenticate='Basic realm="camera"')

    with web(other) as elsewhere:

        def away(handler: BaseHTTPRequestHandler) -> None:
            if basic(handler):
                send(handler, b"", "text/plain", 302, Location=f"{elsewhere}/x")

        with web(away) as address:
            refused(f"http://admin:se%2Fcret@{address.removeprefix('http://')}/x")
        assert seen == [None]
        tls = own_certificate(tmp_path)
        with web(lambda h: send(h, b"", "text/plain", 302, Location=f"{elsewhere}/x"), tls=tls) as address:
            e = refused(f"{address}/x#ca={tls[0]}")
        assert seen == [None]
        assert "not as safe" in e.message


def test_a_camera_that_is_away_at_first_is_waited_for_by_who_is_patient() -> None:
    port = free_port()
    source = open_source(f"http://127.0.0.1:{port}/x", patient=True)
    assert source.open().width is None
    assert source.outage == "refused"
    with web(pictures([jpeg(60)]), port=port):
        frame = None
        while frame is None:
            frame = source.read(5)
    source.close()
    assert lights([frame]) == [60]


@pytest.mark.parametrize(
    ("path", "waits"), [("clip.MP4?x=1", False), ("video.mjpg", True), ("live.m3u8", True)]
)
def test_a_camera_that_is_off_is_waited_for_and_a_recording_is_not(path: str, waits: bool) -> None:
    source = open_source(f"http://127.0.0.1:{free_port()}/{path}", patient=True)
    if waits:
        source.open()
        assert source.outage == "refused"
        source.close()
    else:
        with pytest.raises(SourceError, match="Connection refused"):
            source.open()
