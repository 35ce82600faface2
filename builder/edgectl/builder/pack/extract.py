"""``edgectl bundle extract``: one variant as plain files for other tools, and the commands that run it there as edgectl does.

On disk, in the folder: ``model.onnx``; ``model.rtx`` and ``ranges.json`` where the variant has them; ``labels.txt``;
``golden/in-<i>.bin`` and ``golden/out-<i>.bin``, raw bytes of one golden sample in the order of the tensors;
``config.json``, what the bundle says of the variant; ``commands.sh``; the weights of a large model, in a file called by its
64 hex digits. For Triton: ``triton/<name>/config.pbtxt`` and
``triton/<name>/1/model.onnx``.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from edgectl.builder.pack.commands import Files, command_lines, onnxruntime_program
from edgectl.builder.pack.triton import model_name, triton_config
from edgectl.core.bundle import LAYER_RANGES, LAYER_RTX, LAYER_WEIGHTS, Bundle, Variant
from edgectl.core.errors import UsageError
from edgectl.core.files import storage
from edgectl.device_profiles.catalogue import load_profile, profile_names
from edgectl.engines.finalise.golden import read_golden

__all__ = ["Extracted", "choose", "extract"]


@dataclass(frozen=True)
class Extracted:
    variant: str
    """``profile/variant``."""
    out: Path
    files: tuple[str, ...]
    commands: tuple[tuple[str, str], ...]
    """(What it is for, the command)."""


def choose(bundle: Bundle, wanted: str | None) -> Variant:
    """The variant that is named, as ``VARIANT`` or ``PROFILE/VARIANT``; None: the only one. Raises :class:`UsageError` with
    what there is."""
    names = {f"{v.config.profile}/{v.config.variant}": v for v in bundle.variants}
    found = [v for name, v in names.items() if wanted in (None, name, v.config.variant)]
    if len(found) == 1:
        return found[0]
    if wanted is None or found:
        problem = "several variants" if wanted is None else f"several variants {wanted!r}"
    else:
        problem = f"no variant {wanted!r}"
    raise UsageError(f"the bundle has {problem}", hint=f"--variant with one of {', '.join(names)}")


def extract(variant: Variant, out: Path, *, triton: bool = False) -> Extracted:
    """Write the files into ``out``, which must not exist or be empty; after an error it is as it was.

    Raises :class:`UsageError`, :class:`StorageError`, and what a damaged bundle raises."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists and is not an empty folder", hint="give --out another folder")
    variant.verify()
    config = variant.config
    profile = load_profile(config.profile) if config.profile in profile_names() else None
    with storage(str(out)):
        out.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        with storage(str(out)):
            files = _write(variant, work)
            commands = command_lines(config, files, profile.tensorrt if profile is not None else None)
            if config.runtime == "onnxruntime":
                program = onnxruntime_program(config, files, [o.name for o in config.outputs])
                (work / "run_onnxruntime.py").write_text(program, "utf-8")
            text = "".join(f"# {what}\n{line}\n\n" for what, line in commands)
            (work / "commands.sh").write_text(
                f'#!/bin/sh\n# {config.profile}/{config.variant}\ncd "$(dirname "$0")"\n\n{text}', "utf-8"
            )
            if triton:
                _write_triton(variant, work)
            if out.exists():
                out.rmdir()
            work.chmod(0o755)
            os.rename(work, out)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    written = tuple(sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()))
    return Extracted(f"{config.profile}/{config.variant}", out, written, tuple(commands))


def _write(variant: Variant, out: Path) -> Files:
    config = variant.config
    shutil.copyfile(variant.engine(out / "unpacked"), out / "model.onnx")
    shutil.rmtree(out / "unpacked", ignore_errors=True)
    if variant.layer(LAYER_WEIGHTS) is not None:
        weights = variant.need(LAYER_WEIGHTS)
        # model.onnx names it so
        shutil.copyfile(weights, out / weights.name)
    files = {"model": "model.onnx"}
    for layer, name in ((LAYER_RTX, "model.rtx"), (LAYER_RANGES, "ranges.json")):
        if variant.layer(layer) is not None:
            shutil.copyfile(variant.need(layer), out / name)
            files["engine" if layer == LAYER_RTX else "ranges"] = name
    (out / "golden").mkdir()
    feeds, outputs = read_golden(variant)[0]
    for kind, specs, arrays in (("in", config.inputs, feeds), ("out", config.outputs, outputs)):
        for i, spec in enumerate(specs):
            name = f"golden/{kind}-{i}.bin"
            arrays[spec.name].tofile(out / name)
            files[f"{kind}/{spec.name}"] = name
    if config.task.labels:
        (out / "labels.txt").write_text("".join(f"{label}\n" for label in config.task.labels), "utf-8")
    (out / "config.json").write_text(config.model_dump_json(indent=2, exclude_none=True) + "\n", "utf-8")
    return files


def _write_triton(variant: Variant, out: Path) -> None:
    folder = out / "triton" / model_name(variant.config)
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(triton_config(variant.config), "utf-8")
    weights = variant.layer(LAYER_WEIGHTS)
    for name in ("model.onnx", *([] if weights is None else [weights.name])):
        shutil.copyfile(out / name, folder / "1" / name)
