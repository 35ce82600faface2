"""``edgectl release``: bundles under a name and version, signed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgectl.cli._controller import ControllerOptions
from edgectl.cli._keys import SigningOptions
from edgectl.cli._nouns import Noun
from edgectl.cli._printer import Printer, table
from edgectl.core.errors import RolloutError

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["app"]

app = Noun("release")


@app.command("publish")
def publish(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    delta_from: Annotated[
        str | None,
        typer.Option(
            metavar="NAME@VERSION",
            help="Make differences to this release (NAME@VERSION). Default: the previous one.",
        ),
    ] = None,
    no_delta: Annotated[bool, typer.Option("--no-delta", help="Make no differences.")] = False,
    delegation: Annotated[
        str | None, typer.Option(help="Sign as this delegation, for the devices of its profiles.")
    ] = None,
    *,
    signing: SigningOptions,
    controller: ControllerOptions,
    out: Printer,
) -> None:
    """Verify a bundle, upload what the controller lacks, sign it and announce it to the fleet."""
    from edgectl.core.bundle import Bundle
    from edgectl.fleet.client.publish import publish_bundle

    with controller.client() as fleet, out.progress() as update:
        release = publish_bundle(
            fleet,
            bundle,
            signing.keys,
            lambda done, total: update(f"uploading {bundle}", done / max(1, total)),
            delta_from="" if no_delta else delta_from,
            delegation=delegation,
            ring=signing.ring(),
        )
    digest = Bundle(bundle).digest
    out.result(
        {"release": release, "digest": digest},
        f"{release}  {digest}\nnext: edgectl rollout start {release} --slot SLOT",
    )


@app.command("withdraw")
def withdraw(
    release: Annotated[str, typer.Argument(help="NAME@VERSION that no device may install any more.")],
    delegation: Annotated[str | None, typer.Option(help="It was signed as this delegation.")] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask: abort rollouts that need it.")
    ] = False,
    *,
    signing: SigningOptions,
    controller: ControllerOptions,
    out: Printer,
) -> None:
    """Withdraw a release: no device installs it any more. Devices that run it keep it. Publish it again
    to allow it again.

    Asks first if a rollout needs the release.
    """
    from edgectl.fleet.keys.releases import withdraw as sign_without

    name = f"{delegation or 'targets'}.json"
    with controller.client() as fleet:
        stop = yes or _may_stop(fleet.rollouts(), release)
        data = sign_without(
            signing.keys, release, fleet.signed_file(name), delegation=delegation, ring=signing.ring()
        )
        fleet.accept_trust({name: data}, withdraw=[release], stop_rollouts=stop)
    out.result({"release": release, "withdrawn": True}, f"{release} is withdrawn")


def _may_stop(rollouts: list[dict[str, Any]], release: str) -> bool:
    """Ask before anything is signed; False: no rollout needs it now. Raises :class:`RolloutError` where
    nobody can be asked, or says no."""
    from edgectl.fleet.rollouts.planner import RolloutProgress, RolloutSpec
    from edgectl.fleet.rollouts.takeback import needs

    needed = [
        needs(RolloutSpec.model_validate(r), RolloutProgress.model_validate(r), release) for r in rollouts
    ]
    why = "; ".join(filter(None, needed))
    if not why:
        return False
    if sys.stdin.isatty():
        with Printer.paused():
            if typer.confirm(f"{why}. Withdraw {release} and stop it?", err=True):
                return True
    raise RolloutError(
        f"{release} is not withdrawn: {why}",
        hint=f"`edgectl release withdraw {release} --yes` withdraws it and stops what is under way",
    )


@app.command("share-plan")
def share(
    bundle: Annotated[
        Path, typer.Argument(help="Folder of the published bundle that the plan was compiled from.")
    ],
    plan: Annotated[Path, typer.Argument(help="Folder that `edgectl finalise --export` made on a device.")],
    *,
    signing: SigningOptions,
    controller: ControllerOptions,
    out: Printer,
) -> None:
    """Sign a compiled TensorRT plan for identical devices. They run its code: sign only what comes from a
    device that you trust."""
    from edgectl.fleet.client.publish import share_plan

    with controller.client() as fleet:
        release, shared = share_plan(fleet, bundle, plan, signing.keys, ring=signing.ring())

    def shown() -> Table:
        t = table("plan", "")
        t.add_row("release", release)
        t.add_row("digest", f"{shared.digest}, {shared.size} bytes")
        for name, value in shared.key.items():
            t.add_row(name, "-" if value in (None, "") else str(value))
        return t

    out.result({"release": release, **shared.model_dump()}, shown)


@app.command("list")
def list_releases(*, controller: ControllerOptions, out: Printer) -> None:
    """List what was published."""
    with controller.client() as fleet:
        releases = fleet.releases()

    def shown() -> Table:
        t = table("release", "type", "digest", "parts")
        for r in releases:
            parts = ", ".join(f"{part} {release}" for part, release in r.get("parts", {}).items())
            t.add_row(r["release"], r.get("type") or "-", r["digest"], parts)
        return t

    out.result(releases, shown)
