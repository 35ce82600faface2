"""Which devices are meant: a query over names, labels and what was probed of the hardware. Pure.

::

    label.site in (north, south) and fact.sm >= 8.7 and not name ~ "lab-*"

======================  ====================================================================
``name``                of the device
``profile``             its device profile
``label.KEY``           of the label; not there: no comparison holds, ``!=`` and ``not in`` do
``fact.KEY``            probed: ``arch``, ``isa``, ``sm``, ``runtime``, ``board``, …
``slot``, ``stream``    names of those it has
``kind``                of its pipelines
``group``               groups that it is in (:mod:`edgectl.fleet.rollouts.groups`)
``=  !=  <  <=  >  >=`` the last four compare numbers like ``8.7`` or ``1.10.2``, part by part
``~``                   a pattern with ``*`` and ``?``
``in (a, b)``           also ``not in``
======================  ====================================================================

Where a device has several values of a field (``isa``, ``kind``), one that fits is enough. A field alone holds where
there is any value. ``and`` binds before ``or``; parentheses and ``not`` are as everywhere. Values with spaces or
brackets stand in quotes.
"""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

__all__ = ["MAX_QUERY", "Facts", "Query", "check_field", "groups_in", "parse_query", "value_of", "values_of"]

MAX_QUERY = 4096
"""Characters."""
_MAX_DEPTH = 32
_TOKEN = re.compile(
    r"""\s*(?:(?P<quoted>"[^"]*"|'[^']*')|(?P<op><=|>=|!=|=|<|>|~)|(?P<mark>[(),])|(?P<word>[^\s()=!<>~,'"]+))"""
)
_NUMBER = re.compile(r"[0-9]{1,18}(\.[0-9]{1,18}){0,7}\Z")
_PLAIN = ("name", "profile", "slot", "stream", "kind", "group")
_KEYED = ("label", "fact")


class Facts(Protocol):
    """What a query can ask of a device."""

    @property
    def name(self) -> str: ...
    @property
    def profile(self) -> str | None: ...
    @property
    def labels(self) -> Any: ...
    @property
    def facts(self) -> frozenset[str]: ...
    @property
    def slots(self) -> frozenset[str]: ...
    @property
    def streams(self) -> Any: ...
    @property
    def groups(self) -> frozenset[str]: ...


Query = Callable[[Facts], bool]


def values_of(device: Facts, field: str) -> tuple[str, ...]:
    """What a device has of a field, sorted; empty where it has nothing."""
    kind, _, key = field.partition(".")
    if kind == "label":
        value = device.labels.get(key)
        return () if value is None else (value,)
    if kind == "fact":
        prefix = key + ":"
        return tuple(sorted(f.removeprefix(prefix) for f in device.facts if f.startswith(prefix)))
    found: dict[str, Callable[[], Any]] = {
        "name": lambda: (device.name,),
        "profile": lambda: () if device.profile is None else (device.profile,),
        "slot": lambda: device.slots,
        "stream": lambda: device.streams,
        "kind": lambda: set(device.streams.values()),
        "group": lambda: device.groups,
    }
    return tuple(sorted(found[kind]()))


def value_of(device: Facts, field: str) -> str:
    """What a device has of a field, as one text, to tell devices apart by; ``-`` where it has nothing of it."""
    return ",".join(values_of(device, field)) or "-"


def check_field(field: str) -> str:
    """Raises ValueError for a field that there is not."""
    kind, dot, key = field.partition(".")
    if field in _PLAIN or (kind in _KEYED and dot and key):
        return field
    known = [*_PLAIN, *(f"{k}.KEY" for k in _KEYED)]
    raise ValueError(f"there is no field {field[:80]!r}: {', '.join(known)}")


@functools.lru_cache(maxsize=1024)
def parse_query(text: str) -> Query:
    """Whether a device is meant. An empty text means all. Raises ValueError that says where it stops to make sense."""
    if len(text) > MAX_QUERY:
        raise ValueError(f"the query has more than {MAX_QUERY} characters")
    if not text.strip():
        return lambda _device: True
    return _Parser(text).parse()


@functools.lru_cache(maxsize=256)
def groups_in(text: str) -> frozenset[str]:
    """Groups that a query names; raises ValueError as :func:`parse_query` does."""
    if not text.strip():
        return frozenset()
    parse_query(text)
    parser = _Parser(text)
    parser.parse()
    return frozenset(parser.groups)


class _Token(NamedTuple):
    kind: str
    """``word``, ``value`` (quoted), ``op``, ``mark``, ``end``."""
    text: str
    at: int
    """Column, from 1."""


