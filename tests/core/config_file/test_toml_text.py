"""Where each setting of a TOML text stands."""

from __future__ import annotations

import datetime
import json
import string
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl.core.config_file import parse_toml, read_toml
from edgectl.core.errors import ConfigError, UsageError
from edgectl.core.schema import Config, Key

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TEXT = '''
# a comment with [a.table] = "in" it
name = "gate" # and one behind
"odd key".'in it' = 1
a.b . c = 3
text = """
x = 1
[not.a.table]
"""
when = 2026-11-29T08:00:00Z
some = [
  1, # a comment, with a comma
  {deep = [ [2], [
     "]" ] ]},
]

[broker]
host = 'x]"'

[[fleet]]
name = "a"
[fleet.site]
floor = 1
[[fleet]]
name = "b"
[[fleet.cameras]]
url = "u"
[fleet.site]
floor = 2
'''


@pytest.mark.parametrize(
    ("key", "line"),
    [
        (("name",), 3),
        (("odd key", "in it"), 4),
        (("a", "b", "c"), 5),
        (("text",), 6),
        (("when",), 10),
        (("some",), 11),
        (("some", 0), 12),
        (("some", 1), 13),
        (("some", 1, "deep", 0), 13),
        (("some", 1, "deep", 1, 0), 14),
        (("broker",), 17),
        (("broker", "host"), 18),
        (("broker", "port"), 17),  # it is missing
        (("broker", "of-a-union", "host"), 18),
        (("fleet", 0, "name"), 21),
        (("fleet", 0, "site", "floor"), 23),
        (("fleet", 1), 24),
        (("fleet", 1, "name"), 25),
        (("fleet", 1, "cameras", 0, "url"), 27),
        (("fleet", 1, "site", "floor"), 29),
        (("nothing",), None),
        ((), None),
    ],
)
def test_every_setting_has_a_line(key: Key, line: int | None) -> None:
    assert parse_toml(TEXT, name="t").line_of(key) == line


_KEYS = st.text(string.ascii_letters + string.digits + "-_ .\"'#[]=é", min_size=1, max_size=6)
_SCALARS = (
    st.integers(-(2**40), 2**40)
    | st.booleans()
    | st.text(string.printable + "é", max_size=12)
    | st.just(datetime.date(2026, 11, 29))
)
_VALUES = st.recursive(
    _SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(_KEYS, v, max_size=3), max_leaves=8
)


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_inline(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[\n" + ",\n".join(map(_inline, value)) + "]"
    return (
        value.isoformat()
        if isinstance(value, datetime.date)
        else json.dumps(value).replace("\x7f", "\\u007f")
    )


def _keys(value: Any, key: Key = ()) -> list[Key]:
    entries = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    return [key, *(k for name, inner in entries for k in _keys(inner, (*key, name)))]


@given(st.lists(st.tuples(_KEYS, _VALUES), max_size=4, unique_by=lambda kv: kv[0]))
def test_any_text_that_is_toml_has_its_settings_in_order(settings: list[tuple[str, Any]]) -> None:
    text = "".join(f"{json.dumps(k)} = {_inline(v)}\n" for k, v in settings)
    try:
        values = tomllib.loads(text)
    except ValueError:
        return  # a list within a table in one line
    line_of = parse_toml(text, name="t").line_of
    line = 1
    for name, value in settings:
        lines = [line_of(key) for key in _keys(value, (name,))]
        height = _inline(value).count("\n")
        assert lines[0] == line
        assert all(n is not None and line <= n <= line + height for n in lines)
        line += height + 1
    assert values.keys() == {name for name, _ in settings}


class _Kitchen(Config):
    ovens: tuple[int, ...]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"a = 1\nb = [", r"k\.toml:2: this is not TOML"),
        (b"a = 1\n\nb = 1979-99-99", r"k\.toml:3: this is not TOML"),
        (b"a = 1\na = 2\n", r"k\.toml:2: this is not TOML"),
        (b"\n\n a = '\xff'", r"k\.toml:3: this is not UTF-8 text"),
        (b"a = " + b"9" * 5000, r"k\.toml: this is not TOML"),
        (b"a = " + b"[" * 5000, r"k\.toml: this is not TOML"),
        (b"# " + b"x" * (1 << 20), "more than 1048576 bytes"),
        (b"\novens = [1, 2,\n 3,\n 'hot']", r"k\.toml:4: ovens\.3: it must be a valid integer"),
        (b"\n\noven = 3", r"k\.toml:3: oven: there is no such setting"),
        (b"", r"k\.toml: ovens: it is missing"),
    ],
)
def test_a_mistake_names_file_and_line(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "k.toml").write_bytes(data)
    with pytest.raises(UsageError, match=words):
        read_toml(tmp_path / "k.toml").validate(_Kitchen)


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "k.toml").write_bytes(b"\xef\xbb\xbfovens = [1]")
    assert read_toml(tmp_path / "k.toml").validate(_Kitchen).ovens == (1,)


def test_what_was_found_wrong_later_is_placed_once() -> None:
    file = parse_toml("a = 1\nb = 2", name="k.toml")
    found = file.locate(UsageError("it is too large", hint="make it small", key=("b",)))
    assert (found.message, found.hint) == ("k.toml:2: b: it is too large", "make it small")
    assert isinstance(found, ConfigError)
    assert file.locate(found) is found
    assert file.locate(nowhere := UsageError("no")) is nowhere
