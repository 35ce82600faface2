"""``edgectl rollout``: a release goes to a selection of devices in waves."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgectl.cli._controller import ControllerOptions
from edgectl.cli._keys import key_ring
from edgectl.cli._nouns import Noun
from edgectl.cli._options import key_value
from edgectl.cli._printer import Printer, outcomes, table
from edgectl.core.errors import RolloutError, TrustError, UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["app"]

app = Noun("rollout")

_MEDIAN_RATIO = 1.5
"""Of the gates that compare medians, in shadow and between the rollout's windows; a looser
`--max-latency-ratio` loosens them, too."""

Id = Annotated[str, typer.Argument(help="Id of the rollout; `edgectl rollout status` lists them.")]


@app.command("start")
def start(
    release: Annotated[str, typer.Argument(help="NAME@VERSION of a published release.")],
    slot: Annotated[str, typer.Option(help="The slot that gets it, e.g. gate-detector.")],
    canary: Annotated[int, typer.Option(min=1, help="Devices in the first wave.")] = 1,
    soak: Annotated[
        float, typer.Option(min=0, help="Seconds to wait after the canary before the rest.")
    ] = 0.0,
    label: Annotated[list[str] | None, typer.Option(help="KEY=VALUE: only devices with this label.")] = None,
    device: Annotated[list[str] | None, typer.Option(help="Only this device; may be repeated.")] = None,
    probation: Annotated[
        float, typer.Option(min=0.1, help="Seconds that a new engine is watched on each device.")
    ] = 60.0,
    min_inferences: Annotated[
        int, typer.Option(min=1, help="Fewest inferences of the new engine before it is judged.")
    ] = 130,
    percentile: Annotated[
        int, typer.Option(help="Latency percentile that is judged: 50, 90, 95 or 99.")
    ] = 95,
    max_latency_ratio: Annotated[
        float, typer.Option(min=0.01, help="Largest latency allowed, as a multiple of the old engine's.")
    ] = 1.3,
    max_latency_ms: Annotated[
        float | None, typer.Option(min=0.001, help="Largest latency allowed, in ms.")
    ] = None,
    window: Annotated[
        list[str] | None,
        typer.Option(
            help="When devices may activate it, in their local time: 'mon-fri 01:00-05:00'. They fetch it at any time."
        ),
    ] = None,
    shadow: Annotated[
        float | None,
        typer.Option(
            min=0.1, max=100, help="First run it beside the old engine on this percentage of frames."
        ),
    ] = None,
    min_agreement: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="With --shadow: share of findings that old and new engine must have in common."
        ),
    ] = 0.9,
    retries: Annotated[
        int,
        typer.Option(min=0, max=20, help="How often to ask a device again that had no disk, memory or time."),
    ] = 3,
    shared_plans: Annotated[
        bool,
        typer.Option(
            "--shared-plans",
            help="TensorRT: take a plan that `edgectl release share-plan` signed for just this device.",
        ),
    ] = False,
    deadline: Annotated[
        float, typer.Option(min=1, help="Hours that a device may take while it is online.")
    ] = 24.0,
    idle: Annotated[
        float,
        typer.Option(
            min=0.01,
            help="Hours to wait while no device is online that could prove the release. Then the rollout stops.",
        ),
    ] = 24.0,
    back: Annotated[
        float,
        typer.Option(min=0.01, help="Minutes to wait for devices to go back when the release is taken back."),
    ] = 60.0,
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow the rollout to its end; exit 12 if it stops.")
    ] = False,
    *,
    controller: ControllerOptions,
    out: Printer,
) -> None:
    """Bring a release to devices: a canary first, then the rest. If the release fails there, the rollout
    stops and devices go back."""
    if percentile not in (50, 90, 95, 99):
        raise UsageError(f"--percentile {percentile}: 50, 90, 95 or 99")
    policy = {
        "probation_s": probation,
        "min_inferences": min_inferences,
        "percentile": percentile,
        "max_latency_ratio": max_latency_ratio,
        "max_latency_ms": max_latency_ms,
        "windows": _windows(window or []),
        "shadow": None
        if shadow is None
        else {
            "percent": shadow,
            "min_agreement": min_agreement,
            "max_latency_ratio": max(_MEDIAN_RATIO, max_latency_ratio),
        },
        "shared_plans": shared_plans,
    }
    labels = dict(key_value(text, "--label") for text in label or [])
    with controller.client() as fleet:
        rollout = fleet.start_rollout(
            release,
            slot,
            policy=policy,
            labels=labels,
            devices=device or [],
            canary=canary,
            soak_s=soak,
            max_latency_ratio=max(_MEDIAN_RATIO, max_latency_ratio),
            retries=retries,
            deadline_s=deadline * 3600,
            idle_s=idle * 3600,
            back_s=back * 60,
        )
        if not _meant(fleet.devices(), slot, labels, device or []):
            out.say(
                f"no device that this controller knows has slot {slot}{' and the labels' if labels else ''}: the rollout waits for one\n"
                f"next: `edgectl fleet devices` shows the slots; `edgectl rollout abort {rollout['id']}` ends it"
            )
        if wait:
            with out.progress() as update:
                while rollout["state"] in ("running", "paused", "rolling_back"):
                    time.sleep(0.5)
                    rollout = fleet.rollout(rollout["id"])
                    done = Counter(m["outcome"] for m in rollout["members"].values())
                    total = max(1, len(rollout["members"]))
                    what = ", ".join(f"{n} {o}" for o, n in sorted(done.items()))
                    note = f" ({rollout['note']})" if rollout.get("note") else ""
                    update(f"{rollout['state']}: {what}{note}", done["committed"] / total)

    def shown() -> RenderableType:
        from rich.console import Group

        now = _shown([rollout])
        return now if wait else Group(now, f"next: edgectl rollout status {rollout['id']}")

    out.result(rollout, shown)
    if wait and rollout["state"] != "done":
        raise RolloutError(
            f"rollout {rollout['id']} of {release} is {rollout['state']}: {rollout.get('reason') or 'no reason given'}"
        )


@app.command("status")
def status(
    rollout: Annotated[str | None, typer.Argument(help="Id; without one, all are listed.")] = None,
    *,
    controller: ControllerOptions,
    out: Printer,
) -> None:
    """Show rollouts, or one with its devices."""
    with controller.client() as fleet:
        found = [fleet.rollout(rollout)] if rollout else fleet.rollouts()
    out.result(found[0] if rollout else found, lambda: _shown(found))


@app.command("pause")
def pause(rollout: Id, *, controller: ControllerOptions, out: Printer) -> None:
    """Pause a rollout: ask no further device. Devices that have begun finish."""
    _change(rollout, "pause", controller, out)


@app.command("resume")
def resume(rollout: Id, *, controller: ControllerOptions, out: Printer) -> None:
    """Resume a paused rollout."""
    _change(rollout, "resume", controller, out)


@app.command("abort")
def abort(rollout: Id, *, controller: ControllerOptions, out: Printer) -> None:
    """Stop a running rollout. Its devices get back what they had."""
    _change(rollout, "abort", controller, out)


@app.command("rollback")
def rollback(rollout: Id, *, controller: ControllerOptions, out: Printer) -> None:
    """Take a release back in any state of its rollout. Its devices get back what they had before."""
    with controller.client() as fleet:
        changed = fleet.change_rollout(rollout, "rollback")
    if changed["state"] != "rolling_back":
        out.say(f"no device has {changed['release']} by this rollout any more: there is nothing to take back")
    out.result(changed, lambda: _shown([changed]))


@app.command("skip")
def skip(
    rollout: Id,
    device: Annotated[str, typer.Argument(help="The device to leave out.")],
    *,
    controller: ControllerOptions,
    out: Printer,
) -> None:
    """Continue without a device, for example one that is away. It keeps, or gets back, what it had."""
    with controller.client() as fleet:
        changed = fleet.skip_device(rollout, device)
    out.result(changed, lambda: _shown([changed]))


@app.command("approve")
def approve(
    key: Annotated[
        list[Path] | None,
        typer.Option(help="Private key of the director that you hold, or a folder of them; not with --show."),
    ] = None,
    device: Annotated[list[str] | None, typer.Option(help="Only this device; may be repeated.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Show what waits, sign nothing.")] = False,
    *,
    controller: ControllerOptions,
    out: Printer,
) -> None:
    """Sign, as an operator, what devices are to run, in a fleet whose director needs more than the
    controller's key."""
    from edgectl.core.signed import add_signatures
    from edgectl.fleet.keys.approval import check_known, consequences, director_in, missing_from

    if not show and not key:
        raise UsageError(
            "nothing is signed without a key", hint="--key operator.pem; --show only shows what waits"
        )
    with controller.client() as fleet:
        reported = {d["name"]: d["reported"] for d in fleet.devices()}
        found = {d: p for d, p in sorted(fleet.waiting().items()) if not device or d in device}
        told = [c for d, p in found.items() for c in consequences(d, p, reported.get(d))]
        if not show and found:
            check_known(told)
            director = director_in(fleet.trust()["files"])
            signers = key_ring(key).signers(missing_from(p, director, d) for d, p in found.items())
            if not signers:
                raise TrustError(f"{', '.join(map(str, key or ()))}: none of them is a key of the director")
            fleet.approve({d: add_signatures(p, signers) for d, p in found.items()})

    def shown() -> RenderableType:
        from rich.console import Group

        t = table("device", "slot", "release", "in place of", "terms", "digest")
        for c in told:
            t.add_row(
                c.device,
                c.slot or "-",
                c.release or "-",
                c.replaces or "-",
                "\n".join(c.terms) or "as usual",
                c.digest,
            )
        what = "wait" if show else "are approved"
        fleets = ", ".join(sorted({c.fleet for c in told}))
        return Group(t, "", f"{len(found)} documents of fleet {fleets} {what}") if found else "nothing waits"

    out.result({"approved": not show, "documents": told}, shown)


