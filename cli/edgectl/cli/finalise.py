"""``edgectl finalise``: make the engine that this device runs, by hand."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgectl.cli._options import Prefer
from edgectl.cli._printer import Printer, plain, table
from edgectl.core.errors import GoldenError, UsageError

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["finalise"]


def finalise(
    path: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the bundle.")],
    cache: Annotated[
        Path | None, typer.Option(help="Folder of finalised engines; default: ~/.cache/edgectl/engines.")
    ] = None,
    profile: Annotated[
        str | None, typer.Option("--profile", "-p", help="Device profile; default: the one that fits here.")
    ] = None,
    prefer: Annotated[
        Prefer | None, typer.Option(help="Which variant of the bundle: the fast one unless said otherwise.")
    ] = None,
    level: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=5,
            help="TensorRT: build at this optimisation level (5 is best and slowest) unless the cache has it.",
        ),
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="TensorRT: copy the plan and its key here, for `edgectl release share-plan`.",
        ),
    ] = None,
    *,
    output: Printer,
) -> None:
    """Make the engine that this machine would run from a bundle: compile it, check it against the golden
    samples, cache it."""
    from edgectl.core.bundle import Bundle
    from edgectl.device_profiles.admission import warming
    from edgectl.device_profiles.catalogue import load_profile
    from edgectl.device_profiles.fitting import UnfitHere
    from edgectl.device_profiles.machine import best_profile, probe
    from edgectl.engines.finalise.finalise import finalise as make_final
    from edgectl.engines.finalise.shared_plan import hand_out
    from edgectl.engines.finalise.trial import warm_up

    machine = probe()
    machine.require_runtime()
    chosen = load_profile(profile) if profile else best_profile(machine)
    unfit = UnfitHere(
        lambda told: output.stderr.print(told, soft_wrap=True, markup=False),
        unified=machine.jetson is not None,
        demand=warming,
    )
    selected = Bundle(path).select_fitting(
        machine.facts,
        profile=chosen.name,
        runtimes=machine.runtimes,
        prefer=None if prefer is None else prefer.value,
        unfit=unfit,
    )
    variant = selected.variant
    cache = cache or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "edgectl" / "engines"
    c = variant.config
    with output.progress() as update:
        update(f"finalising {c.profile}/{c.variant} for {c.runtime}", None)
        made = make_final(variant, cache, limits=chosen.tensorrt, level=level)
        update("golden check in a process of its own", None)
        proof = warm_up(variant.blobs, variant.digest, cache=cache)
    if not proof.ok:
        raise GoldenError(
            f"{c.profile}/{c.variant} was finalised and is not usable: {proof.error}",
            hint="take another variant",
        )
    if export is not None:
        if made.kind != "plan" or made.level is None:
            raise UsageError(
                f"{c.profile}/{c.variant} has no TensorRT plan to export", hint="only TensorRT compiles one"
            )
        hand_out(made.path, made.key, made.level, export)
    value = {
        "profile": c.profile,
        "variant": c.variant,
        "passed_over": selected.passed_over,
        **plain(made),
        "golden": plain(proof),
    }

    def shown() -> Table:
        t = table(f"{c.profile}/{c.variant}", "")
        t.add_row(
            "engine", f"{made.kind} {made.path}" + ("" if made.level is None else f", level {made.level}")
        )
        if made.key:
            t.add_row("", f"{'made' if made.made else 'found in the cache'} in {made.seconds:.1f} s")
        else:
            t.add_row("", "nothing is compiled for this runtime")
        t.add_row(
            "key", ", ".join(f"{k} {v}" for k, v in made.key.items() if isinstance(v, str) and v) or "-"
        )
        if made.layers is not None:
            n = made.layers
            t.add_row(
                "layers",
                f"{n.total}: int8 {n.int8}, float16 {n.float16}, float32 {n.float32}, DLA {n.dla}, reformats {n.reformats}",
            )
        if export is not None:
            t.add_row("exported", f"{export}; next: edgectl release share-plan {path} {export}")
        for note in made.notes:
            t.add_row("note", note)
        t.add_row("golden", f"passed, worst cosine {proof.worst_cosine:.6f}")
        t.add_row("latency", f"p50 {proof.p50_ms:.3f} ms in {proof.runtime}, resident {proof.rss_mb:.0f} MiB")
        if proof.memory is not None:
            t.add_row("memory", proof.memory.told())
        return t

    output.result(value, shown)
