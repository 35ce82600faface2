"""Why there is no picture of a stream: in words, and drawn, for a place where a picture belongs. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from html import escape
from typing import Any

__all__ = ["Absence", "absence", "placeholder"]

_SOON_S = 2.0
"""A wait that is shorter is not told."""
_REASONS = {
    "refused": "connection refused",
    "timeout": "no answer",
    "unreachable": "not reachable",
    "auth": "user or password is wrong",
    "not_found": "not found",
    "tls": "its certificate is not trusted",
    "ended": "it has hung up",
    "invalid": "it sends no video",
    "stalled": "it hangs",
    "crashed": "its reader has crashed",
    "no_room": "its frames are too large",
    "corrupt": "every picture is damaged",
    "engine_stuck": "the engine hangs",
}
"""Of an outage. A code that is not here is told as it is."""

Absence = tuple[str, str | None]
"""A short line, and more about it."""


def absence(live: Mapping[str, Any] | None) -> Absence:
    """``live``: a stream's :class:`~edgectl.pipelines.view.rolling.LiveStats` as a mapping; None before there are any.

    >>> absence({"state": "outage", "reason": "refused", "detail": None, "retry_s": 8.2})
    ('no picture: connection refused, trying again in 8 s', None)
    """
    if live is None:
        return "starting …", None
    state, reason = live["state"], live["reason"]
    if state == "running":
        return "waiting for a picture", None
    if state == "ended":
        return "the source has ended", None
    if state != "outage":
        return f"no picture: {'the stream has failed' if state == 'failed' else state}", reason
    retry_s = live["retry_s"]
    again = "" if retry_s is None else ", trying again"
    if retry_s is not None and retry_s >= _SOON_S:
        again += f" in {retry_s:.0f} s" if retry_s < 120 else f" in {retry_s / 60:.0f} min"
    return f"no picture: {_REASONS.get(reason, reason)}{again}", live["detail"]


def placeholder(stream: str, why: Absence, width: int) -> bytes:
    """SVG of 16:9."""
    title, detail = why
    lines = [(stream, 24, "#9aa5b1"), *((line, 26, "#ffffff") for line in textwrap.wrap(title, 44)[:3])]
    lines += [(line, 17, "#9aa5b1") for line in textwrap.wrap(detail or "", 70)[:4]]
    y, texts = 180 - sum(1.5 * size for _, size, _ in lines) / 2, []
    for line, size, colour in lines:
        y += 1.5 * size
        texts.append(
            f'<text x="320" y="{y:.0f}" font-size="{size}" fill="{colour}" text-anchor="middle">{escape(line)}</text>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{width * 9 // 16}" viewBox="0 0 640 360" '
        f'font-family="system-ui, sans-serif"><rect width="640" height="360" fill="#12151a"/>{"".join(texts)}</svg>'
    ).encode()
