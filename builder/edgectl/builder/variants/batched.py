"""``edgectl build --batch 1,4``: engines that take several pictures in one call.

The first dimension of inputs and outputs is left open, and a Reshape to one row keeps the rows that come. What
computes that way is not taken on trust: a picture must give the same bits whatever lies beside it in the call,
and what it gives alone. Then every batch is measured, interleaved with the engine of one picture; a batch ships
only where a picture is faster in it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper

from edgectl.builder.budget import PACK
from edgectl.builder.graph import GraphIndex, all_graphs, real_inputs
from edgectl.builder.ingest.pixels import pixel_feeds
from edgectl.builder.monitor import BuildMonitor
from edgectl.builder.variants.draft import VariantDraft
from edgectl.core.errors import EngineError, ModelError, UsageError
from edgectl.core.measured import BatchRun
from edgectl.core.task import ImageInput, TaskSpec
from edgectl.engines.base import Engine, Feeds, Outputs
from edgectl.engines.finalise.guarded import open_guarded
from edgectl.engines.finalise.open import open_model
from edgectl.engines.measure.processes import MeasuredEngine, measure_memory
from edgectl.engines.timing import interleave, paired_ratio

__all__ = ["MAX_BATCH", "open_batch", "parse_batches", "with_batches"]

MAX_BATCH = 64
_SECONDS = 3.0
# of the output's largest value; an int8 engine may round one code the other way in another kernel
_CLOSE = {"float32": 1e-3}
_CLOSE_QUANTIZED = 2e-2
# that the open dimension may cost a picture that comes alone
_ALONE = 1.03


def parse_batches(text: str) -> tuple[int, ...]:
    """``"1,4"`` → ``(1, 4)``: in order, each once, 1 always among them. Raises :class:`UsageError`."""
    parts = [p.strip() for p in text.split(",")]
    if not all(re.fullmatch("[1-9][0-9]?", p) and int(p) <= MAX_BATCH for p in parts):
        raise UsageError(
            f"--batch {text!r} is no list of pictures in a call",
            hint=f"write --batch 1,4; each from 1 to {MAX_BATCH}",
        )
    return tuple(sorted({1, *(int(p) for p in parts)}))


def open_batch(model: bytes) -> bytes:
    """The graph with the first dimension of its inputs and outputs left open. Raises :class:`ModelError` for
    one whose inputs or outputs are not one row."""
    graph: ModelProto = onnx.load_from_string(model)
    graph = onnx.shape_inference.infer_shapes(graph, data_prop=True)
    index = GraphIndex(graph)
    ends = (*real_inputs(graph), *graph.graph.output)
    for info in ends:
        shape = index.shape(info.name)
        if not shape or shape[0] != 1:
            raise ModelError(f"{info.name} has shape {list(shape or ())}, which is not one row a picture")
    for node in [n for n in graph.graph.node if n.op_type == "Reshape"]:
        wanted, before = index.weights(node.input[1]), index.shape(node.input[0])
        if wanted is None or not before or before[0] != 1 or wanted.size == 0 or wanted[0] < 1:
            continue
        # 0: as many as came. A channel shuffle folds the rows, the slowest axis, into the first one (-1)
        first = 0 if wanted[0] == 1 else -1
        if first == -1 and -1 in wanted:
            continue
        rows = np.array([first, *wanted[1:]], np.int64)
        name = f"{node.output[0]}_rows"
        graph.graph.initializer.append(numpy_helper.from_array(rows, name))
        node.input[1] = name
    for info in ends:
        info.type.tensor_type.shape.dim[0].dim_param = "batch"
    for one in all_graphs(graph.graph):
        del one.value_info[:]
    return bytes(graph.SerializeToString(deterministic=True))


def with_batches(
    drafts: Sequence[VariantDraft],
    batches: Sequence[int],
    task: TaskSpec,
    samples: Sequence[Feeds],
    monitor: BuildMonitor,
) -> list[VariantDraft]:
    """The drafts, those built for a batch that are faster in it. A note says what became of each."""
    done = []
    for draft in drafts:
        if draft.measured is None or draft.runtime == "tensorrt":
            why = "it is not measured on this machine"
        elif monitor.budget.over(PACK, f"{draft.variant} with several pictures a call"):
            why = "the time was over before it was measured"
        else:
            try:
                draft, why = _batched(draft, batches, task, samples)
            except (ModelError, EngineError) as e:
                why = f"the model cannot be batched: {e.message}"
        at = f"{draft.profile}/{draft.variant}"
        monitor.note(why if draft.batch > 1 else f"{at} takes one picture a call: {why}")
        done.append(draft)
    return done


def _batched(
    draft: VariantDraft, batches: Sequence[int], task: TaskSpec, samples: Sequence[Feeds]
) -> tuple[VariantDraft, str]:
    model = open_batch(draft.model)
    feeds: list[Feeds] = [samples[i % len(samples)] for i in range(max(2, *batches))]
    if draft.picture is not None:
        assert isinstance(task.input, ImageInput)
        feeds = [pixel_feeds(f, task.input) for f in feeds]
    one = open_model(draft.model, draft.session, runtime=draft.runtime)
    try:
        many = open_guarded(model, draft.session, runtime=draft.runtime)
        try:
            close = _CLOSE.get(draft.precision, _CLOSE_QUANTIZED)
            for n in {2, *batches} - {1}:
                _check_rows(one, many, feeds[:n], close)
            runs = _measured(one, many, batches, feeds)
        finally:
            many.close()
    finally:
        one.close()
    assert draft.measured is not None
    draft = replace(draft, measured=draft.measured.model_copy(update={"batches": tuple(runs)}))
    said = "; ".join(
        f"{r.pictures} a call {r.p50_ms:.2f} ms, {r.p50_ms / r.pictures:.2f} ms a picture "
        f"({r.ratio:.2f} × [{r.low:.2f}, {r.high:.2f}])"
        for r in runs
    )
    best = min(runs, key=lambda r: r.ratio)
    if best.pictures == 1 or best.high >= min(1.0, runs[0].low) or runs[0].low > _ALONE:
        return draft, f"no batch is faster a picture: {said}"
    at = f"{draft.profile}/{draft.variant}"
    memory = measure_memory(
        MeasuredEngine(model, draft.runtime, draft.session, [_stacked(feeds[: best.pictures])])
    )
    return replace(
        draft, model=model, batch=best.pictures, batch_memory=memory
    ), f"{at} takes up to {best.pictures} pictures a call: {said}"


def _check_rows(one: Engine, many: Engine, feeds: Sequence[Feeds], close: float) -> None:
    """Raises :class:`ModelError` where a picture in a call is not what it is alone."""
    together = many.run(_stacked(feeds))
    # the first picture stays where it is, and all others are noughts
    beside = many.run(_stacked([feeds[0], *({n: np.zeros_like(a) for n, a in f.items()} for f in feeds[1:])]))
    alone: list[Outputs] = [one.run(f) for f in feeds]
    for name, rows in together.items():
        if rows.shape[:1] != (len(feeds),):
            raise ModelError(
                f"output {name} has shape {list(rows.shape)} for {len(feeds)} pictures, which is not one row each"
            )
        if not np.array_equal(rows[0], beside[name][0], equal_nan=True):
            raise ModelError(f"output {name} of a picture depends on the others in the call")
        want = np.concatenate([a[name] for a in alone]).astype(np.float64)
        if want.shape != rows.shape:
            raise ModelError(f"output {name} has rows of another shape than alone")
        error = float(np.abs(want - rows).max(initial=0.0))
        if not error <= close * max(1e-6, float(np.abs(want).max(initial=0.0))):
            raise ModelError(f"output {name} of a picture is another one than alone (by {error:.3g})")


def _measured(one: Engine, many: Engine, batches: Sequence[int], feeds: Sequence[Feeds]) -> list[BatchRun]:
    stacks = {n: _stacked(feeds[:n]) for n in batches}
    runs = {str(n): functools.partial(many.run, s) for n, s in stacks.items()}
    times = interleave({"one": functools.partial(one.run, feeds[0]), **runs}, seconds=_SECONDS)
    found = []
    for n in batches:
        ratio = paired_ratio(times[str(n)] / n, times["one"])
        p50 = float(np.median(times[str(n)]))
        found.append(BatchRun(pictures=n, p50_ms=p50, ratio=ratio.median, low=ratio.low, high=ratio.high))
    return found


def _stacked(feeds: Sequence[Feeds]) -> Feeds:
    return {name: np.concatenate([f[name] for f in feeds]) for name in feeds[0]}
