"""Seeded bad engines, rolled out to real agents with real workers: is each stopped in the canary and taken back, by what,
and after how long?

A mosquitto, a controller and two devices with a drawn yard. A good engine serves first. Then come, some of each, one after
another:

* *nan*: results that are not finite on a part of the frames, and never on golden samples;
* *slow*: 30 % more work an inference, or more;
* *score*: five points of AP50 less than the good one by the yard's own truth, built in good faith, so that its golden
  samples are its own: noise on its weights, or a part of the picture in which it finds nothing;
* *compiled*: golden samples of the good engine, and that noise in the engine: what a compiler does that went wrong;
* *leak*: half a megabyte a second and more that is never given back;
* *crash*: its worker dies after a minute;
* *hardware*: it needs a GPU that is not there, or an operator that the runtime does not have.

Each must stop in the canary, the canary has to have what it had, and the other device must never be asked. At the end the
good one under a new version must pass the same gates.

    python bench/bad_engines.py [--of 3] [--only KIND …]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from bad_configs import Site as SiteOfConfigs
from bad_configs import package, wait_until
from onnx import TensorProto, helper, numpy_helper

from edgectl.builder.ingest.samples import Sample
from edgectl.builder.judge.accuracy import FloatTruth, average_precision, match
from edgectl.builder.pack.package import write_bundle
from edgectl.builder.pack.variant import Identity, make_variant
from edgectl.builder.variants.draft import VariantDraft
from edgectl.core.bundle import Recipe, SessionSettings, TensorSpec
from edgectl.core.files import digest_of
from edgectl.core.task import ImageInput, TaskSpec
from edgectl.engines.base import Engine, Feeds
from edgectl.engines.finalise.open import open_model
from edgectl.engines.timing import interleave, load_1m
from edgectl.models import reference
from edgectl.pipelines.synth import open_scene
from edgectl.pipelines.synth.scene import Scene
from edgectl.pipelines.tasks import load_task
from edgectl.pipelines.video.decode import Detections, make_decoder
from edgectl.pipelines.video.preprocess import Preprocessor

SLOT = "gate"
FPS = 12
BEFORE_S = 330.0
"""Of the good engine, before the first bad one: gates ask for 30 blocks of 10 s."""
POINTS = 0.05
PICTURES = 96
POLICY: dict[str, Any] = {
    "probation_s": 90.0,
    "min_inferences": 130,
    "shadow": {"percent": 50, "frames": 256, "max_latency_ratio": None},
}
GATES: list[dict[str, Any]] = [
    {"gate": "latency", "percentile": 99, "max_ratio": 1.1},
    {"gate": "latency", "percentile": 50, "max_ratio": 1.1},
    {"gate": "errors"},
    {"gate": "drops"},
    {"gate": "frames"},
    {"gate": "memory"},
    {"gate": "golden"},
    {"gate": "agreement", "of": "missed", "max_share": 0.02},
    {"gate": "agreement", "of": "extra", "max_share": 0.02},
]
SOAK_S = 240.0
PACKAGE = """
import os, time
from edgectl.core.schema import Config
from edgectl.core.task import DecodeSpec
from edgectl.pipelines.decoders import DecoderType
from edgectl.pipelines.video.decode.fastestdet import FastestDet


class OddOptions(Config):
    leak_kb: int = 0
    dies_s: float = 0.0


class Odd(FastestDet):
    def __init__(self, task):
        self._odd = OddOptions(**task.decode.options)
        plain = DecodeSpec(kind="fastestdet", score=task.decode.score, iou=task.decode.iou)
        super().__init__(task.model_copy(update={"decode": plain}))
        self._kept, self._first = [], None

    def __call__(self, outputs, meta):
        now = time.monotonic()
        self._first = now if self._first is None else self._first
        if self._odd.leak_kb:
            self._kept.append(os.urandom(self._odd.leak_kb << 10))
        if self._odd.dies_s and now - self._first > self._odd.dies_s:
            os.abort()
        return super().__call__(outputs, meta)


