"""Templates to HTML. Everything that they print is escaped; nothing of ours marks foreign text as safe."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from edgectl.core.durations import in_words
from edgectl.fleet.web import words
from edgectl.fleet.web.charts import strip

__all__ = ["HEADERS", "STATIC", "Part", "asset", "environment", "part_markup"]

STATIC = {"dash.css": "text/css", "dash.js": "text/javascript"}
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # not no-referrer: then browsers say "null" where a form comes from
    "referrer-policy": "same-origin",
    "cache-control": "no-store",
}
"""Of every answer."""


@dataclass(frozen=True)
class Part:
    """A part of a page that is kept current."""

    html: str
    tag: str
    """Changes with it."""


@functools.cache
def asset(name: str) -> tuple[bytes, str]:
    """One of :data:`STATIC`: what it has in it, and a tag that changes with that."""
    data = (files("edgectl.fleet.web") / "static" / name).read_bytes()
    return data, hashlib.sha256(data).hexdigest()[:12]


@functools.cache
def environment() -> Environment:
    env = Environment(
        loader=FileSystemLoader(Path(str(files("edgectl.fleet.web"))) / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        finalize=_seen,
    )
    env.filters |= {
        "minute": words.minute,
        "second": words.second,
        "ms": words.ms,
        "percent": words.share,
        "bytes": words.size,
        "duration": in_words,
    }
    env.globals |= {"bar": strip, "asset": lambda name: f"/static/{name}?v={asset(name)[1]}"}
    return env


def part_markup(parts: Mapping[str, Part], id_: str) -> Markup:
    """A part of a page in its place, as ``dash.js`` finds it."""
    part = parts[id_]
    # what a template has made is escaped already
    html = Markup(part.html)  # noqa: S704
    return Markup('<div class="part" id="part-{}" data-tag="{}">{}</div>').format(id_, part.tag, html)


def _seen(value: Any) -> Any:
    """Of whatever a template prints."""
    return words.plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value