def _change(rollout: str, op: str, controller: ControllerOptions, out: Printer) -> None:
    with controller.client() as fleet:
        changed = fleet.change_rollout(rollout, op)
    out.result(changed, lambda: _shown([changed]))


def _shown(rollouts: list[dict[str, Any]]) -> RenderableType:
    from rich.console import Group

    t = table("id", "release", "slot", "state", "wave", "devices", "reason")
    for r in rollouts:
        why = "; ".join(filter(None, (r.get("reason"), r.get("note"))))
        t.add_row(r["id"], r["release"], r["slot"], r["state"], str(r["wave"]), outcomes(r), why)
    if len(rollouts) != 1 or not rollouts[0]["members"]:
        return t
    members = table("device", "wave", "outcome", "detail")
    for name, m in sorted(rollouts[0]["members"].items(), key=lambda item: (item[1]["wave"], item[0])):
        members.add_row(name, str(m["wave"]), m["outcome"], m.get("detail") or "")
    return Group(t, "", members)


def _meant(devices: list[dict[str, Any]], slot: str, labels: dict[str, str], only: list[str]) -> int:
    """How many devices a rollout has to do with, as far as they are known now."""
    conns = [d.get("conn") or {} for d in devices if not only or d["name"] in only]
    return sum(slot in c.get("slots", ()) and labels.items() <= c.get("labels", {}).items() for c in conns)


def _windows(texts: list[str]) -> list[str]:
    from pydantic import TypeAdapter, ValidationError

    from edgectl.core.schema import first_problem
    from edgectl.core.windows import Window

    try:
        return list(TypeAdapter(tuple[Window, ...]).validate_python(texts))
    except ValidationError as e:
        raise UsageError(f"--window: {first_problem(e).partition(': ')[2]}") from e
