"""No pickle is opened in this process, whoever asks for it: a pickle calls whatever it names."""

from __future__ import annotations

import sys
from typing import Any

from edgectl.builder.convert.inside.shape import Refused

__all__ = ["refuse_pickles"]


def refuse_pickles() -> None:
    """From here on and for good (:pep:`578`), the lookup of a class or function by a pickle ends in :class:`Refused`.

    PyTorch's own unpickler, which knows tensors alone (``weights_only``), looks nothing up and goes on working.
    """

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "pickle.find_class":
            raise Refused(
                f"it holds a pickle that wants {arguments[0]}.{arguments[1]}: opening it could run any code",
                "save it again without objects of your own; or write a Python function that makes the model, and give module:function",
            )

    sys.addaudithook(hook)
