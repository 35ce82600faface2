"""`edgectl run` while it runs: SIGHUP reads the configuration again; one stream's mistake is its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

BEFORE = "zones:\n  all: {polygon: [0,0, 1,0, 1,1, 0,1]}\nannotate: false\n"
AFTER = BEFORE + "rules:\n- {id: lurk, loiter: {zone: all, seconds: 600}}\n"
WRONG = BEFORE + "rules:\n- {id: lurk, loiter: {zone: all, seconds: 0}}\n"


def edgectl(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "edgectl.cli", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def test_hang_up_reads_the_configuration_again(tmp_path: Path, bundle: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(BEFORE)
    source = "synth://yard?seconds=120&width=160&height=96"
    p = edgectl("run", "surveillance", "-b", bundle, "-s", source, "-c", "c.yaml", "-o", "out", cwd=tmp_path)
    assert p.stdout is not None
    assert p.stderr is not None
    try:
        said = iter(p.stderr.readline, "")
        next(line for line in said if "frames" in line)
        for text, told in (
            (AFTER, "run: rules.lurk: in force"),
            (WRONG, "run: the configuration before stays: c.yaml:5: rules.0.loiter.seconds: it must be"),
            (AFTER, "run: nothing has changed"),
        ):
            config.write_text(text)
            os.kill(p.pid, signal.SIGHUP)
            found = next(line for line in said if line.startswith("run:"))
            assert found.startswith(told)
        os.kill(p.pid, signal.SIGTERM)
        p.communicate(timeout=60)
        assert p.returncode == 128 + signal.SIGTERM
    finally:
        p.kill()
        p.communicate()
    events = [json.loads(line) for line in (tmp_path / "out/events.jsonl").read_text().splitlines()]
    (change,) = [e for e in events if e["type"] == "configuration"]
    assert (change["phase"], change["name"], change["begun"]) == ("applied", "c.yaml", ["lurk"])


def test_a_configuration_that_two_streams_cannot_both_have_changes_none(tmp_path: Path, bundle: Path) -> None:
    mqtt = "mqtt: {url: 'mqtt://127.0.0.1:9', topic: %s}\nannotate: false\n"
    for name in ("gate", "yard"):
        (tmp_path / f"{name}.yaml").write_text(mqtt % name)
    source = "synth://yard?seconds=120&width=160&height=96"
    both = [
        word for name in ("gate", "yard") for word in ("-s", f"{name}={source}", "-c", f"{name}={name}.yaml")
    ]
    p = edgectl("run", "surveillance", "-b", bundle, *both, cwd=tmp_path)
    assert p.stderr is not None
    try:
        said = iter(p.stderr.readline, "")
        next(line for line in said if "frames" in line)
        (tmp_path / "yard.yaml").write_text(mqtt % "gate")
        os.kill(p.pid, signal.SIGHUP)
        found = next(line for line in said if "configuration" in line)
        assert found == (
            "the configurations before stay: the streams 'gate' and 'yard' would both send to the topic 'gate' (`mqtt`)\n"
        )
    finally:
        p.kill()
        p.communicate()


def test_the_mistake_of_one_stream_does_not_keep_the_others(tmp_path: Path, bundle: Path) -> None:
    (tmp_path / "bad.yaml").write_text(WRONG)
    source = "synth://yard?seconds=1&width=160&height=96&paced=0"
    p = edgectl(
        "run",
        "surveillance",
        "-b",
        bundle,
        "-s",
        f"a={source}",
        "-s",
        f"b={source}",
        "-c",
        "a=bad.yaml",
        cwd=tmp_path,
    )
    out, err = p.communicate(timeout=120)
    assert p.returncode == 7
    assert "bad.yaml:5: rules.0.loiter.seconds" in err
    assert re.search(r"frames: (\d+) captured, \1 processed, dropped: none", out)
