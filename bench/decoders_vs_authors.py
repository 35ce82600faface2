"""Each decoder beside its authors' own post-processing, on exports of their models with random weights.

    pip install ultralytics torch torchvision onnx onnxruntime onnxscript transformers rfdetr loguru
    git clone --depth 1 https://github.com/ultralytics/yolov5            # and so on, into one folder:
    # Megvii-BaseDetection/YOLOX RangiLyu/nanodet dog-qiuqiu/FastestDet lyuwenyu/RT-DETR Peterande/D-FINE
    python bench/decoders_vs_authors.py --authors FOLDER [--only NAME …] [--inputs 20]

Run it in an environment of its own that has edgectl, too: some of these packages are under the AGPL, and nothing of
theirs is part of edgectl. Each export runs on random pictures in ONNX Runtime; both decoders read the same tensors,
with a threshold at which there is much to suppress. Prints the largest difference of a box (input pixels), of a
score and of a keypoint, and the share of mask pixels that differ, and fails above 1e-3 or where one finds what the other does not.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from edgectl.core.task import TaskSpec
from edgectl.pipelines.video.decode import make_decoder
from edgectl.pipelines.video.preprocess import LetterboxMeta

WITHIN = 1e-3
SIZE = 320
PICTURE = (1, 3, SIZE, SIZE)
ENOUGH = 30  # detections on the first picture

Found = np.ndarray
"""(N, 6 + 3K): x1, y1, x2, y2, score, class; x, y, confidence of each of K keypoints, or mask coefficients."""


@dataclass
class Pair:
    """A decoder and its authors' function of (outputs, threshold), for a function that makes outputs."""

    kind: str
    run: Callable[[np.random.Generator], dict[str, np.ndarray]]
    theirs: Callable[[dict[str, np.ndarray], float], Found]
    classes: int = 80
    iou: float = 0.45
    size: int = SIZE
    decode: dict[str, Any] = field(default_factory=dict)
    masks: Callable[[dict[str, np.ndarray], Found], np.ndarray] | None = None
    """Their masks (N, H, W) of their detections, which have mask coefficients behind the class then."""


# ---- their models -----------------------------------------------------------------------------------------


def ultralytics(name: str) -> Pair:
    import torch
    from ultralytics import RTDETR, YOLO
    from ultralytics.utils import ops
    from ultralytics.utils.nms import non_max_suppression

    whole = name.startswith(("yolov10", "yolo26"))
    what = name.rpartition("-")[2] if not name.startswith("rtdetr") else ""
    torch.manual_seed(1)
    model = (RTDETR if name.startswith("rtdetr") else YOLO)(f"{name}.yaml")
    model.model.eval()
    restless(model.model, PICTURE)
    head = model.model.model[-1]
    for branch in ("cv3", "one2one_cv3"):
        for convs in getattr(head, branch, None) or []:
            # no score of exactly 1: of two such classes nobody says which is the best
            convs[-1].bias.data.fill_(-2.0)
            convs[-1].weight.data.mul_(0.15)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), quietly():
        # without nms=False the newest versions export the head that still needs suppression
        path = model.export(
            format="onnx", imgsz=SIZE, simplify=False, opset=17, **({"nms": False} if whole else {})
        )
        run = session(Path(path).read_bytes())

    def dense(outputs: dict[str, np.ndarray], least: float) -> Found:
        rows = non_max_suppression(
            doubled(outputs), least, 0.45, max_det=3000, nc=model.model.model[-1].nc, end2end=whole
        )[0]
        if what == "seg":
            return rows.numpy()
        if what != "pose":
            return rows.numpy()[:, :6]
        # as their predictor goes on
        points = rows[:, 6:].view(len(rows), *model.model.kpt_shape)
        points = ops.scale_coords((SIZE, SIZE), points, (SIZE, SIZE))
        return torch.cat([rows[:, :6], points.flatten(1)], 1).numpy()

    def masks(outputs: dict[str, np.ndarray], found: Found) -> np.ndarray:
        rows = torch.tensor(found)
        prototypes = torch.tensor(list(outputs.values())[1])[0]
        made = ops.process_mask(
            prototypes, rows[:, 6:].float(), rows[:, :4].float(), (SIZE, SIZE), upsample=True
        )
        return made.numpy().astype(bool)

    def detr(outputs: dict[str, np.ndarray], least: float) -> Found:
        pred = torch.tensor(next(iter(outputs.values())))[0]
        pred = pred[pred[:, 4] > least]
        pred[:, :4] = ops.xywh2xyxy(pred[:, :4]) * SIZE
        return pred.numpy()

    if name.startswith("rtdetr"):
        return Pair("end2end", run, detr, decode={"box_format": "cxcywh", "box_unit": "relative"})
    classes = model.model.model[-1].nc
    kind = "end2end" if whole else "yolov8"
    if what == "seg":
        return Pair(f"{kind}-seg", run, dense, classes=classes, masks=masks)
    return Pair(f"{kind}-pose" if what == "pose" else kind, run, dense, classes=classes)


