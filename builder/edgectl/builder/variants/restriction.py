"""What a user lets compete: precisions and runtimes. The CPU fallback in float is in a bundle whatever is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from edgectl.builder.int8.quantize import Quantized
from edgectl.core.bundle import Runtime
from edgectl.core.errors import UsageError
from edgectl.core.nearest import did_you_mean
from edgectl.device_profiles.schema import DeviceProfile

__all__ = ["UNRESTRICTED", "AskedPrecision", "Restriction", "parse_restriction", "precision_of"]

AskedPrecision = Literal["float32", "float16", "bfloat16", "int8", "int4"]
_QUANTIZED: tuple[AskedPrecision, ...] = ("int8", "int4")


@dataclass(frozen=True)
class Restriction:
    """What engines may compute in, and where. None: in whatever there is.

    Float layers beside int8 ones may always be float32; another float there must be among the precisions.
    """

    precisions: frozenset[AskedPrecision] | None = None
    runtimes: frozenset[Runtime] | None = None

    def allows(self, *precisions: AskedPrecision) -> bool:
        """Whether an engine may compute in all of these."""
        return self.precisions is None or self.precisions.issuperset(precisions)

    def runs_in(self, runtime: Runtime) -> bool:
        return self.runtimes is None or runtime in self.runtimes

    @property
    def quantizes(self) -> bool:
        """Whether any int8 graph is worth writing."""
        return any(self.allows(p) for p in _QUANTIZED)

    def check(self, profiles: Sequence[DeviceProfile]) -> None:
        """Raises :class:`UsageError` for a runtime that none of the profiles has."""
        there = list(dict.fromkeys(r for p in profiles for r in p.runtimes))
        for r in sorted(self.runtimes or ()):
            if r not in there:
                names = " and ".join(p.name for p in profiles)
                raise UsageError(
                    f"--runtime {r}: {names} {'has' if len(profiles) == 1 else 'have'} no such runtime",
                    hint=did_you_mean(r, there),
                )

    @property
    def asked(self) -> str:
        """As on a command line; empty where nothing is restricted."""
        precisions = [p for p in get_args(AskedPrecision) if self.precisions and p in self.precisions]
        runtimes = sorted(self.runtimes or ())
        return " ".join(
            [
                *([f"--precision {','.join(precisions)}"] if precisions else []),
                *([f"--runtime {','.join(runtimes)}"] if runtimes else []),
            ]
        )

    def told(self) -> str:
        """What is left out because of it, in a sentence; empty where nothing is restricted."""
        if not self.asked:
            return ""
        return f"{self.asked}: nothing else competed. The fallback for the CPU is there all the same: others are compared with it"


UNRESTRICTED = Restriction()


def parse_restriction(precisions: Sequence[str], runtimes: Sequence[str]) -> Restriction:
    """Each may name several, separated by commas. Raises :class:`UsageError` for a name that there is not."""
    names, where = _names(precisions), _names(runtimes)
    for option, given, known in (
        ("precision", names, get_args(AskedPrecision)),
        ("runtime", where, get_args(Runtime)),
    ):
        for name in given:
            if name not in known:
                raise UsageError(
                    f"--{option} {name[:80]}: there is no such {option}", hint=did_you_mean(name, known)
                )
    return Restriction(
        frozenset(p for p in get_args(AskedPrecision) if p in names) if precisions else None,
        frozenset(r for r in get_args(Runtime) if r in where) if runtimes else None,
    )


def precision_of(q: Quantized) -> AskedPrecision:
    """What a quantized graph counts as: by the bits of its weights."""
    return "int4" if q.family.weight_max == 7 else "int8"


def _names(given: Sequence[str]) -> list[str]:
    return [name.strip() for text in given for name in text.split(",")]
