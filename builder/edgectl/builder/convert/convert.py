"""A source of any framework as an ONNX file: converted in a child, then compared with the framework's own answers.

    with converted(Path("model.tflite"), ConvertOptions(), monitor) as source:
        graph = read_model(source.onnx)
        ...
        note = source.confirm(samples)

Nothing of a source is unpickled, imported or run in this process.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
from numpy.typing import NDArray

from edgectl.builder.budget import QUANTIZE
from edgectl.builder.convert.child import Limits, regular_file, run_inside
from edgectl.builder.convert.compare import Agreement, compare_outputs
from edgectl.builder.convert.inside.confine import BOUNDS
from edgectl.builder.convert.inside.shape import Signature
from edgectl.builder.convert.options import ConvertOptions
from edgectl.builder.convert.source import check_archive, digest_source
from edgectl.builder.convert.table import framework_of, is_function
from edgectl.builder.graph import np_dtype, real_inputs
from edgectl.builder.ingest.samples import Sample
from edgectl.builder.monitor import BuildMonitor
from edgectl.builder.scratch import scratch_folder
from edgectl.core.bundle import SessionSettings
from edgectl.core.errors import DataError, EngineError, ModelError, UsageError
from edgectl.core.files import storage
from edgectl.core.tensors import read_npz
from edgectl.engines.base import Feeds
from edgectl.engines.runtimes.onnxruntime import OnnxRuntimeEngine

__all__ = ["Conversion", "ConvertedModel", "converted", "source_name"]

_MIB = 1 << 20
_MEMORY_MB, _LEAST_MEMORY_MB, _OF_FREE = 8192, 1024, 0.75
_LEAST_S = 180.0
_MAX_ONNX = 2 << 30
_MAX_NPZ_BYTES = 4 << 30
_SAMPLES = 32
_MAX_FEEDS = 256 << 20
"""Bytes of the inputs that are compared on, and of the outputs of one sample."""


@dataclass(frozen=True)
class Conversion:
    """Where a model came from: what the provenance says of it."""

    name: str
    """File or folder name, or ``module:function``."""
    digest: str
    """``sha256:…`` of the file, of the folder, or of the module's source file."""
    format: str
    framework: str
    converter: str
    agreement: Agreement | None = None
    unconfined: tuple[str, ...] = ()
    """What the system did not keep the conversion from: ``network``, ``files``."""

    def parameters(self) -> dict[str, Any]:
        """For the provenance, beside the digest."""
        compared = (
            {}
            if self.agreement is None
            else {"samples": self.agreement.samples, "worst": float(f"{self.agreement.worst:.2g}")}
        )
        return {
            "source": self.name,
            "format": self.format,
            "framework": self.framework,
            "converter": self.converter,
            "compared": compared,
        }

    def as_report(self) -> dict[str, Any]:
        """For whoever called the build."""
        unconfined = {"unconfined": list(self.unconfined)} if self.unconfined else {}
        return {**self.parameters(), **unconfined, "digest": self.digest}


@dataclass
class ConvertedModel:
    """``onnx``: what the build reads. ``size``: bytes of what the user gave. ``conversion``: None for a model that came as ONNX."""

    onnx: Path
    size: int
    conversion: Conversion | None = None
    _again: _Again | None = field(default=None, repr=False)

    def confirm(self, samples: Sequence[Sample], monitor: BuildMonitor) -> None:
        """Compare what the converted model and the framework's own answer to ``samples``; a note says how near they are.

        Raises :class:`ModelError` with the figure where they are not the same.
        """
        if self._again is None or self.conversion is None:
            return
        agreement = self._again.compare(self.onnx, samples, monitor)
        c = self.conversion
        self.conversion = replace(c, agreement=agreement)
        monitor.note(
            f"{c.name} ({c.format}, {c.digest[:19]}…) was converted by {c.converter}: {agreement.told()} of what {c.framework} computes"
        )


