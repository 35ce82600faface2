"""Write the architectures of ``table.py`` as ONNX files, with random weights.

    python -m venv zoo && zoo/bin/pip install torch torchvision timm transformers ultralytics onnx onnxscript
    zoo/bin/python bench/architectures/export.py FOLDER [--only NAME ...] [--exporter classic|dynamo] [--again]

Each is exported in a process of its own, bounded in time. What is there is kept, unless ``--again``. FOLDER gets
``NAME.onnx`` (``NAME.EXPORTER.onnx`` with ``--exporter``). Nothing of edgectl is imported.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from table import ARCHITECTURES, Architecture

_TIMEOUT_S = 400


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument(
        "--exporter", choices=["classic", "dynamo"], help="this one for all that have a choice"
    )
    parser.add_argument("--again", action="store_true")
    a = parser.parse_args()
    a.folder.mkdir(parents=True, exist_ok=True)
    _import_libraries()
    failed = []
    for one in ARCHITECTURES:
        path = _path(a.folder, one, a.exporter)
        skip = one.source == "published" or (a.exporter and one.exporter in ("ultralytics", a.exporter))
        if skip or (a.only and one.name not in a.only) or (path.exists() and not a.again):
            continue
        start = time.monotonic()
        why = _apart(one, a.exporter or one.exporter, path)
        took = f"{time.monotonic() - start:.0f} s"
        if why:
            failed.append(one.name)
            path.unlink(missing_ok=True)
        print(
            f"{one.name}: not exported: {why[:300]}"
            if why
            else f"{one.name}: {path.stat().st_size / 2**20:.1f} MiB",
            took,
            flush=True,
        )
    return 1 if failed else 0


def _import_libraries() -> None:
    """Once, before each architecture gets a process of its own: they take longer than most exports."""
    import timm
    import torch
    import torchvision
    import transformers
    import ultralytics

    del timm, torchvision, transformers, ultralytics
    torch.set_num_threads(1)


def _apart(one: Architecture, exporter: str, path: Path) -> str:
    """Export it in a process of its own; why that failed, or nothing."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=_child, args=(one, exporter, path, theirs))
    child.start()
    theirs.close()
    child.join(_TIMEOUT_S)
    if child.is_alive():
        child.kill()
        child.join()
        return f"no end after {_TIMEOUT_S} s"
    try:
        return str(ours.recv()) if ours.poll() else "" if path.exists() else "nothing was written"
    except EOFError:
        return "" if path.exists() and child.exitcode == 0 else f"the process ended with {child.exitcode}"


def _child(one: Architecture, exporter: str, path: Path, told: Connection) -> None:
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        _export(one, exporter, path)
    except Exception as e:
        told.send(f"{type(e).__name__}: {(str(e).strip() or 'no reason').splitlines()[-1]}")


def _path(folder: Path, one: Architecture, exporter: str | None) -> Path:
    return folder / (f"{one.name}.{exporter}.onnx" if exporter else f"{one.name}.onnx")


def _export(one: Architecture, exporter: str, path: Path) -> None:
    import torch

    torch.manual_seed(0)
    if exporter == "ultralytics":
        _ultralytics(one, path)
        return
    module, names = _module(one)
    module.eval()
    inputs = tuple(_tensor(spec) for spec in one.inputs.values())
    with torch.no_grad():
        for m in module.modules():
            if isinstance(m, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d | torch.nn.BatchNorm3d):
                # statistics that training would have left: random, and not all alike
                m.running_mean.normal_(0, 0.1)
                m.running_var.uniform_(0.7, 1.4)
        common = {"input_names": list(one.inputs), "output_names": names}
        if exporter == "dynamo":
            dynamic = None
            if one.open:
                dynamic = tuple(dict.fromkeys(one.open.get(n, {}), torch.export.Dim.AUTO) for n in one.inputs)
            torch.onnx.export(
                module, inputs, str(path), dynamo=True, dynamic_shapes=dynamic, external_data=False, **common
            )
        else:
            torch.onnx.export(module, inputs, str(path), dynamo=False, dynamic_axes=one.open, **common)


