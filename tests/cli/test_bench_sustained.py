"""``edgectl bench DIR --sustained``: a bundle that was built, run by the command."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from edgectl.builder.pack.sustained import SustainedReport, plot
from edgectl.cli.main import app
from edgectl.core.errors import UsageError
from edgectl.core.histogram import Histogram
from edgectl.engines.measure.conditions import Heat
from edgectl.engines.measure.sustained import Second, judge, windows_of

pytestmark = pytest.mark.slow


def test_one_variant_runs_for_the_time_and_is_drawn(bundle: Path, tmp_path: Path) -> None:
    drawn = tmp_path / "run.svg"
    found = CliRunner().invoke(
        app, ["bench", str(bundle), "--sustained", "2s", "--rate", "30", "--plot", str(drawn), "--json"]
    )
    assert found.exit_code == 0, found.output
    report = json.loads(found.stdout)
    assert report["rate"] == 30
    assert report["result"]["n"] == sum(w["n"] for w in report["windows"]) > 0
    assert report["result"]["sentences"][0].endswith("are too short to tell a drift: allow a minute")
    root = ElementTree.parse(drawn).getroot()
    said = " ".join(t.text or "" for t in root.iter("{http://www.w3.org/2000/svg}text"))
    assert f"{report['profile']}/{report['variant']} on " in said
    assert "latency, ms" in said
    assert "memory, MiB" in said


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--sustained", "soon"], "is not a time like"),
        (["--sustained", "1m", "--decide"], "--sustained runs one variant, --decide compares all"),
        (["--plot", "x.svg"], "--variant and --plot belong to --sustained"),
        (
            ["--sustained", "1s", "--variant", "cpu/cpu-flot32"],
            "did you mean 'cpu/cpu-float32'?",
        ),
        (["--sustained", "1s", "--plot", "/nowhere/at/all.svg"], "there is no folder /nowhere/at"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_runs(bundle: Path, options: list[str], says: str) -> None:
    found = CliRunner().invoke(app, ["bench", str(bundle), *options])
    assert found.exit_code != 0
    wrong = found.exception
    said = f"{wrong} {wrong.hint}" if isinstance(wrong, UsageError) else found.output.replace("│", " ")
    assert says in " ".join(said.split())


def test_what_a_machine_does_not_tell_is_not_drawn() -> None:
    def made(i: int, heat: Heat) -> Second:
        latency = Histogram()
        latency.record(4000)
        return Second(float(i + 1), 4.0, latency.data(), 9.0 if i == 3 else None, 90.0, heat)

    def drawing(heat: Heat) -> str:
        seen = [made(i, heat) for i in range(9)]
        return plot(
            SustainedReport(
                "a <machine>", "d", "cpu", "v", "onnxruntime", 1, None, judge(seen), windows_of(seen)
            )
        )

    hot, silent = drawing(Heat(70.0, 1800.0)), drawing(Heat())
    assert ("°C" in hot, "MHz" in hot, "first after a rest" in hot) == (True, True, True)
    assert ("°C" in silent, "MHz" in silent) == (False, False)
    assert "a &lt;machine&gt;" in silent
    ElementTree.fromstring(hot)
