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
from edgectl.cli._printer import Printer, outcomes, table
from edgectl.cli._rollout_terms import RolloutTerms
from edgectl.core.errors import RolloutError, TrustError, UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["app"]

app = Noun("rollout")

Release = Annotated[
    str | None, typer.Argument(help="NAME@VERSION of a published release; may stand in the --policy.")
]
Slot = Annotated[
    str | None, typer.Option(help="The slot that gets it, e.g. gate-detector; may stand in the --policy.")
]
Id = Annotated[str, typer.Argument(help="Id of the rollout; `edgectl rollout status` lists them.")]


_UNDER_WAY = ("running", "paused", "rolling_back")
_LOOK_S = 0.5


@app.command("preview")
def preview(
    release: Release = None,
    slot: Slot = None,
    *,
    terms: RolloutTerms,
    controller: ControllerOptions,
    out: Printer,
) -> None:
    """Show what a rollout would do if it began now: devices, waves, bytes, time, and what its gates can find. Nothing is
    begun."""
    request = terms.request(release, slot)
    with controller.client() as fleet:
        found = fleet.preview_rollout(**request)

    def shown() -> RenderableType:
        from edgectl.cli.views.rollout import preview_view

        return preview_view(request, found)

    out.result(found, shown)


@app.command("start")
def start(
    release: Release = None,
    slot: Slot = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow the rollout to its end; exit 12 if it stops.")
    ] = False,
    *,
    terms: RolloutTerms,
    controller: ControllerOptions,
    out: Printer,
) -> None:
    """Bring a release to devices: a canary first, then wave after wave. If the release fails there, the rollout
    stops and devices go back."""
    request = terms.request(release, slot)
    with controller.client() as fleet:
        meant = fleet.preview_rollout(**request)
        rollout = fleet.start_rollout(**request)
        for warning in meant["warnings"]:
            out.say(f"note: {warning}")
        if not meant["devices"]:
            out.say(
                f"the rollout waits for a device that it selects\n"
                f"next: `edgectl fleet devices` shows slots and labels; `edgectl rollout abort {rollout['id']}` ends it"
            )
        if wait:
            with out.progress() as update:
                while rollout["state"] in _UNDER_WAY:
                    time.sleep(_LOOK_S)
                    rollout = fleet.rollout(rollout["id"])
                    done = Counter(m["outcome"] for m in rollout["members"].values())
                    total = max(1, len(rollout["members"]))
                    what = ", ".join(f"{n} {o}" for o, n in sorted(done.items()))
                    note = f" ({rollout['note']})" if rollout.get("note") else ""
                    update(f"{rollout['state']}: {what}{note}", done["committed"] / total)

    def shown() -> RenderableType:
        from rich.console import Group

        now = _one(rollout)
        return now if wait else Group(now, f"next: edgectl rollout watch {rollout['id']}")

    out.result(rollout, shown)
    if wait:
        _check_end(rollout)


@app.command("status")
def status(
    rollout: Annotated[str | None, typer.Argument(help="Id; without one, all are listed.")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every device, not only those that are at work or in trouble.")
    ] = False,
    *,
    controller: ControllerOptions,
    out: Printer,
) -> None:
    """Show rollouts, or one with its waves and devices."""
    with controller.client() as fleet:
        found = [fleet.rollout(rollout)] if rollout else fleet.rollouts()
    if not rollout:
        out.result(found, lambda: _shown(found))
        return
    out.result(found[0], lambda: _one(found[0], every=every))