def _tensor(spec: tuple):
    import torch

    if spec[0] == "int64":
        _, shape, end = spec
        return torch.randint(0, end, shape) if end > 2 else torch.ones(shape, dtype=torch.int64)
    return torch.randn(*spec)


def _module(one: Architecture):
    """The module, whose ``forward`` takes the inputs in their order, and names of its outputs."""
    if one.source == "own":
        from own_modules import OWN

        return OWN[one.name](), None
    if one.source == "timm":
        import timm

        size = one.inputs["image"][-1]
        sized = {"img_size": size} if one.name.startswith("vit") else {}
        return timm.create_model(one.name, pretrained=False, **sized), None
    if one.source == "transformers":
        return _transformers(one), None
    return _torchvision(one)


def _torchvision(one: Architecture):
    import torch
    import torchvision.models as tv

    class Dense(torch.nn.Module):
        """The map of a segmentation model, out of the dictionary that it returns."""

        def __init__(self, inner) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, image):
            return self.inner(image)["out"]

    class WithSuppression(torch.nn.Module):
        """Boxes, scores and labels after the model's own suppression."""

        def __init__(self, inner) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, image):
            found = self.inner([image[0]])[0]
            return found["boxes"], found["scores"], found["labels"]

    if one.kind == "video":
        return tv.video.r3d_18(weights=None, num_classes=20), None
    if one.kind == "segmentation":
        made = getattr(tv.segmentation, one.name)(weights=None, weights_backbone=None, num_classes=5)
        return Dense(made), None
    if one.kind == "detector":
        made = getattr(tv.detection, one.name)(weights=None, weights_backbone=None, num_classes=5)
        return WithSuppression(made), ["boxes", "scores", "labels"]
    more = {"aux_logits": False} if one.name in ("googlenet", "inception_v3") else {}
    return getattr(tv, one.name)(weights=None, **more), None


def _transformers(one: Architecture):
    import torch
    import transformers as tf

    class Only(torch.nn.Module):
        """The one tensor that matters of what a model returns."""

        def __init__(self, inner, names, output) -> None:
            super().__init__()
            self.inner, self.names, self.output = inner, names, output

        def forward(self, *inputs):
            return getattr(self.inner(**dict(zip(self.names, inputs, strict=True))), self.output)

    if one.name == "bert_tiny":
        sizes = {
            "hidden_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 512,
        }
        model = tf.BertForSequenceClassification(tf.BertConfig(vocab_size=1000, num_labels=5, **sizes))
        return Only(model, tuple(one.inputs), "logits")
    if one.name == "distilbert":
        sizes = {"dim": 256, "n_layers": 4, "n_heads": 4, "hidden_dim": 1024}
        model = tf.DistilBertForSequenceClassification(
            tf.DistilBertConfig(vocab_size=1000, num_labels=5, **sizes)
        )
        return Only(model, tuple(one.inputs), "logits")
    if one.name == "whisper_tiny_encoder":
        model = tf.WhisperModel(tf.WhisperConfig()).encoder
        return Only(model, ("input_features",), "last_hidden_state")
    if one.name == "wav2vec2_small":
        sizes = {
            "hidden_size": 192,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "intermediate_size": 768,
            "conv_dim": (128,) * 7,
            "num_conv_pos_embedding_groups": 8,
        }
        return Only(tf.Wav2Vec2ForCTC(tf.Wav2Vec2Config(**sizes)), ("input_values",), "logits")
    model = tf.SegformerForSemanticSegmentation(tf.SegformerConfig(num_labels=5))
    return Only(model, ("pixel_values",), "logits")


def _ultralytics(one: Architecture, path: Path) -> None:
    from ultralytics import RTDETR, YOLO

    name = f"{one.name}.yaml"
    model = RTDETR(name) if one.name.startswith("rtdetr") else YOLO(name)
    # the exporter writes into the working folder
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        made = model.export(format="onnx", imgsz=one.inputs["images"][-1], simplify=False, device="cpu")
        shutil.copy(made, path)
        os.chdir("/")


if __name__ == "__main__":
    sys.exit(main())