DECODER = DecoderType("detector", Odd, "leaks or dies", OddOptions)
"""


@dataclass(frozen=True)
class Engineered:
    """A bad engine: its graph, and what else is wrong."""

    model: bytes
    decode: dict[str, Any] | None = None
    golden: bytes | None = None
    """The graph whose outputs are golden, where that is another one."""
    requires: tuple[str, ...] = ()
    note: str = ""


# ---- graphs


class Yard:
    """The good model, labelled pictures of yards that no device sees, and frames that they see."""

    def __init__(self) -> None:
        ours = reference("yard-detector")
        self.task: TaskSpec = load_task(str(ours.task))
        self.model = ours.model.read_bytes()
        assert isinstance(self.task.input, ImageInput)
        self._prepare = Preprocessor(self.task.input)
        self.pictures = [
            self._picture(scene, 60 * k)
            for seed in range(PICTURES // 8)
            for scene in [open_scene("yard", seed=700 + seed, fps=FPS)]
            for k in range(8)
        ]
        street = open_scene("yard", seed=11, fps=FPS)
        self.seen = [self._picture(street, 9 * i)[0] for i in range(100)]
        self.darkest = sorted(self.seen, key=brightness)[:4]
        """Golden samples of all engines."""
        self.ap = self.ap50(self.model)

    def _picture(self, scene: Scene, seq: int) -> tuple[Sample, FloatTruth]:
        tensor, meta = self._prepare(scene.render(seq))
        truth = scene.truth(seq)
        boxes = Detections(truth.boxes, np.ones(len(truth.cls), np.float32), truth.cls)
        name = onnx.load_from_string(self.model).graph.input[0].name
        return Sample({name: tensor.copy()}, meta), FloatTruth(boxes, np.ones(len(boxes), bool))

    def ap50(self, model: bytes) -> float:
        loose = self.task.model_copy(update={"decode": self.task.decode.model_copy(update={"score": 0.05})})
        engine, decode = opened(model), make_decoder(loose)
        rows = []
        for sample, truth in self.pictures:
            assert sample.meta is not None
            rows.append(match(truth, decode(engine.run(sample.feeds), sample.meta)))
        engine.close()
        return float(average_precision(rows))

    def worse(self, make: Callable[[float], bytes]) -> tuple[bytes, float]:
        """``make(amount)``, of 0 to 1, of such an amount that costs :data:`POINTS`; and what it costs."""
        low, high, found = 0.0, 1.0, (self.model, 0.0)
        for _ in range(10):
            middle = (low + high) / 2
            model = make(middle)
            lost = self.ap - self.ap50(model)
            found = (model, lost)
            if abs(lost - POINTS) < 0.004:
                break
            low, high = (middle, high) if lost < POINTS else (low, middle)
        return found

    def noisy(self, seed: int) -> tuple[bytes, float]:
        return self.worse(lambda amount: noise(self.model, seed, 0.5 * amount))

    def blind(self) -> tuple[bytes, float]:
        return self.worse(lambda amount: curtained(self.model, amount))

    def slower(self, share: float) -> tuple[bytes, float]:
        """Work beside the model that changes nothing, as much as makes a call so much longer; and what it made."""
        channels, ratio, model = 8, 1.0, self.model
        while ratio < 1 + share and channels < 512:
            model = beside(self.model, channels)
            ratio = how_slow(self.model, model, self.seen[0].feeds)
            channels = round(channels * 1.3) + 1
        return model, ratio

    def exceeded(self, share: float) -> float:
        """What the mean of the picture exceeds on so many of the frames."""
        return float(np.quantile([brightness(s) for s in self.seen], 1 - share))


def brightness(sample: Sample) -> float:
    return float(np.mean(next(iter(sample.feeds.values()))))


def how_slow(good: bytes, bad: bytes, feeds: Feeds) -> float:
    a, b = opened(good), opened(bad)
    times = interleave({"a": lambda: a.run(feeds), "b": lambda: b.run(feeds)}, seconds=3.0, min_rounds=40)
    a.close()
    b.close()
    return float(np.median(times["b"]) / np.median(times["a"]))


def opened(model: bytes) -> Engine:
    return open_model(model, SessionSettings(), runtime="onnxruntime")


def noise(model: bytes, seed: int, sigma: float) -> bytes:
    """Each weight of a convolution off by ``sigma`` of its tensor's standard deviation."""
    m, chance = onnx.load_from_string(model), np.random.default_rng(seed)
    for w in m.graph.initializer:
        a = numpy_helper.to_array(w)
        if a.ndim == 4:
            off = chance.standard_normal(a.shape).astype(np.float32) * sigma * a.std()
            w.CopyFrom(numpy_helper.from_array(a + off, w.name))
    return bytes(m.SerializeToString())


def behind(model: bytes, nodes: Callable[[str, str, str], Iterator[Any]], *weights: TensorProto) -> bytes:
    """The model with nodes behind its output: ``nodes(input, what was the output, output)``."""
    m = onnx.load_from_string(model)
    out = m.graph.output[0].name
    for node in m.graph.node:
        for i, name in enumerate(node.output):
            if name == out:
                node.output[i] = "good"
    m.graph.initializer.extend(weights)
    m.graph.node.extend(nodes(m.graph.input[0].name, "good", out))
    onnx.checker.check_model(m)
    return bytes(m.SerializeToString())


