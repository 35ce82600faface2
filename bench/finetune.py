"""Fine-tune a reference detector from its shipped ONNX file, as a user does for a new site (torch needed).
For bench/delta.py.

    python bench/finetune.py yard --steps 300 --lr 1e-4 --out tuned.onnx
    python bench/finetune.py yard --scratch --steps 1500 --lr 4e-3 --seed 7 --out other.onnx

Frames come from scenes that the shipped model was neither trained nor judged on. The weights go back under
the names that they had: what an export of the same network writes. ``--scratch`` forgets the weights first: a
training with another seed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "models"))
from train_detector import Detector, loss_of, render, targets  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scene", choices=["yard", "road"])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scratch", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    model = onnx.load(ROOT / "models" / "edgectl" / "models" / f"{args.scene}-detector.onnx")
    initializers = {i.name: i for i in model.graph.initializer}
    convolutions = [n for n in model.graph.node if n.op_type == "Conv"]
    classes = initializers[convolutions[-1].input[1]].dims[0] - 5
    net = Detector(classes)
    _fuse(net)
    ours = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
    # The head is the module registered last and the node that runs last: orders agree.
    if not args.scratch:
        for node, conv in zip(convolutions, ours, strict=True):
            conv.weight.data = torch.from_numpy(numpy_helper.to_array(initializers[node.input[1]]).copy())
            conv.bias.data = torch.from_numpy(numpy_helper.to_array(initializers[node.input[2]]).copy())  # type: ignore[union-attr]
    images, boxes, labels = render(args.scene, range(20_000, 20_060), 10, rng)
    maps = [targets(b, c) for b, c in zip(boxes, labels, strict=True)]
    optimiser = torch.optim.AdamW(net.parameters(), lr=args.lr, weight_decay=1e-4)
    before = [p.detach().clone() for p in net.parameters()]
    total = 0.0
    for step in range(args.steps):
        index = rng.integers(0, len(images), 16)
        x = torch.from_numpy(images[index]).permute(0, 3, 1, 2).float() / 255
        obj, box, cls = (torch.from_numpy(np.stack([maps[i][k] for i in index])) for k in range(3))
        loss = loss_of(net(x), obj, box, cls)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimiser.step()
        total += float(loss.detach())
        if (step + 1) % 50 == 0:
            print(f"step {step + 1}/{args.steps} loss {total / 50:.3f}", flush=True)
            total = 0.0
    moved = [
        float((p.detach() - b).std() / b.std())
        for p, b in zip(net.parameters(), before, strict=True)
        if p.dim() == 4
    ]
    print(
        "change of each convolution's weights, in standard deviations of them: "
        + ", ".join(f"{m:.4f}" for m in moved)
    )
    for node, conv in zip(convolutions, ours, strict=True):
        for name, value in ((node.input[1], conv.weight), (node.input[2], conv.bias)):
            assert value is not None
            initializers[name].CopyFrom(numpy_helper.from_array(value.detach().numpy(), name))
    onnx.save(model, args.out)


def _fuse(net: torch.nn.Module) -> None:
    """Convolution with bias in place of convolution and batch normalisation: what the exported graph has."""
    for block in net.modules():
        if (
            isinstance(block, torch.nn.Sequential)
            and len(block) > 1
            and isinstance(block[1], torch.nn.BatchNorm2d)
        ):
            c = block[0]
            assert isinstance(c, torch.nn.Conv2d)
            block[0] = torch.nn.Conv2d(c.in_channels, c.out_channels, 3, c.stride, c.padding, c.dilation)  # type: ignore[arg-type]
            block[1] = torch.nn.Identity()


if __name__ == "__main__":
    main()
