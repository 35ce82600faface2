"""The points about "which is faster" (under the builder's table): one answer, causes told apart, samples that
can tell, ``--minutes``, ``--decide``.

Where the machine is busy, an answer that is called undecided is right, and the figure says so; on a quiet one
it has to be decided.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from cases_common import Check, Outcome, Place, Run
from onnx import ModelProto, TensorProto, helper, numpy_helper
from tiny import write_classifier

__all__ = ["CHECKS"]

_APART = 0.02
_CLASSIFIER = 0.70


def three_verdicts(place: Place) -> Outcome:
    """Build and bench on the anomaly detector of 0.02 ms a call."""
    model = place.cases.parent / "models" / "ad01-mlperf-tiny.onnx"
    np.savez(
        place.out / "data.npz",
        input_1=np.random.default_rng(0).standard_normal((256, 640)).astype(np.float32),
    )
    built = build(place, model, place.out / "data.npz", "--minutes", 1)
    if built.code:
        return Outcome(False, built.last_words)
    benched = place.edgectl("bench", place.out / "bundle", "--json")
    if benched.code:
        return Outcome(False, benched.last_words)
    report, bench = built.json(), benched.json()
    first, cause = report["variants"][0], first_cause(report)
    rows = [r for r in bench["rows"] if "int8" in r["variant"]]
    if not rows:
        return Outcome(
            first["precision"] == "float32" and cause in ("equal", "slower", "undecided"),
            f"float ships: {sentence(report)}",
        )
    shipped = next(v for v in report["variants"] if v["precision"] == "int8")
    alone, paced = (abs(b / a - 1) for a, b in zip(ratios(shipped), ratios(rows[0]), strict=True))
    figure = f"build {told(shipped)}; bench {told(rows[0])}; {alone:.1%} and {paced:.1%} apart"
    if cause == "undecided" or bench["busy_because"]:
        said = cause != "undecided" or (first["precision"] == "float32" and "--decide" in sentence(report))
        return Outcome(said, f"the machine is busy, {cause or first['precision']}: {figure}")
    return Outcome(
        alone <= _APART and (paced <= _APART or meet(shipped, rows[0])) and rows[0]["standing"] != "slower",
        figure,
    )


def causes(place: Place) -> Outcome:
    """Models for which int8 does not ship, for different reasons."""
    rng = np.random.default_rng(0)
    np.savez(place.out / "data.npz", x=rng.standard_normal((48, 3, 16, 16)).astype(np.float32))
    found: dict[str, str] = {}
    wanted = {
        "no layer": ({"nothing-to-quantize"}, relu(), ()),
        "over the budget": ({"over-budget"}, conv(spread=1e4), ("--max-drop", 0.000001)),
        "by the clock": ({"equal", "slower", "undecided"}, conv(), ("--max-drop", 0.5)),
        "no time": (
            {"out-of-time", "over-budget"},
            conv(spread=1e4, layers=6),
            ("--minutes", 0.05, "--max-drop", 0.000001),
        ),
    }
    for name, (right, model, more) in wanted.items():
        path = place.out / "model.onnx"
        path.write_bytes(model.SerializeToString())
        ran = build(
            place, path, place.out / "data.npz", *(more if "--minutes" in more else (*more, "--minutes", 0.4))
        )
        if ran.code:
            return Outcome(False, f"{name}: {ran.last_words}")
        report = ran.json()
        all_causes = {c["cause"] for why in report["causes"].values() for c in why}
        left_out = name != "no time" or bool(report["left_out"])
        if (
            not all_causes & right
            or not left_out
            or not all(c["next"] for why in report["causes"].values() for c in why)
        ):
            return Outcome(False, f"{name}: {sorted(all_causes) or report['variants'][0]['precision']}")
        found[name] = f"{first_cause(report)}"
    return Outcome(True, ", ".join(f"{n}: {c}" for n, c in found.items()))


def few_samples(place: Place) -> Outcome:
    """A classifier of ten classes, the shape of ResNet8, with 227 pictures."""
    top1 = write_classifier(place.out / "classifier", 227)
    folder = place.out / "classifier"
    ran = build(
        place,
        folder / "classifier.onnx",
        folder / "pictures",
        "--minutes",
        2,
        task=folder / "classifier.toml",
    )
    if ran.code:
        return Outcome(False, ran.last_words)
    report = ran.json()
    int8 = next((v for v in report["variants"] if v["precision"] == "int8"), None)
    if int8 is None:
        return Outcome(False, f"float ships: {sentence(report)}")
    figure = f"top-1 of float {top1:.3f}, int8 {told(int8)}, drop {int8['drop']:.4f}"
    if first_cause(report) == "undecided":
        return Outcome(ratios(int8)[0] <= _CLASSIFIER, f"the machine is busy, undecided: {figure}")
    return Outcome(report["variants"][0] == int8 and ratios(int8)[0] <= _CLASSIFIER, figure)


def minutes(place: Place) -> Outcome:
    """The bound of a build that would like more."""
    from shapes import mobilenet_v2

    (place.out / "model.onnx").write_bytes(mobilenet_v2(160).SerializeToString())
    np.savez(
        place.out / "data.npz", image=np.random.default_rng(0).random((400, 3, 160, 160)).astype(np.float32)
    )
    allowed = 0.5
    ran = build(
        place, place.out / "model.onnx", place.out / "data.npz", "--minutes", allowed, "--max-drop", 0.05
    )
    if ran.code:
        return Outcome(False, ran.last_words)
    report = ran.json()
    over = report["seconds"] / (60 * allowed)
    said = over <= 1.05 or any(
        "more than 0.5 min: the least that a bundle needs" in n for n in report["notes"]
    )
    listed = bool(report["left_out"]) and any("left out for want of time" in n for n in report["notes"])
    return Outcome(
        over <= 1.5 and said and listed,
        f"{report['seconds']:.0f} s of {60 * allowed:.0f}; left out: {', '.join(report['left_out'])[:120]}",
    )


def decided(place: Place) -> Outcome:
    """``bench --decide`` on a bundle: decided on a quiet machine, left as it is on a busy one; valid
    either way."""
    path = place.out / "model.onnx"
    path.write_bytes(conv(layers=6).SerializeToString())
    np.savez(
        place.out / "data.npz", x=np.random.default_rng(0).standard_normal((48, 3, 16, 16)).astype(np.float32)
    )
    built = build(place, path, place.out / "data.npz", "--minutes", 0.4, "--max-drop", 0.5)
    if built.code:
        return Outcome(False, built.last_words)
    before = built.json()["digest"]
    ran = place.edgectl("bench", place.out / "bundle", "--decide", "--json")
    verified = place.edgectl("bundle", "verify", place.out / "bundle", "--json")
    if verified.code or ran.traceback:
        return Outcome(False, verified.last_words or ran.last_words)
    digest = verified.json()["digest"]
    if ran.code == 13:
        return Outcome(
            digest == before and "undecided" in ran.last_words + ran.err,
            f"the machine is busy: {ran.json()['decision']['undecided'][0]}; as it was",
        )
    said = ran.json()["decision"]["sentences"]
    return Outcome(ran.code == 0 and digest == ran.json()["digest"], "; ".join(said) or "nothing to decide")


def build(place: Place, model: Path, data: Path, *more: object, task: Path | str = "tensor") -> Run:
    return place.edgectl(
        "build",
        model,
        "--profile",
        "cpu",
        "--task",
        task,
        "--calibration",
        data,
        "--out",
        place.out / "bundle",
        *more,
        "--json",
    )


def first_cause(report: dict[str, Any]) -> str:
    return next((c["cause"] for why in report["causes"].values() for c in why), "")


def sentence(report: dict[str, Any]) -> str:
    return next(
        (f"{c['sentence']}; {c['next']}" for why in report["causes"].values() for c in why),
        "no cause is given",
    )


def ratios(row: dict[str, Any]) -> tuple[float, float]:
    """× the float fallback, alone and paced."""
    of = {c["context"]: c["ratio"] or 1.0 for c in row["contexts"]}
    return of["alone"], of["paced"]


def meet(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether one's paced ratio lies in the other's interval: after a rest a call of 0.02 ms takes a fifth
    more or less each time."""
    one, other = (next(c for c in row["contexts"] if c["context"] == "paced") for row in (a, b))
    return bool(one["low"] <= other["ratio"] <= one["high"] or other["low"] <= one["ratio"] <= other["high"])


