"""What a URI may look like in any output: the one place that decides. Credentials never leave the process in any spelling.

What is shown is what is known to be harmless; the rest is ``***``. So a spelling that nobody thought of hides too much, never too
little:

* everything before the last ``@``, wherever it stands and however it is escaped: people write passwords with ``/``, ``?`` and ``#``,
  so the userinfo may reach far beyond the authority of RFC 3986 §3.2;
* of the query only the parameters that choose a stream (``channel=1``), of the fragment nothing;
* a path segment with ``=``, ``:`` or ``&`` in it (``/user=admin_password=x_channel=1.sdp``), one that looks random (the key of a
  stream), one behind a word such as ``user`` or ``token``, the last one of RTMP, and every name if there are two or more
  (``/live/NAME/PASSWORD/1.ts``).

:func:`redact` takes one URI, :func:`redact_text` finds them in a sentence. Nothing here imports anything of ours: every outlet (terminal,
logs, events, telemetry, errors) passes through it.

    >>> redact("rtsp://admin:pa/ss@cam7:554/Streaming/Channels/101?channel=1&token=x")
    'rtsp://cam7:554/Streaming/Channels/101?channel=1&token=***'
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import traceback
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Literal
from urllib.parse import unquote

__all__ = ["HIDDEN", "RedactingFormatter", "has_credentials", "redact", "redact_text", "redact_tracebacks", "redact_values"]

HIDDEN: Final = "***"

_LOCAL = frozenset({"file", "v4l2", "synth", "mic", "csi"})
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(/*)")
_AT = re.compile(r"@|＠|%(?:25)*40")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.%a-z]+\]|[A-Za-z0-9._-]*)(?::([0-9]{1,5}))?")
_PLAIN_NAME = re.compile(r"[A-Za-z]{1,20}(?:[._-][A-Za-z]{1,20}){0,3}[._-]?[0-9]{0,3}")
_VALUE = re.compile(
    r"(?i)-?[0-9]{1,6}(?:\.[0-9]{1,6})?|[0-9]{2,5}x[0-9]{2,5}|auto|true|false|on|off|none|left|right|mean|tcp|udp|main|sub|h26[45]|hevc|mjpe?g|"
    r"(?:profile|stream|ch|channel)[_-]?[0-9]{1,3}"
)
_ASSIGNED = re.compile(r"=|:|&|;|%(?:25)*(?:3[dDaAbB]|26)")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_HARMLESS = _words(
    "block blocks camera channel clip codec enablesrtp exposure fps gain height hw id latency left level loop markings mode paced profile "
    "proto rate resolution right seconds seed size stream streamtype subtype transport unicast videocodec width x y"
)
"""Query parameters that choose or shape a stream: ours, and those of the usual cameras."""

_WORDS = _words(
    "api audio av avc axis axismedia bin cam cam1 cam2 camera cgi ch ch0 ch1 ch01 channel channels defaultprimary defaultsecondary flv h264 "
    "h264preview h265 h265preview hd hevc hls http https image img index ipcam isapi jpeg jpg live livestream m3u8 main mainstream media "
    "mediainput mediamtx mjpeg mjpg mp4 mpeg mpeg4 mpg multicast nph onvif picture play playlist primary profile profile1 profile2 "
    "realmonitor rtp rtpstream rtsp rtsph264 rtsp_tunnel sd sdp secondary snap snapshot stream stream1 stream2 streaming streams sub "
    "substream trackid ts tcp ucast udp unicast video video1 video2 videomain videosub videostream webcam 264"
)
"""Words of the paths of the usual cameras and servers: they name a kind of stream, not a person's choice."""

_BEFORE_A_SECRET = _words(
    "admin apikey auth credential credentials key login pass passwd password pin pw pwd secret sig signature token user username"
)
_HIDDEN_KEY = r"(?:[a-z0-9_-]*(?:pass(?:word|wd|phrase)?|pwd|secret|token|credential|api[_-]?key|signature)|user-?pw|pw|auth|sig|psw|login|user(?:name)?)"
_ASSIGNMENT = re.compile(rf"(?i)(?<![a-z0-9]){_HIDDEN_KEY}(?:=|%(?:25)*3d)(?!=|\*\*\*)[^\s&;,]+")
_IN_TEXT = re.compile(r"(?<![A-Za-z0-9])[A-Za-z][A-Za-z0-9+.-]{0,40}:/\S*")
_BARE_USERINFO = re.compile(
    r"(?<![^\s'\"(=])[^\s:/@'\"(=]{1,128}:[^\s/@:]\S*(?:@|＠|%(?:25)*40)(?=[A-Za-z\[]|[0-9]+\.[0-9]+\.[0-9]+\.[0-9])\S+"
)
_INTERESTING = re.compile(r"[@＠=/]|%")
_NETWORK_IN_TEXT = re.compile(
    r"(?i)\b(?:rtsps?|rtmps?|rtmpt|https?|wss?|ftp|mqtts?|srt|rtp|onvif|postgres(?:ql)?)[a-z0-9+.-]*:[^\s/]\S*"
)


def redact(uri: str) -> str:
    """``uri`` as it may be shown. Anything may be given, also what is no URI; a path of this machine stays as it is.

    Stable: ``redact(redact(x)) == redact(x)``.
    """
    return _redact(uri, public=False)


