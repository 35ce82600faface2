"""Candidates measured on devices of a fleet: one search for each group of equal hardware, and one choice for the
profile.

A bundle has one order of variants for a profile. Where groups of one profile differ in what is fastest, the one that
is nowhere slower than float goes first, and it is said which group would have had another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgectl.builder.int8.model import QuantizedModel
from edgectl.builder.search.candidates import CandidateOutcome, Choice, Pick
from edgectl.builder.search.elsewhere import MeasuringDevice
from edgectl.builder.variants.measured import measure_host
from edgectl.builder.variants.trial import Trial
from edgectl.core.errors import BusyError, EngineError, LinkError, ModelError, ProtocolError
from edgectl.core.measured import Standing
from edgectl.device_profiles.machine import Machine
from edgectl.device_profiles.schema import DeviceProfile

__all__ = ["DEVICE_ERRORS", "GroupChoice", "groups_of", "measure_on_devices", "one_choice"]

DEVICE_ERRORS = (LinkError, BusyError, EngineError, ProtocolError, ModelError)
"""A device is gone, has something else to do, measured nothing, answers nonsense, or runs not even float."""


@dataclass(frozen=True)
class GroupChoice:
    """What came of one group: ``device`` is the one that measured for it."""

    device: MeasuringDevice
    members: tuple[str, ...]
    choice: Choice


def measure_on_devices(
    model: QuantizedModel,
    trial: Trial,
    p: DeviceProfile,
    devices: Sequence[MeasuringDevice],
    place: tuple[float, int],
) -> GroupChoice | None:
    """Search on one device of each group; on the next one of it where one is lost. None, with notes, if no device
    got through."""
    found: list[GroupChoice] = []
    groups = groups_of(devices)
    for i, group in enumerate(groups):
        for device in group:
            try:
                choice = measure_host(model, trial.on(device), p, place, share=1 / (len(groups) - i))
            except DEVICE_ERRORS as e:
                trial.monitor.note(f"{p.name}: nothing was measured on {device.name}: {e.message}")
                continue
            found.append(GroupChoice(device, tuple(d.name for d in group), choice))
            trial.monitor.note(f"{p.name}: measured on {device.name} ({device.machine.summary})")
            break
    if not found:
        return None
    chosen, said = one_choice(found)
    trial.monitor.notes += [f"{p.name}: {text}" for text in said]
    return chosen


def groups_of(devices: Sequence[MeasuringDevice]) -> list[list[MeasuringDevice]]:
    """Devices of the same hardware and runtimes, in the order in which they were named."""
    found: list[list[MeasuringDevice]] = []
    for d in devices:
        for group in found:
            if _hardware(group[0].machine) == _hardware(d.machine):
                group.append(d)
                break
        else:
            found.append([d])
    return found


def _hardware(m: Machine) -> Machine:
    """What makes two machines one group. Installed memory is told in MiB, of which a kernel keeps some."""
    return m.model_copy(update={"memory_mb": round(m.memory_mb / 512), "distributions": {}})


def one_choice(found: Sequence[GroupChoice]) -> tuple[GroupChoice, tuple[str, ...]]:
    """The group whose figures ship, with the choice that holds for all, and what is to be said where they differ.

    At least one group. Pure.
    """
    winners = [g.choice.winner.candidate for g in found]
    if len({w.name for w in winners}) == 1:
        return found[0], ()
    said = tuple(
        f"{', '.join(g.members)} alone would have {g.choice.winner.candidate.name} first" for g in found
    )
    fits: list[tuple[float, str]] = []
    for name in dict.fromkeys(w.name for w in winners):
        each = [_outcome(g.choice, name) for g in found]
        if all(o is not None and o.standing is Standing.FASTER for o in each):
            fits.append((max(_ratio(o) for o in each if o is not None), name))
    if fits:
        _, best = min(fits)
        first = next(g for g in found if g.choice.winner.candidate.name == best)
        return first, (*said, f"{best} is faster than float on all of them, and goes first")
    first = found[0]
    return replace(first, choice=_float_first(first.choice)), (
        *said,
        "nothing is faster than float on all of them: float goes first",
    )


def _float_first(choice: Choice) -> Choice:
    floats = [o for o in choice.outcomes if o.candidate.is_float and o.possible]
    best = choice.fallback or min(floats, key=lambda o: o.measured.p50_ms if o.measured else float("inf"))
    if choice.winner.candidate.is_float:
        return choice
    rest = tuple(
        Pick(p.outcome, tuple(x for x in p.preferences if x != "fast"))
        for p in choice.picks
        if p.outcome.candidate != best.candidate
    )
    own = next((p.preferences for p in choice.picks if p.outcome.candidate == best.candidate), ())
    first = Pick(best, ("fast", *(x for x in own if x != "fast")))
    return replace(
        choice,
        picks=(first, *(p for p in rest if p.preferences)),
        reason="slower, or not surely faster, than float on a device of another group",
    )


def _outcome(choice: Choice, name: str) -> CandidateOutcome | None:
    return next((o for o in choice.outcomes if o.candidate.name == name), None)


def _ratio(o: CandidateOutcome) -> float:
    return o.measured.ratio_to_float if o.measured is not None and o.measured.ratio_to_float else 1.0