@dataclass(frozen=True)
class _Again:
    """What it takes to ask the child a second time."""

    folder: Path
    job: Mapping[str, Any]
    signature: Signature
    path: Path
    digest: str
    options: ConvertOptions
    what: str

    def compare(self, model: Path, samples: Sequence[Sample], monitor: BuildMonitor) -> Agreement:
        inputs = _inputs_of(model)
        feeds = [_feeds(s.feeds, inputs) for s in _spread(samples)]
        monitor.tell("convert", 0.02, f"{self.signature.framework} on {len(feeds)} samples")
        arrays: Any = {f"{n}/{name}": array for n, one in enumerate(feeds) for name, array in one.items()}
        with storage(str(self.folder)):
            np.savez(self.folder / "samples.npz", **arrays)
        if digest_source(self.path).digest != self.digest:
            raise ModelError(f"{self.path.name} changed while it was converted", hint="build again")
        job = {**self.job, "signature": self.signature.as_json()}
        run_inside(self.folder, "answer", job, self.what, self.options, _limits(monitor))
        theirs = self._answers(len(feeds))
        try:
            engine = OnnxRuntimeEngine(model, SessionSettings(optimization="disabled"))
            ours = [dict(engine.run(one)) for one in feeds]
        except EngineError as e:
            raise ModelError(
                f"the converted model does not run: {e.message}",
                hint="export it to ONNX with the framework's own tools and give that file",
            ) from e
        return compare_outputs(self.signature.outputs, theirs, ours, self.signature.arithmetic)

    def _answers(self, count: int) -> list[dict[str, NDArray[Any]]]:
        path = self.folder / "outputs.npz"
        regular_file(path, _MAX_ONNX, self.what)
        arrays = read_npz(path, max_bytes=_MAX_ONNX, max_arrays=65536, error=ModelError)
        return [
            {
                name: arrays[f"{n}/{i}"]
                for i, name in enumerate(self.signature.outputs)
                if f"{n}/{i}" in arrays
            }
            for n in range(count)
        ]


def source_name(model: Path) -> str:
    """What a release is called that nobody named."""
    text = str(model)
    # says first what is wrong with it
    framework_of(text)
    return text.rpartition(":")[2] if is_function(text) else model.stem


@contextlib.contextmanager
def converted(
    model: Path,
    options: ConvertOptions,
    monitor: BuildMonitor,
    *,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    calibration: str | None = None,
) -> Iterator[ConvertedModel]:
    """``model`` as ONNX, for as long as the context lasts. ``shapes``, and then the arrays of an ``.npz`` of calibration data, say
    what the inputs are where the source does not.

    Raises :class:`ModelError` for what cannot be converted, :class:`UsageError` where something is missing or must be allowed.
    """
    found = framework_of(str(model))
    if found is None:
        yield ConvertedModel(model, _size(model))
        return
    framework, module = found
    function = is_function(str(model))
    if not function:
        check_archive(model)
    digest = None if function else digest_source(model.absolute())
    name = str(model) if function else model.name
    if module.CODE == "inside" and not options.trust_source:
        raise UsageError(
            f"{name} is {module.NAME}: reading it runs whatever code is in it",
            hint="if you made it yourself or trust who did, give --trust-source: it is then read in a child process without network",
        )
    data = _arrays(Path(calibration)) if calibration and calibration.endswith(".npz") else {}
    job = {
        "framework": framework,
        "source": str(model) if function else str(model.absolute()),
        "cwd": os.getcwd(),
        "code": module.CODE,
        "shapes": {n: list(s) for n, s in (shapes or {}).items()},
        "data": {n: [list(shape), dtype] for n, (shape, dtype) in data.items()},
    }
    what = f"the conversion of {name} ({module.NAME})"
    with scratch_folder("edgectl-convert-") as folder:
        monitor.tell("convert", 0.0, f"converting {name} ({module.NAME})")
        reply = run_inside(folder, "convert", job, what, options, _limits(monitor))
        signature = _signature(reply, what)
        path = _module_file(signature, what) if function else model.absolute()
        digest = digest or digest_source(path)
        onnx_file = folder / "model.onnx"
        regular_file(onnx_file, _MAX_ONNX, what)
        unconfined = _unconfined(reply)
        if unconfined:
            monitor.note(
                f"this system did not keep {what} from {' and '.join(BOUNDS[u] for u in unconfined)}: that takes Landlock "
                "(Linux 5.13) and user namespaces"
            )
        conversion = Conversion(
            name,
            digest.digest,
            module.NAME,
            signature.framework,
            signature.converter,
            unconfined=unconfined,
        )
        again = _Again(folder, job, signature, path, digest.digest, options, what)
        monitor.budget.share_the_rest()
        yield ConvertedModel(onnx_file, digest.size, conversion, again)


