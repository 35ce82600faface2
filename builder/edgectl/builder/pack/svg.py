"""Plots as SVG text: ranges (a point with its interval on a logarithmic axis), bars, scatter, lines over time.
Colours are classes of the page, or of a :func:`document` of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Bar", "Dot", "Interval", "Series", "bars", "document", "lines", "ranges", "scatter"]

_WIDTH = 960
_LABEL = 290  # left column of names
_NOTE = 240  # right column
_ROW = 18
_DOCUMENT_STYLE = (
    "svg{font:12px system-ui,'Liberation Sans',sans-serif;color:#1b1f24}text{fill:#1b1f24;stroke:none}.dim{fill:#656d76}"
    ".grid{stroke:#d5dae0}.axis{stroke:#656d76}.a{fill:#0b63b5;stroke:#0b63b5}.b{fill:#b35900;stroke:#b35900}"
    ".c{fill:#8a929b;stroke:#8a929b}.bad{fill:#b3261e;stroke:#b3261e}"
)


@dataclass(frozen=True)
class Interval:
    label: str
    value: float
    low: float
    high: float
    css: str
    note: str
    title: str


@dataclass(frozen=True)
class Bar:
    label: str
    value: float | None
    """None: no bar, only the note."""
    css: str
    note: str


@dataclass(frozen=True)
class Dot:
    x: float
    y: float
    css: str
    label: str
    title: str


@dataclass(frozen=True)
class Series:
    label: str
    css: str
    points: Sequence[tuple[float, float]]
    """In the order of x."""


def ranges(rows: Sequence[Interval], *, axis: str, reference: float, linear: bool = False) -> str:
    """Rows from top to bottom, a line at ``reference``. Values > 0 on a logarithmic axis, or any on a ``linear`` one."""
    low = min(reference, *(r.low for r in rows))
    high = max(reference, *(r.high for r in rows))
    left, right = _LABEL + 10, _WIDTH - _NOTE
    if linear:
        margin = 0.05 * (high - low) or 1e-3
        low, high = low - margin, high + margin
    else:
        low, high = low * 0.92, high * 1.08

    def at(value: float) -> float:
        share = (value - low) / (high - low) if linear else math.log(value / low) / math.log(high / low)
        return left + (right - left) * share

    height = _ROW * len(rows) + 46
    ticks = _ticks(low, high) if linear else _log_ticks(low, high)
    parts = [_tick(at(t), height - 40, f"{t:g}") for t in ticks]
    parts.append(
        f'<line class="axis" x1="{at(reference):.1f}" x2="{at(reference):.1f}" y1="0" y2="{height - 40}" stroke-dasharray="4 3"/>'
    )
    for i, r in enumerate(rows):
        y = _ROW * i + _ROW / 2 + 2
        parts.append(
            f"<g><title>{escape(r.title)}</title>{_text(_LABEL, y, r.label, 'end', 44)}"
            f'<line class="{r.css}" x1="{at(r.low):.1f}" x2="{at(r.high):.1f}" y1="{y}" y2="{y}" stroke-width="2"/>'
            f'<line class="{r.css}" x1="{at(r.low):.1f}" x2="{at(r.low):.1f}" y1="{y - 4}" y2="{y + 4}"/>'
            f'<line class="{r.css}" x1="{at(r.high):.1f}" x2="{at(r.high):.1f}" y1="{y - 4}" y2="{y + 4}"/>'
            f'<circle class="{r.css}" cx="{at(r.value):.1f}" cy="{y}" r="4"/>{_text(right + 10, y, r.note, "start", 34)}</g>'
        )
    return _svg(height, axis, [*parts, _axis((left + right) / 2, height, axis)])


def bars(rows: Sequence[Bar], *, axis: str) -> str:
    """Horizontal bars from zero, in the order given."""
    high = max((r.value for r in rows if r.value is not None), default=1.0) or 1.0
    left, right = _LABEL + 10, _WIDTH - 260
    height = _ROW * len(rows) + 46
    parts = [_tick(left + (right - left) * t / high, height - 40, f"{t:g}") for t in _ticks(0.0, high)]
    for i, r in enumerate(rows):
        y = _ROW * i + _ROW / 2 + 2
        width = 0.0 if r.value is None else max(0.0, (right - left) * r.value / high)
        value = "" if r.value is None else f"{r.value:.1f}"
        parts.append(
            f"<g><title>{escape(f'{r.label} {value} {r.note}')}</title>{_text(_LABEL, y, r.label, 'end', 44)}"
            f'<rect class="{r.css}" x="{left}" y="{y - 5}" width="{width:.1f}" height="10"/>'
            f"{_text(left + width + 6, y, f'{value}  {r.note}'.strip(), 'start', 44, 'dim')}</g>"
        )
    return _svg(height, axis, [*parts, _axis((left + right) / 2, height, axis)])


def scatter(dots: Sequence[Dot], *, x: str, y: str) -> str:
    """Points over a logarithmic x and a linear y axis; labelled ones last, so that they lie on top."""
    height, left, right, top, bottom = 360, 90, _WIDTH - 30, 16, 310
    x_low, x_high = min(d.x for d in dots) * 0.85, max(d.x for d in dots) * 1.15
    y_low, y_high = min(0.0, *(d.y for d in dots)), max(*(d.y for d in dots), 1e-3) * 1.1

    def px(value: float) -> float:
        return left + (right - left) * math.log(value / x_low) / math.log(x_high / x_low)

    def py(value: float) -> float:
        return bottom - (bottom - top) * (value - y_low) / (y_high - y_low)

    parts = [_tick(px(t), bottom, f"{t:g}") for t in _log_ticks(x_low, x_high)]
    for t in _ticks(y_low, y_high):
        parts.append(
            f'<line class="grid" x1="{left}" x2="{right}" y1="{py(t):.1f}" y2="{py(t):.1f}"/>{_text(left - 8, py(t), f"{t:g}", "end", 12, "dim")}'
        )
    for d in sorted(dots, key=lambda d: bool(d.label)):
        radius, end = (6, px(d.x) > _WIDTH * 0.7) if d.label else (4, False)
        label = (
            _text(px(d.x) + (-11 if end else 11), py(d.y) - 12, d.label, "end" if end else "start", 60)
            if d.label
            else ""
        )
        parts.append(
            f'<g><title>{escape(d.title)}</title><circle class="{d.css}" fill-opacity=".75" cx="{px(d.x):.1f}" cy="{py(d.y):.1f}" r="{radius}"/>{label}</g>'
        )
    parts.append(
        f'<text class="dim" transform="translate(16 {(top + bottom) / 2}) rotate(-90)" text-anchor="middle">{escape(y)}</text>'
    )
    return _svg(height, f"{y} over {x}", [*parts, _axis((left + right) / 2, height, x)])


def lines(series: Sequence[Series], *, x: str, y: str) -> str:
    """Values over a linear axis, from zero unless all lie close together; one label a series. Empty if no series has
    a point."""
    shown = [s for s in series if s.points]
    if not shown:
        return ""
    height, left, right, top, bottom = 230, 90, _WIDTH - 150, 16, 180
    every = [p for s in shown for p in s.points]
    x_low, x_high = min(p[0] for p in every), max(p[0] for p in every)
    low, high = min(p[1] for p in every), max(p[1] for p in every)
    y_low = 0.0 if low < high / 2 else low - (high - low or high * 0.1 or 1.0) * 0.3
    y_high = high + (high - y_low) * 0.1

    def px(value: float) -> float:
        return left + (right - left) * (value - x_low) / ((x_high - x_low) or 1.0)

    def py(value: float) -> float:
        return bottom - (bottom - top) * (value - y_low) / ((y_high - y_low) or 1.0)

    parts = [_tick(px(t), bottom, f"{t:g}") for t in _ticks(x_low, x_high)]
    for t in _ticks(y_low, y_high):
        parts.append(
            f'<line class="grid" x1="{left}" x2="{right}" y1="{py(t):.1f}" y2="{py(t):.1f}"/>{_text(left - 8, py(t), f"{t:g}", "end", 12, "dim")}'
        )
    # the labels stand at the line's end, moved apart where they would cover each other
    at = -math.inf
    for s in sorted(shown, key=lambda s: py(s.points[-1][1])):
        path = " ".join(f"{px(a):.1f},{py(b):.1f}" for a, b in s.points)
        at = max(at + 15, py(s.points[-1][1]))
        dots = "".join(
            f'<circle class="{s.css}" cx="{px(a):.1f}" cy="{py(b):.1f}" r="2.5"><title>{escape(f"{s.label}: {b:g}")}</title></circle>'
            for a, b in s.points
        )
        parts.append(
            f'<polyline class="{s.css}" points="{path}" style="fill:none"/>{dots}{_text(right + 10, at, s.label, "start", 22)}'
        )
    parts.append(
        f'<text class="dim" transform="translate(16 {(top + bottom) / 2}) rotate(-90)" text-anchor="middle">{escape(y)}</text>'
    )
    return _svg(height, f"{y} over {x}", [*parts, _axis((left + right) / 2, height, x)])


def document(title: str, panels: Sequence[str]) -> str:
    """An SVG file: plots of this module below each other, with their own colours on white."""
    parts, y = [], 34.0
    for panel in panels:
        height = float(panel.split(f'viewBox="0 0 {_WIDTH} ', 1)[1].split('"', 1)[0])
        parts.append(panel.replace("<svg ", f'<svg x="0" y="{y:g}" width="{_WIDTH}" height="{height:g}" ', 1))
        y += height + 8
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{y:g}" viewBox="0 0 {_WIDTH} {y:g}">'
        f'<style>{_DOCUMENT_STYLE}</style><rect width="100%" height="100%" fill="#fff"/>'
        f"{_text(_WIDTH / 2, 18, title, 'middle', 120)}{''.join(parts)}</svg>\n"
    )


def _svg(height: float, label: str, parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height:g}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


def _text(x: float, y: float, text: str, anchor: str, most: int, css: str = "") -> str:
    """``most``: characters that fit; longer text loses its middle (the title has it all)."""
    if len(text) > most:
        text = f"{text[: most // 2]}…{text[-(most - most // 2 - 1) :]}"
    return f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" dominant-baseline="central">{escape(text)}</text>'


def _tick(x: float, bottom: float, text: str) -> str:
    line = f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{bottom}"/>'
    return f'{line}<text class="dim" x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">{text}</text>'


def _axis(x: float, height: float, text: str) -> str:
    return f'<text class="dim" x="{x:.1f}" y="{height - 6:g}" text-anchor="middle">{escape(text)}</text>'


def _ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers in a range."""
    step = 10.0 ** math.floor(math.log10(max(high - low, 1e-12)))
    step = next(s for s in (step / 5, step / 2, step, step * 2) if (high - low) / s <= 8)
    return [round(i * step, 12) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5 steps; in a narrow range, linear ones."""
    if high / low < 4:
        return [t for t in _ticks(low, high) if t > 0]
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [t for d in decades for m in (1, 2, 5) if low <= (t := m * 10.0**d) <= high]
