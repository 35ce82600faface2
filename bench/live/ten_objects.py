"""A detector that finds the same ten objects whatever it is shown, at the cost of the real one. It needs numpy alone:
the peer's interpreter reads it, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["TenObjects"]


class TenObjects:
    """FastestDet that runs, and finds ten objects that walk to and fro whatever is in the picture."""

    def __init__(self, engine: Any) -> None:
        self.inputs, self.outputs, self.runtime = engine.inputs, engine.outputs, engine.runtime
        self._engine = engine
        self._calls = 0

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        (name, real), *_ = self._engine.run(feeds).items()
        made = np.zeros_like(real)
        columns = real.shape[3]
        walk = abs((self._calls / 150) % 2 - 1) * (columns - 3)
        self._calls += 1
        for i in range(10):
            x = (walk + i * columns / 10) % (columns - 2) + 1
            row, column = 2 + 2 * (i % 9), int(x)
            # objectness, dx, dy, w, h (10 % of the picture), person
            made[0, :6, row, column] = 0.95, np.arctanh(min(x - column, 0.99)), 0, -2.2, -1.7, 0.95
        return {name: made}

    def close(self) -> None:
        self._engine.close()
