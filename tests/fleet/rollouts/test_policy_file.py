"""A rollout's terms as YAML."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgectl.core.config_file import parse_yaml
from edgectl.core.errors import ConfigError
from edgectl.core.wire import EventGate
from edgectl.fleet.rollouts.gates.agreement import AgreementTerms
from edgectl.fleet.rollouts.gates.drops import DropTerms
from edgectl.fleet.rollouts.gates.errors import ErrorTerms
from edgectl.fleet.rollouts.gates.golden import GoldenTerms
from edgectl.fleet.rollouts.gates.latency import LatencyTerms
from edgectl.fleet.rollouts.gates.memory import MemoryTerms
from edgectl.fleet.rollouts.policy_file import read_policy, request_of
from edgectl.fleet.rollouts.values import MaxUnavailable, Ramp, RolloutRequest, Wave

WHOLE = """\
release: gate-detector@2.0.0
slot: gate-detector
select: label.site in (north, south) and fact.sm >= 8.7
strata: [label.site, profile]
canary: {devices: 6, per_stratum: 1, soak: 30m, soak_inferences: 50000}
waves:
  - {share: 10%, soak: 1h}
  - {count: 40, soak: 6h, soak_inferences: 1000, approval: true}
  - {share: 100%, ramp: {start: 50, factor: 2, every: 200, most: 1000}}
