from __future__ import annotations

from support.alerts import fleet, found

from edgectl.fleet.alerts.facts import DeviceFacts, StreamFacts


def test_stream_without_a_source_is_found_on_devices_that_are_there() -> None:
    streams = {"yard": StreamFacts("outage", "no route to host"), "gate": StreamFacts()}
    facts = fleet(DeviceFacts("a", streams=streams), DeviceFacts("b", online=False, streams=streams))
    assert found("stream", facts) == {"a/yard": "outage: no route to host"}
    assert not found("stream", fleet(*facts.devices, connected=False))
