"""The tuning log: appended to, read within bounds, and of use to a build that was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.builder.nets import Save, residual_net

from edgectl.builder.build import build_bundle
from edgectl.builder.judge.accuracy import Accuracy
from edgectl.builder.search import tuning_log
from edgectl.builder.search.tuning_log import TuningLog
from edgectl.core.bundle import Bundle
from edgectl.core.measured import Conditions
from edgectl.core.task import TaskSpec, TensorInput
from edgectl.engines.measure.processes import ProcessTimes

HOST = {"machine": "m", "onnxruntime": "1"}
CALM = Conditions(load=0.1)


def write(path: Path, count: int = 2) -> list[str]:
    log = TuningLog(path, HOST)
    keys = [log.key("timed", i) for i in range(count)]
    for key in keys:
        log.add(key, "timed", "a", CALM, ms=(1.0, 2.0), runtime="r")
    return keys


def test_what_was_written_is_found_again(tmp_path: Path) -> None:
    log = TuningLog(tmp_path / "new" / "log.jsonl", HOST)
    accuracy = Accuracy(0.1, {"cosine": 0.9}, 0.05, 0.2, 10)
    fresh = ProcessTimes((0.1,), (50.0,), (2.0,), (1.0, 2.0), (3.0,), busy=1)
    log.add(log.key("judged", "x"), "judged", "a", CALM, accuracy=accuracy)
    log.add(log.key("fresh", "x"), "fresh", "a", CALM, fresh=fresh)
    again = TuningLog(tmp_path / "new" / "log.jsonl", HOST)
    assert again.find(log.key("judged", "x"))["a"].accuracy == accuracy
    assert again.find(log.key("fresh", "x"))["a"].fresh == fresh
    assert again.find(log.key("judged", "y")) == {}
    assert TuningLog(tmp_path / "new" / "log.jsonl", HOST | {"onnxruntime": "2"}).key(
        "judged", "x"
    ) != log.key("judged", "x")


def test_a_torn_line_costs_itself_alone(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    one, two = write(path)
    path.write_bytes(path.read_bytes()[:-20])
    log = TuningLog(path, HOST)
    assert (set(log.find(one)), set(log.find(two))) == ({"a"}, set())
    log.add(two, "timed", "b", CALM, ms=(3.0,))
    assert set(TuningLog(path, HOST).find(two)) == {"b"}


@pytest.mark.parametrize(
    "junk", [b"{}", b"\xff\xfe", b"[" * 100_000, b'{"key": "../../etc"}', b'{"ms": "no"}', b"x" * 3_000_000]
)
def test_junk_between_lines_is_not_used(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "log.jsonl"
    one, two = write(path)
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + junk + b"\n" + second)
    log = TuningLog(path, HOST)
    assert set(log.find(one)) == set(log.find(two)) == {"a"}


def test_reading_is_bounded_and_a_log_that_grew_too_large_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.jsonl"
    one, two = write(path)
    monkeypatch.setattr(tuning_log, "MAX_BYTES", len(path.read_bytes().splitlines(keepends=True)[0]))
    log = TuningLog(path, HOST)
    assert (set(log.find(one)), set(log.find(two))) == ({"a"}, set())
    log.add(two, "timed", "a", CALM, ms=(1.0,))
    assert len(path.read_bytes().splitlines()) == 1


_BUILD = """
import sys
from pathlib import Path
from edgectl.builder.build import build_bundle
from edgectl.core.task import TaskSpec, TensorInput
build_bundle(Path(sys.argv[1]), profiles=["cpu"], task=TaskSpec(name="tensor", input=TensorInput()), calibration=sys.argv[2],
      out=Path(sys.argv[3]), max_drop=0.05, minutes=0.02, name="net")
"""


@pytest.mark.slow
def test_a_build_that_was_killed_goes_on_where_it_was(
    save: Save, npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, log = tmp_path / "bundles" / "net", tmp_path / "bundles" / "net.tuning.jsonl"
    model = save(residual_net(channels=32))
    process = subprocess.Popen(
        [sys.executable, "-c", _BUILD, str(model), str(npz), str(out)], start_new_session=True
    )
    deadline = time.monotonic() + 90
    while not any(x["round"] == 1 for x in _written(log)):  # then the first round is whole
        assert process.poll() is None, "it was done before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists()
    kept = {
        (x["key"], x["candidate"])
        for x in _written(log)
        if x["what"] == "judged" or (x["what"] == "timed" and x["round"] == 0)
    }

    added: list[dict[str, object]] = []
    append = tuning_log._append

    def seen(path: Path, data: bytes) -> None:
        added.append(json.loads(data))
        append(path, data)

    monkeypatch.setattr(tuning_log, "_append", seen)
    build_bundle(
        model,
        profiles=["cpu"],
        task=TaskSpec(name="tensor", input=TensorInput()),
        calibration=str(npz),
        out=out,
        max_drop=0.05,
        minutes=0.02,
        name="net",
    )
    assert len(kept) > 1
    # What there was no time for may come under a key that is there; what was measured is not measured again.
    assert kept.isdisjoint((x["key"], x["candidate"]) for x in added)
    assert {x["what"] for x in added} >= {"timed", "fresh"}
    Bundle(out).verify()
    assert not log.exists()  # the bundle is whole


def _written(log: Path) -> list[dict[str, object]]:
    lines = log.read_bytes().splitlines(keepends=True) if log.is_file() else []
    return [json.loads(line) for line in lines if line.endswith(b"\n")]