@app.command("explain")
def explain(rollout: Id, *, controller: ControllerOptions, out: Printer) -> None:
    """Show what each gate made of the telemetry, with its numbers; each verdict is worked out again from them."""
    from edgectl.cli.views.gates import decisions_view
    from edgectl.fleet.rollouts.gates import GATES, GateDecision, recompute

    with controller.client() as fleet:
        fleet.rollout(rollout)  # one that is not there is a mistake, and not one without decisions
        decisions = [GateDecision.model_validate(d) for d in fleet.decisions(rollout)]
    if strangers := sorted({d.kind for d in decisions} - GATES.keys()):
        raise UsageError(
            f"this edgectl does not know the gate {strangers[0]}",
            hint="install the controller's version here",
        )
    again = [recompute(d) for d in decisions]
    told = [
        {**d.model_dump(mode="json"), "recomputed": v.value} for d, v in zip(decisions, again, strict=True)
    ]
    out.result(told, lambda: decisions_view(decisions, again))


@app.command("watch")
def watch(rollout: Id, *, controller: ControllerOptions, out: Printer) -> None:
    """Follow a rollout until it ends or Ctrl-C. Exits with 12 if it did not end well."""
    with controller.client() as fleet:
        found = fleet.rollout(rollout)

        class Now:
            def __rich__(self) -> RenderableType:
                return _one(found)

        with out.live(Now()) as say:
            while found["state"] in _UNDER_WAY:
                say(f"{found['state']}, wave {found['wave']}: {outcomes(found)}")
                time.sleep(_LOOK_S)
                found = fleet.rollout(rollout)
    out.result(found, lambda: _one(found))
    _check_end(found)


@app.command("pause")
def pause(rollout: Id, *, controller: ControllerOptions, out: Printer) -> None:
    """Pause a rollout: ask no further device. Devices that have begun finish."""
    _change(rollout, "pause", controller, out)


@app.command("resume")
def resume(rollout: Id, *, controller: ControllerOptions, out: Printer) -> None:
    """Resume a paused rollout."""
    _change(rollout, "resume", controller, out)


@app.command("abort")
def abort(
    rollout: Id,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Take nothing back: devices keep what they have, or are about to have."),
    ] = False,
    *,
    controller: ControllerOptions,
    out: Printer,
) -> None:
    """Stop a running rollout. Its devices get back what they had, unless they are to keep it."""
    _change(rollout, "halt" if keep else "abort", controller, out)


@app.command("rollback")
def rollback(rollout: Id, *, controller: ControllerOptions, out: Printer) -> None:
    """Take a release back in any state of its rollout. Its devices get back what they had before."""
    with controller.client() as fleet:
        changed = fleet.change_rollout(rollout, "rollback")
    if changed["state"] != "rolling_back":
        out.say(f"no device has {changed['release']} by this rollout any more: there is nothing to take back")
    out.result(changed, lambda: _one(changed))


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
    out.result(changed, lambda: _one(changed))


@app.command("approve")
def approve(
    rollout: Annotated[
        str | None, typer.Argument(help="Let the next wave of this rollout begin, where it waits for that.")
    ] = None,
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
    """Let the next wave of a rollout begin; without an id, sign what devices are to run, in a fleet whose director needs
    more than the controller's key."""
    if rollout is not None:
        if key or device or show:
            raise UsageError(
                "a wave is approved by the rollout's id alone; --key, --device and --show belong to documents"
            )
        _change(rollout, "approve", controller, out)
        return
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
    out.result(changed, lambda: _one(changed))


def _check_end(rollout: dict[str, Any]) -> None:
    if rollout["state"] != "done":
        raise RolloutError(
            f"rollout {rollout['id']} of {rollout['release']} is {rollout['state']}: "
            f"{rollout.get('reason') or 'no reason given'}"
        )


def _one(rollout: dict[str, Any], *, every: bool = False) -> RenderableType:
    from edgectl.cli.views.rollout import status_view

    return status_view(rollout, every=every)


def _shown(rollouts: list[dict[str, Any]]) -> RenderableType:
    t = table("id", "release", "slot", "state", "wave", "devices", "reason")
    for r in rollouts:
        why = "; ".join(filter(None, (r.get("reason"), r.get("note"))))
        t.add_row(r["id"], r["release"], r["slot"], r["state"], str(r["wave"]), outcomes(r), why)
    return t
