"""Names that a package offers without importing their modules until somebody asks for one (PEP 562).

A package that is a front door says ::

    if TYPE_CHECKING:
        from edgectl.core.bundle import Bundle
    else:
        __getattr__, __dir__ = lazy_names(__name__, {"edgectl.core.bundle": ("Bundle",)})

so that type checkers and readers see plain imports, and importing the package costs nothing.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping

__all__ = ["lazy_names"]


def lazy_names(
    package: str, names_in: Mapping[str, tuple[str, ...]]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of ``package``; ``names_in``: module → the names that it defines.

    No name may be that of a module of the package: an import of that module would replace it.
    """

    module_of = {name: module for module, names in names_in.items() for name in names}

    def __getattr__(name: str) -> object:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        # Not kept in the package: a name that is replaced in its module is replaced at the door, too.
        return getattr(importlib.import_module(module_of[name]), name)

    def __dir__() -> list[str]:
        return sorted({*vars(sys.modules[package]), *module_of})

    return __getattr__, __dir__
