"""Puts zones and lines into the text of a YAML file and leaves the rest of it as it is, comments included. Pure.

The places are those that PyYAML's parser tells; what comes out is parsed again and must say what was wanted. A file
that is written in a way that this does not find its way in (anchors, tags …) is written anew, without its comments.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from edgectl.core.errors import UsageError
from edgectl.pipelines.view.shapes import Shapes, put

__all__ = ["EditedText", "edit"]

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class EditedText:
    text: str
    comments_kept: bool
    """False: the file had to be written anew."""


def edit(text: str, shapes: Shapes, parse: Callable[[str], Any], loader: type[yaml.SafeLoader]) -> EditedText:
    """``text`` with these zones and lines and no others. ``parse`` gives what a text says, ``loader`` is what it reads
    with."""
    values = parse(text) or {}
    wanted = put(values, shapes)
    if wanted == values:
        return EditedText(text, True)
    try:
        edited = _Edits(text, loader).apply(values, wanted, shapes)
        if parse(edited) == wanted:
            return EditedText(edited, True)
    except (UsageError, yaml.YAMLError, LookupError, ValueError):
        pass
    return EditedText(
        yaml.safe_dump(wanted, sort_keys=False, default_flow_style=None, allow_unicode=True), False
    )


class _Edits:
    """Replacements in one text: (start, end, new)."""

    def __init__(self, text: str, loader: type[yaml.SafeLoader]) -> None:
        self._text = text
        self._root = yaml.compose(text, loader)
        self._edits: list[tuple[int, int, str]] = []

    def apply(self, values: dict[str, Any], wanted: dict[str, Any], shapes: Shapes) -> str:
        root = self._root
        if root is None:
            return self._text + _ended(self._text) + _blocks(wanted)
        if not isinstance(root, MappingNode):
            raise ValueError("the root is no mapping")
        self._zones(_child(root, "zones"), values, shapes)
        self._rules(_child(root, "rules"), values, shapes)
        renamed = {z.was: z.name for z in shapes.zones if z.was is not None and z.was != z.name}
        events = renamed | {n.was: n.id for n in shapes.lines if n.was is not None and n.was != n.id}
        for key, value in root.value:
            if key.value != "zones":
                self._references(value, key.value, renamed, events)
        new: dict[str, Any] = {k: wanted[k] for k in ("zones", "rules") if k in wanted and k not in values}
        text = self._text
        # From the back, so that places stay what they are. An insertion goes in front of what is taken away there.
        for start, end, replacement in sorted(self._edits, key=lambda e: (e[0], e[1]), reverse=True):
            text = text[:start] + replacement + text[end:]
        if new and root.flow_style:
            at = text.rindex("}")
            return text[:at] + "".join(f", {k}: {_flow(v)}" for k, v in new.items()) + text[at:]
        return text + (_ended(text) + _blocks(new) if new else "")

    def _zones(self, node: Node | None, values: Any, shapes: Shapes) -> None:
        if node is None:
            return
        if not isinstance(node, MappingNode):
            raise ValueError("zones is no mapping")
        kept = {z.was: z for z in shapes.zones}
        gone = set()
        for i, (key, value) in enumerate(node.value):
            zone = kept.get(key.value)
            if zone is None:
                gone.add(i)
                continue
            if zone.name != key.value:
                self._replace(key, _scalar(zone.name))
            self._coordinates(_child(value, "polygon"), values["zones"][key.value]["polygon"], zone.polygon)
        new = [z for z in shapes.zones if z.was not in values["zones"]]
        entries = [f"{_scalar(z.name)}: {{polygon: {_flow(list(z.polygon))}}}" for z in new]
        self._change(node, [(k.start_mark.index, _end(v)) for k, v in node.value], gone, entries, "{}")

    def _rules(self, node: Node | None, values: Any, shapes: Shapes) -> None:
        if node is None:
            return
        if not isinstance(node, SequenceNode):
            raise ValueError("rules is no list")
        kept = {line.was: line for line in shapes.lines}
        gone = set()
        for i, (item, rule) in enumerate(zip(node.value, values["rules"], strict=True)):
            if "line" not in rule:
                continue
            line = kept.get(rule["id"])
            if line is None:
                gone.add(i)
                continue
            if line.id != rule["id"]:
                self._replace(_child(item, "id"), _scalar(line.id))
            self._coordinates(_child(item, "line"), rule["line"], line.line)
        lines = {r["id"] for r in values["rules"] if "line" in r}
        new = [line for line in shapes.lines if line.was not in lines]
        dash = "" if node.flow_style else "- "
        entries = [f"{dash}{{id: {_scalar(n.id)}, line: {_flow(list(n.line))}}}" for n in new]
        places = [(self._item_start(node, item), _end(item)) for item in node.value]
        self._change(node, places, gone, entries, "[]")

    def _coordinates(self, node: Node | None, before: Sequence[float], now: Sequence[float]) -> None:
        if list(before) != list(now):
            self._replace(node, _flow(list(now)))

    def _references(self, node: Node, key: str, zones: dict[str, str], events: dict[str, str]) -> None:
        if isinstance(node, MappingNode):
            for k, v in node.value:
                self._references(v, k.value, zones, events)
        elif isinstance(node, SequenceNode):
            for item in node.value:
                self._references(item, key, zones, events)
        elif isinstance(node, ScalarNode):
            names = events if key == "on" else zones if "zone" in key else {}
            if node.value in names:
                self._replace(node, _scalar(names[node.value]))

    # -- places in the text -------------------------------------------------------------------------------------------

    def _replace(self, node: Node | None, new: str) -> None:
        if node is None:
            raise LookupError("there is nothing to replace")
        self._edits.append((node.start_mark.index, _end(node), new))

    def _change(
        self,
        node: MappingNode | SequenceNode,
        places: list[tuple[int, int]],
        gone: set[int],
        entries: list[str],
        nothing: str,
    ) -> None:
        """Take entries out of a list or mapping, and put others behind the last. ``nothing``: what is written where
        none is left."""
        if node.flow_style:
            self._change_flow(node, places, gone, entries)
        elif not entries and len(gone) == len(places):
            self._replace(node, nothing)
        else:
            for i in gone:
                start, end = places[i]
                self._edits.append((self._line_start(start), self._line_end(end), ""))
            if entries:
                at = self._line_end(places[-1][1])
                indent = " " * (places[0][0] - self._line_start(places[0][0]))
                lead = "" if self._text[at - 1] == "\n" else "\n"
                self._edits.append((at, at, lead + "".join(f"{indent}{entry}\n" for entry in entries)))

    def _change_flow(
        self, node: Node, places: list[tuple[int, int]], gone: set[int], entries: list[str]
    ) -> None:
        left = [i for i in range(len(places)) if i not in gone]
        if not left:
            if places:
                self._edits.append((places[0][0], places[-1][1], ""))
        else:
            # what is gone before the first that is left, and after each of them
            if left[0]:
                self._edits.append((places[0][0], places[left[0]][0], ""))
            for i, following in zip(left, [*left[1:], len(places)], strict=True):
                if following > i + 1:
                    self._edits.append((places[i][1], places[following - 1][1], ""))
        if entries:
            at = node.end_mark.index - 1
            self._edits.append((at, at, (", " if left else "") + ", ".join(entries)))

    def _item_start(self, parent: Node, item: Node) -> int:
        """Of an entry of a list, its dash included."""
        start: int = item.start_mark.index
        return start if parent.flow_style else self._text.rindex("-", 0, start)  # type: ignore[attr-defined]

    def _line_start(self, at: int) -> int:
        return self._text.rfind("\n", 0, at) + 1

    def _line_end(self, at: int) -> int:
        """Behind the line break, comments of the line included."""
        found = self._text.find("\n", at)
        return len(self._text) if found < 0 else found + 1


def _child(node: Node | None, name: str) -> Node | None:
    if not isinstance(node, MappingNode):
        raise LookupError(f"there is no mapping with {name}")
    return next((value for key, value in node.value if key.value == name), None)


def _end(node: Node) -> int:
    """Where the last thing in it ends: a block ends, for the parser, only where the next one begins."""
    if isinstance(node, MappingNode | SequenceNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    end: int = node.end_mark.index
    return end


def _scalar(text: str) -> str:
    plain = _WORD.fullmatch(text) and text.lower() not in (
        "true",
        "false",
        "null",
        "on",
        "off",
        "yes",
        "no",
        "y",
        "n",
    )
    return text if plain else "'" + text.replace("'", "''") + "'"


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_scalar(k)}: {_flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return (
        _scalar(value) if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)
    )


def _ended(text: str) -> str:
    return "" if not text or text.endswith("\n") else "\n"


def _blocks(values: dict[str, Any]) -> str:
    """New zones and lines, an entry a line."""
    lines = []
    if values.get("zones"):
        lines += ["zones:", *(f"  {_scalar(n)}: {_flow(z)}" for n, z in values["zones"].items())]
    if values.get("rules"):
        lines += ["rules:", *(f"  - {_flow(rule)}" for rule in values["rules"])]
    return "".join(f"{line}\n" for line in lines)
