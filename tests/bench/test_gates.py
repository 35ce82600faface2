"""``bench/gates.py`` works with the wealth of the product, and its goals hold on seeds that it never draws."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from support.bench import load
from support.gate_blocks import ASKED_S, NEW, OLD, FakeBlocks

from edgectl.core.histogram import HistogramData
from edgectl.fleet.rollouts.gates import Block, GateJudge, Watched
from edgectl.fleet.rollouts.gates.blocks import BLOCK_S, log2_quantile
from edgectl.fleet.rollouts.gates.latency import LatencyTerms

bench = load("gates")


def wealth_of_the_product(treated: np.ndarray, controls: np.ndarray | None) -> list[float]:
    """After each block of the new engine; (devices, blocks) of log2 in buckets."""
    blocks, n = FakeBlocks(), treated.shape[1] - bench.AFTER
    names = [f"d{i}" for i in range(len(treated))]

    def put(name: str, digest: str, values: np.ndarray, first: int) -> None:
        made = [
            Block(ASKED_S + (i - n + 1) * BLOCK_S, quantiles=(float(v) / 32,) * 4)
            for i, v in enumerate(values, first)
        ]
        blocks.put(name, digest, made)

    for name, values in zip(names, treated, strict=True):
        put(name, OLD, values[:n], 0)
    free = []
    for i, values in enumerate(controls if controls is not None else ()):
        put(f"c{i}", OLD, values, 0)
        free.append(f"c{i}")
    judge, found = GateJudge([LatencyTerms()], NEW, 1e-60), []
    watched = [Watched(name, "orin", None, OLD, ASKED_S) for name in names]
    for b in range(n, n + 30):
        for name, values in zip(names, treated, strict=True):
            put(name, NEW, values[b : b + 1], b)
        (d,) = judge.look(watched, {"orin": free}, blocks, 0.0)
        found.append(d.log_wealth)
    return found


@pytest.mark.parametrize("devices", [1, 3])
@pytest.mark.parametrize("paired", [False, True])
def test_wealth_is_that_of_the_product(devices: int, paired: bool) -> None:
    chance = np.random.default_rng(99)
    path = bench.WANDER.path(chance, devices, bench.BEFORE + bench.AFTER, bench.AFTER)
    treated = bench.Cameras(chance, devices, 0.2, 0.9).run(path, bench.AFTER, 0.1)
    paths = np.repeat(path, bench.CONTROLS, axis=0)
    others = bench.Cameras(chance, len(paths), 0.2, 0.9).run(paths, bench.AFTER) if paired else None
    mine = bench.log_wealth(treated, others, devices, 1)[0, :30]
    theirs = others.blocks[..., 1] if others is not None else None
    product = wealth_of_the_product(treated.blocks[..., 1], theirs)
    assert mine == pytest.approx(product, abs=0.02), "figures are rounded where they are written down"
    assert mine[-1] != pytest.approx(0.0, abs=0.1)


def test_quantiles_are_those_of_a_histogram() -> None:
    chance = np.random.default_rng(98)
    buckets = chance.normal(320, 20, (1, 300)).astype(np.int16)
    indices, counts = np.unique(buckets, return_counts=True)
    low = int(indices.min())
    dense = np.zeros(int(indices.max()) - low + 1, int)
    dense[indices - low] = counts
    data = HistogramData(offset=low - 1, counts=tuple(map(int, dense)))  # there, bucket i begins at i
    for k, p in enumerate((50, 99)):
        assert bench.quantiles(buckets)[0, k] == pytest.approx(32 * log2_quantile(data, p))


def test_netflix_judge_lets_seven_of_ten_pass_that_are_a_hundred_times_slower() -> None:
    """spinnaker#6278, and that it fails with the eighth."""
    before = np.ones(10)
    assert not bench.netflix(np.array([100.0] * 7 + [1.0] * 3), before)
    assert bench.netflix(np.array([100.0] * 8 + [1.0] * 2), before)
    estimate = bench._root(np.array([100.0] * 7 + [1.0] * 3), before, 0.0)
    assert estimate == pytest.approx(98.9999, abs=1e-3), "as the issue tells"


def test_argo_counts_minutes_above_a_fixed_bound() -> None:
    minutes = np.array([[1.0, 3, 3, 3, 3, 1], [1, 3, 3, 3, 1, 1]])
    assert bench.argo(minutes, np.array([2.0, 2.0])).tolist() == [300.0, math.inf]


def test_page_names_every_gate_with_its_settings() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "gates.md").read_text("utf-8")
    assert bench.markdown(list(bench.settings())) in page


@pytest.mark.parametrize(("often", "low"), [(0.9, 0.9), (0.5, 0.5), (0.99, 0.99), (0.0, 0.0)])
def test_engine_that_is_better_in_most_blocks_wins_no_more_than_one_that_is_the_same(
    often: float, low: float
) -> None:
    """What the proof does not cover: ``often`` far below, else evenly above the ``low`` quantile of before."""
    chance = np.random.default_rng(97)
    before, size = chance.random((1000, 64)), (1000, 120)
    after = np.where(chance.random(size) < often, -1.0, low + (1 - low) * chance.random(size))
    best = bench.log_mean(bench.ranked(before, after), -1).max(1)
    assert (best >= math.log(20)).sum() <= 50


@pytest.mark.slow
def test_good_releases_are_hardly_ever_stopped() -> None:
    """At most 1 % in twenty minutes; of 200 runs two, and one by chance."""
    for scene, controls in (
        (bench.STILL, False),
        (bench.STILL, True),
        (bench.STEP, True),
        (bench.WANDER, True),
    ):
        t = bench.trial(200, sigma=0.2, rho=0.98, scene=scene, controls=controls, seed=10_001)
        assert (t.either < np.inf).sum() <= 3, scene.name


@pytest.mark.slow
def test_slower_releases_are_found_in_time() -> None:
    one = bench.trial(100, sigma=0.2, rho=0.9, slower=0.2, seed=10_002)
    assert np.quantile(one.either, 0.9) <= 60
    five = bench.trial(40, sigma=0.2, rho=0.9, slower=0.05, devices=5, seed=10_003)
    assert np.quantile(five.either, 0.9) <= 600
