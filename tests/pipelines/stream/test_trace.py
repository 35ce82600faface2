from __future__ import annotations

from edgectl.pipelines.stream.trace import Tracer


def test_windows_of_the_tracer_add_up_to_its_totals() -> None:
    tracer = Tracer()
    counts = []
    for round_ in range(3):
        for i in range(10 * (round_ + 1)):
            tracer.record("engine", 1_000_000 + i)
        window = tracer.window()
        counts.append(sum(window["engine"].counts) + window["engine"].zero)
    assert counts == [10, 20, 30]
    assert tracer.window() == {}
    assert tracer.totals()["engine"].n == 60
