"""What a device answers to a command, as tables. A device may answer anything: it is cut to a bound. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgectl.fleet.web.words import second

__all__ = ["AnswerTable", "answer_tables"]

_MOST_ROWS = 200
_MOST_TEXT = 300
_MOST_TABLES = 12


@dataclass(frozen=True)
class AnswerTable:
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left_out: int = 0


def answer_tables(result: Mapping[str, Any]) -> list[AnswerTable]:
    """``{"facts": ["arch:x86_64"], "health": {"load": 0.3}, "audit": [[1.7e9, "operator: lock"]]}`` → a table each."""
    return [_table(str(title)[:_MOST_TEXT], value) for title, value in list(result.items())[:_MOST_TABLES]]


def _table(title: str, value: object) -> AnswerTable:
    if isinstance(value, dict):
        return _cut(title, ("what", "value"), [(str(k), _text(v)) for k, v in value.items()])
    if isinstance(value, list):
        return _cut(title, _columns(value), [_row(v) for v in value])
    return AnswerTable(title, ("value",), ((_text(value),),))


def _columns(value: list[Any]) -> tuple[str, ...]:
    return ("when (UTC)", "what") if value and all(map(_is_dated, value)) else ("value",)


def _row(value: object) -> tuple[str, ...]:
    if _is_dated(value):
        assert isinstance(value, list)
        return second(float(value[0])), _text(value[1])
    if isinstance(value, dict):
        return (_text({k: v for k, v in value.items() if k not in ("schema", "box", "keypoints")}),)
    return (_text(value),)


def _is_dated(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], (int, float))


def _text(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MOST_TEXT else text[: _MOST_TEXT - 1] + "…"


def _cut(title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> AnswerTable:
    width = len(columns)
    # the newest are the last
    kept = tuple((*r, *("",) * width)[:width] for r in rows[-_MOST_ROWS:])
    return AnswerTable(title, columns, kept, len(rows) - len(kept))