def told(row: dict[str, Any]) -> str:
    alone, paced = ratios(row)
    return f"{alone:.3f} alone, {paced:.3f} paced ({row['standing']})"


def relu() -> ModelProto:
    return _model([helper.make_node("Relu", ["x"], ["y"], name="relu")], [], 3)


def conv(*, spread: float = 1.0, layers: int = 2) -> ModelProto:
    """``spread``: how many times as large one channel is as another; int8 of a whole tensor does not hold
    that."""
    rng = np.random.default_rng(0)
    nodes, weights, last, channels = [], [], "x", 3
    for i in range(layers):
        out = "y" if i == layers - 1 else f"c{i}"
        w = rng.standard_normal((16, channels, 3, 3)) * (2 / channels / 9) ** 0.5
        w *= np.geomspace(1, spread, 16).reshape(-1, 1, 1, 1) if i == 0 else 1
        weights.append(numpy_helper.from_array(w.astype(np.float32), f"w{i}"))
        nodes.append(helper.make_node("Conv", [last, f"w{i}"], [out], name=f"conv{i}", pads=[1] * 4))
        if out != "y":
            nodes.append(helper.make_node("Relu", [out], [f"r{i}"], name=f"relu{i}"))
        last, channels = f"r{i}", 16
    return _model(nodes, weights, 16)


def _model(nodes: list[Any], weights: list[TensorProto], channels: int) -> ModelProto:
    ends = [
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, c, 16, 16])]
        for n, c in (("x", 3), ("y", channels))
    ]
    return helper.make_model(
        helper.make_graph(nodes, "case", *ends, weights),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )


CHECKS: dict[str, Check] = {
    "which is faster: one engine, one verdict in build and bench": three_verdicts,
    "which is faster: causes told apart": causes,
    "which is faster: 227 pictures, ten classes": few_samples,
    "which is faster: --minutes bounds the whole build": minutes,
    "which is faster: bench --decide": decided,
}