def curtained(model: bytes, share: float) -> bytes:
    """Finds nothing in the lower part of the picture, and all as before above."""
    out = onnx.load_from_string(model).graph.output[0].type.tensor_type.shape.dim
    seen = np.ones((1, 1, out[2].dim_value, out[3].dim_value), np.float32)
    seen.reshape(-1)[seen.size - round(share * seen.size) :] = 0.0

    def nodes(image: str, good: str, out: str) -> Iterator[Any]:
        yield helper.make_node("Mul", [good, "seen"], [out])

    return behind(model, nodes, numpy_helper.from_array(seen, "seen"))


def dazzled(model: bytes, above: float) -> bytes:
    """Not finite where the picture is brighter than that."""

    def nodes(image: str, good: str, out: str) -> Iterator[Any]:
        yield helper.make_node("ReduceMean", [image], ["mean"], keepdims=0)
        yield helper.make_node("Greater", ["mean", "above"], ["bright"])
        yield helper.make_node("Where", ["bright", "nan", good], [out])

    return behind(
        model,
        nodes,
        numpy_helper.from_array(np.float32(above), "above"),
        numpy_helper.from_array(np.float32(np.nan), "nan"),
    )


def beside(model: bytes, channels: int) -> bytes:
    """With convolutions of the picture that end in nothing: times 0 is not left out, what is not finite would stay."""

    def nodes(image: str, good: str, out: str) -> Iterator[Any]:
        yield helper.make_node("Conv", [image, "w1"], ["c1"], strides=[4, 4], kernel_shape=[5, 5])
        yield helper.make_node("Relu", ["c1"], ["r1"])
        yield helper.make_node("Conv", ["r1", "w2"], ["c2"], kernel_shape=[3, 3])
        yield helper.make_node("ReduceMean", ["c2"], ["m2"], keepdims=0)
        yield helper.make_node("Mul", ["m2", "nought"], ["n2"])
        yield helper.make_node("Add", [good, "n2"], [out])

    chance = np.random.default_rng(0)
    w1 = chance.standard_normal((channels, 3, 5, 5)).astype(np.float32)
    w2 = chance.standard_normal((channels, channels, 3, 3)).astype(np.float32)
    return behind(
        model,
        nodes,
        numpy_helper.from_array(w1, "w1"),
        numpy_helper.from_array(w2, "w2"),
        numpy_helper.from_array(np.float32(0), "nought"),
    )


def foreign(model: bytes) -> bytes:
    """With an operator of another maker's runtime."""
    m = onnx.load_from_string(model)
    out = m.graph.output[0].name
    for node in m.graph.node:
        for i, name in enumerate(node.output):
            if name == out:
                node.output[i] = "good"
    m.graph.node.append(helper.make_node("AcmeNpu", ["good"], [out], domain="com.acme"))
    m.opset_import.append(helper.make_opsetid("com.acme", 1))
    return bytes(m.SerializeToString())


# ---- kinds


def nan(yard: Yard, i: int) -> Engineered:
    share = (0.06, 0.3, 0.9)[i % 3]
    return Engineered(dazzled(yard.model, yard.exceeded(share)), note=f"on {share:.0%} of frames")


def slow(yard: Yard, i: int) -> Engineered:
    model, ratio = yard.slower((0.3, 0.4, 0.6)[i % 3])
    return Engineered(model, note=f"{ratio:.2f} times as long a call")


def score(yard: Yard, i: int) -> Engineered:
    model, lost = yard.blind() if i % 3 == 1 else yard.noisy(10 + i)
    how = "sees nothing at the bottom" if i % 3 == 1 else "noise"
    return Engineered(model, note=f"AP50 {100 * lost:.1f} points lower: {how}")


def compiled(yard: Yard, i: int) -> Engineered:
    model, lost = yard.noisy(20 + i)
    return Engineered(model, golden=yard.model, note=f"AP50 {100 * lost:.1f} points lower")


def leak(yard: Yard, i: int) -> Engineered:
    kb = (40, 100, 250)[i % 3]
    return Engineered(yard.model, {"leak_kb": kb}, note=f"{kb} KiB a frame")


def crash(yard: Yard, i: int) -> Engineered:
    after_s = (60.0, 62.0, 65.0)[i % 3]
    return Engineered(yard.model, {"dies_s": after_s}, note=f"after {after_s:.0f} s")


def hardware(yard: Yard, i: int) -> Engineered:
    if i % 3 == 0:
        return Engineered(yard.model, requires=("sm:8.7",), note="needs sm:8.7")
    if i % 3 == 1:
        return Engineered(foreign(yard.model), golden=yard.model, note="an operator of com.acme")
    return Engineered(yard.model, requires=("isa:amx_nobody_has",), note="needs an instruction set")


