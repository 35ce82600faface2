"""The terms of a rollout as options, or as a file: what `edgectl rollout start` and `preview` share."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from edgectl.cli._options import OptionGroup, key_value
from edgectl.core.errors import UsageError

__all__ = ["RolloutTerms"]

_MEDIAN_RATIO = 1.5
"""Of the gates that compare medians, in shadow and between the rollout's windows; a looser
`--max-latency-ratio` loosens them, too."""


@dataclass(frozen=True)
class RolloutTerms(OptionGroup):
    policy: Annotated[
        Path | None,
        typer.Option(
            "--policy",
            help="YAML file with all terms: waves, strata, soaks, approvals, limits. Then no other option.",
        ),
    ] = None
    canary: Annotated[int, typer.Option(min=1, help="Devices in the first wave.")] = 1
    soak: Annotated[float, typer.Option(min=0, help="Seconds to wait after the canary before the rest.")] = (
        0.0
    )
    select: Annotated[
        str,
        typer.Option(
            help="Only devices that this query means, e.g. 'label.site in (north, south) and fact.sm >= 8.7'."
        ),
    ] = ""
    label: Annotated[list[str] | None, typer.Option(help="KEY=VALUE: only devices with this label.")] = None
    device: Annotated[list[str] | None, typer.Option(help="Only this device; may be repeated.")] = None
    probation: Annotated[
        float, typer.Option(min=0.1, help="Seconds that a new engine is watched on each device.")
    ] = 60.0
    min_inferences: Annotated[
        int, typer.Option(min=1, help="Fewest inferences of the new engine before it is judged.")
    ] = 130
    percentile: Annotated[int, typer.Option(help="Latency percentile that is judged: 50, 90, 95 or 99.")] = 95
    max_latency_ratio: Annotated[
        float, typer.Option(min=0.01, help="Largest latency allowed, as a multiple of the old engine's.")
    ] = 1.3
    max_latency_ms: Annotated[
        float | None, typer.Option(min=0.001, help="Largest latency allowed, in ms.")
    ] = None
    window: Annotated[
        list[str] | None,
        typer.Option(
            help="When devices may activate it, in their local time: 'mon-fri 01:00-05:00'. They fetch it at any time."
        ),
    ] = None
    shadow: Annotated[
        float | None,
        typer.Option(
            min=0.1, max=100, help="First run it beside the old engine on this percentage of frames."
        ),
    ] = None
    min_agreement: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="With --shadow: share of findings that old and new engine must have in common."
        ),
    ] = 0.9
    retries: Annotated[
        int,
        typer.Option(min=0, max=20, help="How often to ask a device again that had no disk, memory or time."),
    ] = 3
    shared_plans: Annotated[
        bool,
        typer.Option(
            "--shared-plans",
            help="TensorRT: take a plan that `edgectl release share-plan` signed for just this device.",
        ),
    ] = False
    deadline: Annotated[
        float, typer.Option(min=1, help="Hours that a device may take while it is online.")
    ] = 24.0
    idle: Annotated[
        float,
        typer.Option(
            min=0.01,
            help="Hours to wait while no device is online that could prove the release. Then the rollout stops.",
        ),
    ] = 24.0
    back: Annotated[
        float,
        typer.Option(min=0.01, help="Minutes to wait for devices to go back when the release is taken back."),
    ] = 60.0
    supersede: Annotated[
        bool,
        typer.Option(
            "--supersede", help="Take the place of a rollout in this slot; nothing of that one is taken back."
        ),
    ] = False

    def request(self, release: str | None, slot: str | None) -> dict[str, Any]:
        """The fields of :class:`edgectl.fleet.rollouts.values.RolloutRequest`. Raises :class:`UsageError`."""
        if self.policy is not None:
            return self._of_file(self.policy, release, slot)
        if release is None or slot is None:
            lacks = "a release" if release is None else "--slot"
            raise UsageError(f"{lacks} is missing", hint="name it, or give --policy FILE that does")
        return self._of_options(release, slot)

    def _of_file(self, path: Path, release: str | None, slot: str | None) -> dict[str, Any]:
        from edgectl.fleet.rollouts.policy_file import read_policy

        for field in fields(self):
            if field.name != "policy" and getattr(self, field.name) != field.default:
                raise UsageError(
                    f"--{field.name.replace('_', '-')} does not go with --policy",
                    hint=f"write it into {path}: all terms stand in one place",
                )
        found: dict[str, Any] = json.loads(read_policy(path, release, slot).model_dump_json())
        return found

    def _of_options(self, release: str, slot: str) -> dict[str, Any]:
        if self.percentile not in (50, 90, 95, 99):
            raise UsageError(f"--percentile {self.percentile}: 50, 90, 95 or 99")
        ratio = max(_MEDIAN_RATIO, self.max_latency_ratio)
        shadow = None
        if self.shadow is not None:
            shadow = {
                "percent": self.shadow,
                "min_agreement": self.min_agreement,
                "max_latency_ratio": ratio,
            }
        return {
            "release": release,
            "slot": slot,
            "policy": {
                "probation_s": self.probation,
                "min_inferences": self.min_inferences,
                "percentile": self.percentile,
                "max_latency_ratio": self.max_latency_ratio,
                "max_latency_ms": self.max_latency_ms,
                "windows": _windows(self.window or []),
                "shadow": shadow,
                "shared_plans": self.shared_plans,
            },
            "labels": dict(key_value(text, "--label") for text in self.label or []),
            "devices": list(self.device or []),
            "select": _query(self.select),
            "canary": self.canary,
            "soak_s": self.soak,
            "max_latency_ratio": ratio,
            "retries": self.retries,
            "deadline_s": self.deadline * 3600,
            "idle_s": self.idle * 3600,
            "back_s": self.back * 60,
            "supersede": self.supersede,
        }


def _query(text: str) -> str:
    from edgectl.fleet.rollouts.selection import parse_query

    try:
        parse_query(text)
    except ValueError as e:
        raise UsageError(f"--select: {e}") from e
    return text


def _windows(texts: list[str]) -> list[str]:
    from pydantic import TypeAdapter, ValidationError

    from edgectl.core.schema import first_problem
    from edgectl.core.windows import Window

    try:
        return list(TypeAdapter(tuple[Window, ...]).validate_python(texts))
    except ValidationError as e:
        raise UsageError(f"--window: {first_problem(e).partition(': ')[2]}") from e
