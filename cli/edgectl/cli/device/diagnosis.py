"""All that is known of one device: on a screen, and as a file for whoever has to find out what is wrong."""

from __future__ import annotations

import io
import json
import tarfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgectl.cli._controller import ControllerOptions
from edgectl.cli._printer import Printer, plain, printable, table
from edgectl.cli.device.asking import AskOptions, Name
from edgectl.core.errors import EdgectlError, UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from edgectl.fleet.client.client import FleetClient

__all__ = ["diagnose", "show"]

_EVENTS = 1000
_MOST_BYTES = 4 << 20
"""Of one file in a diagnosis; what is beyond is cut off, and the file says so."""
_ROLLOUTS = 20


def show(name: Name, *, controller: ControllerOptions, out: Printer) -> None:
    """Show what the controller knows of a device: machine, slots, streams, last events."""
    from edgectl.fleet.control.machine_view import MachineView

    with controller.client() as fleet:
        d = _known(fleet, name)
        rows = [r for r in fleet.rows() if r["device"] == name]
        events = fleet.events(10, about=name)
        machine = MachineView.model_validate(fleet.machine(name))

    def shown() -> RenderableType:
        from rich.console import Group

        conn = d.get("conn") or {}
        lines: list[RenderableType] = [
            printable(
                f"{name}: {_presence(d)}; profile {conn.get('profile') or '-'}, host {conn.get('host') or '-'}, "
                f"address {conn.get('address') or '-'}, agent {conn.get('agent') or '-'}"
            )
        ]
        if labels := conn.get("labels"):
            lines.append(printable("labels: " + ", ".join(f"{k}={v}" for k, v in sorted(labels.items()))))
        slots = table("slot", "state", "active", "wanted", "note")
        reported, desired = _slots(d, "reported"), _slots(d, "desired")
        for slot in sorted({*conn.get("slots", ()), *reported, *desired}):
            r, wanted = reported.get(slot) or {}, desired.get(slot) or {}
            note = (r.get("error") or {}).get("detail") or r.get("stage") or ""
            cells = (
                slot,
                r.get("state", "-"),
                r.get("active_release") or "-",
                wanted.get("release") or "-",
                note,
            )
            slots.add_row(*(printable(str(c)) for c in cells))
        streams = table("stream", "kind", "state", ">fps", ">p50 ms", ">p99 ms", ">dropped", "error")
        for s in rows:
            figures = [
                f"{s['fps']:.1f}",
                *("-" if s[p] is None else f"{s[p]:.2f}" for p in ("p50_ms", "p99_ms")),
            ]
            streams.add_row(s["stream"], s["kind"], s["state"], *figures, str(s["dropped"]), s["error"] or "")
        on = table("machine", "now")
        for what, how in machine.rows():
            on.add_row(printable(what), printable(how))
        told = table("when", "kind", "what")
        for e in events:
            told.add_row(_when(e["wall_s"]), e["kind"], printable(e["text"]))
        return Group(
            *lines,
            "",
            slots,
            "",
            streams if rows else "no telemetry yet",
            "",
            on if machine.rows() else "it has told nothing of its machine",
            "",
            told,
        )

    out.result(
        {**d, "streams": rows, "machine": machine.model_dump(exclude_none=True), "events": events}, shown
    )


def diagnose(
    name: Name,
    file: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write; default: NAME-diagnosis.tar.gz.")
    ] = None,
    *,
    device: AskOptions,
    out: Printer,
) -> None:
    """Collect all that is known of a device into one file: what it was told, what it says, its telemetry, events and
    logs, rollouts that it is in. Credentials are left out. A device that does not answer is told as such."""
    from edgectl.core.files import atomic_write

    target = file or Path(f"{name}-diagnosis.tar.gz")
    if target.exists():
        raise UsageError(f"{target} is there already", hint="give another --out")
    with device.client() as fleet:
        found = _collected(fleet, name, device, out.say)
    atomic_write(target, _packed(name, found))
    missing = sorted(
        what for what, value in found.items() if isinstance(value, Mapping) and "missing" in value
    )
    said = f"{target}: {', '.join(sorted(found))}"
    if missing:
        said += f"\nnot there: {', '.join(missing)}; why stands in the file"
    out.result({"device": name, "file": target, "parts": sorted(found), "missing": missing}, said)


def _collected(
    fleet: FleetClient, name: str, device: AskOptions, say: Callable[[str], None]
) -> dict[str, Any]:
    from edgectl.cli.device.answers import HealthAnswer, LogsAnswer, ProbeAnswer

    found: dict[str, Any] = {"device": _known(fleet, name)}
    found["telemetry"] = [r for r in fleet.rows() if r["device"] == name]
    found["machine"] = fleet.machine(name)
    found["events"] = fleet.events(_EVENTS, about=name)
    found["rollouts"] = [
        {**r, "members": {name: r["members"][name]}} for r in fleet.rollouts() if name in r["members"]
    ][-_ROLLOUTS:]
    found["fleet"] = {**fleet.state(), "releases": fleet.releases()}
    for op, answer in (("probe", ProbeAnswer), ("health", HealthAnswer), ("logs", LogsAnswer)):
        say(f"asking {name} for its {op} …")
        try:
            found[op] = device.ask(name, op, answer).model_dump()  # type: ignore[arg-type]
        except EdgectlError as e:
            found[op] = {"missing": e.message}
    return found


def _packed(name: str, found: Mapping[str, Any]) -> bytes:
    """A gzipped tar with one JSON file a part."""
    from edgectl.core.uri import redact_values

    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for what, value in sorted(found.items()):
            data = json.dumps(redact_values(plain(value)), indent=2).encode()
            if len(data) > _MOST_BYTES:
                data = data[:_MOST_BYTES] + b"\n... cut off\n"
            info = tarfile.TarInfo(f"{name}-diagnosis/{what}.json")
            info.size, info.mtime = len(data), int(time.time())
            tar.addfile(info, io.BytesIO(data))
    return packed.getvalue()


def _known(fleet: FleetClient, name: str) -> dict[str, Any]:
    found = next((d for d in fleet.devices() if d["name"] == name), None)
    if found is None:
        from edgectl.core.nearest import did_you_mean

        names = [d["name"] for d in fleet.devices()]
        raise UsageError(
            f"there is no device {printable(name[:64])}: {did_you_mean(name, names)}"
            if names
            else "the fleet has no device yet",
            hint="`edgectl fleet devices` lists them",
        )
    return found


def _slots(d: Mapping[str, Any], what: str) -> dict[str, Any]:
    return dict((d.get(what) or {}).get("slots") or {})


def _presence(d: Mapping[str, Any]) -> str:
    if d.get("revoked"):
        return "revoked"
    if d["online"]:
        return "online"
    return f"away since {_when(d['seen_s'])}" if d.get("seen_s") else "never seen"


def _when(wall_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(wall_s))