def _redact(uri: str, *, public: bool) -> str:
    """``public``: the path of a web page is shown, whatever it is called."""
    found = _SCHEME.match(uri)
    if found is None or (len(found[2]) < 1 and not _NETWORK_IN_TEXT.match(uri) and found[1].lower() not in _LOCAL):
        return _bare(uri)
    scheme, rest = found[1], uri[found.end() :]
    local = scheme.lower() in _LOCAL
    if (at := _last_at(rest)) is not None:
        if local and not _userinfo_like(rest[: at[0]]):
            at = None  # a file's name may have an @ in it
        else:
            rest = rest[at[1] :]
    prefix = f"{scheme}:{found[2] if local else '//'}"
    if local:
        return prefix + _local(rest)
    rest, _, fragment = rest.partition("#")
    place, mark, query = rest.partition("?")
    host, slash, path = place.partition("/")
    shown = prefix + _host(host)
    if slash:
        shown += "/" + _path(path, last_is_secret=scheme.lower().startswith("rtmp"), public=public)
    if mark:
        shown += "?" + _query(query)
    return shown + (f"#{HIDDEN}" if fragment else "")


def redact_text(text: str) -> str:
    """``text`` with every URI in it as :func:`redact` shows it, and without the values of ``password=…`` and their like."""
    if not _INTERESTING.search(text):
        return text
    text = _NETWORK_IN_TEXT.sub(lambda m: _kept_end(m[0]) if _AT.search(m[0]) else m[0], text)
    text = _IN_TEXT.sub(lambda m: _kept_end(m[0]), text)
    text = _BARE_USERINFO.sub(lambda m: _bare(m[0]), text)
    return _ASSIGNMENT.sub(_hidden_value, text)


def redact_values(value: Any) -> Any:
    """JSON values with every string as :func:`redact_text` shows it. Keys stay."""
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, Mapping):
        return {k: redact_values(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(redact_values(v) for v in value)
    return value


def has_credentials(text: str) -> bool:
    """Whether something of ``text`` would not be shown."""
    return redact_text(text) != text


class RedactingFormatter(logging.Formatter):
    """Log lines, tracebacks included, as :func:`redact_text` shows them."""

    def format(self, record: logging.LogRecord) -> str:
        return redact_text(super().format(record))


def redact_tracebacks() -> None:
    """From here on, what Python prints of an exception that nobody caught passes through :func:`redact_text`, in every thread."""

    def show(kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        sys.stderr.write(redact_text("".join(traceback.format_exception(kind, error, trace))))
        sys.stderr.flush()

    sys.excepthook = show
    threading.excepthook = lambda e: show(e.exc_type, e.exc_value, e.exc_traceback)


def _last_at(text: str) -> tuple[int, int] | None:
    spans = [m.span() for m in _AT.finditer(text)]
    return spans[-1] if spans else None


def _userinfo_like(before: str) -> bool:
    return ":" in before or bool(re.search(r"%(?:25)*3[aA]", before))


def _bare(text: str) -> str:
    """No scheme: ``user:password@host/path`` loses its userinfo, everything else is a path of this machine."""
    at = _last_at(text)
    if at is not None and _userinfo_like(text[: at[0]]):
        text = text[at[1] :]
    return _local(text)


def _local(path: str) -> str:
    """A path or a synthetic source: whole, but for values that are called a secret and for parameters that are not ours."""
    place, mark, query = path.partition("?")
    place = _ASSIGNMENT.sub(_hidden_value, place)
    return place + (f"?{_query(query)}" if mark else "")


def _host(host: str) -> str:
    if _HOST.fullmatch(host):
        return host
    return HIDDEN + (f":{HIDDEN}" if ":" in host else "")  # user:password, and the @host was forgotten


def _path(path: str, *, last_is_secret: bool, public: bool) -> str:
    segments = path.split("/")
    kinds = [_kind(s, public=public) for s in segments]
    for i in range(1, len(segments)):
        if unquote(segments[i - 1]).lower() in _BEFORE_A_SECRET or (last_is_secret and i == len(segments) - 1):
            kinds[i] = "secret"
    # Two names in one path: one may be a person's, the other the password.
    told = {"word", "name"} if public or kinds.count("name") < 2 else {"word"}
    return "/".join(s if kind in told else HIDDEN for s, kind in zip(segments, kinds, strict=True))


def _kind(segment: str, *, public: bool) -> Literal["word", "name", "secret"]:
    """``word``: part of the usual paths, or empty; ``name``: what a person may have chosen; ``secret``: what may be one."""
    if all(word.lower() in _WORDS or re.fullmatch(r"[0-9]{1,4}", word) for word in re.split(r"[._-]+", segment) if word):
        return "word"
    if _ASSIGNED.search(segment) or (not public and not _PLAIN_NAME.fullmatch(segment)):
        return "secret"
    return "name"


def _query(query: str) -> str:
    shown = []
    for pair in re.split(r"([&;])", query):
        name, sep, value = pair.partition("=")
        if pair in ("&", ";", "") or (name.lower() in _HARMLESS and (not sep or _VALUE.fullmatch(value) or value == HIDDEN)):
            shown.append(pair)
        else:
            told = name if name.lower() in _HARMLESS or re.fullmatch(_HIDDEN_KEY, name.lower()) else HIDDEN
            shown.append(f"{told}={HIDDEN}" if sep else HIDDEN)
    return "".join(shown)


def _hidden_value(found: re.Match[str]) -> str:
    name = re.split(r"(?i)=|%(?:25)*3d", found[0], maxsplit=1)[0]
    return f"{name}={HIDDEN}"


def _kept_end(token: str) -> str:
    """A URI out of a sentence, with the sentence's punctuation behind it."""
    end = len(token.rstrip("'\",.;:!?)]}>"))
    body, tail = token[:end], token[end:]
    public = token[:8].lower().startswith(("http://", "https://"))
    if not body or _AT.search(tail):
        return _redact(token, public=public)
    return _redact(body, public=public) + tail
