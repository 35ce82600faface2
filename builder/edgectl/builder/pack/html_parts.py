"""What the sections of the report are made of."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

__all__ = ["number", "section", "table"]


def section(title: str, about: str, body: str) -> str:
    """``about`` is text, ``body`` HTML."""
    return f'<section><h2>{escape(title)}</h2><p class="dim">{escape(about)}</p>{body}</section>'


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Headers that start with ``#`` are numbers and aligned right. All is text."""
    css = [' class="num"' if h.startswith("#") else "" for h in headers]
    head = "".join(f"<th{c}>{escape(h.lstrip('#'))}</th>" for h, c in zip(headers, css, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{c}>{escape(str(x))}</td>" for x, c in zip(r, css, strict=True)) + "</tr>"
        for r in rows
    )
    return f'<div class="wide"><table>{f"<thead><tr>{head}</tr></thead>" if any(headers) else ""}<tbody>{body}</tbody></table></div>'


def number(value: object) -> str:
    """Four digits of a float; anything else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