def _signature(reply: Mapping[str, Any], what: str) -> Signature:
    """Of an answer that nobody vouches for."""
    try:
        found = Signature.of_json(reply["signature"])
        texts = (*found.inputs, *found.outputs, found.converter, found.framework)
        if not all(isinstance(t, str) and 0 < len(t) <= 500 for t in texts):
            raise ValueError("names")
        if found.arithmetic not in ("float32", "float16", "int8"):
            raise ValueError("arithmetic")
    except (KeyError, TypeError, ValueError) as e:
        raise ModelError(f"{what} gave an answer that makes no sense") from e
    return found


def _unconfined(reply: Mapping[str, Any]) -> tuple[str, ...]:
    granted = reply.get("confined")
    return tuple(b for b in BOUNDS if not isinstance(granted, list) or b not in granted)


def _limits(monitor: BuildMonitor) -> Limits:
    """A conversion may take what quantization would have ended at, and at least three minutes."""
    free = psutil.virtual_memory().available / _MIB
    memory = int(max(_LEAST_MEMORY_MB, min(_MEMORY_MB, _OF_FREE * free)))
    left = monitor.budget.left(QUANTIZE)
    return Limits(timeout_s=min(86_400.0, max(_LEAST_S, left)), memory_mb=memory)


def _size(model: Path) -> int:
    try:
        return model.stat().st_size
    except OSError:
        # for the reader of ONNX files to say
        return 0


def _module_file(signature: Signature, what: str) -> Path:
    """The file of the function's module, as the child found it."""
    path = Path(str(signature.notes.get("file", "")))
    if path.suffix != ".py" or not path.is_file():
        raise ModelError(f"{what}: its module has no file", hint="write the function into a .py file")
    return path


def _arrays(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Array → shape of one sample (they lie along axis 0), dtype."""
    if not path.is_file():
        raise DataError(f"there is no file {path}", hint="check the path of the calibration data")
    arrays = read_npz(path, max_bytes=_MAX_NPZ_BYTES, error=DataError)
    return {n: (a.shape[1:], str(a.dtype)) for n, a in arrays.items()}


def _inputs_of(model: Path) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    """Input → dtype and shape, where what is open is 1."""
    found = onnx.load(str(model), load_external_data=False)
    return {
        i.name: (
            np_dtype(i),
            tuple(max(1, d.dim_value) for d in i.type.tensor_type.shape.dim),
        )
        for i in real_inputs(found)
    }


def _feeds(feeds: Feeds, inputs: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]) -> Feeds:
    """What the converted model takes, of what the build feeds: inputs that it bound are 1, floats are of the model's own type."""
    return {
        name: np.asarray(feeds[name], dtype) if name in feeds else np.ones(shape, dtype)
        for name, (dtype, shape) in inputs.items()
    }


def _spread(samples: Sequence[Sample]) -> list[Sample]:
    """Samples that lie evenly among all, as many as fit."""
    size = max(1, sum(a.nbytes for a in samples[0].feeds.values()))
    count = max(2, min(_SAMPLES, _MAX_FEEDS // size, len(samples)))
    count = min(count, len(samples))
    return [samples[round(i * (len(samples) - 1) / max(1, count - 1))] for i in range(count)]
