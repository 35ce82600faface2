"""Does an engine reproduce the golden outputs of its variant? The gate before any engine is activated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgectl.core.bundle import LAYER_GOLDEN, GoldenSpec, Tolerance, Variant
from edgectl.core.errors import BundleError, GoldenError
from edgectl.core.tensors import Arrays, read_npz
from edgectl.engines.base import Engine

__all__ = ["GoldenResult", "OutputError", "check_golden", "compare", "read_golden"]

MAX_GOLDEN_BYTES = 256 << 20


@dataclass(frozen=True)
class OutputError:
    """The worst sample of one output."""

    cosine: float
    max_abs: float
    relative: float
    """Length of the difference, in lengths of the golden output."""


@dataclass(frozen=True)
class GoldenResult:
    samples: int
    outputs: dict[str, OutputError]
    least: float
    """The score of an engine that just meets the tolerance of every output."""

    @property
    def score(self) -> float:
        """How closely the engine reproduces its golden samples: 1 less the largest relative error of an output, at
        least 0. Outputs that are nothing but rounding do not count."""
        return max(0.0, 1.0 - max((e.relative for e in self.outputs.values()), default=0.0))


def check_golden(engine: Engine, variant: Variant) -> GoldenResult:
    """Run the golden inputs and compare every output with its tolerance.

    Raises :class:`GoldenError` naming output, sample, cosine and largest absolute error; NaN and Inf are
    refused unless the golden output has them at the very same places. Raises :class:`BundleError` if the
    golden layer is malformed.
    """
    golden = read_golden(variant)
    worst: dict[str, OutputError] = {}
    for index, (feeds, expected) in enumerate(golden):
        got = engine.run(feeds)
        for name, want in expected.items():
            tolerance = variant.config.golden.tolerances.get(name)
            if tolerance is None:
                raise BundleError(f"golden output {name} has no tolerance", hint="build the bundle again")
            if name not in got:
                raise GoldenError(f"the engine has no output {name}; it has {', '.join(got)}")
            error = compare(name, want, got[name], tolerance, sample=index)
            known = worst.get(name, error)
            worst[name] = OutputError(
                min(known.cosine, error.cosine),
                max(known.max_abs, error.max_abs),
                max(known.relative, error.relative),
            )
    return GoldenResult(len(golden), worst, _least(variant.config.golden))


def _least(golden: GoldenSpec) -> float:
    """Two arrays of one length whose cosine is c are √(2 (1 - c)) apart."""
    cosines = [t.cosine for t in golden.tolerances.values() if not _is_rounding(t)]
    return max(0.0, 1.0 - math.sqrt(2.0 * (1.0 - min(1.0, min(cosines, default=1.0)))))


def _is_rounding(tolerance: Tolerance) -> bool:
    """All of the output is: any direction will do."""
    return tolerance.cosine <= 0.0


def compare(
    name: str, want: NDArray[np.generic], got: NDArray[np.generic], tolerance: Tolerance, *, sample: int = 0
) -> OutputError:
    """Compare one output with its golden one. Raises :class:`GoldenError` if it is outside the tolerance."""
    where = f"output {name} of golden sample {sample}"
    if got.shape != want.shape:
        raise GoldenError(f"{where} has shape {list(got.shape)}, expected {list(want.shape)}")
    a, b = want.astype(np.float64).ravel(), got.astype(np.float64).ravel()
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(b[finite]).all():
        raise GoldenError(
            f"{where} has NaN or Inf", hint="the engine overflows on this device: take the fallback variant"
        )
    error = measure(a[finite], b[finite])
    if error.cosine < tolerance.cosine or error.max_abs > tolerance.max_abs:
        raise GoldenError(
            f"{where}: cosine {error.cosine:.6f} (at least {tolerance.cosine:.6f}), "
            f"largest error {error.max_abs:.4g} (at most {tolerance.max_abs:.4g})",
            hint="this runtime computes something else than the build host: take the fallback variant or build again",
        )
    return OutputError(error.cosine, error.max_abs, 0.0) if _is_rounding(tolerance) else error


def measure(a: NDArray[np.float64], b: NDArray[np.float64]) -> OutputError:
    """How far the flat array ``b`` is from ``a``; two all-zero arrays agree."""
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    cosine = float(a @ b) / norms if norms else float(np.array_equal(a, b))
    length, apart = float(np.linalg.norm(a)), float(np.linalg.norm(a - b))
    relative = apart / length if length else float(apart > 0.0)
    return OutputError(cosine, float(np.abs(a - b).max(initial=0.0)), relative)


def read_golden(variant: Variant) -> list[tuple[Arrays, Arrays]]:
    """Golden samples as (feeds, expected outputs), in order."""
    arrays = read_npz(variant.need(LAYER_GOLDEN), max_bytes=MAX_GOLDEN_BYTES, max_arrays=4096)
    samples: Mapping[int, tuple[Arrays, Arrays]] = {i: ({}, {}) for i in range(variant.config.golden.samples)}
    for key, array in arrays.items():
        kind, _, rest = key.partition("/")
        number, _, tensor = rest.partition("/")
        if kind not in ("in", "out") or not number.isdecimal() or int(number) not in samples or not tensor:
            raise BundleError(
                f"golden layer has an unexpected array {key[:80]!r}", hint="build the bundle again"
            )
        samples[int(number)][kind == "out"][tensor] = array
    if any(not feeds or not outputs for feeds, outputs in samples.values()):
        raise BundleError(
            "golden layer lacks samples that its config promises", hint="build the bundle again"
        )
    return list(samples.values())
