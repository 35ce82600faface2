"""What the user decides about a conversion."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["ConvertOptions"]


@dataclass(frozen=True)
class ConvertOptions:
    """``python``: the interpreter that has the framework; None: the one that runs edgectl. ``trust_source``: the user
    says that code inside the file may run."""

    python: Path | None = None
    trust_source: bool = False
