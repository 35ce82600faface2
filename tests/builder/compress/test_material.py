"""What a student sees, how often, and that the answers are those to what it sees."""

from __future__ import annotations

import numpy as np
import pytest

from edgectl.engines.base import Feeds

pytestmark = pytest.mark.torch


def levels(values: list[float], edge: int = 8) -> list[Feeds]:
    """Pictures of one level each."""
    return [{"x": np.full((1, 3, edge, edge), v, np.float32)} for v in values]


def gradients(count: int) -> list[Feeds]:
    """Pictures large enough to be moved, from 0 to 1 in both directions."""
    ramp = np.linspace(0, 1, 64, dtype=np.float32)
    return [
        {"x": np.tile(np.outer(ramp, ramp), (1, 3, 1, 1)) * (0.5 + 0.5 * i / count)} for i in range(count)
    ]


def test_the_teacher_answers_what_is_drawn_and_is_asked_a_quarter_as_often() -> None:
    import torch

    from edgectl.builder.compress.material import Batch, Material, Pool

    asked: list[int] = []

    def answer(batch: Batch) -> list[torch.Tensor]:
        asked.append(len(batch["x"]))
        return [batch["x"].sum((2, 3)), batch["x"].amax((1, 2, 3))]

    pool = Pool(Material(levels([i / 16 for i in range(16)]), []), answer)
    seen = 0
    for _ in range(64):
        batch, answers = pool.batch()
        seen += len(batch["x"])
        for got, want in zip(answers, (batch["x"].sum((2, 3)), batch["x"].amax((1, 2, 3))), strict=True):
            torch.testing.assert_close(got, want)
    assert seen == 64 * 16
    # 16 batches fill the pool, then a quarter of each is new
    assert len(pool) == 16 * 16
    assert sum(asked) == 16 * 16 + 48 * 4


def test_the_first_batch_waits_for_no_full_pool() -> None:
    from edgectl.builder.compress.material import Material, Pool

    pool = Pool(Material(levels([0.5] * 8), []), lambda batch: [batch["x"]])
    pool.batch()
    assert len(pool) == 16


def test_samples_are_drawn_more_often_than_their_number_says() -> None:
    import torch

    from edgectl.builder.compress.material import Material

    random = torch.Generator().manual_seed(0)
    few = Material(levels([1.0] * 10), levels([0.0] * 990))
    assert 0.25 < np.mean([few.one(random)["x"].mean() for _ in range(1000)]) < 0.35
    most = Material(levels([1.0] * 900), levels([0.0] * 100))
    assert 0.85 < np.mean([most.one(random)["x"].mean() for _ in range(1000)]) < 0.95


@pytest.mark.parametrize(("count", "least", "most"), [(8, 0.35, 0.65), (1024, 0.78, 0.97)])
def test_some_pictures_are_changed_and_the_fewer_the_more_there_are(
    count: int, least: float, most: float
) -> None:
    import torch

    from edgectl.builder.compress.material import Material

    samples = gradients(8)
    material = Material(samples * (count // 8), [])
    shown = material.drawn(128, torch.Generator().manual_seed(0))["x"].numpy()
    as_it_is = [any(np.array_equal(x, s["x"][0]) for s in samples) for x in shown]
    assert least < np.mean(as_it_is) < most
    # noise is all that leads out of the range that a picture had
    assert shown.min() > -0.05
    assert shown.max() < 1.05


def test_large_inputs_come_in_small_batches_and_a_pool_of_bounded_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from edgectl.builder.compress import material

    values = 3 * 32 * 32
    monkeypatch.setattr(material, "_BATCH_VALUES", 6 * values)
    monkeypatch.setattr(material, "_POOL_BYTES", 4 * values * 20)
    pool = material.Pool(
        material.Material(levels([0.5] * 4, edge=32), []), lambda batch: [batch["x"].mean((2, 3))]
    )
    for _ in range(6):
        batch, _ = pool.batch()
        assert len(batch["x"]) == 6
    # three batches of six are what twenty inputs hold
    assert len(pool) == 18


def test_the_same_seed_shows_the_same() -> None:
    from edgectl.builder.compress.material import Material, Pool

    def shown(seed: int) -> np.ndarray:
        pool = Pool(Material(gradients(8), gradients(20)), lambda batch: [batch["x"]], seed)
        return np.concatenate([pool.batch()[0]["x"].numpy() for _ in range(3)])

    assert np.array_equal(shown(0), shown(0))
    assert not np.array_equal(shown(0), shown(1))


def test_large_answers_bound_the_pool_like_large_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from edgectl.builder.compress import material

    answers = 1 << 14  # values of each
    monkeypatch.setattr(material, "_POOL_BYTES", 4 * 16 * 3 * (answers + 3 * 64))
    pool = material.Pool(
        material.Material(levels([0.5] * 4), []), lambda batch: [torch.zeros(len(batch["x"]), answers)]
    )
    for _ in range(6):
        pool.batch()
    assert len(pool) == 3 * 16


def test_an_input_of_one_value_is_changed_and_stays_finite() -> None:
    import torch

    from edgectl.builder.compress.material import Material

    one = [{"x": np.full((1, 1), v, np.float32)} for v in (1.0, 2.0)]
    shown = Material(one, []).drawn(64, torch.Generator().manual_seed(0))["x"]
    assert torch.isfinite(shown).all()
    assert len(torch.unique(shown)) > 2
