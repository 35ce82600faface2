from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl.fleet.rollouts.gates.wealth import TILTS, MeanBets, RankBets, log_sum, mixed, pooled, share


@pytest.mark.parametrize(("before", "after"), [(1, 3), (2, 3), (4, 2)])
def test_rank_bets_are_fair_whatever_the_figures_are(before: int, after: int) -> None:
    """Over all orders of exchangeable blocks, the mean wealth is exactly 1, after each block."""
    total = dict.fromkeys(range(1, after + 1), 0.0)
    orders = list(itertools.permutations(range(before + after)))
    for order in orders:
        bets, known = RankBets(before), sorted(order[:before])
        for n, x in enumerate(order[before:], 1):
            bets.add(sum(k < x for k in known))
            total[n] += math.exp(mixed(bets.logs))
    assert [t / len(orders) for t in total.values()] == pytest.approx([1.0] * after)


def test_all_blocks_above_all_old_ones_win_nearly_what_chance_allows() -> None:
    bets = RankBets(64)
    for _ in range(3):
        bets.add(64)
    rare = math.comb(67, 3)
    assert math.exp(mixed(bets.logs)) == pytest.approx(rare / 4, rel=0.3), "two of eight go for all"


def test_blocks_as_before_win_nothing() -> None:
    chance = random.Random(1)
    bets, known = RankBets(64), sorted(chance.random() for _ in range(64))
    for _ in range(500):
        x = chance.random()
        bets.add(sum(k < x for k in known))
    assert mixed(bets.logs) < math.log(20)


def test_wealth_hardly_ever_gets_far_while_nothing_changed() -> None:
    """Ville: in at most 5 % of the runs wealth ever reaches 20."""
    chance, hits = random.Random(2), 0
    for _ in range(400):
        bets, known = RankBets(30), sorted(chance.random() for _ in range(30))
        best = 0.0
        for _ in range(60):
            x = chance.random()
            bets.add(sum(k < x for k in known))
            best = max(best, mixed(bets.logs))
        hits += best >= math.log(20)
    assert 0 < hits <= 20


def test_mean_bets_are_fair_at_the_bound_and_lose_below_it() -> None:
    allowed = 0.25
    total = 0.0
    for bad in itertools.product((0, 1), repeat=6):
        bets = MeanBets(allowed)
        for x in bad:
            bets.add(float(x))
        total += math.exp(mixed(bets.logs)) * allowed ** sum(bad) * (1 - allowed) ** (6 - sum(bad))
    assert total == pytest.approx(1.0)
    below = MeanBets(allowed)
    for _ in range(50):
        below.add(0.1)
    assert mixed(below.logs) < 0


def test_engine_whose_calls_all_fail_is_found_with_two_blocks() -> None:
    bets = MeanBets(0.01)
    bets.add(1.0)
    bets.add(1.0)
    assert mixed(bets.logs) > math.log(1000)


def test_shares_come_to_one_and_never_more() -> None:
    shares = [share(place) for place in range(1000)]
    assert sum(shares) == pytest.approx(1 - 1 / 1001)
    assert shares[:3] == pytest.approx([1 / 2, 1 / 6, 1 / 12])


def test_nothing_won_is_a_wealth_of_one_for_any_number_of_devices() -> None:
    for n in (1, 2, 17):
        staked = [math.log(share(place)) for place in range(n)]
        assert pooled(staked, [0.0] * len(TILTS), n) == pytest.approx(0.0)


def test_one_bad_device_among_many_good_ones_is_found_by_its_own_half() -> None:
    staked = [math.log(share(0)) + 12.0, *(math.log(share(place)) - 3.0 for place in range(1, 10))]
    assert pooled(staked, [-40.0] * len(TILTS), 10) == pytest.approx(12.0 - math.log(4), abs=0.01)


@given(st.lists(st.floats(-500, 500), min_size=1, max_size=8))
def test_sums_of_wealth_neither_overflow_nor_lose_the_largest(logs: list[float]) -> None:
    assert max(logs) <= log_sum(logs) <= max(logs) + math.log(len(logs)) + 1e-9
