"""What a URI may look like in any output: the one place that decides. Credentials never leave the process in
any spelling.

What is shown is what is known to be harmless; the rest is ``***``. So a spelling that nobody thought of hides
too much, never too little:

* everything before the last ``@``, wherever it stands and however it is escaped: people write passwords with ``/``,
  ``?`` and ``#``, so the userinfo may reach far beyond the authority of RFC 3986 §3.2;
* of the query only the parameters that choose a stream (``channel=1``), of the fragment nothing;
* of a sentence also the values of ``password=…``, ``"token": "…"`` and their like, and what follows
  ``Authorization: Basic``;
* a path segment with ``=``, ``:`` or ``&`` in it (``/user=admin_password=x_channel=1.sdp``), one that looks random
  (the key of a stream), one behind a word such as ``user`` or ``token``, the last one of RTMP, and every name if
  there are two or more (``/live/NAME/PASSWORD/1.ts``).

:func:`redact` takes one URI, :func:`redact_text` finds them in a sentence. Nothing here imports anything of
ours: every outlet (terminal, logs, events, telemetry, errors) passes through it.

    >>> redact("rtsp://admin:pa/ss@cam7:554/Streaming/Channels/101?channel=1&token=x")
    'rtsp://cam7:554/Streaming/Channels/101?channel=1&token=***'
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import traceback
import warnings
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Literal
from urllib.parse import unquote

__all__ = [
    "HIDDEN",
    "RedactingFormatter",
    "has_credentials",
    "redact",
    "redact_text",
    "redact_tracebacks",
    "redact_values",
]

HIDDEN: Final = "***"

_PATHS = frozenset({"file", "v4l2", "sqlite"})
"""Schemes of files of this machine, whose names may have an @ in them."""
_LOCAL = _PATHS | {"synth", "mic", "csi"}
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
_HIDDEN_KEY = (
    r"[a-z0-9_-]*(?:pass(?:w|word|wd|phrase)?|pwd|psw|secret|token|credentials?|(?:api|access|private|account|shared)[_-]?key|signature)|"
    r"user-?pw|pw|auth|sig|login(?:pas)?|user(?:name)?"
)
_NO_SECRET = re.compile(r"[a-z0-9_-]*(?:compass|bypass|(?:low|high|band)pass)")
_PERSON = frozenset({"login", "user", "username"})
"""Half a credential: hidden as part of an address, but an ordinary word of a sentence."""
# A name starts where no other can: every place is looked at once, however long a line of dashes or
# underscores is.
_ASSIGNMENT = re.compile(
    r"""(?<![A-Za-z0-9_-])([A-Za-z0-9_-]+)(?:(?:=|%(?:25)*3[dD])(?!=)|\\*["'][ \t]{0,3}[:=][ \t]{0,3}|[ \t]{0,3}[:=][ \t]{0,3}(?=["']))"""
)
_ASSIGNED_VALUE = re.compile(
    r"""\\+["'][^\n]*?(?:\\+["']|$)|(["'])(?:\\.|(?!\1)[^\n\\])*\1?|[^\s&;"']*[^\s&;"',.)}\]]""", re.MULTILINE
)
_HEADER = re.compile(r"(?i)\b(authorization\W{1,6}(?:basic|bearer|digest)[ \t]+)\S[^\n]*")
_IN_TEXT = re.compile(r"(?<![A-Za-z0-9])[A-Za-z][A-Za-z0-9+.-]{0,40}:/\S*")
_WITH_BLANKS = re.compile(
    r"(?<![A-Za-z0-9])([A-Za-z][A-Za-z0-9+.-]{0,40}:/{1,3})[^\s/@:]{1,128}:(?![0-9]{1,5}(?![^\s,.;/?#]))[^\s@]{0,128}[ \t][^\n]{0,128}@(?=[A-Za-z0-9\[])"
)
"""A password with blanks in it. What has a port or nothing behind the colon is an address, and the @
belongs to the sentence."""
_TOKEN = re.compile(r"\S+")
_BEFORE_A_HOST = re.compile(r"(?:@|＠|%(?:25)*40)(?=[A-Za-z\[]|[0-9]+\.[0-9]+\.[0-9]+\.[0-9])")
_BARE_USERINFO = re.compile(r"(?<![^\s'\"(=])(?:/{2,3})?[^\s:/@'\"(=]{1,128}(?::|：|%(?:25)*3[aA])[^\s@]")
_INTERESTING = re.compile(r"[@＠=/%]|['\"][ \t]*:|:[ \t]*['\"]|(?i:authorization)")
_NETWORK_IN_TEXT = re.compile(
    r"(?i)\b(?:rtsps?|rtmps?|rtmpt|https?|wss?|ftp|mqtts?|srt|rtp|onvif|postgres(?:ql)?)[a-z0-9+.-]{0,32}:[^\s/]\S*"
)


def redact(uri: str) -> str:
    """``uri`` as it may be shown. Anything may be given, also what is no URI; a path of this machine stays as
    it is.

    Stable: ``redact(redact(x)) == redact(x)``.
    """
    return _redact(uri, public=False)


def _redact(uri: str, *, public: bool) -> str:
    """``public``: the path of a web page is shown, whatever it is called."""
    found = _SCHEME.match(uri)
    if found is None or (
        len(found[2]) < 1 and not _NETWORK_IN_TEXT.match(uri) and found[1].lower() not in _LOCAL
    ):
        return _bare(uri)
    scheme, rest = found[1], uri[found.end() :]
    if len(scheme) == 1 and _last_at(uri) is None:
        return _local(uri)  # C:/clips/gate.mp4
    if (
        len(found[2]) == 1
        and scheme.lower() not in _LOCAL
        and not _NETWORK_IN_TEXT.match(uri)
        and _last_at(uri) is not None
    ):
        return _bare(uri)  # a name, and a password that begins with a slash
    local = scheme.lower() in _LOCAL
    if (at := _last_at(rest)) is not None and (scheme.lower() not in _PATHS or _userinfo_like(rest[: at[0]])):
        rest = rest[at[1] :]
    prefix = f"{scheme}:{found[2] if local else '//'}"
    if local:
        return prefix + _local(rest)
    rest, _, fragment = rest.lstrip("/").partition("#")
    place, mark, query = rest.partition("?")
    host, slash, path = place.partition("/")
    shown = prefix + _host(host)
    if slash:
        shown += "/" + _path(path, last_is_secret=scheme.lower().startswith("rtmp"), public=public)
    if mark:
        shown += "?" + _query(query)
    return shown + (f"#{HIDDEN}" if fragment else "")


def redact_text(text: str) -> str:
    """``text`` with every URI in it as :func:`redact` shows it, and without the values of ``password=…``
    and their like."""
    if not _INTERESTING.search(text):
        return text
    text = _WITH_BLANKS.sub(r"\1", text)
    text = _NETWORK_IN_TEXT.sub(lambda m: _kept_end(m[0]) if _AT.search(m[0]) else m[0], text)
    text = _IN_TEXT.sub(lambda m: _kept_end(m[0]), text)
    if _AT.search(text):
        text = _TOKEN.sub(lambda m: _without_bare_userinfo(m[0]), text)
    return _without_values(_HEADER.sub(rf"\1{HIDDEN}", text))


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
    """From here on, what Python itself prints passes through :func:`redact_text`: exceptions that nobody
    caught, in every thread and in finalisers, warnings, and what is logged where nobody set up a log
    (:data:`logging.lastResort`).
    """

    def write(text: str) -> None:
        if sys.stderr is not None:
            sys.stderr.write(redact_text(text))
            sys.stderr.flush()

    def show(
        kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        write("".join(traceback.format_exception(kind, error, trace)))

    def warn(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object, **__: object
    ) -> None:
        write(warnings.formatwarning(message, category, filename, lineno))

    sys.excepthook = show
    threading.excepthook = lambda e: show(e.exc_type, e.exc_value, e.exc_traceback)
    sys.unraisablehook = lambda e: show(e.exc_type, e.exc_value, e.exc_traceback)
    warnings.showwarning = warn
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(RedactingFormatter())


def _last_at(text: str) -> tuple[int, int] | None:
    spans = [m.span() for m in _AT.finditer(text)]
    return spans[-1] if spans else None


def _userinfo_like(before: str) -> bool:
    return ":" in before or bool(re.search(r"%(?:25)*3[aA]", before))


def _bare(text: str) -> str:
    """No scheme: ``user:password@host/path`` loses its userinfo, everything else is a path of this
    machine."""
    at = _last_at(text)
    if at is not None and _userinfo_like(text[: at[0]]):
        text = text[at[1] :]
    return _local(text)


def _local(path: str) -> str:
    """A path or a synthetic source: whole, but for values that are called a secret and for parameters that
    are not ours."""
    place, mark, query = path.partition("?")
    return _without_values(place) + (f"?{_query(query)}" if mark else "")


def _host(host: str) -> str:
    if _HOST.fullmatch(host):
        return host
    return HIDDEN + (f":{HIDDEN}" if ":" in host else "")  # user:password, and the @host was forgotten


def _path(path: str, *, last_is_secret: bool, public: bool) -> str:
    segments = path.split("/")
    kinds = [_kind(s, public=public) for s in segments]
    for i in range(1, len(segments)):
        if unquote(segments[i - 1]).lower() in _BEFORE_A_SECRET or (
            last_is_secret and i == len(segments) - 1
        ):
            kinds[i] = "secret"
    # Two names in one path: one may be a person's, the other the password.
    told = {"word", "name"} if public or kinds.count("name") < 2 else {"word"}
    return "/".join(s if kind in told else HIDDEN for s, kind in zip(segments, kinds, strict=True))


def _kind(segment: str, *, public: bool) -> Literal["word", "name", "secret"]:
    """``word``: part of the usual paths, or empty; ``name``: what a person may have chosen; ``secret``:
    what may be one."""
    if all(
        word.lower() in _WORDS or re.fullmatch(r"[0-9]{1,4}", word)
        for word in re.split(r"[._-]+", segment)
        if word
    ):
        return "word"
    if _ASSIGNED.search(segment) or (not public and not _PLAIN_NAME.fullmatch(segment)):
        return "secret"
    return "name"


def _query(query: str) -> str:
    shown = []
    for pair in re.split(r"([&;])", query):
        name, sep, value = pair.partition("=")
        if pair in ("&", ";", "") or (
            name.lower() in _HARMLESS and (not sep or _VALUE.fullmatch(value) or value == HIDDEN)
        ):
            shown.append(pair)
        else:
            told = name if name.lower() in _HARMLESS or re.fullmatch(_HIDDEN_KEY, name.lower()) else HIDDEN
            shown.append(f"{told}={HIDDEN}" if sep else HIDDEN)
    return "".join(shown)


def _without_bare_userinfo(token: str) -> str:
    """A word of a sentence without ``user:password@``, whose scheme was forgotten or is escaped."""
    ends = [m.start() for m in _BEFORE_A_HOST.finditer(token)]
    start = _BARE_USERINFO.search(token, 0, ends[-1]) if ends else None
    return token if start is None else token[: start.start()] + _bare(token[start.start() :])


def _without_values(text: str) -> str:
    """``text`` with *** for the values of ``password=…``, ``"token": "…"`` and their like."""
    shown, done = [], 0
    for name in _ASSIGNMENT.finditer(text):
        if name.start() < done or not _names_a_secret(
            name[1].lower(), text[max(0, name.start() - 1) : name.start()]
        ):
            continue
        value = _ASSIGNED_VALUE.match(text, name.end())
        if value is not None:
            quote = value[1] or ""
            closing = quote if len(value[0]) > 1 and value[0].endswith(quote) else ""
            shown += [text[done : name.end()], quote + HIDDEN + closing]
            done = value.end()
    return "".join(shown) + text[done:]


def _names_a_secret(name: str, before: str) -> bool:
    if name in _PERSON:
        return before in ("/", "?", "&", ";")
    return bool(re.fullmatch(_HIDDEN_KEY, name)) and not _NO_SECRET.fullmatch(name)


def _kept_end(token: str) -> str:
    """A URI out of a sentence, with the sentence's punctuation behind it."""
    end = len(token.rstrip("'\",.;:!?)]}>"))
    body, tail = token[:end], token[end:]
    public = token[:8].lower().startswith(("http://", "https://"))
    if not body or _AT.search(tail):
        return _redact(token, public=public)
    return _redact(body, public=public) + tail
