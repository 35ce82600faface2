"""Kinds of pipelines: one folder each, one table that names them. Importing this imports none of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgectl.pipelines.registry import Registry

if TYPE_CHECKING:
    from edgectl.pipelines.kinds.base import Pipeline, PipelineArgs
    from edgectl.pipelines.kinds.config import PipelineConfig

__all__ = ["KINDS", "KindType"]


@dataclass(frozen=True)
class KindType:
    parts: tuple[str, ...]
    """What it has engines for, the usual one first. It needs at least one of them."""
    config: type[PipelineConfig]
    make: Callable[[PipelineArgs], Pipeline]
    """A pipeline that is not started yet."""
    doc: str
    """One line: what it does."""


KINDS = Registry(
    "kind of pipeline",
    "edgectl.kinds",
    KindType,
    {
        "surveillance": "edgectl.pipelines.kinds.surveillance.pipeline:KIND",
        "driving": "edgectl.pipelines.kinds.driving.pipeline:KIND",
        "speech": "edgectl.pipelines.kinds.speech.pipeline:KIND",
    },
)
