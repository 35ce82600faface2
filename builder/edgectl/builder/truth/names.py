"""Class names of labels, and those of a model: the same thing in two spellings."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from edgectl.core.errors import DataError
from edgectl.core.nearest import did_you_mean

__all__ = ["NameMatch", "match_names", "refuse_unknown"]

K = TypeVar("K", bound=Hashable)

_ALIASES = {
    "aeroplane": "airplane",
    "motorbike": "motorcycle",
    "bike": "bicycle",
    "sofa": "couch",
    "tvmonitor": "tv",
    "television": "tv",
    "mobilephone": "cellphone",
    "hairdryer": "hairdrier",
    "televisionset": "tv",
    "doughnut": "donut",
}
"""Spellings of PASCAL VOC, Open Images and others → those of COCO. Both sides are compared by their right column."""
_SHOWN = 8


@dataclass(frozen=True)
class NameMatch(Generic[K]):
    """``to``: class of the labels → index of the model's label. ``unknown``: those that the model does not have."""

    to: Mapping[K, int]
    unknown: Mapping[K, str]


def match_names(names: Mapping[K, str], labels: Sequence[str]) -> NameMatch[K]:
    """By the very name; else whatever the case; else whatever spaces, hyphens and underscores; else by known aliases. Of a
    label that a model has twice the first counts.

    Raises :class:`DataError` where a name comes as near to one label as to another.
    """
    places: list[dict[str, list[int]]] = [{} for _ in _FORMS]
    for i, label in enumerate(labels):
        for form, found in zip(_FORMS, places, strict=True):
            found.setdefault(form(label), []).append(i)
    to: dict[K, int] = {}
    for key, name in names.items():
        for form, found in zip(_FORMS, places, strict=True):
            if near := found.get(form(name)):
                spelled = list(dict.fromkeys(labels[i] for i in near))
                if len(spelled) > 1:
                    raise DataError(
                        f"the labels' {name!r} may be {spelled[0]!r} or {spelled[1]!r} of the model",
                        hint="write it in the labels as the model does",
                    )
                to[key] = near[0]
                break
    return NameMatch(to, {k: name for k, name in names.items() if k not in to})


def refuse_unknown(
    unknown: Sequence[str], labels: Sequence[str], *, left: int, of: int, what: str = "pictures"
) -> DataError:
    """The sentence for labels that the model does not know. ``left``: how many of ``of`` would still have something to
    find without them."""
    shown = ", ".join(repr(u) for u in unknown[:_SHOWN]) + (
        f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
    )
    near = f"{_sentence(did_you_mean(unknown[0], labels, there_are='the model knows '))} " if labels else ""
    if not left:
        return DataError(
            f"the labels name only classes that the model does not have: {shown}",
            hint=f"{near}Rename them, or give the task the labels of the model in its order",
        )
    return DataError(
        f"the labels name {len(unknown)} classes that the model does not have: {shown}",
        hint=f"{near}Rename them in the labels, or give --known-labels-only to judge by the rest: {left} of {of} {what} "
        "have some",
    )


def _sentence(text: str) -> str:
    return text if text.endswith(("?", ".")) else f"{text}."


def _plain(name: str) -> str:
    return re.sub(r"[\s_\-./]+", "", name.casefold())


def _alias(name: str) -> str:
    plain = _plain(name)
    return _ALIASES.get(plain, plain)


_FORMS: tuple[Callable[[str], str], ...] = (str, str.casefold, _plain, _alias)
"""From the strictest on."""
