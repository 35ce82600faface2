"""``edgectl build``: ONNX in, bundle out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgectl.cli._printer import Printer

if TYPE_CHECKING:
    from rich.console import Group

__all__ = ["build"]


def build(
    model: Annotated[Path, typer.Argument(help="The trained model, an ONNX file.")],
    profile: Annotated[
        str, typer.Option("--profile", "-p", help="Device profile, or several separated by commas.")
    ],
    task: Annotated[
        str, typer.Option("--task", "-t", help="A named task (fastestdet, yolov8, …, tensor) or a TOML file.")
    ],
    calibration: Annotated[
        str | None,
        typer.Option(
            "--calibration", "-c", help="A video, a folder of images or WAVs, an .npz, or synth://…"
        ),
    ] = None,
    validation: Annotated[
        str | None,
        typer.Option(help="Data to confirm the accuracy on; default: a slice of the calibration data."),
    ] = None,
    max_drop: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Accuracy that may be lost, in the task's metric.")
    ] = 0.01,
    minutes: Annotated[
        float,
        typer.Option(min=0.05, max=1440, help="Time for the whole build; what is left out for it is listed."),
    ] = 5.0,
    name: Annotated[
        str | None, typer.Option(help="Name of the release; default: the model's file name.")
    ] = None,
    version: Annotated[str, typer.Option(help="Version of the release.")] = "0.1.0",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the bundle; default: out/NAME.")
    ] = None,
    random_calibration: Annotated[
        bool,
        typer.Option("--random-calibration", help="Calibrate on noise. The bundle is marked 'speed only'."),
    ] = False,
    prune: Annotated[
        list[str] | None,
        typer.Option(
            help="channel:SHARE, channel:SHARE/STEP, magnitude:SHARE or 2:4; may be given more than once."
        ),
    ] = None,
    importance: Annotated[
        str,
        typer.Option(help="What pruning keeps: by magnitude, activation, hessian, or taylor (needs torch)."),
    ] = "magnitude",
    cluster: Annotated[
        int, typer.Option(help="Share weights: at most this many values a tensor (k-means); 0: off.")
    ] = 0,
    recover: Annotated[
        float,
        typer.Option(
            min=0,
            max=1440,
            help="Minutes of training after pruning, and of int8 that loses accuracy; float is the teacher, no labels.",
        ),
    ] = 0.0,
    smaller_input: Annotated[
        str | None,
        typer.Option(
            help="Also a variant for a smaller picture, for devices that ask for it: FACTOR of the size, or FACTOR:DROP with the accuracy that it may lose."
        ),
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            "--shape",
            help="NAME=1,3,224,224: an input's shape, where the model leaves it open; may be given more than once.",
        ),
    ] = None,
    follow: Annotated[
        Path | None,
        typer.Option(
            help="Bundle of the release that this model fine-tunes: int8 codes move only as far as the weights did, and the update is small."
        ),
    ] = None,
    debug: Annotated[
        bool, typer.Option("--debug", help="Log to stderr what goes on inside, tracebacks included.")
    ] = False,
    *,
    output: Printer,
) -> None:
    """Compile a model into a bundle of engines for one or more device profiles, the fastest inside the
    accuracy budget first."""
    if debug:
        from edgectl.cli._logging import log_inside

        log_inside()
    from edgectl.builder import BuildProgress, build_bundle
    from edgectl.builder.compress.options import parse_options
    from edgectl.builder.passes.shapes import parse_shapes
    from edgectl.builder.variants.smaller_input import parse_smaller_input

    compression = parse_options(prune or (), cluster=cluster, importance=importance, recover_minutes=recover)
    smaller = None if smaller_input is None else parse_smaller_input(smaller_input)
    with output.progress() as update:

        def show(p: BuildProgress) -> None:
            update(p.message + (f"  best so far: {p.best}" if p.best else ""), p.share)

        report = build_bundle(
            model,
            profiles=profile,
            task=task,
            calibration=calibration,
            validation=validation,
            max_drop=max_drop,
            minutes=minutes,
            name=name,
            version=version,
            out=out,
            random_calibration=random_calibration,
            compression=compression,
            smaller=smaller,
            previous=follow,
            shapes=parse_shapes(shape or ()),
            progress=show,
        )

    def shown() -> Group:
        from edgectl.cli.views.build import build_view

        return build_view(report)

    output.result(report, shown)