start: 2026-12-01 02:00
windows: [mon-fri 01:00-05:00]
limits: {in_flight: 500, per_minute: 1000, unavailable: {share: 10%, per: label.line}}
quorum: 90%
deadlines: {device: 12h, idle: 6h, back: 30m, total: 7d}
retries: {times: 5, after: 1m}
probation: {time: 90s, inferences: 1000, percentile: 99, max_latency_ratio: 1.2, max_latency_ms: 25, max_error_rate: 0.5%, max_rss_mb: 900, events: {max_ratio: 7}}
shadow: {percent: 5, frames: 200}
failures: {canary: 1, rate: 2%}
max_latency_ratio: 1.1
gates: [{gate: latency, percentile: 95, max_ratio: 1.2}, {gate: errors, max_rate: 0.02}, {gate: memory}]
alpha: 0.1%
rollback: false
"""


def test_every_setting_reaches_the_request() -> None:
    r = request_of(parse_yaml(WHOLE, name="rollout.yaml"))
    left_out = {"supersede", "labels", "devices", "canary_devices"}
    default = RolloutRequest(release="x@1", slot="y")
    same = {n for n in RolloutRequest.model_fields if getattr(r, n) == getattr(default, n)}
    assert same == left_out
    assert r.waves == (
        Wave(share=0.1, soak_s=3600),
        Wave(count=40, soak_s=6 * 3600, soak_inferences=1000, approval=True),
        Wave(share=1.0, ramp=Ramp(start=50, factor=2, every=200, most=1000)),
    )
    assert (r.canary, r.canary_per_stratum, r.soak_s, r.soak_inferences) == (6, 1, 1800, 50000)
    assert r.max_unavailable == MaxUnavailable(share=0.1, per="label.line")
    assert r.start_s == 1796090400.0
    assert (r.deadline_s, r.idle_s, r.back_s, r.total_s) == (43200, 21600, 1800, 604800)
    assert (r.max_canary_failures, r.max_failure_rate, r.retries, r.retry_after_s) == (1, 0.02, 5, 60)
    assert r.gates == (LatencyTerms(percentile=95, max_ratio=1.2), ErrorTerms(max_rate=0.02), MemoryTerms())
    assert (r.alpha, r.gates_in_force()) == (0.001, r.gates)
    p = r.policy
    assert (p.probation_s, p.min_inferences, p.percentile, p.max_latency_ratio) == (90, 1000, 99, 1.2)
    assert (p.max_latency_ms, p.max_error_rate, p.max_rss_mb) == (25, 0.005, 900)
    assert p.events == EventGate(max_ratio=7)
    deaf = request_of(parse_yaml("release: m@1\nslot: gate\nprobation: {events: null}\n", name="f"))
    assert deaf.policy.events is None
    assert p.shadow is not None
    assert (p.windows, p.shadow.percent, p.shadow.frames) == (("mon-fri 01:00-05:00",), 5, 200)


def test_empty_file_with_release_and_slot_from_the_command_line_is_the_default() -> None:
    assert request_of(parse_yaml("", name="f"), "m@1", "gate") == RolloutRequest(release="m@1", slot="gate")


def test_command_line_goes_before_the_file_and_named_canaries_are_counted() -> None:
    r = request_of(parse_yaml("release: m@1\nslot: gate\ncanary: {devices: [a, b]}\n", name="f"), "m@2")
    assert (r.release, r.canary, r.canary_devices) == ("m@2", 2, ("a", "b"))


HEAD = "release: m@1\nslot: gate\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("slot: gate\n", "p.yaml: it names no release"),
        (HEAD + "gates:\n  - {gate: mood}\n", "p.yaml:4: gates.0: "),
        (
            HEAD + "gates:\n  - gate: drops\n    most: 1\n",
            "p.yaml:5: gates.0.drops.most: there is no such setting",
        ),
        (HEAD + "wave: []\n", "p.yaml:3: wave: there is no such setting: did you mean 'waves'?"),
        (HEAD + "canary:\n  soak: 30\n", "p.yaml:4: canary.soak: write a unit, e.g. 30s or 30m"),
        (HEAD + "canary:\n  soak: soon\n", "p.yaml:4: canary.soak: 'soon' is not a time like 30m"),
        (HEAD + "canary: {devices: 0}\n", "p.yaml:3: canary.devices: it must be greater than or equal to 1"),
        (HEAD + "waves:\n  - {share: 0.1}\n", "p.yaml:4: waves.0.share: write a share like 10%"),
        (HEAD + "waves:\n  - {soak: 1h}\n", "p.yaml:4: waves.0: a wave has a share or a count, one of them"),
        (
            HEAD + "waves:\n  - {share: 50%}\n  - {share: 20%}\n  - {share: 100%}\n",
            "p.yaml:5: waves.1.share: 20% are reached already by a wave before",
        ),
        (HEAD + "waves:\n  - {share: 50%}\n", "p.yaml:4: waves.0: the last wave has to reach all devices"),
        (HEAD + "select: site = a\n", "p.yaml:3: select: column 1: there is no field 'site'"),
        (HEAD + "strata: [site]\n", "p.yaml:3: strata.0: there is no field 'site'"),
        (HEAD + "canary: {per_stratum: 1}\n", "p.yaml:3: canary.per_stratum: it needs strata"),
        (
            HEAD + "devices: [a]\ncanary: {devices: [b]}\n",
            "p.yaml:4: canary.devices: b is none of the devices that are selected",
        ),
        (HEAD + "windows: [nights]\n", "p.yaml:3: windows.0: 'nights' is not a maintenance window"),
        (HEAD + "start: tomorrow\n", "p.yaml:3: start: 'tomorrow' is not a time like 2026-12-01 02:00"),
        (HEAD + "quorum: 120%\n", "p.yaml:3: quorum: it must be less than or equal to 1"),
        (
            HEAD + "limits:\n  in_flight: 0\n",
            "p.yaml:4: limits.in_flight: it must be greater than or equal to 1",
        ),
        (HEAD + "deadlines:\n  total: 0s\n", "p.yaml:4: deadlines.total: it must be greater than 0"),
        (
            HEAD + "probation:\n  time: 30d\n",
            "p.yaml:4: probation.time: it must be less than or equal to 604800",
        ),
        (
            HEAD + "waves:\n  - {share: 100%, ramp: {start: 1, factor: 2, every: 5, most: 0.5}}\n",
            "p.yaml:4: waves.0.ramp.most: it must be greater than or equal to 1",
        ),
        (HEAD + "retries: {times: 100}\n", "p.yaml:3: retries.times: it must be less than or equal to 20"),
        ("- a\n", "p.yaml: it must be a mapping"),
    ],
)
def test_mistake_is_told_with_its_line_and_setting(text: str, why: str) -> None:
    with pytest.raises(ConfigError) as e:
        request_of(parse_yaml(text, name="p.yaml"))
    assert e.value.message.startswith(why)


def test_start_has_the_offset_that_it_names(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(HEAD + "start: 2026-12-01 02:00+01:00\n")
    utc = request_of(parse_yaml(HEAD + "start: 2026-12-01T01:00:00Z\n", name="f"))
    assert read_policy(path).start_s == utc.start_s == 1796086800.0


def test_gates_that_nobody_names_are_those_of_latency_errors_drops_and_golden() -> None:
    r = request_of(parse_yaml(HEAD + "max_latency_ratio: 1.3\nprobation: {max_error_rate: 2%}\n", name="f"))
    usual = (LatencyTerms(percentile=95, max_ratio=1.3), LatencyTerms(percentile=50, max_ratio=1.3))
    assert r.gates_in_force() == (*usual, ErrorTerms(max_rate=0.02), DropTerms(), GoldenTerms())
    median = request_of(parse_yaml(HEAD + "probation: {percentile: 50}\n", name="f"))
    assert [t.gate for t in median.gates_in_force()] == ["latency", "errors", "drops", "golden"]
    alone = request_of(parse_yaml(HEAD + "max_latency_ratio: null\n", name="f"))
    assert [t.gate for t in alone.gates_in_force()] == ["errors", "drops", "golden"]
    shadowed = request_of(parse_yaml(HEAD + "shadow: {frames: 200}\n", name="f"))
    assert shadowed.gates_in_force()[-2:] == (AgreementTerms(), AgreementTerms(of="extra"))
