"""What of a measured view is told, and when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl.pipelines.video.health.judge import TROUBLES, HealthConfig, ViewJudge, ViewTrouble
from edgectl.pipelines.video.health.measure import ViewMeasure

WELL = ViewMeasure(
    bright=120,
    top=230,
    white=0.01,
    noise=2.0,
    sharp=1.0,
    edges=1.0,
    contrast=1.0,
    alike=0.97,
    usual_bright=120,
    outline=0.9,
)
ILL = {
    "dark": replace(WELL, bright=3, top=12, sharp=0.0, edges=0.0, alike=0.0, outline=0.0),
    "blinded": replace(WELL, bright=255, white=0.9, edges=0.1, alike=0.1, outline=0.1),
    "noisy": replace(WELL, noise=30),
    "covered": replace(WELL, edges=0.05, contrast=0.1, alike=0.2, outline=0.1, sharp=None),
    "defocused": replace(WELL, sharp=0.15, edges=0.6),
    "moved": replace(WELL, outline=0.2, alike=0.4),
}


def play(
    judge: ViewJudge, at: Callable[[float], ViewMeasure], seconds: float, start: float = 0.0
) -> list[tuple[float, ViewTrouble]]:
    found = []
    for i in range(round(2 * seconds)):
        t = start + i / 2
        found += [(t, one) for one in judge.step(at(t), t)[0]]
    return found


@pytest.mark.parametrize("what", TROUBLES)
def test_what_lasts_is_told_once_and_once_when_it_is_over(what: str) -> None:
    judge = ViewJudge(HealthConfig())
    assert not play(judge, lambda t: WELL, 30)
    ((began, one),) = play(judge, lambda t: ILL[what], 60, start=30)
    assert (one.what, one.on, began, one.since_s) == (what, True, 40.0, 30.0)
    assert (one.why["limit"], one.why["unit"]) == (TROUBLES[what].on, TROUBLES[what].unit)  # type: ignore[index]
    assert judge.troubles == (what,)
    ((ended, over),) = play(judge, lambda t: WELL, 60, start=90)
    assert (over.what, over.on, ended) == (what, False, 95.0)
    assert judge.troubles == ()


@pytest.mark.parametrize("what", TROUBLES)
def test_what_is_soon_over_is_not_told(what: str) -> None:
    judge = ViewJudge(HealthConfig())
    assert not play(judge, lambda t: ILL[what] if t % 20 < 9 else WELL, 200)


@pytest.mark.parametrize("what", TROUBLES)
def test_between_the_two_limits_nothing_changes(what: str) -> None:
    judge, test = ViewJudge(HealthConfig()), TROUBLES[what]  # type: ignore[index]
    play(judge, lambda t: ILL[what], 20)
    middle = {
        "dark": replace(WELL, top=47),
        "blinded": replace(WELL, white=0.42),
        "noisy": replace(WELL, noise=11),
        "covered": replace(ILL["covered"], edges=0.4),
        "defocused": replace(WELL, sharp=0.55),
        "moved": replace(ILL["moved"], outline=0.6),
    }[what]
    assert min(test.on, test.off) < (test.value(middle) or 0) < max(test.on, test.off)
    assert not play(judge, lambda t: middle, 60, start=20)
    assert judge.troubles == (what,)
    other = ViewJudge(HealthConfig())
    assert not play(other, lambda t: middle, 60)


def test_without_light_nothing_else_is_said() -> None:
    judge = ViewJudge(HealthConfig())
    found = play(judge, lambda t: ILL["dark"], 100)
    assert [one.what for _, one in found] == ["dark"]


def test_what_was_wrong_before_the_night_stays_wrong_in_it() -> None:
    judge = ViewJudge(HealthConfig())
    play(judge, lambda t: ILL["moved"], 20)
    assert [one.what for _, one in play(judge, lambda t: ILL["dark"], 60, start=20)] == ["dark"]
    assert judge.troubles == ("dark", "moved")
    over = play(judge, lambda t: WELL, 20, start=80)
    assert sorted(one.what for _, one in over) == ["dark", "moved"]


def test_other_lamps_are_no_other_view() -> None:
    judge = ViewJudge(HealthConfig())
    assert not play(judge, lambda t: replace(ILL["moved"], bright=200), 60)


def test_edges_that_fit_after_a_shift_have_moved() -> None:
    judge = ViewJudge(HealthConfig())
    m = replace(WELL, outline=0.6, alike=0.9, shift=0.05, shifted_outline=0.9)
    ((_, one),) = play(judge, lambda t: m, 20)
    assert (one.what, one.why["value"]) == ("moved", 1.0)
    assert not play(ViewJudge(HealthConfig()), lambda t: replace(m, shift=0.0), 20)


def test_a_view_that_stays_another_one_becomes_usual() -> None:
    judge = ViewJudge(HealthConfig(accept_s=60))
    (_, (ended, one)) = play(judge, lambda t: ILL["moved"] if t <= 70 else WELL, 90)
    assert (one.what, one.on, one.accepted, ended) == ("moved", False, True, 70.0)


def test_what_is_wrong_is_not_learned() -> None:
    judge = ViewJudge(HealthConfig())
    assert judge.step(WELL, 0)[1]
    for what, m in ILL.items():
        assert not ViewJudge(HealthConfig()).step(m, 0)[1], what


def test_before_the_usual_view_is_known_only_light_and_noise_are_judged() -> None:
    unknown = ViewMeasure(bright=120, top=230, white=0.0, noise=None)
    assert not play(ViewJudge(HealthConfig()), lambda t: unknown, 60)
    ((_, one),) = play(ViewJudge(HealthConfig()), lambda t: replace(unknown, top=9), 60)
    assert one.what == "dark"


def test_settings_change_and_end_while_something_is_wrong() -> None:
    judge = ViewJudge(HealthConfig())
    play(judge, lambda t: ILL["dark"], 20)
    judge.adopt(HealthConfig(clear_s=1))
    ((ended, _),) = play(judge, lambda t: WELL, 20, start=20)
    assert ended == 21.0
    play(judge, lambda t: ILL["noisy"], 20, start=40)
    assert [(one.what, one.on) for one in judge.stop()] == [("noisy", False)]
    assert judge.stop() == []


@given(st.lists(st.sampled_from([WELL, *ILL.values()]), max_size=300))
def test_each_start_has_one_end_at_most_and_they_take_turns(measured: list[ViewMeasure]) -> None:
    judge = ViewJudge(HealthConfig(after_s=1, clear_s=1))
    on: dict[str, bool] = {}
    for i, m in enumerate(measured):
        for one in judge.step(m, i / 2)[0]:
            assert on.get(one.what, False) != one.on
            on[one.what] = one.on
        assert set(judge.troubles) == {what for what, is_on in on.items() if is_on}
