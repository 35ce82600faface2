"""``edgectl telemetry``: what the fleet measured."""

from __future__ import annotations

import enum
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgectl.cli._controller import ControllerOptions
from edgectl.cli._nouns import Noun
from edgectl.cli._options import OptionGroup, past_time
from edgectl.cli._printer import Printer, printable, table

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from edgectl.fleet.client.client import FleetClient

__all__ = ["app"]

app = Noun("telemetry")

_PAGE = 20
"""Classes in one request of an export: each may have a thousand hours."""
_CLASS = ("slot", "release", "digest", "profile", "stage", "preference", "power_mode", "throttled")


class ExportFormat(str, enum.Enum):
    """How an export is written."""

    jsonl = "jsonl"
    csv = "csv"


@dataclass(frozen=True)
class Chosen(OptionGroup):
    """Which measurements."""

    release: Annotated[
        str | None,
        typer.Option("--release", metavar="NAME@VERSION", help="Of this release, or engine digest."),
    ] = None
    slot: Annotated[str | None, typer.Option("--slot", help="Of this slot.")] = None
    profile: Annotated[str | None, typer.Option("--profile", help="Of devices of this profile.")] = None
    stage: Annotated[
        str | None, typer.Option("--stage", help="Of this stage: engine, pre, avail_to_event …")
    ] = None
    preference: Annotated[
        str | None,
        typer.Option("--preference", help="By the lighter variant of this preference; '' for none."),
    ] = None
    power_mode: Annotated[
        str | None, typer.Option("--power-mode", help="In this power mode; '' where none is told.")
    ] = None
    throttled: Annotated[
        bool | None,
        typer.Option("--throttled/--not-throttled", help="Only where devices were throttled, or not."),
    ] = None
    since_s: Annotated[
        float | None,
        typer.Option(
            "--since",
            parser=past_time,
            metavar="TIME",
            help="From then on: 30m, 2h, 7d ago, or 2026-11-28, or '2026-11-28 14:00'. Whole hours.",
        ),
    ] = None
    until_s: Annotated[
        float | None, typer.Option("--until", parser=past_time, metavar="TIME", help="Up to then.")
    ] = None


@app.command("query")
def query(
    chosen: Chosen,
    against: Annotated[
        str | None,
        typer.Option(
            "--against", metavar="NAME@VERSION", help="Compare --release with this one, class by class."
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=200, help="So many classes at most.")] = 50,
    after: Annotated[
        int, typer.Option("--after", min=0, help="Leave so many out: those of a page before.")
    ] = 0,
    *,
    controller: ControllerOptions,
    out: Printer,
) -> None:
    """Show latency percentiles by slot, engine, profile, stage and conditions. What was measured under different
    conditions is never pooled."""
    asked = asdict(chosen)
    with controller.client() as fleet:
        if against is not None:
            _compare(fleet, asked, against, out)
            return
        found = fleet.measured(**asked, limit=limit, after=after)

    def shown() -> Table:
        t = table(
            "slot", "engine", "profile", "stage", "conditions", ">samples", ">p50 ms", ">p90", ">p95", ">p99"
        )
        for r in found["rows"]:
            percentiles = (_ms(r[f"{p}_ms"]) for p in ("p50", "p90", "p95", "p99"))
            t.add_row(*_named(r), f"{r['samples']:,}", *percentiles)
        return t

    out.result(found, shown)
    if not found["rows"]:
        out.say("nothing was measured that fits")
    elif found["more"]:
        out.say(f"there are more: --after {after + limit}")