class _Parser:
    """Recursive descent; one method a rule of the grammar."""

    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._next = 0
        self._depth = 0
        self.groups: set[str] = set()
        """Asked for by their names, or by a pattern."""

    def parse(self) -> Query:
        query = self._either()
        if self._peek().kind != "end":
            raise self._wrong("'and', 'or' or the end")
        return query

    def _either(self) -> Query:
        found = [self._both()]
        while self._take_word("or"):
            found.append(self._both())
        return found[0] if len(found) == 1 else lambda d: any(q(d) for q in found)

    def _both(self) -> Query:
        found = [self._one()]
        while self._take_word("and"):
            found.append(self._one())
        return found[0] if len(found) == 1 else lambda d: all(q(d) for q in found)

    def _one(self) -> Query:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise ValueError(f"the query is nested deeper than {_MAX_DEPTH}")
        try:
            if self._take_word("not"):
                denied = self._one()
                return lambda d: not denied(d)
            if self._take("("):
                inner = self._either()
                if not self._take(")"):
                    raise self._wrong("')'")
                return inner
            return self._comparison()
        finally:
            self._depth -= 1

    def _comparison(self) -> Query:
        token = self._peek()
        if token.kind != "word" or token.text in ("and", "or", "in"):
            raise self._wrong("a field, e.g. label.site")
        try:
            field = check_field(token.text)
        except ValueError as e:
            raise ValueError(f"{_place(token)}: {e}") from None
        self._next += 1
        if self._peek().kind == "op":
            return self._compared(field, self._pop().text)
        if self._take_word("in"):
            return self._is_one_of(field, self._list())
        if self._peek(0).text == "not" and self._peek(1).text == "in":
            self._next += 2
            among = self._is_one_of(field, self._list())
            return lambda d: not among(d)
        if field == "group":
            self.groups.add("*")
        return lambda d: bool(values_of(d, field))

    def _compared(self, field: str, op: str) -> Query:
        token = self._peek()
        value = self._value()
        if op in ("=", "!="):
            same = self._is_one_of(field, frozenset({value}))
            return same if op == "=" else lambda d: not same(d)
        if field == "group":
            self.groups.add(value)
        if op == "~":
            return lambda d: any(fnmatch.fnmatchcase(v, value) for v in values_of(d, field))
        if not _NUMBER.match(value):
            raise ValueError(f"{_place(token)}: {op} compares numbers like 8.7, and {value[:40]!r} is none")
        return _ordered(field, op, _number(value))

    def _is_one_of(self, field: str, wanted: frozenset[str]) -> Query:
        if field == "group":
            self.groups |= wanted
        return lambda d: not wanted.isdisjoint(values_of(d, field))

    def _list(self) -> frozenset[str]:
        if not self._take("("):
            raise self._wrong("'(' and a list, e.g. (north, south)")
        found = [self._value()]
        while self._take(","):
            found.append(self._value())
        if not self._take(")"):
            raise self._wrong("',' or ')'")
        return frozenset(found)

    def _value(self) -> str:
        if self._peek().kind not in ("word", "value"):
            raise self._wrong("a value")
        return self._pop().text

    def _peek(self, ahead: int = 0) -> _Token:
        return self._tokens[min(self._next + ahead, len(self._tokens) - 1)]

    def _pop(self) -> _Token:
        self._next += 1
        return self._tokens[self._next - 1]

    def _take(self, mark: str) -> bool:
        found = self._peek().kind == "mark" and self._peek().text == mark
        self._next += found
        return found

    def _take_word(self, word: str) -> bool:
        found = self._peek().kind == "word" and self._peek().text == word
        self._next += found
        return found

    def _wrong(self, expected: str) -> ValueError:
        token = self._peek()
        found = "the query ends" if token.kind == "end" else f"{token.text[:40]!r} stands"
        return ValueError(f"{_place(token)}: {found} where {expected} is expected")


def _tokens(text: str) -> Iterator[_Token]:
    at = 0
    while at < len(text.rstrip()):
        match = _TOKEN.match(text, at)
        if match is None:
            rest = text[at:].lstrip()
            raise ValueError(
                f"column {len(text) - len(rest) + 1}: {rest.rstrip()[:20]!r} makes no sense here"
            )
        kind = str(match.lastgroup)
        found = match[kind]
        start = match.start(kind) + 1
        yield _Token("value", found[1:-1], start) if kind == "quoted" else _Token(kind, found, start)
        at = match.end()
    yield _Token("end", "", len(text) + 1)


def _place(token: _Token) -> str:
    return f"column {token.at}"


def _ordered(field: str, op: str, limit: tuple[int, ...]) -> Query:
    holds: dict[str, Callable[[tuple[int, ...]], bool]] = {
        "<": lambda v: v < limit,
        "<=": lambda v: v <= limit,
        ">": lambda v: v > limit,
        ">=": lambda v: v >= limit,
    }
    compare = holds[op]
    return lambda d: any(_NUMBER.match(v) and compare(_number(v)) for v in values_of(d, field))


def _number(text: str) -> tuple[int, ...]:
    """Without zeros at its end: 8 and 8.0 are the same."""
    parts = [int(part) for part in text.split(".")]
    while len(parts) > 1 and parts[-1] == 0:
        parts.pop()
    return tuple(parts)
