"""Train a small reference detector on a synthetic scene and export it to ONNX.

    pip install torch onnx onnxscript
    python models/train_detector.py yard      # writes models/edgectl/models/yard-detector.onnx and its .json
    card

The network speaks FastestDet's output format (``edgectl.core.task.DecodeSpec``), at stride 8: one output
``[1, 5 + C, H/8, W/8]`` with objectness, tanh dx, tanh dy, sigmoid w, sigmoid h and C class scores.
Everything is seeded; two runs on the same machine and library versions give the same weights up to the
threading of torch. The shipped files were made with torch 2.13.0 and onnx 1.23.2.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from edgectl.pipelines.synth import open_scene

WIDTH, HEIGHT, STRIDE = 320, 192, 8
HERE = Path(__file__).parent / "edgectl" / "models"


class TinyDetector(nn.Module):
    """Plain 3x3 convolutions with ReLU: what int8 kernels of every runtime run well. Channels are
    multiples of 16."""

    def __init__(self, classes: int, widths: tuple[int, int, int] = (16, 32, 64)) -> None:
        super().__init__()
        a, b, c = widths

        def block(i: int, o: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(i, o, 3, stride, dilation, dilation, bias=False),
                nn.BatchNorm2d(o),
                nn.ReLU(inplace=True),
            )

        self.body = nn.Sequential(block(3, a, 2), block(a, b, 2), block(b, b), block(b, c, 2))
        # Growing dilation sees a whole vehicle from one cell.
        self.context = nn.Sequential(
            block(c, c, dilation=2), block(c, c, dilation=4), block(c, c, dilation=8), block(c, c)
        )
        self.head = nn.Conv2d(c, 5 + classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x)
        x = self.head(x + self.context(x))
        return torch.cat([torch.sigmoid(x[:, :1]), x[:, 1:5], torch.softmax(x[:, 5:], dim=1)], dim=1)


def render(
    scene_name: str, seeds: range, per_seed: int, rng: np.random.Generator
) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """Frames ``uint8 (N, H, W, 3)`` BGR at network size, boxes relative to the frame, classes."""
    images = np.empty((len(seeds) * per_seed, HEIGHT, WIDTH, 3), dtype=np.uint8)
    boxes, classes = [], []
    for i, seed in enumerate(seeds):
        scene = open_scene(scene_name, seed=seed)
        for k in range(per_seed):
            seq = int(rng.integers(0, 15 * 600))
            truth = scene.truth(seq)
            images[i * per_seed + k] = cv2.resize(
                scene.render(seq), (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR
            )
            boxes.append(truth.boxes / np.array([scene.width, scene.height] * 2, dtype=np.float32))
            classes.append(truth.cls)
    return images, boxes, classes


def targets(boxes: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Objectness ``(H, W)`` (1 centre, -1 ignored neighbours, 0 background), box ``(4, H, W)`` and class
    ``(H, W)`` maps."""
    h, w = HEIGHT // STRIDE, WIDTH // STRIDE
    obj, box, cls = np.zeros((h, w), np.float32), np.zeros((4, h, w), np.float32), np.zeros((h, w), np.int64)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    large_first = np.argsort(-area)
    for b, c in zip(boxes[large_first], classes[large_first], strict=True):
        cx, cy, bw, bh = (b[0] + b[2]) / 2 * w, (b[1] + b[3]) / 2 * h, b[2] - b[0], b[3] - b[1]
        gx, gy = min(int(cx), w - 1), min(int(cy), h - 1)
        for y in range(max(0, gy - 1), min(h, gy + 2)):
            for x in range(max(0, gx - 1), min(w, gx + 2)):
                if obj[y, x] != 1:
                    obj[y, x] = -1
        obj[gy, gx] = 1
        box[:, gy, gx] = (cx - gx, cy - gy, bw, bh)
        cls[gy, gx] = c
    return obj, box, cls


def loss_of(raw: torch.Tensor, obj: torch.Tensor, box: torch.Tensor, cls: torch.Tensor) -> torch.Tensor:
    p = raw[:, 0].clamp(1e-6, 1 - 1e-6)
    positive, negative = obj == 1, obj == 0
    # Focal loss: most cells are background.
    focal = -(positive * (1 - p) ** 2 * p.log() * 0.75 + negative * p**2 * (1 - p).log() * 0.25)
    count = positive.sum().clamp(min=1)
    r = raw.permute(0, 2, 3, 1)[positive]
    t = box.permute(0, 2, 3, 1)[positive]
    xy, wh = torch.tanh(r[:, 1:3]), torch.sigmoid(r[:, 3:5])
    grid = torch.tensor([WIDTH / STRIDE, HEIGHT / STRIDE])
    giou = _giou(torch.cat([xy / grid, wh], 1), torch.cat([t[:, :2] / grid, t[:, 2:]], 1))
    classes = (
        F.nll_loss((r[:, 5:] + 1e-6).log(), cls[positive]) if r.shape[1] > 6 and len(r) else raw.sum() * 0
    )
    return focal.sum() / count + 2.0 * (1 - giou).sum() / count + 0.5 * classes


def _giou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    a1, a2, b1, b2 = (
        a[:, :2] - a[:, 2:] / 2,
        a[:, :2] + a[:, 2:] / 2,
        b[:, :2] - b[:, 2:] / 2,
        b[:, :2] + b[:, 2:] / 2,
    )
    inter = (torch.minimum(a2, b2) - torch.maximum(a1, b1)).clamp(min=0).prod(1)
    union = (a2 - a1).prod(1) + (b2 - b1).prod(1) - inter + 1e-9
    hull = (torch.maximum(a2, b2) - torch.minimum(a1, b1)).prod(1) + 1e-9
    return inter / union - (hull - union) / hull


