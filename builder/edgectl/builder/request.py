"""What a user asks of a build, checked as far as the arguments alone tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgectl.builder.compress.options import CompressOptions
from edgectl.builder.convert.options import ConvertOptions
from edgectl.builder.ingest.model import Validation
from edgectl.builder.int8.previous_release import PreviousRelease
from edgectl.builder.passes.shapes import Shape
from edgectl.builder.search.elsewhere import MeasuringDevice
from edgectl.builder.variants.restriction import Restriction
from edgectl.builder.variants.smaller_input import SmallerInput
from edgectl.core.errors import UsageError
from edgectl.core.files import check_name
from edgectl.core.task import TaskSpec
from edgectl.device_profiles.catalogue import load_profile
from edgectl.device_profiles.schema import DeviceProfile

__all__ = ["BuildRequest", "check_devices", "check_within", "loaded_profiles", "release_name"]


@dataclass(frozen=True)
class BuildRequest:
    """What the user decides about a build, checked as far as the arguments alone tell."""

    model: Path
    profiles: tuple[DeviceProfile, ...]
    task: TaskSpec | None
    """None: it is guessed from the model."""
    calibration: str | None
    validation: Validation
    out: Path
    name: str
    version: str
    max_drop: float
    minutes: float
    compression: CompressOptions
    smaller: SmallerInput | None
    previous: PreviousRelease | None
    shapes: Mapping[str, Shape]
    batches: tuple[int, ...]
    licence: str | None
    keep_float: tuple[str, ...]
    restriction: Restriction
    float16_weights: bool
    convert: ConvertOptions
    devices: tuple[MeasuringDevice, ...] = ()
    """Where candidates of their profiles are measured."""


def check_within(name: str, value: float, most: float) -> None:
    """Raises :class:`UsageError` unless it is from 0 to ``most``."""
    if not 0 <= value <= most:
        raise UsageError(f"{name} is {value}, it must be from 0 to {most:g}")


def check_devices(
    devices: Sequence[MeasuringDevice],
    profiles: Sequence[DeviceProfile],
    batches: Sequence[int],
    smaller: SmallerInput | None,
) -> None:
    """Raises :class:`UsageError` for a device of none of the profiles, and for what is measured on this machine only."""
    names = [p.name for p in profiles]
    for d in devices:
        if d.profile not in names:
            raise UsageError(
                f"device {d.name} is of profile {d.profile}, which is not built for: {', '.join(names)}",
                hint=f"add {d.profile} to --profile, or leave {d.name} out",
            )
    if devices and (max(batches) > 1 or smaller is not None):
        raise UsageError(
            "calls of several pictures and smaller pictures are measured on this machine only",
            hint="leave out --batch and --smaller-input, or build without --on",
        )


def loaded_profiles(profiles: str | Path | Sequence[str | Path]) -> tuple[DeviceProfile, ...]:
    """Each once, in the order given. Raises :class:`UsageError` or :class:`ProfileError`."""
    names = str(profiles).split(",") if isinstance(profiles, str | Path) else map(str, profiles)
    loaded = tuple(load_profile(p) for p in dict.fromkeys(n.strip() for n in names) if p)
    if not loaded:
        raise UsageError("no device profile was given", hint="`edgectl profiles list` names them")
    return loaded


def release_name(text: str) -> str:
    """``text``, if a release may have that name. Raises :class:`UsageError`."""
    try:
        return check_name(text)
    except ValueError as e:
        raise UsageError(str(e), hint="give --name") from e
