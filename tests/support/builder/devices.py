"""Devices that measure for a build, without a fleet: one whose clock a test sets, and one that is this machine."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from support.builder.fakes import FakeMachine, base

from edgectl.builder.search.candidates import Candidate
from edgectl.builder.search.elsewhere import DeviceMachine
from edgectl.core.errors import EdgectlError
from edgectl.core.files import hex_of
from edgectl.core.measured import Conditions
from edgectl.device_profiles.machine import Machine
from edgectl.engines.base import Engine
from edgectl.engines.child import run_child
from edgectl.engines.measure.job import Contender, MeasureJob, RoundTimes
from edgectl.engines.measure.job_child import MeasureResult
from edgectl.engines.timing import LONG_ROUND_S, interleave

__all__ = ["FakeDevice", "FakeElsewhere", "LocalDevice", "machine_of"]


def machine_of(
    cpu: str = "a board", *, arch: str = "x86_64", memory_mb: int = 4096, **more: object
) -> Machine:
    return Machine.model_validate(
        {
            "arch": arch,
            "cpu": cpu,
            "isa": (),
            "cores": 4,
            "memory_mb": memory_mb,
            "runtimes": {"onnxruntime": "1.0"},
            **more,
        }
    )


@dataclass
class FakeDevice:
    """Runs a :class:`FakeMachine`; ``lost`` is raised in place of the n-th answer."""

    fake: FakeMachine
    name: str = "bench-1"
    profile: str = "cpu"
    machine: Machine = field(default_factory=machine_of)
    lost: Mapping[int, EdgectlError] = field(default_factory=dict)
    jobs: list[MeasureJob] = field(default_factory=list)
    changed: Callable[[MeasureResult], MeasureResult] = lambda result: result

    def measure(self, job: MeasureJob, files: Mapping[str, bytes]) -> MeasureResult:
        self.jobs.append(job)
        if (why := self.lost.get(len(self.jobs))) is not None:
            raise why
        assert {d.digest for d in job.files} == files.keys()
        job = MeasureJob.model_validate_json(job.model_dump_json(exclude_none=True))
        found = MeasureResult(conditions=Conditions(load=0.1), seconds=1.0, **self._answer(job))  # type: ignore[arg-type]
        return self.changed(MeasureResult.model_validate_json(found.model_dump_json(exclude_none=True)))

    def _answer(self, job: MeasureJob) -> dict[str, object]:
        candidates = {c.name: _candidate(c) for c in job.contenders}
        if job.kind == "quiet":
            return {"quiet": self.fake.quiet(job.seconds)}
        if job.kind == "processes":
            return {"processes": self.fake.fresh(list(candidates.values()))}
        engines, failed = {}, {}
        for n, c in candidates.items():
            try:
                engines[n] = self.fake.open(c)
            except EdgectlError as e:
                failed[n] = e.message
        runs = {n: (lambda e=e: e.run({})) for n, e in engines.items()}  # type: ignore[misc]
        times = interleave(
            runs,
            seconds=job.seconds,
            min_rounds=job.fewest,
            max_rounds=job.most,
            long_s=LONG_ROUND_S if job.seconds > 0 else math.inf,
            clock=self.fake.clock,
        )
        rounds = {n: RoundTimes(ms=tuple(map(float, t)), runtime="fake 1") for n, t in times.items()}
        return {"rounds": rounds, "failed": failed}


def _candidate(c: Contender) -> Candidate:
    recipe = c.name.split("/")[0]
    return Candidate(base(recipe).graph, c.runtime, c.session)


class FakeElsewhere(DeviceMachine):
    """Candidates are judged by what the fake says, too."""

    def __init__(self, device: FakeDevice) -> None:
        super().__init__(device, device.machine, FakeMachine.feeds)
        self._fake = device.fake

    def open(self, c: Candidate) -> Engine:
        return self._fake.open(c)


@dataclass
class LocalDevice:
    """This machine, by the child of a device; ``folder`` is its own."""

    folder: Path
    name: str
    profile: str
    machine: Machine

    def measure(self, job: MeasureJob, files: Mapping[str, bytes]) -> MeasureResult:
        blobs = self.folder / "blobs"
        blobs.mkdir(parents=True, exist_ok=True)
        for digest, data in files.items():
            (blobs / hex_of(digest)).write_bytes(data)
        (self.folder / "job.json").write_bytes(job.model_dump_json(exclude_none=True).encode())
        places = [blobs, self.folder / "job.json", self.folder / "result.json", self.folder / "cache"]
        run_child(
            "edgectl.engines.measure.job_child",
            [*map(str, places), str(time.monotonic() + job.timeout_s)],
            timeout_s=job.timeout_s,
            what="measuring",
        )
        return MeasureResult.model_validate(json.loads((self.folder / "result.json").read_bytes()))
