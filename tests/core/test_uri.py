"""Credentials never leave the process in any spelling. The secrets of these tests are made; whatever is
shown must not have them."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgectl.core.uri import HIDDEN, RedactingFormatter, has_credentials, redact, redact_text, redact_values

SECRET = "S3cr3tX"
USER = "Us3rnameY"

schemes = st.sampled_from(
    ["rtsp", "rtsps", "rtmp", "http", "https", "RTSP", "mqtts", "postgresql+psycopg", "gopher", "rtp"]
)
hosts = st.sampled_from(["cam7", "10.0.0.7", "[fe80::1]", "cam-7.site.lan"])
ports = st.sampled_from(["", ":554", ":8554"])
paths = st.sampled_from(
    [
        "",
        "/",
        "/sub",
        "/Streaming/Channels/101",
        "/cam/realmonitor",
        "/h264Preview_01_main",
        "/axis-media/media.amp",
    ]
)
odd = st.text(st.sampled_from("/?#:@&=;%'\"!$()*+,[]{}|\\^~`<>.äé-_9a"), max_size=6)
"""What people have in passwords, white space aside, which ends a word of a sentence."""


def spelt(text: str, how: int) -> str:
    """``text`` as it is, percent-encoded, encoded twice, or with each character encoded."""
    if how == 3:
        return "".join(f"%{b:02X}" for b in text.encode())
    for _ in range(how):
        text = quote(text, safe="")
    return text


@given(
    schemes,
    st.sampled_from(["://", ":/", ":", ":///"]),
    odd,
    odd,
    hosts,
    ports,
    paths,
    st.integers(0, 2),
    st.booleans(),
)
@example("rtsp", "://", "/", "", "cam", "", "", 0, False)
def test_userinfo_is_never_shown(
    scheme: str,
    slashes: str,
    left: str,
    right: str,
    host: str,
    port: str,
    path: str,
    how: int,
    encoded_at: bool,
) -> None:
    at = "%40" if encoded_at else "@"
    uri = f"{scheme}{slashes}{spelt(USER, how)}:{spelt(left + SECRET + right, how)}{at}{host}{port}{path}"
    if slashes == ":" and scheme in ("gopher",):
        uri = uri.removeprefix("gopher:")  # an unknown word before a colon is a user name
    for shown in (
        redact(uri),
        redact_text(f"cannot open {uri}: no route to host"),
        redact_text(f"('{uri}')"),
    ):
        assert SECRET not in shown
        assert USER not in shown
    assert host in redact(uri)


@given(
    hosts,
    odd,
    st.sampled_from(["user", "usr", "password", "pwd", "x", "token", "channel", "%70assword"]),
    st.integers(0, 3),
)
def test_what_a_query_a_fragment_or_a_path_assigns_is_not_shown(
    host: str, tail: str, name: str, how: int
) -> None:
    value = spelt(SECRET + re.sub(r"[/&;?#]", "", tail), how)
    for uri in (
        f"rtsp://{host}/sub?channel=1&{name}={value}",
        f"rtsp://{host}/sub?{name}={value};stream=0",
        f"rtsp://{host}/sub#{name}={value}",
        f"rtsp://{host}:554/{name}={value}_channel=1_stream=0.sdp?real_stream",
        f"rtsp://{host}:554/live/{name}%3D{value}",
        f"http://{host}/cgi-bin/video.cgi?{value}",
    ):
        shown = redact(uri)
        assert SECRET not in shown
        assert spelt(SECRET, how) not in shown
        # an @ in a value hides too much: it might end a password
        assert host in shown or "@" in tail
        assert redact(shown) == shown


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("rtsp://admin:secret@cam7:554/sub", "rtsp://cam7:554/sub"),
        ("rtsp://admin:pa/ss@cam", "rtsp://cam"),
        ("rtsp://admin:p@ss@cam/sub", "rtsp://cam/sub"),
        ("rtsp://admin@cam/sub", "rtsp://cam/sub"),
        ("admin:secret@cam/sub", "cam/sub"),
        (
            "rtsp://cam/live?user=admin&password=x&channel=2",
            f"rtsp://cam/live?user={HIDDEN}&password={HIDDEN}&channel=2",
        ),
        ("rtsp://cam:554/user=admin_password=x_channel=1_stream=0.sdp", f"rtsp://cam:554/{HIDDEN}"),
        (
            "rtsps://192.168.1.1:7441/AbCdEfGhIjKlMn0p?enableSrtp",
            f"rtsps://192.168.1.1:7441/{HIDDEN}?enableSrtp",
        ),
        ("rtmp://a.example/live2/abcd-efgh-ijkl", f"rtmp://a.example/live2/{HIDDEN}"),
        ("http://cam/token/abc/video.mjpg", f"http://cam/token/{HIDDEN}/video.mjpg"),
        (
            "rtsp://tv.example:8080/live/alice/hunter/17.ts",
            f"rtsp://tv.example:8080/live/{HIDDEN}/{HIDDEN}/17.ts",
        ),
        ("rtsp://admin:secret", f"rtsp://{HIDDEN}:{HIDDEN}"),
        ("postgresql+psycopg://fleet:secret@db/edgectl", "postgresql+psycopg://db/edgectl"),
        ("mic://secret@hw:1,0", "mic://hw:1,0"),
    ],
)
def test_what_is_shown_of_the_usual_spellings(uri: str, shown: str) -> None:
    assert redact(uri) == shown
    assert redact(shown) == shown
    assert redact_text(uri) != uri


def test_the_names_in_the_path_of_a_web_page_stay_in_a_sentence_but_not_in_a_source() -> None:
    uri = "http://tv.example:8080/live/alice/hunter/17.ts"
    assert redact(uri) == f"http://tv.example:8080/live/{HIDDEN}/{HIDDEN}/17.ts"
    assert redact_text(f"see {uri}.") == f"see {uri}."


@pytest.mark.parametrize(
    "harmless",
    [
        "rtsp://cam7:554/Streaming/Channels/101",
        "rtsp://nvr:8554/gate-2",
        "rtsp://cam/cam/realmonitor?channel=1&subtype=0",
        "synth://yard?seed=1&fps=15&seconds=20&paced=0",
        "v4l2:///dev/video0",
        "mic://hw:1,0",
        "/data/day=3/clip@2.mp4",
        "file:/data/clip (1).mp4?paced=1&loop=1",
        "release gate@1.0.0 is not known; see https://example.org/models/resolve/3d4f1119d069aabb/yolox_nano.onnx",
        "gate-detector: gate@1.0.0 on 3 devices, 12/12 done",
        "give KEY=VALUE, e.g. surveillance=rtsp://cam7/sub",
        "C:/clips/gate.mp4",
        "D:/clips/gate.mp4: no such file",
        "sqlite:////var/lib/edgectl/fleet.db",
        "labels: site=north, user=anna; the group is login=night",
        "bypass=1 compass=north highpass=80",
        "broker.password: there is no such setting; --password-file=/etc/edgectl/password",
        "nobody answers at http://127.0.0.1:8765, so gate@1.0.0 stays; ask anna@example.org",
        "onnxruntime==1.20 secret==public",
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    ],
)
def test_what_has_no_secret_stays_as_it_is(harmless: str) -> None:
    assert redact_text(harmless) == harmless
    assert not has_credentials(harmless)
    if " " not in harmless:
        assert redact(harmless) == harmless


@pytest.mark.parametrize(
    "text",
    [
        '{{"broker": "cam", "password": "{s}", "port": 1}}',
        '{{"password": "a \\" {s}"}}',
        "{{'password': '{s}', 'port': 1}}",
        '"{{\\"token\\": \\"{s}\\"}}"',
        'password = "{s} and more"',
        "password='{s} and more'",
        "password=a,{s}",
        "password='it {s}",
        "access_key={s}",
        "private-key={s}",
        "credentials={s}",
        "loginuse=admin&loginpas={s}",
        "Authorization: Basic {s}",
        'authorization: Digest username="admin", response="{s}"',
        "cannot open rtsp://admin:my {s}@cam/sub: refused",
        "cannot open rtsp://admin:my/own {s} here@cam/sub: refused",
        "cannot open rtsp%3A%2F%2Fadmin%3A{s}%40cam%2Fsub",
        "cannot open rtsp%253A%252F%252Fadmin%253A{s}%2540cam%252Fsub",
        "cannot open //admin:{s}@cam/sub",
        "cannot open rtsp：//admin:{s}@cam/sub",
    ],
)
def test_a_secret_in_a_sentence_is_not_shown(text: str) -> None:
    shown = redact_text(f"first: {text.format(s=SECRET)}\nthen")
    assert SECRET not in shown
    assert shown.startswith("first: ")
    assert shown.endswith("\nthen")
    assert redact_text(shown) == shown


@given(st.text(max_size=200))
@example("rtsp://admin@/sub")
@example('see x:/y=token="')
def test_anything_may_be_given_and_is_stable(text: str) -> None:
    assert redact(redact(text)) == redact(text)
    assert redact_text(redact_text(text)) == redact_text(text)


def test_a_long_text_is_looked_through_in_linear_time() -> None:
    n = 100_000
    for text in (
        *(
            "a" * 3 * n,
            "a:" * n,
            "rtsp:/" * n,
            "@:" * n,
            "%25" * n + "40",
            "_" * n + "/",
            "token_" * n + "=",
            "x-password" * n + "=",
        ),
        *(
            "rtsp-" * n + "@",
            '"a:b' * n + "@/",
            "=a:b" * n + "/",
            "a%3ab/" * n + "@",
            "a://b:c " * n + "@",
            "password='" * n,
            '\\"' * n,
        ),
    ):
        # the time-out of the test is the bound: the square of these lengths takes hours
        redact_text(text)


def test_json_values_are_looked_through_and_keys_stay() -> None:
    value = {"a": [f"rtsp://x:{SECRET}@cam", 1, None], "b": {"why": f"password={SECRET} refused"}, "c": True}
    shown = redact_values(value)
    assert SECRET not in json.dumps(shown)
    assert shown == {"a": ["rtsp://cam", 1, None], "b": {"why": f"password={HIDDEN} refused"}, "c": True}


def test_a_traceback_in_the_log_has_no_secret() -> None:
    try:
        raise OSError(f"no route to rtsp://admin:{SECRET}@cam/sub")
    except OSError:
        record = logging.LogRecord(
            "x", logging.ERROR, __file__, 1, "%s failed", (f"rtsp://u:{SECRET}@cam",), sys.exc_info()
        )
    line = RedactingFormatter("%(levelname)s %(message)s").format(record)
    assert "OSError" in line
    assert SECRET not in line


def test_what_python_itself_prints_has_no_secret() -> None:
    program = """
import gc, logging, threading, warnings
from edgectl.core.uri import redact_tracebacks
redact_tracebacks()
where = "rtsp://admin:SECRET@cam/"
logging.getLogger("x").warning("%s", where + "log")
warnings.warn(where + "warning")
class Dying:
    def __del__(self): raise OSError(where + "finaliser")
Dying(); gc.collect()
def fall(what): raise OSError(where + what)
threading.Thread(target=fall, args=("thread",)).start()
fall("end")
"""
    done = subprocess.run(
        [sys.executable, "-c", program.replace("SECRET", SECRET)], capture_output=True, text=True, timeout=60
    )
    assert SECRET not in done.stderr
    for what in ("log", "warning", "finaliser", "thread", "end"):
        assert f"rtsp://cam/{what}" in done.stderr