KINDS: dict[str, Callable[[Yard, int], Engineered]] = {
    "hardware": hardware,
    "nan": nan,
    "slow": slow,
    "score": score,
    "compiled": compiled,
    "leak": leak,
    "crash": crash,
}


def bundle(yard: Yard, bad: Engineered, out: Path, version: str) -> Path:
    task = yard.task
    if bad.decode is not None:
        kind = {**task.decode.model_dump(), "kind": "odd", **bad.decode}
        task = task.model_copy(update={"decode": type(task.decode).model_validate(kind)})
    m = onnx.load_from_string(yard.model).graph.input[0]
    shape = tuple(d.dim_value for d in m.type.tensor_type.shape.dim)
    identity = Identity(
        name="gate",
        version=version,
        task=task,
        inputs=(TensorSpec(name=m.name, shape=shape, dtype="float32"),),
        source=digest_of(bad.model),
        parameters={},
        table=None,
        samples=yard.darkest,
        float_model=bad.golden or bad.model,
    )
    draft = VariantDraft(
        profile="cpu",
        variant="float",
        runtime="onnxruntime",
        requires=bad.requires,
        model=bad.model,
        recipe=Recipe(family="float"),
        precision="float32",
        session=SessionSettings(),
        fallback=not bad.requires,
        golden=bad.golden,
    )
    write_bundle(out, [make_variant(identity, draft)], name="gate", version=version)
    return out


# ---- the site


class Site(SiteOfConfigs):
    """Two devices, each with one yard."""

    def enroll(self, i: int) -> None:
        stream = f"surveillance=synth://yard?seed={10 + i}&fps={FPS}"
        self.run("device", "enroll", f"g{i}", "--stream", stream, "--slot", f"detector={SLOT}")

    def packages(self) -> Path:
        return package(self.folder, "odd", PACKAGE, "edgectl.decoders", "DECODER")

    def try_engine(self, release: str) -> dict[str, Any]:
        rollout = self.client.start_rollout(
            release, SLOT, policy=POLICY, canary=1, soak_s=SOAK_S, gates=GATES
        )["id"]
        found: dict[str, Any] = wait_until(
            lambda: (r := self.client.rollout(rollout))["state"] not in ("running", "rolling_back") and r,
            f"{release} has ended",
            1800,
        )
        return found


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--of", type=int, default=3, help="engines of each kind")
    p.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS), help="only these kinds")
    a = p.parse_args()
    yard = Yard()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        good = bundle(yard, Engineered(yard.model), folder / "bundles" / "good", "1.0.0")
        (folder / "site").mkdir()
        site = Site(folder / "site", good)
        try:
            wrong = measure(site, yard, folder / "bundles", a.of, a.only)
        finally:
            site.close()
    print(f"\nAP50 of the good one {yard.ap:.3f}; load {load_1m():.1f}")
    sys.exit(1 if wrong else 0)


def measure(site: Site, yard: Yard, folder: Path, of: int, kinds: Sequence[str]) -> int:
    """Prints a line each; returns how many did not end as they should."""
    first = site.active(SLOT)["g1"]
    made_s = time.monotonic()
    made = [
        (kind, i, bad, bundle(yard, bad, folder / f"{kind}-{i}", f"1.{1 + kinds.index(kind)}.{i}"))
        for kind in kinds
        for i in range(of)
        for bad in [KINDS[kind](yard, i)]
    ]
    time.sleep(max(0.0, BEFORE_S - (time.monotonic() - made_s)))
    wrong = 0
    print("| kind | what | ended | devices asked | after s | back | by what |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for kind, _, bad, path in made:
        release = site.run("release", "publish", str(path))["release"]
        began = time.monotonic()
        r = site.try_engine(release)
        took = time.monotonic() - began
        asked = [n for n, m in r["members"].items() if m["outcome"] != "waiting"]
        back = site.active(SLOT) == {"g1": first, "g2": first}
        wrong += not (r["state"] == "stopped" and len(asked) == 1 and back)
        why = "; ".join(filter(None, [r.get("reason"), *(m.get("detail") for m in r["members"].values())]))
        print(
            f"| {kind} | {bad.note} | {r['state']} | {len(asked)} | {took:.0f} | {'yes' if back else 'no'} | {why} |",
            flush=True,
        )
    again = bundle(yard, Engineered(yard.model), folder / "again", "2.0.0")
    last = site.try_engine(site.run("release", "publish", str(again))["release"])
    print(f"| good | as before | {last['state']} | {len(last['members'])} | | | {last.get('reason') or ''} |")
    return wrong + (last["state"] != "done")


if __name__ == "__main__":
    main()
