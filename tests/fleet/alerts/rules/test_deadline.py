from __future__ import annotations

import pytest
from support.alerts import fleet, found

from edgectl.fleet.alerts.facts import BurnRates, DeviceFacts, StreamFacts


@pytest.mark.parametrize(
    ("late", "fires"),
    [
        (BurnRates(), False),
        (BurnRates(0.0, 0.0, 0.0, 0.0), False),
        (BurnRates(m5=0.2, m30=0.2, h1=0.15, h6=0.03), True),
        (BurnRates(m5=0.01, m30=0.1, h1=0.15, h6=0.03), False),  # it is over
        (BurnRates(m5=0.5, m30=0.1, h1=0.1, h6=0.02), False),  # one bad moment
        (BurnRates(m5=0.07, m30=0.07, h1=0.07, h6=0.065), True),  # slow, for six hours
        (BurnRates(m5=0.07, m30=0.05, h1=0.07, h6=0.065), False),
    ],
)
def test_stream_that_uses_its_objective_up_is_found_as_the_workbook_says(
    late: BurnRates, fires: bool
) -> None:
    facts = fleet(DeviceFacts("a", streams={"yard": StreamFacts(late=late)}))
    assert bool(found("deadline", facts)) == fires


def test_objective_that_bears_much_is_missed_when_nearly_all_is_late() -> None:
    facts = fleet(DeviceFacts("a", streams={"yard": StreamFacts(late=BurnRates(1.0, 1.0, 0.95, 0.95))}))
    assert found("deadline", facts, slo=0.5) == {
        "a/yard": "95.0 % of frames were over their budget for an hour"
    }
