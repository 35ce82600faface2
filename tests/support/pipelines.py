"""Test doubles at our own seams: engines that find what they are told, variants with real blobs,
detections by hand."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgectl.core.bundle import (
    ANNOTATION_PROFILE,
    ANNOTATION_RUNTIME,
    ANNOTATION_VARIANT,
    LAYER_ENGINE,
    MEDIA_CONFIG,
    MEDIA_INDEX,
    MEDIA_MANIFEST,
    Descriptor,
    GoldenSpec,
    Index,
    Manifest,
    Recipe,
    TensorSpec,
    Tolerance,
    Variant,
    VariantConfig,
)
from edgectl.core.errors import EngineError
from edgectl.core.files import digest_of, hex_of
from edgectl.core.task import TaskSpec
from edgectl.pipelines.synth import Scene, timecode
from edgectl.pipelines.video.decode import Detections
from edgectl.pipelines.video.tracker import Tracks

BoxesAt = Callable[[NDArray[Any]], list[tuple[float, float, float, float, float, int]]]
"""Input tensor → boxes (x1, y1, x2, y2 relative, score, class)."""


class BoxEngine:
    """An engine in the ``boxes-scores`` format that computes its boxes from the pixels it is given."""

    runtime = "double 1"

    def __init__(
        self, boxes_at: BoxesAt, *, size: tuple[int, int] = (64, 64), classes: int = 2, slots: int = 16
    ) -> None:
        width, height = size
        self.inputs = (TensorSpec(name="image", shape=(1, 3, height, width), dtype="float32"),)
        self.outputs = (
            TensorSpec(name="boxes", shape=(1, slots, 4), dtype="float32"),
            TensorSpec(name="scores", shape=(1, slots, classes), dtype="float32"),
        )
        self._boxes_at = boxes_at
        self.runs = 0
        self.closed = threading.Event()

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self.runs += 1
        boxes = np.zeros(self.outputs[0].shape, np.float32)
        scores = np.zeros(self.outputs[1].shape, np.float32)
        for i, (x1, y1, x2, y2, score, cls) in enumerate(self._boxes_at(feeds["image"])):
            boxes[0, i] = x1, y1, x2, y2
            scores[0, i, cls] = score
        return {"boxes": boxes, "scores": scores}

    def close(self) -> None:
        self.closed.set()


def box_task(
    labels: tuple[str, ...] = ("person", "vehicle"), size: tuple[int, int] = (64, 64), **decode: Any
) -> TaskSpec:
    return TaskSpec.model_validate(
        {
            "name": "double",
            "input": {"kind": "image", "width": size[0], "height": size[1], "fit": "stretch"},
            "decode": {"kind": "boxes-scores", "box_unit": "relative", **decode},
            "labels": labels,
        }
    )


class ClassEngine:
    """An engine in the ``classify`` format that computes its logits from the crop it is given. It can fail, and hang
    until it is let go."""

    runtime = "double 1"

    def __init__(
        self,
        logits_at: Callable[[NDArray[Any]], list[float]],
        *,
        size: tuple[int, int] = (16, 16),
        classes: int = 2,
    ) -> None:
        width, height = size
        self.inputs = (TensorSpec(name="image", shape=(1, 3, height, width), dtype="float32"),)
        self.outputs = (TensorSpec(name="scores", shape=(1, classes), dtype="float32"),)
        self._logits_at = logits_at
        self.runs = 0
        self.fails = False
        self.fails_from = 1 << 60
        """After so many calls."""
        self.free = threading.Event()
        """Clear: calls hang."""
        self.free.set()
        self.hangs = threading.Event()
        """A call hangs."""
        self.closed = threading.Event()

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self.runs += 1
        if not self.free.is_set():
            self.hangs.set()
            assert self.free.wait(30)
        if self.fails or self.runs > self.fails_from:
            raise EngineError("the accelerator is gone")
        return {"scores": np.array([self._logits_at(feeds["image"])], np.float32)}

    def close(self) -> None:
        self.closed.set()


def class_task(
    labels: tuple[str, ...] = ("helmet", "no-helmet"), background: tuple[str, ...] = (), **decode: Any
) -> TaskSpec:
    return TaskSpec.model_validate(
        {
            "name": "gear",
            "input": {"kind": "image", "width": 16, "height": 16, "fit": "stretch"},
            "decode": {"kind": "classify", "score": 0.5, **decode},
            "labels": labels,
            "background": background,
            "metric": "top1",
        }
    )


class OrtEngine:
    """The plain ONNX Runtime, one thread."""

    def __init__(self, path: Path) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.inputs = tuple(
            TensorSpec(name=i.name, shape=tuple(i.shape), dtype="float32") for i in self._session.get_inputs()
        )
        self.outputs = tuple(
            TensorSpec(name=o.name, shape=tuple(o.shape), dtype="float32")
            for o in self._session.get_outputs()
        )
        self.runtime = f"onnxruntime {ort.__version__}"

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        names = [o.name for o in self.outputs]
        return dict(zip(names, self._session.run(names, dict(feeds)), strict=True))

    def close(self) -> None:
        pass


def open_ort(variant: Variant) -> OrtEngine:
    return OrtEngine(variant.need(LAYER_ENGINE))


def model_bytes(x: float = 0.4) -> bytes:
    """An ONNX graph that always sees one person at ``x``: it reads its input, so that nothing is folded
    away."""
    boxes = np.zeros((1, 4, 4), np.float32)
    boxes[0, 0] = x, 0.3, x + 0.2, 0.8
    scores = np.zeros((1, 4, 2), np.float32)
    scores[0, 0, 0] = 0.9
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], keepdims=0, axes=[0, 1, 2, 3]),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["b", "nothing"], ["boxes"]),
        helper.make_node("Add", ["s", "nothing"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "double",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 64, 64])],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, 4, 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 4, 2]),
        ],
        [
            numpy_helper.from_array(boxes, "b"),
            numpy_helper.from_array(scores, "s"),
            numpy_helper.from_array(np.float32(0), "zero"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def class_model_bytes(logits: tuple[float, ...] = (4.0, 0.0)) -> bytes:
    """An ONNX graph that always says the same of a crop of 16 × 16."""
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], keepdims=0, axes=[1, 2, 3]),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["l", "nothing"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "double",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, len(logits)])],
        [
            numpy_helper.from_array(np.array([logits], np.float32), "l"),
            numpy_helper.from_array(np.float32(0), "zero"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def make_variant(folder: Path, task: TaskSpec, model: bytes = b"no model", name: str = "double") -> Variant:
    """A variant whose blobs lie in ``folder``, digests and all."""
    folder.mkdir(parents=True, exist_ok=True)

    def blob(data: bytes, kind: str) -> Descriptor:
        digest = digest_of(data)
        (folder / hex_of(digest)).write_bytes(data)
        return Descriptor(mediaType=kind, digest=digest, size=len(data))

    config = VariantConfig(
        name=name,
        version="1.0.0",
        profile="cpu",
        variant="float",
        runtime="onnxruntime",
        task=task,
        recipe=Recipe(family="float"),
        inputs=(),
        outputs=(),
        golden=GoldenSpec(samples=1, tolerances={"boxes": Tolerance(cosine=0.99, max_abs=1.0)}),
    )
    manifest = Manifest(
        config=blob(config.model_dump_json().encode(), MEDIA_CONFIG), layers=(blob(model, LAYER_ENGINE),)
    )
    descriptor = blob(manifest.encode(), MEDIA_MANIFEST)
    return Variant.open(folder, descriptor.digest)


def bundle_of(root: Path, task: TaskSpec, model: bytes) -> Path:
    """A bundle with one variant. Returns ``root``."""
    blobs = root / "blobs" / "sha256"
    variant = make_variant(blobs, task, model)
    entry = Descriptor(
        mediaType=MEDIA_MANIFEST,
        digest=variant.digest,
        size=(blobs / hex_of(variant.digest)).stat().st_size,
        annotations={
            ANNOTATION_PROFILE: "cpu",
            ANNOTATION_VARIANT: "float",
            ANNOTATION_RUNTIME: "onnxruntime",
        },
    )
    titles = {"org.opencontainers.image.title": "double", "org.opencontainers.image.version": "1.0.0"}
    index = Index(mediaType=MEDIA_INDEX, manifests=(entry,), annotations=titles)
    (root / "index.json").write_bytes(index.encode())
    (root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return root


def detections(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    """x1, y1, x2, y2, score, class."""
    a = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(a[:, :4].copy(), a[:, 4].copy(), a[:, 5].astype(np.int32))


def tracks(
    *rows: tuple[int, float, float], cls: int = 0, size: tuple[int, int] = (1000, 1000), seen: bool = True
) -> Tracks:
    """id, x, y of the bottom centre; boxes are 40 × 80 pixels."""
    n = len(rows)
    xy = np.array([r[1:] for r in rows], np.float32).reshape(n, 2)
    boxes = np.stack([xy[:, 0] - 20, xy[:, 1] - 80, xy[:, 0] + 20, xy[:, 1]], axis=1)
    ids = np.array([r[0] for r in rows], np.int64)
    return Tracks(ids, boxes, np.full(n, 0.9, np.float32), np.full(n, cls, np.int32), np.full(n, seen), *size)


def write_clip(path: Path, frames: int = 30, size: tuple[int, int] = (64, 48), fps: int = 15) -> Path:
    """A clip whose brightness is its frame number × 8."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for i in range(frames):
            image = np.full((size[1], size[0], 3), min(255, i * 8), np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return path


class OracleEngine(BoxEngine):
    """Knows the truth of a synthetic scene: it reads the frame number from the pixels. 5 % missed, 1 px of
    jitter."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(self._look, size=(scene.width, scene.height), classes=len(scene.labels), slots=32)
        self._scene = scene
        self._rng = np.random.default_rng(0)

    def _look(self, tensor: NDArray[Any]) -> list[tuple[float, float, float, float, float, int]]:
        image = (tensor[0].transpose(1, 2, 0) * 255).round().astype(np.uint8)
        number = timecode.read(image)
        if number is None:  # the warm-up's grey
            return []
        truth = self._scene.truth(number)
        size = np.array([self._scene.width, self._scene.height] * 2)
        found = []
        for box, cls in zip(truth.boxes, truth.cls, strict=True):
            if self._rng.random() > 0.05:
                x1, y1, x2, y2 = np.clip((box + self._rng.normal(0, 1, 4)) / size, 0, 1)
                found.append((float(x1), float(y1), float(x2), float(y2), 0.9, int(cls)))
        return found


def turn(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Write a display matrix into the track header of an MP4 (ISO/IEC 14496-12, 8.3.2)."""
    data = bytearray(path.read_bytes())
    a, b, c, d = (v << 16 for v in matrix) if max(map(abs, matrix)) <= 1 else matrix
    at = data.index(b"tkhd") + 4 + 40
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def write_h264(
    path: Path,
    *,
    frames: int = 40,
    size: tuple[int, int] = (160, 96),
    fps: int = 10,
    codec: str = "libx264",
    gop: int = 10,
    start: int = 0,
    options: dict[str, str] | None = None,
    detail: int = 16,
) -> Path:
    """A clip in which a bright square walks to the right over a fixed pattern; its format follows from the
    name of ``path``.

    ``detail``: pixels of the pattern's grain. The finer, the more bits, and the surer a decoder finds that
    some are wrong.
    """
    rng = np.random.default_rng(5)
    grain = rng.integers(40, 200, (max(2, size[1] // detail), max(2, size[0] // detail), 3), dtype=np.uint8)
    ground = np.asarray(cv2.resize(grain, size, interpolation=cv2.INTER_CUBIC))
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=fps)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.gop_size = gop
        for i in range(frames):
            image = ground.copy()
            x = (start + i) * 3 % (size[0] - 20)
            image[30:50, x : x + 20] = 250
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return path


def write_reordered(path: Path, frames: int) -> Path:
    """A clip with B-frames, 10 a second, a group of pictures a second, whose pictures grow brighter one by one."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"bf": "3", "b-adapt": "0"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.gop_size = 10
        for i in range(frames):
            picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 40 + 3 * i, np.uint8), format="bgr24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path
