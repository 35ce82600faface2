"""``edgectl build``: a model in, a bundle out."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgectl.cli._controller import ControllerOptions
from edgectl.cli._printer import Printer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Group

    from edgectl.cli._measuring import FleetDevice

__all__ = ["build"]


def build(
    model: Annotated[
        Path,
        typer.Argument(
            help="The trained model: an ONNX file; or TFLite, .pt2, TorchScript, a SavedModel folder, .keras, package.module:function … (docs/convert.md)."
        ),
    ],
    profile: Annotated[
        str, typer.Option("--profile", "-p", help="Device profile, or several separated by commas.")
    ],
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            "-t",
            help="How input is made and output is read: yolov8, yolox, rtdetr … (docs/model.md), tensor, or a TOML file; default: guessed from the model.",
        ),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            "--calibration", "-c", help="A video, a folder of images or WAVs, an .npz, or synth://…"
        ),
    ] = None,
    validation: Annotated[
        str | None,
        typer.Option(
            help="Labels to judge by (COCO JSON, a YOLO data set, class folders, texts), or data to confirm the accuracy on; default: a slice of the calibration data."
        ),
    ] = None,
    validation_images: Annotated[
        Path | None,
        typer.Option(
            "--validation-images", help="Where the pictures lie that the labels name, if not beside them."
        ),
    ] = None,
    known_labels_only: Annotated[
        bool,
        typer.Option("--known-labels-only", help="Leave labels out whose classes the model does not have."),
    ] = False,
    max_drop: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Accuracy that may be lost, from 0 to 1, in the task's metric."),
    ] = 0.01,
    minutes: Annotated[
        float,
        typer.Option(
            min=0.05,
            max=1440,
            help="Time for the whole build, in minutes. What did not fit is listed at the end.",
        ),
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
        typer.Option(
            "--random-calibration",
            help="Calibrate on noise, if there is no data: fit for measuring speed only, and marked so.",
        ),
    ] = False,
    prune: Annotated[
        list[str] | None,
        typer.Option(
            help="Remove weights first: channel:SHARE, channel:SHARE/STEP, magnitude:SHARE or 2:4 (SHARE from 0 to 1); may be repeated."
        ),
    ] = None,
    importance: Annotated[
        str,
        typer.Option(
            help="With --prune, how the importance of a channel is judged: magnitude, activation, hessian, or taylor (needs torch)."
        ),
    ] = "magnitude",
    cluster: Annotated[
        int,
        typer.Option(
            help="At most so many different values in each weight tensor (k-means), for a smaller download; 0: off."
        ),
    ] = 0,
    recover: Annotated[
        float,
        typer.Option(
            min=0,
            max=1440,
            help="Minutes of training after pruning, and for int8 that loses accuracy. The float model teaches; no labels are needed. Needs torch.",
        ),
    ] = 0.0,
    teach: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="With --recover: more data to learn from, without labels: a video, a folder of pictures or recordings, an .npz.",
        ),
    ] = None,
    smaller_input: Annotated[
        str | None,
        typer.Option(
            help="Add a variant for a smaller picture: FACTOR of width and height, or FACTOR:DROP with the accuracy that it may lose. Only devices that prefer small-input take it."
        ),
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            "--shape",
            help="NAME=1,3,224,224: the shape of an input that the model leaves open; may be repeated.",
        ),
    ] = None,
    batch: Annotated[
        str,
        typer.Option(
            help="Pictures in one call, as 1,4: each is measured, and engines ship for the one that is fastest a picture."
        ),
    ] = "1",
    licence: Annotated[
        str | None,
        typer.Option(
            metavar="SPDX",
            help="Licence of the weights, as MIT or 'Apache-2.0 OR LicenseRef-Ours'. Default: what the file or the catalogue says.",
        ),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            help="What engines may compute in, as int8,bfloat16: float32, float16, bfloat16, int8, int4. Default: all that the devices have. A fallback for the CPU ships whatever is asked for."
        ),
    ] = None,
    runtime: Annotated[
        list[str] | None,
        typer.Option(
            help="Runtimes of the profile that engines may be for, as openvino,onnxruntime; default: all."
        ),
    ] = None,
    keep_float: Annotated[
        list[str] | None,
        typer.Option(
            "--keep-float",
            help="Layer that stays in float in every int8 engine: the name of a node, tensor or weight, or a pattern as '/head/*'; may be repeated.",
        ),
    ] = None,
    float16_weights: Annotated[
        bool,
        typer.Option(
            "--float16-weights",
            help="Store the weights of float32 engines for the CPU as float16, where that costs at most a tenth of --max-drop: half the bytes. They compute in float32 as before.",
        ),
    ] = False,
    follow: Annotated[
        Path | None,
        typer.Option(
            help="Bundle of the release that this model fine-tunes. Its int8 codes change only where the weights did, so that devices fetch a small difference."
        ),
    ] = None,
    convert_python: Annotated[
        Path | None,
        typer.Option(
            help="The Python that has the framework of a model that is not ONNX, PATH/TO/VENV/bin/python; default: this one."
        ),
    ] = None,
    trust_source: Annotated[
        bool,
        typer.Option(
            "--trust-source",
            help="The model is a pickle of yours, or of somebody whom you trust: code inside it may run while it is converted.",
        ),
    ] = False,
    on: Annotated[
        str | None,
        typer.Option(
            "--on",
            metavar="DEVICE[,DEVICE]",
            help="Measure candidates on these enrolled devices instead of here: they have [measure] in their agent.toml and nothing else to do.",
        ),
    ] = None,
    debug: Annotated[
        bool, typer.Option("--debug", help="Log every step to stderr, with tracebacks.")
    ] = False,
    *,
    controller: ControllerOptions,
    output: Printer,
) -> None:
    """Quantize a model for one or more device profiles and pack the engines into a bundle. The fastest
    one inside the accuracy budget comes first."""
    if debug:
        from edgectl.cli._logging import log_inside

        log_inside()
    from edgectl.builder import BuildProgress, build_bundle
    from edgectl.builder.compress.options import parse_options
    from edgectl.builder.convert.options import ConvertOptions
    from edgectl.builder.passes.shapes import parse_shapes
    from edgectl.builder.variants.batched import parse_batches
    from edgectl.builder.variants.smaller_input import parse_smaller_input

    compression = parse_options(
        prune or (), cluster=cluster, importance=importance, recover_minutes=recover, teach=teach
    )
    smaller = None if smaller_input is None else parse_smaller_input(smaller_input)
    with contextlib.ExitStack() as stack:
        devices = stack.enter_context(_devices(on, profile, controller))
        update = stack.enter_context(output.progress())

        def show(p: BuildProgress) -> None:
            left = "" if p.ends_in_s is None else f"  about {_clock(p.ends_in_s)} left"
            update(p.message + (f"  best so far: {p.best}" if p.best else "") + left, p.share)

        report = build_bundle(
            model,
            profiles=profile,
            task=task,
            calibration=calibration,
            validation=validation,
            validation_images=validation_images,
            known_labels_only=known_labels_only,
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
            batches=parse_batches(batch),
            licence=licence,
            keep_float=keep_float or (),
            precisions=precision or (),
            runtimes=runtime or (),
            convert=ConvertOptions(convert_python, trust_source),
            float16_weights=float16_weights,
            devices=devices,
            progress=show,
        )

    def shown() -> Group:
        from edgectl.cli.views.build import build_view

        return build_view(report)

    output.result(report, shown)


@contextlib.contextmanager
def _devices(
    names: str | None, profiles: str, controller: ControllerOptions
) -> Iterator[Sequence[FleetDevice]]:
    """Those that measure, until the build is over."""
    if names is None:
        yield ()
        return
    from edgectl.builder.request import loaded_profiles
    from edgectl.cli._measuring import measuring_devices
    from edgectl.cli.device.asking import login

    wanted = list(dict.fromkeys(n.strip() for n in names.split(",") if n.strip()))
    known = [p.name for p in loaded_profiles(profiles)]
    with controller.client() as fleet, measuring_devices(fleet, wanted, known, login()) as devices:
        yield devices


def _clock(seconds: float) -> str:
    """``m:ss``."""
    return "{}:{:02d}".format(*divmod(round(seconds), 60))
