"""The tables of ``docs/configuration.md``: kinds, sources, rules, sinks, decoders and their options, from the
lines and models of the things themselves.

``python -m edgectl.pipelines.host.reference docs/configuration.md`` writes them anew between their markers.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Collection, Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from edgectl.core.errors import UsageError
from edgectl.core.schema import Config
from edgectl.core.task import DecodeSpec
from edgectl.pipelines.decoders import DECODERS
from edgectl.pipelines.kinds import KINDS
from edgectl.pipelines.kinds.config import PipelineConfig, VideoConfig
from edgectl.pipelines.rules import RULES
from edgectl.pipelines.rules.base import RuleConfig
from edgectl.pipelines.sinks import SINKS
from edgectl.pipelines.sources import SOURCES

__all__ = ["main", "page", "tables"]

_UNITS = {
    "_s": "s",
    "_ms": "ms",
    "_px": "px",
    "_m": "m",
    "_mps": "m/s",
    "_db": "dB",
    "fps": "1/s",
    "seconds": "s",
    "rate": "Hz",
    "_iou": "0..1",
    "iou": "0..1",
}
"""By how a setting's name ends."""


def tables() -> dict[str, str]:
    """Name of a marker → its Markdown."""
    return {
        "kinds": "\n".join(_kinds()),
        "sources": "\n".join(_sources()),
        "rules": "\n".join(_rules()),
        "sinks": "\n".join(_sinks()),
        "decoders": "\n".join(_decoders()),
    }


def page(text: str) -> str:
    """A page with its tables as they are now. Raises :class:`UsageError` where one has no place in it."""
    for name, table in tables().items():
        marked = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.S)
        if not marked.search(text):
            raise UsageError(
                f"the page has no place for the table of {name}: <!-- table: {name} --> … <!-- end -->"
            )
        text = marked.sub(lambda m, table=table: f"{m[1]}\n{table}\n\n{m[2]}", text)  # type: ignore[misc]
    return text


def _kinds() -> Iterator[str]:
    yield from _head("kind", "parts", "what it is")
    for name in KINDS.own:
        kind = KINDS.get(name)
        yield _row(f"`{name}`", ", ".join(f"`{p}`" for p in kind.parts), kind.doc)
    models = {name: KINDS.get(name).config for name in KINDS.own}
    shared, video = set(PipelineConfig.model_fields), set(VideoConfig.model_fields)
    yield from _options("Settings of every kind", PipelineConfig)
    yield from _options("Settings of every kind with a camera", VideoConfig, but=shared)
    for name, model in models.items():
        yield from _options(f"Settings of `{name}` alone", model, but=shared | video)


def _sources() -> Iterator[str]:
    yield from _head("URI", "what it is")
    types = list({id(SOURCES.get(name)): SOURCES.get(name) for name in SOURCES.own}.values())
    for type_ in types:
        for uri, text in type_.doc:
            yield _row(f"`{uri}`", text)
    for type_ in types:
        for what, model in type_.options:
            yield from _options(f"Parameters of {what} (`?name=value&…`)", model)


def _rules() -> Iterator[str]:
    yield from _head("rule", "what it tells, and its events", "needs")
    for name in RULES.own:
        rule = RULES.get(name)
        yield _row(f"`{name}`", rule.doc, ", ".join(["tracks", *sorted(rule.needs)]))
    yield from _options("Settings of every rule", RuleConfig)
    for name in RULES.own:
        yield from _options(f"Settings of `{name}`", RULES.get(name).config, but=set(RuleConfig.model_fields))


def _sinks() -> Iterator[str]:
    yield from _head("sink", "what it writes", "unless the configuration says otherwise")
    for name in SINKS.own:
        sink = SINKS.get(name)
        yield _row(f"`{name}`", sink.doc, "it writes" if sink.default else "it does not")
    for name in SINKS.own:
        yield from _options(f"Settings of `{name}`", SINKS.get(name).options)


def _decoders() -> Iterator[str]:
    yield from _head("decoder", "part", "outputs that it reads")
    for name in DECODERS.own:
        decoder = DECODERS.get(name)
        yield _row(f"`{name}`", f"`{decoder.part}`", decoder.doc)
    yield _row("`none`", "", "outputs are left as they are")
    yield from _options("Settings of every decoder", DecodeSpec, but={"kind"})
    for name in DECODERS.own:
        yield from _options(f"Settings of `{name}`", DECODERS.get(name).options)


def _options(title: str, model: type[BaseModel], *, but: Collection[str] = ()) -> Iterator[str]:
    rows = [
        row
        for name, field in model.model_fields.items()
        if name != "sinks" and name not in but
        for row in _setting(name, field, _docs(model).get(name, ""))
    ]
    if rows:
        yield from ("", f"{title}:", "", *_head("setting", "default", "unit", "meaning"), *rows)


def _setting(name: str, field: FieldInfo, doc: str) -> Iterator[str]:
    """The rows of a setting: one, or those of the model that it is; of a list both."""
    inner, many = _model_in(field.annotation), get_origin(field.annotation)
    if inner is None or many is tuple:
        yield _row(f"`{name}`", _default(field), _unit(name, field), doc + _choices(field, doc))
    if inner is not None:
        prefix = f"{name}.<name>" if many is dict else f"{name}[]" if many is tuple else name
        for key, below in inner.model_fields.items():
            yield from _setting(f"{prefix}.{key}", below, _docs(inner).get(key, ""))


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that a setting is, may be, or holds by name or in a list. Rules have tables of their own."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return None if issubclass(annotation, RuleConfig) else annotation
    if get_origin(annotation) in (dict, tuple, Union, UnionType):
        return next((m for a in get_args(annotation) if (m := _model_in(a)) is not None), None)
    return None


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "needed"
    value = field.default
    if value is None or value in ((), {}):
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _unit(name: str, field: FieldInfo) -> str:
    if field.annotation is bool or bool in get_args(field.annotation):
        return ""
    last = name.rpartition(".")[2]
    best = max((end for end in _UNITS if last.endswith(end)), key=len, default="")
    return _UNITS.get(best, "")


def _choices(field: FieldInfo, doc: str) -> str:
    """The words that may be chosen from, unless the line says them."""
    words = [
        w
        for a in (field.annotation, *get_args(field.annotation))
        if get_origin(a) is Literal
        for w in get_args(a)
    ]
    if not words or all(f"`{w}`" in doc for w in words):
        return ""
    return f"{' ' if doc else ''}One of {', '.join(f'`{w}`' for w in words)}."


def _docs(model: type[BaseModel]) -> dict[str, str]:
    """Setting → the string below it, its own model's and those of its parents."""
    found: dict[str, str] = {}
    for parent in reversed([c for c in model.__mro__ if issubclass(c, Config) and c is not Config]):
        body = ast.parse(textwrap.dedent(inspect.getsource(parent))).body[0]
        assert isinstance(body, ast.ClassDef)
        for at, below in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(at, ast.AnnAssign)
                and isinstance(at.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
                and isinstance(below.value.value, str)
            ):
                found[at.target.id] = " ".join(
                    below.value.value.replace("``", "`").replace("None:", "none:").split()
                )
    return found


def _head(*cells: str) -> Iterator[str]:
    yield _row(*cells)
    yield _row(*("---" for _ in cells))


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def main() -> int:
    path = Path(sys.argv[1])
    path.write_text(page(path.read_text("utf-8")), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