def yolov5(_: str) -> Pair:
    import torch

    with sources("yolov5", "models", "utils"):
        from models.yolo import Detect, Model
        from utils.general import non_max_suppression

        torch.manual_seed(1)
        model = Model(str(AUTHORS / "yolov5/models/yolov5n.yaml")).eval()
        for m in model.modules():
            if isinstance(m, Detect):
                m.export = True
                for conv in m.m:
                    conv.bias.data.normal_(-1, 0.5)
        restless(model, PICTURE)
        run = exported(model, torch.rand(1, 3, SIZE, SIZE))

        def theirs(outputs: dict[str, np.ndarray], least: float) -> Found:
            return non_max_suppression(doubled(outputs), least, 0.45, max_det=3000)[0].numpy()

        return Pair("yolov5", run, theirs)


def yolox(name: str) -> Pair:
    import torch

    with sources("YOLOX", "yolox"):
        from yolox.models.yolo_head import YOLOXHead
        from yolox.utils.boxes import postprocess
        from yolox.utils.demo_utils import demo_postprocess

        torch.manual_seed(1)
        head = YOLOXHead(80, width=0.25, depthwise=True).eval()
        head.decode_in_inference = "decoded" in name
        grids = [
            torch.rand(1, int(c * 0.25), SIZE // s, SIZE // s) for s, c in ((8, 256), (16, 512), (32, 1024))
        ]
        restless(Listed(head), *(g.shape for g in grids))
        for convs in (head.cls_preds, head.obj_preds):
            for conv in convs:
                conv.bias.data.fill_(-0.5)
                conv.weight.data.mul_(3)
        run = exported(Listed(head), *grids)

        def theirs(outputs: dict[str, np.ndarray], least: float) -> Found:
            out = outputs["o0"].copy()
            if not head.decode_in_inference:
                out = demo_postprocess(out, (SIZE, SIZE))
            rows = postprocess(torch.tensor(out), 80, least, 0.45)[0].numpy()
            return np.concatenate([rows[:, :4], rows[:, 4:5] * rows[:, 5:6], rows[:, 6:7]], axis=1)

        return Pair("yolox", run, theirs, decode={"decoded": head.decode_in_inference})


def nanodet(name: str) -> Pair:
    import torch

    with sources("nanodet", "nanodet"):
        plus = "plus" in name
        loss = SimpleNamespace(
            loss_qfl=SimpleNamespace(beta=2.0, loss_weight=1.0, use_sigmoid=True, name="QualityFocalLoss"),
            loss_dfl=SimpleNamespace(loss_weight=0.25, name="DistributionFocalLoss"),
            loss_bbox=SimpleNamespace(loss_weight=2.0, name="GIoULoss"),
        )
        module = importlib.import_module(
            "nanodet.model.head." + ("nanodet_plus_head" if plus else "gfl_head")
        )
        nms = importlib.import_module("nanodet.model.module.nms")
        torch.manual_seed(1)
        strides = [8, 16, 32, 64] if plus else [8, 16, 32]
        if plus:
            head = module.NanoDetPlusHead(
                80, loss, 96, 96, strides=strides, reg_max=7, assigner_cfg={"topk": 13}
            )
        else:
            head = importlib.import_module("nanodet.model.head.nanodet_head").NanoDetHead(
                80, loss, 96, 2, feat_channels=96, strides=strides, reg_max=7, share_cls_reg=True
            )
        head.eval()
        for conv in head.gfl_cls:
            torch.nn.init.normal_(conv.weight, std=0.1)
            torch.nn.init.normal_(conv.bias, -4, 1)
        grids = [torch.rand(1, 96, -(-SIZE // s), -(-SIZE // s)) for s in strides]
        restless(Listed(head), *(g.shape for g in grids))
        run = exported(Listed(head), *grids)
        meta = {"img": torch.zeros(1, 3, SIZE, SIZE)}

        def theirs(outputs: dict[str, np.ndarray], least: float) -> Found:
            out = torch.tensor(outputs["o0"])
            # the export has the sigmoid, the function that follows training does it itself
            cls = torch.logit(out[..., :80].double())
            real = nms.multiclass_nms
            module.multiclass_nms = lambda b, s, **k: real(b, s, least, {"iou_threshold": 0.6}, 3000)
            importlib.import_module("nanodet.model.head.gfl_head").multiclass_nms = module.multiclass_nms
            boxes, labels = head.get_bboxes(cls, out[..., 80:].double(), meta)[0]
            return torch.cat([boxes, labels[:, None]], 1).detach().numpy()

        return Pair(
            "nanodet",
            run,
            theirs,
            iou=0.6,
            decode={"strides": strides, "centre": 0.0 if plus else 0.5},
        )


def fastestdet(_: str) -> Pair:
    import torch

    with sources("FastestDet", "module", "utils"):
        os.chdir(AUTHORS / "FastestDet")
        from module.detector import Detector
        from utils.tool import handle_preds

        model = Detector(80, True)
        weights = next((AUTHORS / "FastestDet/weights").glob("*.pth"))
        model.load_state_dict(torch.load(weights, map_location="cpu"))
        model.eval()
        run = exported(model, torch.rand(1, 3, 352, 352))

        def theirs(outputs: dict[str, np.ndarray], least: float) -> Found:
            rows = handle_preds(torch.tensor(outputs["o0"]), "cpu", least, 0.45)[0].numpy()
            return rows * [352, 352, 352, 352, 1, 1] if len(rows) else np.zeros((0, 6))

        return Pair("fastestdet", run, theirs, size=352)


def torchvision_ssd(name: str) -> Pair:
    import torch
    from torchvision.models import detection
    from torchvision.models.detection.image_list import ImageList

    torch.manual_seed(1)
    lite = name == "ssdlite"
    model = (
        detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
        if lite
        else detection.ssd300_vgg16(weights=None, weights_backbone=None)
    ).eval()
    model.requires_grad_(False)
    size = 320 if lite else 300

    class Maps(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: torch.Tensor) -> Any:
            return model.head(list(model.backbone(x).values()))

    restless(Maps(), (1, 3, size, size))
    for m in model.head.modules():
        if isinstance(m, torch.nn.Conv2d) and m.bias is not None:
            torch.nn.init.normal_(m.bias, std=1.0)

    class Head(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            out = Maps()(x)
            return out["bbox_regression"], out["cls_logits"]

    run = exported(Head().eval(), torch.rand(1, 3, size, size))
    picture = torch.rand(1, 3, size, size)
    maps = list(model.backbone(picture).values())
    anchors = model.anchor_generator(ImageList(picture, [(size, size)]), maps)
    made = model.anchor_generator
    decode = {
        "grids": [m.shape[-1] for m in maps],
        "scales": made.scales,
        "aspect_ratios": made.aspect_ratios,
        "steps": made.steps or [],
    }

    def theirs(outputs: dict[str, np.ndarray], least: float) -> Found:
        model.score_thresh, model.nms_thresh, model.topk_candidates = least, 0.45, 3000
        model.detections_per_img = 3000
        head = {
            k: torch.tensor(v).double()
            for k, v in zip(("bbox_regression", "cls_logits"), outputs.values(), strict=True)
        }
        found = model.postprocess_detections(head, anchors, [(size, size)])[0]
        return (
            torch.cat([found["boxes"], found["scores"][:, None], found["labels"][:, None] - 1], 1)
            .detach()
            .numpy()
        )

    return Pair("ssd", run, theirs, classes=90, size=size, decode=decode)


def transformers_detr(name: str) -> Pair:
    import torch
    import transformers as t

    torch.manual_seed(1)
    if name == "rtdetr":
        config = t.RTDetrConfig(num_labels=80, decoder_layers=2, num_queries=300, num_feature_levels=3)
        model, reader = t.RTDetrForObjectDetection(config), t.RTDetrImageProcessor()
    elif name == "rtdetrv2":
        config = t.RTDetrV2Config(num_labels=80, decoder_layers=2, num_queries=300)
        model, reader = t.RTDetrV2ForObjectDetection(config), t.RTDetrImageProcessor()
    elif name == "dfine":
        config = t.DFineConfig(num_labels=80, decoder_layers=2, num_queries=300)
        model, reader = t.DFineForObjectDetection(config), t.RTDetrImageProcessor()
    else:
        config = t.DetrConfig(
            num_labels=80, use_pretrained_backbone=False, encoder_layers=1, decoder_layers=1
        )
        model, reader = t.DetrForObjectDetection(config), t.DetrImageProcessor()
    model.eval()
    for m in model.modules():
        if isinstance(m, torch.nn.Linear) and m.out_features >= 80 and m.out_features <= 81:
            torch.nn.init.normal_(m.weight, std=0.1)
            torch.nn.init.normal_(m.bias, -4, 1)

    class Both(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            out = model(pixel_values=x)
            return out.logits, out.pred_boxes

    # the detail of the graph is not what is compared: their model runs as it is
    module = Both().eval()

    def run(rng: np.random.Generator) -> dict[str, np.ndarray]:
        with torch.no_grad():
            logits, boxes = module(torch.tensor(textured(rng, (1, 3, SIZE, SIZE))))
        return {"logits": logits.numpy(), "pred_boxes": boxes.numpy()}

    def theirs(outputs: dict[str, np.ndarray], least: float) -> Found:
        out = SimpleNamespace(
            logits=torch.tensor(outputs["logits"]), pred_boxes=torch.tensor(outputs["pred_boxes"])
        )
        found = reader.post_process_object_detection(out, least, [(SIZE, SIZE)])[0]
        return torch.cat([found["boxes"], found["scores"][:, None], found["labels"][:, None]], 1).numpy()

    return Pair("detr", run, theirs, decode={"activation": "softmax" if name == "detr" else "sigmoid"})


def rfdetr(_: str) -> Pair:
    import torch
    from rfdetr.models.postprocess import PostProcess

    post = PostProcess(num_select=3000)

    def run(rng: np.random.Generator) -> dict[str, np.ndarray]:
        centre, size = rng.uniform(0, 1, (1, 300, 2)), rng.uniform(0.02, 0.5, (1, 300, 2))
        return {
            "dets": np.concatenate([centre, size], axis=2).astype(np.float32),
            "labels": rng.normal(-3, 1.5, (1, 300, 91)).astype(np.float32),
        }

    def theirs(outputs: dict[str, np.ndarray], least: float) -> Found:
        out = {"pred_logits": torch.tensor(outputs["labels"]), "pred_boxes": torch.tensor(outputs["dets"])}
        found = post(out, torch.tensor([[SIZE, SIZE]]))[0]
        rows = torch.cat([found["boxes"], found["scores"][:, None], found["labels"][:, None]], 1)
        return rows[rows[:, 4] > least].numpy()

    return Pair("detr", run, theirs, classes=91)


def deployed(name: str) -> Pair:
    """RT-DETR and D-FINE with the post-processing in the graph: what their ``deploy`` form puts out, beside what
    their own form for evaluation makes of the same logits."""
    import torch

    folder, module, cls = {
        "rtdetr-deployed": ("RT-DETR/rtdetrv2_pytorch", "rtdetr.rtdetr_postprocessor", "RTDETRPostProcessor"),
        "dfine-deployed": ("D-FINE", "dfine.postprocessor", "DFINEPostProcessor"),
    }[name]
    path = AUTHORS / folder / "src/zoo" / (module.replace(".", "/") + ".py")
    scope: dict[str, Any] = {"__name__": "theirs"}
    source = path.read_text("utf-8").replace(
        "from ...core import register", "register = lambda: (lambda c: c)"
    )
    exec(
        compile(source, str(path), "exec"), scope
    )  # their file alone: their package wants a trainer's dependencies
    graph, plain = scope[cls](), scope[cls]()
    graph.deploy_mode = True

    class Post(torch.nn.Module):
        def forward(self, logits: torch.Tensor, boxes: torch.Tensor, size: torch.Tensor) -> Any:
            return graph({"pred_logits": logits, "pred_boxes": boxes}, size)

    size = torch.tensor([[SIZE, SIZE]])
    post = exported(
        Post(), torch.rand(1, 300, 80), torch.rand(1, 300, 4), size, names=("labels", "boxes", "scores")
    )
    kept: dict[str, np.ndarray] = {}

    def run(rng: np.random.Generator) -> dict[str, np.ndarray]:
        kept["logits"] = rng.normal(-3, 1.5, (1, 300, 80)).astype(np.float32)
        kept["boxes"] = np.concatenate(
            [rng.uniform(0, 1, (1, 300, 2)), rng.uniform(0.02, 0.5, (1, 300, 2))], axis=2
        ).astype(np.float32)
        return post.feed([kept["logits"], kept["boxes"], size.numpy()])

    def theirs(outputs: dict[str, np.ndarray], least: float) -> Found:
        out = {"pred_logits": torch.tensor(kept["logits"]), "pred_boxes": torch.tensor(kept["boxes"])}
        found = plain(out, size)[0]
        rows = torch.cat([found["boxes"], found["scores"][:, None], found["labels"][:, None]], 1)
        return rows[rows[:, 4] > least].numpy()

    return Pair("boxes-labels", run, theirs)


PAIRS: dict[str, Callable[[str], Pair]] = {
    "yolov5": yolov5,
    **dict.fromkeys(
        ("yolov5nu", "yolov8n", "yolov9t", "yolo11n", "yolo12n", "yolov10n", "yolo26n"), ultralytics
    ),
    **dict.fromkeys(("yolov8n-pose", "yolo11n-pose", "yolo26n-pose"), ultralytics),
    **dict.fromkeys(("yolov8n-seg", "yolo11n-seg", "yolo26n-seg"), ultralytics),
    "rtdetr-l": ultralytics,
    "yolox": yolox,
    "yolox-decoded": yolox,
    "nanodet-plus": nanodet,
    "nanodet": nanodet,
    "fastestdet": fastestdet,
    "ssd": torchvision_ssd,
    "ssdlite": torchvision_ssd,
    **dict.fromkeys(("rtdetr", "rtdetrv2", "dfine", "detr"), transformers_detr),
    "rfdetr": rfdetr,
    "rtdetr-deployed": deployed,
    "dfine-deployed": deployed,
}


# ---- running them -------------------------------------------------------------------------------------------


class session:
    """An ONNX model on random input; :meth:`feed` takes given arrays."""

    def __init__(self, model: bytes) -> None:
        import onnxruntime as ort

        self._session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
        self._inputs = self._session.get_inputs()
        self._names = [o.name for o in self._session.get_outputs()]

    def __call__(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return self.feed([textured(rng, i.shape) for i in self._inputs])

    def feed(self, arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
        feeds = {i.name: a for i, a in zip(self._inputs, arrays, strict=True)}
        return dict(zip(self._names, self._session.run(self._names, feeds), strict=True))


def textured(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Random structure of all sizes, 0..1: noise alone averages out, and all boxes would be alike."""
    rows, columns = shape[-2:]
    total = np.zeros(shape, np.float32)
    for cells in (1, 2, 5, 11, 23, 47):
        coarse = rng.random((*shape[:-2], cells, cells), np.float32)
        at = [np.minimum(np.arange(n) * cells // n, cells - 1) for n in (rows, columns)]
        total += coarse[..., at[0][:, None], at[1][None, :]]
    total += rng.random(shape, np.float32)
    return np.asarray((total - total.min()) / np.ptp(total), np.float32)


def doubled(outputs: dict[str, np.ndarray]) -> Any:
    """The one output, as doubles: to tell classes apart these authors move boxes by 7680 px a class, which costs
    floats a sixteenth of a pixel, and now and then another box is suppressed."""
    import torch

    return torch.tensor(next(iter(outputs.values()))).double()


def exported(module: Any, *inputs: Any, names: tuple[str, ...] = ()) -> session:
    import torch

    with torch.no_grad():
        out = module(*inputs)
    count = len(out) if isinstance(out, tuple | list) else 1
    file = io.BytesIO()
    with quietly():
        torch.onnx.export(
            module,
            inputs,
            file,
            input_names=[f"i{k}" for k in range(len(inputs))],
            output_names=list(names) or [f"o{k}" for k in range(count)],
            opset_version=17,
            dynamo=False,
        )
    return session(file.getvalue())


def Listed(head: Any) -> Any:
    """A head that takes its feature maps one by one."""
    import torch

    class ListedHead(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = head

        def forward(self, *grids: torch.Tensor) -> Any:
            return self.head(list(grids))

    return ListedHead().eval()


def restless(model: Any, *shapes: tuple[int, ...]) -> None:
    """Statistics of random pictures (inputs of ``shapes``) in the normalisation layers: with those that random
    weights start with, every picture has the same answer, and hundreds of boxes the same score."""
    import torch

    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for m in norms:
        m.reset_running_stats()
        m.momentum = None
        m.train()
    with torch.no_grad():
        for seed in range(2):
            rng = np.random.default_rng(seed)
            model(*(torch.tensor(textured(rng, (2, *shape[1:]))) for shape in shapes))
    model.eval()


@contextlib.contextmanager
def sources(folder: str, *packages: str) -> Iterator[None]:
    """A checkout on the path, alone: several have a package ``utils``."""
    here = os.getcwd()
    for name in [n for n in sys.modules if n.split(".")[0] in packages]:
        del sys.modules[name]
    sys.path.insert(0, str(AUTHORS / folder))
    try:
        yield
    finally:
        sys.path.remove(str(AUTHORS / folder))
        os.chdir(here)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def task(pair: Pair, least: float) -> TaskSpec:
    return TaskSpec.model_validate(
        {
            "name": "t",
            "input": {"kind": "image", "width": pair.size, "height": pair.size},
            "decode": {
                "kind": pair.kind,
                "score": least,
                "iou": pair.iou,
                "max_detections": 3000,
                **pair.decode,
            },
            "labels": [f"c{i}" for i in range(pair.classes)],
        }
    )


@dataclass
class Difference:
    """Largest differences, and how many detections were compared."""

    box: float = 0.0
    score: float = 0.0
    points: float | None = None
    masks: float | None = None
    """Of all pixels of all masks, the share that is only in one of both."""
    count: int = 0
    alone: int = 0
    """Detections that one of them has alone."""

    @property
    def worst(self) -> float:
        return max(self.box, self.score, self.points or 0.0, self.masks or 0.0)


def compare(pair: Pair, inputs: int) -> Difference:
    meta = LetterboxMeta(1, 1, 0, 0, pair.size, pair.size, pair.size, pair.size)
    first = pair.run(np.random.default_rng(0))
    least = next(
        t
        for t in (0.7, 0.5, 0.35, 0.25, 0.15, 0.1, 0.05, 0.02, 0.01, 0.003, 0.001)
        if len(make_decoder(task(pair, t))(first, meta)) >= ENOUGH or t == 0.001
    )
    decode = make_decoder(task(pair, least))
    seen = Difference()
    pixels = np.zeros(2)
    for seed in range(inputs):
        outputs = pair.run(np.random.default_rng(seed))
        ours = decode(outputs, meta)
        theirs = pair.theirs(outputs, least)
        if pair.masks is not None:
            shapes = pair.masks(outputs, theirs)
            # as their predictor does: what has no pixel is no detection
            some = shapes.any(axis=(1, 2))
            theirs, shapes = theirs[some], shapes[some]
            shapes = shapes[np.argsort(-theirs[:, 4], kind="stable")]
        theirs[:, :4] = np.clip(theirs[:, :4], 0, pair.size)
        theirs = theirs[np.argsort(-theirs[:, 4], kind="stable")]
        # what has no size in floats is no detection
        sized = (np.float32(theirs[:, 2:4]) > np.float32(theirs[:, :2])).all(axis=1)
        theirs = theirs[sized]
        if pair.masks is not None:
            shapes = shapes[sized]
        free = np.ones(len(theirs), bool)
        seen.count += len(ours)
        for row in range(len(ours)):
            apart = np.abs(theirs[:, :4] - ours.xyxy[row]).max(axis=1, initial=0) + np.abs(
                theirs[:, 4] - ours.score[row]
            )
            apart[~free | (theirs[:, 5] != ours.cls[row])] = np.inf
            if not len(apart) or apart.min() > 1:
                seen.alone += 1
                continue
            best = int(apart.argmin())
            free[best] = False
            seen.box = max(seen.box, float(np.abs(theirs[best, :4] - ours.xyxy[row]).max()))
            seen.score = max(seen.score, float(abs(theirs[best, 4] - ours.score[row])))
            if ours.keypoints is not None:
                apart = np.abs(theirs[best, 6:] - ours.keypoints.points[row].ravel())
                seen.points = max(seen.points or 0.0, float(apart.max()))
            if ours.masks is not None:
                x, y, inside = ours.masks.pixels(row, pair.size, pair.size)
                whole = np.zeros((pair.size, pair.size), bool)
                whole[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
                pixels += np.array([(whole != shapes[best]).sum(), (whole | shapes[best]).sum()])
        seen.alone += int(free.sum())
    if pair.masks is not None:
        seen.masks = float(pixels[0] / pixels[1])
    return seen


def main() -> int:
    global AUTHORS
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--authors", type=Path, required=True, help="folder of their checkouts")
    parser.add_argument("--only", nargs="*", default=list(PAIRS))
    parser.add_argument("--inputs", type=int, default=20)
    args = parser.parse_args()
    AUTHORS = args.authors.resolve()
    failed = False
    print(
        "| model | decoder | detections | box, px | score | keypoints | masks | one alone |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    for name in args.only:
        pair = PAIRS[name](name)
        seen = compare(pair, args.inputs)
        failed |= seen.worst > WITHIN or seen.alone > 0 or not seen.count
        points, masks = ("" if v is None else f"{v:.1e}" for v in (seen.points, seen.masks))
        print(
            f"| {name} | `{pair.kind}` | {seen.count} | {seen.box:.1e} | {seen.score:.1e} | {points} | {masks} | {seen.alone} |",
            flush=True,
        )
    return int(failed)


AUTHORS = Path()

if __name__ == "__main__":
    raise SystemExit(main())
