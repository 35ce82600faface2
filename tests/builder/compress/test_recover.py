"""What a student learns from, and what counts in what it answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from support.builder.compressible import chain_net, inputs, run

from edgectl.builder.compress.options import parse_options
from edgectl.core.errors import ModelError, UsageError
from edgectl.core.task import DecodeSpec
from edgectl.engines.base import Feeds


class Read(Sequence[Feeds]):
    """Inputs that tell which of them were asked for."""

    def __init__(self, feeds: list[Feeds]) -> None:
        self._feeds, self.asked = feeds, set[int]()

    def __len__(self) -> int:
        return len(self._feeds)

    def __getitem__(self, index: Any) -> Any:
        self.asked.add(index)
        return self._feeds[index]


def test_data_to_learn_from_is_for_training() -> None:
    with pytest.raises(UsageError, match="--teach is more data for --recover"):
        parse_options(["channel:0.3"], teach="yard.mp4")
    assert parse_options(["channel:0.3"], recover_minutes=1.0, teach="yard.mp4").teach == "yard.mp4"


@pytest.mark.torch
def test_further_inputs_are_read_when_a_batch_needs_them_and_teach_what_the_samples_do_not() -> None:
    from edgectl.builder.compress.recover import recover
    from edgectl.builder.compress.weights import replace_weights, weights_of
    from edgectl.builder.graph import GraphIndex

    model = chain_net()
    rng = np.random.default_rng(3)
    spoilt = replace_weights(
        model,
        {
            w.name: (w.value + 0.1 * rng.standard_normal(w.value.shape)).astype(np.float32)
            for w in weights_of(GraphIndex(model))
        },
    )
    # the samples are one input again and again
    samples, tests = inputs(1) * 16, inputs(8, seed=9)
    more = Read(inputs(64, seed=5))
    alone, _ = recover(spoilt, model, samples, seconds=0, steps=60)
    taught, lesson = recover(spoilt, model, samples, seconds=0, steps=60, more=more)
    assert lesson.steps == 60
    assert len(more.asked) > 40, "drawn at random"

    def error(student: Any) -> float:
        return sum(float(np.square(run(student, f) - run(model, f)).sum()) for f in tests)

    assert error(taught) < 0.7 * error(alone)


@pytest.mark.torch
def test_the_same_steps_give_the_same_weights() -> None:
    from edgectl.builder.compress.recover import recover

    model, samples = chain_net(), inputs(16)
    spoilt = chain_net(dead=4)
    first, again = (recover(spoilt, model, samples, seconds=0, steps=30)[0] for _ in range(2))
    assert first.SerializeToString() == again.SerializeToString()


@pytest.fixture
def four_threads() -> Iterator[Callable[[], int]]:
    """Torch has four; how many it has now."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield torch.get_num_threads
    torch.set_num_threads(before)


@pytest.mark.torch
def test_loss_that_is_not_finite_ends_recovery_in_a_sentence_and_torch_has_its_threads_back(
    four_threads: Callable[[], int],
) -> None:
    from edgectl.builder.compress.recover import recover

    broken = [{"x": np.full((1, 3, 8, 8), np.nan, np.float32)}] * 64
    with pytest.raises(ModelError, match="the loss of step 1 is not finite") as e:
        recover(chain_net(dead=4), chain_net(), inputs(16), seconds=0, steps=30, more=broken)
    assert "inputs that are not finite" in (e.value.hint or "")
    assert four_threads() == 4


@pytest.mark.torch
def test_whoever_waits_hears_of_recovery_every_25_steps_and_may_end_it(
    four_threads: Callable[[], int],
) -> None:
    from edgectl.builder.compress.recover import recover

    told: list[tuple[float, int]] = []

    def progress(share: float, error: float) -> None:
        told.append((share, four_threads()))
        if len(told) == 3:
            raise KeyboardInterrupt

    student, teacher, samples = chain_net(dead=4), chain_net(), inputs(16)
    _, lesson = recover(student, teacher, samples, seconds=0, steps=60, progress=progress)
    assert lesson.steps == 60
    assert told == [(pytest.approx(24 / 60), 2), (pytest.approx(49 / 60), 2)]
    assert four_threads() == 4
    with pytest.raises(KeyboardInterrupt):
        recover(student, teacher, samples, seconds=0, steps=60, progress=progress)
    assert four_threads() == 4


@pytest.mark.torch
@pytest.mark.parametrize("kind", ["yolox", "yolov8", "fastestdet"])
def test_the_loss_looks_where_the_teacher_sees_something(kind: str) -> None:
    import torch

    from edgectl.builder.compress.attention import Loss

    shapes = {"yolox": (1, 50, 8), "yolov8": (1, 8, 50), "fastestdet": (1, 8, 5, 10)}
    where: dict[str, Any] = {
        "yolox": lambda place, channel: (0, place, channel),
        "yolov8": lambda place, channel: (0, channel, place),
        "fastestdet": lambda place, channel: (0, channel, place // 10, place % 10),
    }
    box = {"yolox": 0, "yolov8": 0, "fastestdet": 1}[kind]
    sure = {"yolox": (4, 5), "yolov8": (4,), "fastestdet": (0, 5)}[kind]
    torch.manual_seed(0)
    truth = torch.rand(shapes[kind]) * 0.02
    for channel in sure:
        truth[where[kind](7, channel)] = 0.9
    loss = Loss([torch.rand(shapes[kind])], DecodeSpec(kind=kind))
    equal = float(loss([truth], [truth]))

    def moved(place: int, channel: int) -> float:
        other = truth.clone()
        other[where[kind](place, channel)] += (
            0.3 if channel == box else -0.5 * float(other[where[kind](place, channel)])
        )
        return float(loss([other], [truth])) - equal

    # a box where there is something, and one where there is nothing
    assert moved(7, box) > 10 * moved(20, box) > 0
    for channel in sure:
        assert moved(7, channel) > 0.05


@pytest.mark.torch
def test_steps_in_bfloat16_teach_as_much_as_those_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from edgectl.builder.compress import recover as module
    from edgectl.builder.compress.weights import replace_weights

    model, samples = chain_net(), inputs(32)
    weight = np.random.default_rng(3).standard_normal((16, 16, 3, 3)) * 0.2
    spoilt = replace_weights(model, {"w2": weight.astype(np.float32)})
    left, dtypes = {}, set[torch.dtype]()
    convolve = torch.nn.functional.conv2d

    def watched(x: torch.Tensor, *rest: Any) -> torch.Tensor:
        y: torch.Tensor = convolve(x, *rest)
        dtypes.add(y.dtype)
        return y

    monkeypatch.setattr(torch.nn.functional, "conv2d", watched)
    for fast in (False, True):
        monkeypatch.setattr(module, "bfloat16_is_fast", lambda fast=fast: fast)
        dtypes.clear()
        _, lesson = module.recover(spoilt, model, samples, seconds=0, steps=120)
        left[fast] = lesson.after / lesson.before
        assert (torch.bfloat16 in dtypes) is fast
    assert left[False] < 0.5
    assert left[True] < left[False] + 0.05
