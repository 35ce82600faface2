"""The architectures that the builder is tried on, one line each. Only the standard library: ``export.py`` and
``run.py`` read it, each in an environment of its own.

Weights are random (published ones aside), so that nothing has to be downloaded. Pictures are as small as an
architecture permits, so that two cores are enough.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ARCHITECTURES", "Architecture"]


@dataclass(frozen=True)
class Architecture:
    """``source``: the library, ``own`` for a few lines of ``own_modules.py``, or ``published`` for an ONNX file that
    the user has.

    ``exporter``: ``dynamo`` is ``torch.onnx.export`` as it comes today, ``classic`` the tracing one before it,
    ``ultralytics`` that library's own. ``inputs``: name → shape with a batch of 1 (float32), or
    ``("int64", shape, end)`` for whole numbers below ``end``. ``open``: axes, by input, that the file leaves open.
    """

    name: str
    source: str
    kind: str
    inputs: dict[str, tuple]
    exporter: str = "dynamo"
    open: dict[str, dict[int, str]] | None = None
    task: str = "tensor"


def _picture(size: int, name: str = "image") -> dict[str, tuple]:
    return {name: (1, 3, size, size)}


def _tokens(length: int, *names: str) -> dict[str, tuple]:
    ends = {"input_ids": 1000, "token_type_ids": 2, "attention_mask": 2}
    return {n: ("int64", (1, length), ends[n]) for n in names}


def _torchvision(name: str, size: int, **more: object) -> Architecture:
    return Architecture(name, "torchvision", "classifier", _picture(size), **more)  # type: ignore[arg-type]


def _timm(name: str, size: int, **more: object) -> Architecture:
    return Architecture(name, "timm", "classifier", _picture(size), **more)  # type: ignore[arg-type]


def _ultralytics(name: str, kind: str, size: int = 320) -> Architecture:
    return Architecture(name, "ultralytics", kind, _picture(size, "images"), "ultralytics")


ARCHITECTURES: tuple[Architecture, ...] = (
    _torchvision("resnet18", 160),
    _torchvision("resnet50", 160, exporter="classic"),
    _torchvision("mobilenet_v2", 224),
    _torchvision("mobilenet_v3_small", 224, exporter="classic"),
    _torchvision("efficientnet_b0", 160),
    _torchvision("shufflenet_v2_x1_0", 224, exporter="classic"),
    _torchvision("squeezenet1_1", 160, exporter="classic"),
    _torchvision("regnet_y_400mf", 160, exporter="classic"),
    _torchvision("densenet121", 128, exporter="classic"),
    _torchvision("googlenet", 160, exporter="classic"),
    _torchvision("inception_v3", 192, exporter="classic"),
    _torchvision("convnext_tiny", 128, exporter="classic"),
    _torchvision("swin_t", 128, exporter="classic"),
    _torchvision("maxvit_t", 224, exporter="classic"),
    _timm("vit_tiny_patch16_224", 224),
    _timm("mobilevit_xxs", 192, exporter="classic"),
    _timm("ghostnet_100", 160, exporter="classic"),
    _timm("repvgg_a0", 160, exporter="classic"),
    _timm("edgenext_xx_small", 192, exporter="classic"),
    _timm("efficientformer_l1", 224, exporter="classic"),
    _timm("levit_128s", 224, exporter="classic"),
    _timm("fastvit_t8", 192, exporter="classic"),
    _timm("hgnetv2_b0", 160, exporter="classic"),
    Architecture("ssdlite320_mobilenet_v3_large", "torchvision", "detector", _picture(320), "classic"),
    _ultralytics("yolov5nu", "detector"),
    _ultralytics("yolov8n", "detector"),
    _ultralytics("yolo11n", "detector"),
    _ultralytics("yolo26n", "detector"),
    _ultralytics("yolov8n-seg", "segmentation"),
    _ultralytics("yolov8n-pose", "pose"),
    _ultralytics("rtdetr-l", "detector"),
    Architecture("lraspp_mobilenet_v3_large", "torchvision", "segmentation", _picture(192)),
    Architecture("deeplabv3_mobilenet_v3_large", "torchvision", "segmentation", _picture(192), "classic"),
    Architecture("segformer_b0", "transformers", "segmentation", _picture(128), "classic"),
    Architecture("unet", "own", "segmentation", _picture(128)),
    Architecture(
        "bert_tiny",
        "transformers",
        "text",
        _tokens(64, "input_ids", "attention_mask", "token_type_ids"),
        "classic",
        {n: {1: "tokens"} for n in ("input_ids", "attention_mask", "token_type_ids")},
    ),
    Architecture("distilbert", "transformers", "text", _tokens(64, "input_ids", "attention_mask")),
    Architecture("whisper_tiny_encoder", "transformers", "speech", {"mel": (1, 80, 3000)}),
    Architecture("wav2vec2_small", "transformers", "speech", {"samples": (1, 16000)}, "classic"),
    Architecture("lstm", "own", "sequence", {"x": (1, 50, 40)}, "classic"),
    Architecture("gru", "own", "sequence", {"x": (1, 50, 40)}),
    Architecture("tcn", "own", "sequence", {"x": (1, 40, 200)}),
    Architecture("r3d_18", "torchvision", "video", {"clip": (1, 3, 8, 64, 64)}, "classic"),
    Architecture("dcgan", "own", "generator", {"z": (1, 100, 1, 1)}, "classic"),
    Architecture("early_exit", "own", "control flow (If)", _picture(64), "classic"),
    Architecture("decoder_loop", "own", "control flow (Loop)", {"x": (1, 16, 64)}, "classic"),
    Architecture("fastestdet-352", "published", "detector", _picture(352, "input.1")),
    Architecture("yolox-nano-416", "published", "detector", _picture(416, "images")),
    Architecture("twinlitenet-360x640", "published", "segmentation", {"image": (1, 3, 360, 640)}),
    Architecture("kws-dscnn-mlperf-tiny", "published", "keyword", {}),
    Architecture("ad01-mlperf-tiny", "published", "anomaly", {}),
    Architecture("silero-vad-16k", "published", "voice activity", {}),
)
