"""The pages, as HTML. They say what is known when they are asked for; ``static/live.js`` keeps them current."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from typing import Any
from urllib.parse import quote

__all__ = ["login", "one_stream", "overview"]

_STAGES = {"avail_to_event": "frame to event", "glass_to_event": "exposure to event"}


def overview(streams: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]], word: str) -> str:
    """Every stream of the process, and the last events of all of them."""
    cards = "".join(_card(about, large=len(streams) == 1) for about in streams)
    return _page(
        "live", f'<main class="overview"><div class="grid">{cards}</div>{_events(events)}</main>', word
    )


def one_stream(
    about: Mapping[str, Any], events: Sequence[Mapping[str, Any]], word: str, *, editable: bool
) -> str:
    """One stream: its picture, what each stage takes, its events, and the drawing of zones and lines."""
    editor = _EDITOR if editable else ""
    body = (
        f'<main class="one"><div>{_card(about, large=True, link=False)}{editor}</div>'
        f'<div><section><h2>Latency</h2><div class="scroll"><table class="stages">{_HEAD}<tbody data-stages></tbody></table></div>'
        '<p class="note">Of the last two minutes, in milliseconds; – where there were too few frames to tell.</p></section>'
        f"{_events(events)}</div></main>"
    )
    return _page(str(about["name"]), body, word, back=True, scripts=("shapes.js",) if editable else ())


def login(*, wrong: bool) -> str:
    note = '<p class="bad" role="alert">This is not the token.</p>' if wrong else ""
    body = f"""<main class="login"><form method="post" action="/login"><h2>This page needs its token</h2>
<p>It was printed where the page was started.</p>{note}
<label>Token <input name="token" type="password" autocomplete="current-password" required autofocus></label>
<button>Watch</button></form></main>"""
    return _page("token", body, "", live=False)


def _page(
    title: str, body: str, word: str, *, back: bool = False, scripts: Sequence[str] = (), live: bool = True
) -> str:
    names = ("live.js", *scripts) if live else ()
    loaded = "".join(f'<script type="module" src="/static/{name}"></script>' for name in names)
    crumb = '<a href="/">all streams</a>' if back else ""
    status = '<span id="connection" role="status">connecting …</span><time id="clock"></time>' if live else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)} · edgectl</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<meta name="word" content="{escape(word)}"><link rel="icon" href="data:,"><link rel="stylesheet" href="/static/view.css">{loaded}</head>
<body><header><h1><a href="/">edgectl</a> <small>live</small></h1>{crumb}<span class="grow"></span>{status}</header>
{body}</body></html>
"""


def _card(about: Mapping[str, Any], *, large: bool, link: bool = True) -> str:
    name = str(about["name"])
    path = f"/streams/{quote(name)}"
    short, more = about["absence"]
    live = about["live"]
    gone = live is not None and live["state"] != "running"
    title = f'<a href="{path}">{escape(name)}</a>' if link else escape(name)
    first = "" if gone else f'<img src="{path}/picture.jpg?width={1280 if large else 640}" alt="">'
    picture = f"""<div class="frame">{first}
<canvas data-picture="{escape(name)}" role="img" aria-label="live picture of {escape(name)}"></canvas>
<p class="absence" data-absence role="status"{"" if gone else " hidden"}><b>{escape(short)}</b><span>{escape(more or "")}</span></p>
<span class="badge" data-age hidden></span></div>"""
    if not about["pictures"]:
        picture = '<div class="frame silent"><p>This stream has sound, and no picture.</p></div>'
    return f"""<article class="card{" large" if large else ""}" data-stream="{escape(name)}">
<h2>{title} <span class="state" data-state>{escape(_state(about["live"]))}</span></h2>{picture}
<dl><div><dt>frames/s</dt><dd data-fps>–</dd></div><div><dt>p50</dt><dd data-p50>–</dd></div><div><dt>p95</dt><dd data-p95>–</dd></div>
<div><dt>p99</dt><dd data-p99>–</dd></div><div><dt>frames</dt><dd data-frames>–</dd></div></dl>
<p class="drops" data-drops></p><p class="note"><span data-releases></span> <span>{escape(str(about["kind"]))} · {escape(str(about["source"]))}</span></p></article>"""


def _state(live: Mapping[str, Any] | None) -> str:
    return "starting" if live is None else str(live["state"])


def _events(events: Sequence[Mapping[str, Any]]) -> str:
    rows = "".join(_event(event) for event in reversed(events[-30:]))
    return f'<section class="events"><h2>Last events <span class="grow"></span><label><input type="checkbox" data-objects checked> objects, too</label></h2><ol data-events>{rows}</ol></section>'


def _event(event: Mapping[str, Any]) -> str:
    """As ``live.js`` makes it; that one has the clock of who looks."""
    time = event.get("time")
    when = (
        f"{event['t_s']:.1f} s"
        if time is None
        else datetime.fromtimestamp(time).astimezone().strftime("%H:%M:%S")
    )
    what = " ".join(str(event[key]) for key in ("type", "rule", "phase") if event.get(key) is not None)
    return (
        f'<li data-event="{escape(str(event["id"]))}"><time>{when}</time> <b>{escape(what)}</b> '
        f"<span>{escape(str(event['stream']))}</span></li>"
    )


_HEAD = "<thead><tr><th>stage</th><th>n</th><th>p50</th><th>p95</th><th>p99</th><th>max</th></tr></thead>"

_EDITOR = """<section class="editor" id="editor"><h2>Zones and lines</h2>
<div class="tools" role="toolbar" aria-label="zones and lines">
<button type="button" data-do="edit">Draw on the picture</button>
<button type="button" data-do="zone" hidden>Add zone</button><button type="button" data-do="line" hidden>Add line</button>
<button type="button" data-do="undo" hidden disabled>Undo</button><button type="button" data-do="redo" hidden disabled>Redo</button>
<button type="button" data-do="close" hidden>Done</button></div>
<p class="note" data-hint hidden></p><p class="bad" data-problem role="alert" hidden></p><p class="good" data-said role="status" hidden></p>
<ul class="shapes" data-shapes hidden></ul>
<div data-yaml hidden><div class="tools"><b data-file>YAML</b><span class="grow"></span>
<button type="button" data-do="copy">Copy</button><button type="button" data-do="download">Download</button>
<button type="button" data-do="save" hidden>Save</button></div><pre tabindex="0" aria-label="configuration"><code></code></pre></div></section>"""