def decode(out: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes relative to the frame, scores and classes after NMS; the same arithmetic as the device's
    decoder."""
    _, h, w = out.shape
    score = out[0] ** 0.6 * out[5:].max(0) ** 0.4
    ys, xs = np.nonzero(score > threshold)
    o = out[:, ys, xs]
    cx, cy = (np.tanh(o[1]) + xs) / w, (np.tanh(o[2]) + ys) / h
    bw, bh = 1 / (1 + np.exp(-o[3])), 1 / (1 + np.exp(-o[4]))
    b = np.stack([cx - bw / 2, cy - bh / 2, cx + bw / 2, cy + bh / 2], 1)
    s, c = score[ys, xs], o[5:].argmax(0)
    keep = cv2.dnn.NMSBoxesBatched(
        np.concatenate([b[:, :2], b[:, 2:] - b[:, :2]], 1).tolist(), s.tolist(), c.tolist(), threshold, 0.45
    )
    keep = np.asarray(keep, dtype=int).ravel()
    return b[keep], s[keep], c[keep]


def ap50(
    predictions: list[tuple[np.ndarray, np.ndarray, np.ndarray]],
    boxes: list[np.ndarray],
    classes: list[np.ndarray],
    cls: int,
) -> float:
    """Average precision at IoU 0.5, area under the monotone precision-recall curve (Pascal VOC 2010)."""
    rows, total = [], sum(int((c == cls).sum()) for c in classes)
    for (pb, ps, pc), tb, tc in zip(predictions, boxes, classes, strict=True):
        truth, taken = tb[tc == cls], set()
        for i in np.argsort(-ps):
            if pc[i] != cls:
                continue
            best, best_iou = -1, 0.5
            for j, g in enumerate(truth):
                iw = min(pb[i][2], g[2]) - max(pb[i][0], g[0])
                ih = min(pb[i][3], g[3]) - max(pb[i][1], g[1])
                if iw <= 0 or ih <= 0 or j in taken:
                    continue
                union = np.prod(pb[i][2:] - pb[i][:2]) + np.prod(g[2:] - g[:2]) - iw * ih
                if iw * ih / union >= best_iou:
                    best, best_iou = j, iw * ih / union
            rows.append((ps[i], best >= 0))
            if best >= 0:
                taken.add(best)
    if not rows or not total:
        return 0.0
    hits = np.array([hit for _, hit in sorted(rows, key=lambda r: -r[0])])
    recall, precision = hits.cumsum() / total, hits.cumsum() / np.arange(1, len(hits) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(np.concatenate([[0.0], recall])) * precision))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scene", choices=["yard", "road"])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=400, help="training scenes; 10 frames of each")
    args = parser.parse_args()
    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    labels = open_scene(args.scene).labels
    started = time.monotonic()
    images, boxes, classes = render(args.scene, range(10_000, 10_000 + args.seeds), 10, rng)
    maps = [targets(b, c) for b, c in zip(boxes, classes, strict=True)]
    print(f"rendered {len(images)} frames in {time.monotonic() - started:.0f} s")
    model = TinyDetector(len(labels))
    batch, steps = 16, args.epochs * (len(images) // 16)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    for epoch in range(args.epochs):
        model.train()
        total = 0.0
        order = rng.permutation(len(images))
        for at in range(0, len(order) - batch + 1, batch):
            index = order[at : at + batch]
            x = torch.from_numpy(images[index]).permute(0, 3, 1, 2).float() / 255
            gain, bias = (
                torch.empty(batch, 1, 1, 1).uniform_(0.7, 1.3),
                torch.empty(batch, 1, 1, 1).uniform_(-0.1, 0.1),
            )
            x = ((x * gain + bias) + torch.randn_like(x) * 0.01).clamp(0, 1)
            obj, box, cls = (torch.from_numpy(np.stack([maps[i][k] for i in index])) for k in range(3))
            if epoch % 2:  # mirrored
                x, obj, box, cls = x.flip(3), obj.flip(2), box.flip(3).clone(), cls.flip(2)
                box[:, 0] = torch.where(obj == 1, 1 - box[:, 0], box[:, 0])
            loss = loss_of(model(x), obj, box, cls)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimiser.step()
            schedule.step()
            total += float(loss.detach())
        print(
            f"epoch {epoch + 1}/{args.epochs} loss {total / (len(order) // batch):.3f} {time.monotonic() - started:.0f} s",
            flush=True,
        )
    model.eval()
    held, held_boxes, held_classes = render(args.scene, range(50, 90), 10, np.random.default_rng(2))
    with torch.no_grad():
        outputs = [
            model(torch.from_numpy(held[i : i + 1]).permute(0, 3, 1, 2).float() / 255)[0].numpy()
            for i in range(len(held))
        ]
    predictions = [decode(o, 0.05) for o in outputs]
    accuracy = {
        label: round(ap50(predictions, held_boxes, held_classes, k), 4) for k, label in enumerate(labels)
    }
    path = HERE / f"{args.scene}-detector.onnx"
    torch.onnx.export(
        model,
        (torch.zeros(1, 3, HEIGHT, WIDTH),),
        str(path),
        input_names=["image"],
        output_names=["output"],
        opset_version=17,
        dynamo=False,
    )
    card = {
        "scene": args.scene,
        "labels": labels,
        "input": [WIDTH, HEIGHT],
        "parameters": sum(p.numel() for p in model.parameters()),
        "train_frames": len(images),
        "epochs": args.epochs,
        "held_out_frames": len(held),
        "ap50": accuracy,
        "command": f"python models/train_detector.py {args.scene} --epochs {args.epochs} --seeds {args.seeds}",
    }
    path.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n")
    print(json.dumps(card), path.stat().st_size)


if __name__ == "__main__":
    main()