@app.command("export")
def export(
    chosen: Chosen,
    file: Annotated[
        Path | None, typer.Option("--out", help="Into this file; default: standard output.")
    ] = None,
    as_: Annotated[
        ExportFormat, typer.Option("--format", help="JSON lines with histograms, or CSV.")
    ] = ExportFormat.jsonl,
    *,
    controller: ControllerOptions,
    out: Printer,
) -> None:
    """Write every hour (older: day) of every class: JSON lines with the histogram, or CSV with percentiles.

    Bucket k of `counts` holds microseconds above 2^((offset+k)/32), up to 2^((offset+k+1)/32). With --json and --out:
    how much was written.
    """
    from edgectl.core.errors import StorageError

    written = 0
    with controller.client() as fleet:
        lines = _lines(_rows(fleet, asdict(chosen)), as_)
        if file is None:
            for line in lines:
                sys.stdout.write(line)
            return
        try:
            with file.open("w", encoding="utf-8", newline="") as f:
                for line in lines:
                    f.write(line)
                    written += 1
        except OSError as e:
            raise StorageError(f"{file} cannot be written: {e.strerror}") from e
    rows = max(0, written - (as_ is ExportFormat.csv))
    out.result({"file": file, "rows": rows}, f"{rows} rows in {file}")


def _compare(fleet: FleetClient, asked: dict[str, Any], against: str, out: Printer) -> None:
    from edgectl.core.errors import UsageError

    release = asked.pop("release")
    if release is None:
        raise UsageError("--against compares a release with another", hint="name the newer one by --release")
    found = fleet.regressions(release, against, **asked)

    def shown() -> Group:
        from rich.console import Group

        t = table(
            "slot",
            "profile",
            "stage",
            "conditions",
            ">p",
            ">before ms",
            ">after ms",
            ">ratio",
            "99 % interval",
            "verdict",
            "by",
        )
        for r in found["rows"]:
            slot, _, *rest = _named(r)
            for p in r["percentiles"]:
                told = p["ratio"] is not None
                interval = f"{p['low']:.3f} to {p['high']:.3f}" if told else "-"
                ratio = f"{p['ratio']:.3f}" if told else "-"
                verdict = p["verdict"] if told else "too few samples"
                ms = _ms(p["before_ms"]), _ms(p["after_ms"])
                t.add_row(slot, *rest, f"{p['percentile']:g}", *ms, ratio, interval, verdict, p["by"] or "-")
        lines = [f"{release} against {against}: ratio above 1 is slower"]
        if any(p["by"] == "calls" for r in found["rows"] for p in r["percentiles"]):
            lines.append(
                "by calls: fewer than 8 hours; the interval is too narrow if conditions changed between the two"
            )
        if found["alone"]:
            lines.append(f"{len(found['alone'])} classes have no counterpart and are not compared")
        return Group(t, "\n".join(lines))

    out.result(found, shown)


def _rows(fleet: FleetClient, asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
    after = 0
    while True:
        page = fleet.hours(**asked, limit=_PAGE, after=after)
        yield from page["rows"]
        after += page["classes"]
        if page["classes"] < _PAGE:
            return


def _lines(rows: Iterator[dict[str, Any]], as_: ExportFormat) -> Iterator[str]:
    if as_ is ExportFormat.jsonl:
        yield from (json.dumps(r, allow_nan=False) + "\n" for r in rows)
        return
    import csv
    import io

    names = (*_CLASS, "start_s", "span_s", "clock", "samples", "p50_ms", "p90_ms", "p95_ms", "p99_ms")
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(names)
    yield _taken(buffer)
    for r in rows:
        writer.writerow([_cell(r[name]) for name in names])
        yield _taken(buffer)


def _taken(buffer: Any) -> str:
    text: str = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return text


def _cell(value: Any) -> Any:
    """Names come from devices: a spreadsheet must not take one for a formula."""
    if isinstance(value, str):
        text = printable(value)
        return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t")) else text
    return "" if value is None else value


def _named(r: dict[str, Any]) -> tuple[str, str, str, str, str]:
    conditions = [r["power_mode"], "throttled" if r["throttled"] else "", r["preference"]]
    engine = r.get("release") or r["digest"][:19]
    return tuple(  # type: ignore[return-value]
        printable(text) or "-"
        for text in (r["slot"], engine, r["profile"], r["stage"], ", ".join(c for c in conditions if c))
    )


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
