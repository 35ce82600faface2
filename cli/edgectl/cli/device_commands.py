"""``edgectl device``, the part that speaks to a device: ask it, or have it wait, go on or go back."""

from __future__ import annotations

import getpass
import json as js
import re
import time
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import JsonValue
from rich.console import Group, RenderableType
from rich.table import Table

from edgectl.cli import _controller
from edgectl.cli._output import Json, Output, printable, table
from edgectl.cli.device import app
from edgectl.core.errors import ProtocolError, UsageError
from edgectl.core.files import check_name
from edgectl.core.schema import Message, parse_object
from edgectl.core.wire import Op

__all__ = ["app"]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DAY_S = 86400.0


def _duration(text: str) -> float:
    """``90s``, ``30m``, ``1h30m``, ``2h`` → seconds."""
    if not re.fullmatch(r"([0-9]{1,6}[smhd])+", text):
        raise typer.BadParameter(f"{text!r} is not a time like 30m, 2h or 1h30m")
    seconds = float(sum(int(n) * _UNITS[unit] for n, unit in re.findall(r"([0-9]+)([smhd])", text)))
    if not 0 < seconds <= _DAY_S:
        raise typer.BadParameter(
            "a lease lasts at most 24 hours, and more than none; take it again before it runs out"
        )
    return seconds


Name = Annotated[str, typer.Argument(help="Name of the device.")]
Slot = Annotated[str | None, typer.Option(help="Only this slot; default: all.")]
Owner = Annotated[
    str | None, typer.Option(help="Who asks; the device writes it down. Default: your login name.")
]
Reason = Annotated[str, typer.Option(help="Why; the device writes it down, too.")]
For = Annotated[
    float,
    typer.Option("--for", parser=_duration, metavar="TIME", help="How long, at most a day: 30m, 2h, 1h30m."),
]
Wait = Annotated[
    float, typer.Option("--timeout", min=0.1, max=60, help="Seconds to wait for the device's answer.")
]


_NOT_SHOWN = frozenset(
    {
        "wall_s",
        "time",
        "t_s",
        "stream",
        "type",
        "epoch",
        "schema",
        "id",
        "seq",
        "clock",
        "latency_ms",
        "releases",
        "box",
        "frame_size",
    }
)
"""Of an event in a table; ``--json`` has all of it."""


class _Probe(Message):
    facts: tuple[str, ...]
    runtimes: tuple[str, ...]


class _Logs(Message):
    events: tuple[dict[str, JsonValue], ...]
    audit: tuple[tuple[float, str], ...]


class _Health(Message):
    health: dict[str, float]


class _Lease(Message):
    owner: str
    ttl_s: float


class _Slots(Message):
    slots: tuple[str, ...]


A = TypeVar("A", bound=Message)


@app.command("lock")
def lock(
    name: Name,
    duration: For,
    reason: Reason = "",
    owner: Owner = None,
    wait: Wait = 10.0,
    url: _controller.Url = _controller.URL,
    token_file: _controller.TokenFile = _controller.TOKEN_FILE,
    json: Json = False,
) -> None:
    """Say "not now": for a while the device activates nothing. It fetches as ever, and what runs goes on."""
    out, who = Output(json), owner or _login()
    lease = _ask(name, "lock", _Lease, url, token_file, wait, owner=who, ttl_s=duration, reason=reason)
    until = time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() + lease.ttl_s))
    out.result(
        {"device": name, **lease.model_dump()},
        f"{name} activates nothing until {until}, by {printable(lease.owner)}\nnext: edgectl device unlock {name} --owner {who}",
    )


@app.command("unlock")
def unlock(
    name: Name,
    reason: Reason = "",
    owner: Owner = None,
    wait: Wait = 10.0,
    url: _controller.Url = _controller.URL,
    token_file: _controller.TokenFile = _controller.TOKEN_FILE,
    json: Json = False,
) -> None:
    """Give the lease of `device lock` back before it runs out."""
    out, who = Output(json), owner or _login()
    lease = _ask(name, "unlock", _Lease, url, token_file, wait, owner=who, reason=reason)
    out.result(
        {"device": name, **lease.model_dump()}, f"{printable(lease.owner)} no longer holds {name} back"
    )


@app.command("hold")
def hold(
    name: Name,
    slot: Slot = None,
    reason: Reason = "",
    owner: Owner = None,
    wait: Wait = 10.0,
    url: _controller.Url = _controller.URL,
    token_file: _controller.TokenFile = _controller.TOKEN_FILE,
    json: Json = False,
) -> None:
    """Activate nothing until `device release` or a restart of the agent."""
    _order(
        name,
        "hold",
        "{slots} of {name}: nothing is activated until `edgectl device release {name}` or a restart of its agent",
        Output(json),
        url,
        token_file,
        wait,
        slot=slot,
        owner=owner or _login(),
        reason=reason,
    )


@app.command("release")
def release(
    name: Name,
    slot: Slot = None,
    reason: Reason = "",
    owner: Owner = None,
    wait: Wait = 10.0,
    url: _controller.Url = _controller.URL,
    token_file: _controller.TokenFile = _controller.TOKEN_FILE,
    json: Json = False,
) -> None:
    """End `device hold`."""
    _order(
        name,
        "release",
        "{slots} of {name}: no longer held",
        Output(json),
        url,
        token_file,
        wait,
        slot=slot,
        owner=owner or _login(),
        reason=reason,
    )


@app.command("force")
def force(
    name: Name,
    slot: Slot = None,
    reason: Reason = "",
    owner: Owner = None,
    wait: Wait = 10.0,
    url: _controller.Url = _controller.URL,
    token_file: _controller.TokenFile = _controller.TOKEN_FILE,
    json: Json = False,
) -> None:
    """Activate what waits, past maintenance windows and leases, once. A hold and the freeze of the fleet
    still keep it back."""
    _order(
        name,
        "force",
        "{slots} of {name}: windows and leases are passed once; a hold or the freeze is not",
        Output(json),
        url,
        token_file,
        wait,
        slot=slot,
        owner=owner or _login(),
        reason=reason,
    )


@app.command("cancel")
def cancel(
    name: Name,
    slot: Slot = None,
    reason: Reason = "",
    owner: Owner = None,
    wait: Wait = 10.0,
    url: _controller.Url = _controller.URL,
    token_file: _controller.TokenFile = _controller.TOKEN_FILE,
    json: Json = False,
) -> None:
    """Give up what is not activated yet, and take back what is on trial."""
    _order(
        name,
        "cancel",
        "{slots} of {name}: canceled",
        Output(json),
        url,
        token_file,
        wait,
        slot=slot,
        owner=owner or _login(),
        reason=reason,
    )


@app.command("rollback")
def rollback(
    name: Name,
    slot: Slot = None,
    reason: Reason = "",
    owner: Owner = None,
    wait: Wait = 10.0,
    url: _controller.Url = _controller.URL,
    token_file: _controller.TokenFile = _controller.TOKEN_FILE,
    json: Json = False,
) -> None:
    """Take back what is on trial; the release counts as bad on this device."""
    _order(
        name,
        "rollback",
        "{slots} of {name}: the engine before comes back",
        Output(json),
        url,
        token_file,
        wait,
        slot=slot,
        owner=owner or _login(),
        reason=reason,
    )


@app.command("probe")
def probe(
    name: Name,
    wait: Wait = 10.0,
    url: _controller.Url = _controller.URL,
    token_file: _controller.TokenFile = _controller.TOKEN_FILE,
    json: Json = False,
) -> None:
    """Ask a device what it is: facts about the machine, and its runtimes."""
    out = Output(json)
    found = _ask(name, "probe", _Probe, url, token_file, wait)

    def shown() -> Table:
        t = table("fact")
        for fact in dict.fromkeys((*found.facts, *(f"runtime:{r}" for r in found.runtimes))):
            t.add_row(printable(fact))
        return t

    out.result({"device": name, **found.model_dump()}, shown)


@app.command("logs")
def logs(
    name: Name,
    wait: Wait = 10.0,
    url: _controller.Url = _controller.URL,
    token_file: _controller.TokenFile = _controller.TOKEN_FILE,
    json: Json = False,
) -> None:
    """Show who did what on a device by hand, and the last events of its streams."""
    out = Output(json)
    found = _ask(name, "logs", _Logs, url, token_file, wait)

    def shown() -> RenderableType:
        by_hand = table("when", "by hand")
        for at_s, what in found.audit:
            by_hand.add_row(_when(at_s), printable(what))
        events = table("when", "stream", "event", "more")
        for event in found.events:
            rest = {k: v for k, v in event.items() if k not in _NOT_SHOWN}
            cells = (
                event.get("stream", "-"),
                event.get("type", "-"),
                js.dumps(rest, ensure_ascii=False)[1:-1] if rest else "",
            )
            events.add_row(_when(event.get("wall_s")), *(printable(str(c)) for c in cells))
        return Group(
            by_hand if found.audit else "nothing was done by hand",
            "",
            events if found.events else "no events yet",
        )

    out.result({"device": name, **found.model_dump()}, shown)


@app.command("health")
def health(
    name: Name,
    wait: Wait = 10.0,
    url: _controller.Url = _controller.URL,
    token_file: _controller.TokenFile = _controller.TOKEN_FILE,
    json: Json = False,
) -> None:
    """Measure how a device is now: load, memory, disk, temperature."""
    out = Output(json)
    found = _ask(name, "measure", _Health, url, token_file, wait)

    def shown() -> Table:
        t = table("figure", ">now")
        for figure, value in found.health.items():
            t.add_row(printable(figure), f"{value:,.1f}")
        return t

    out.result({"device": name, **found.model_dump()}, shown)


def _order(
    name: str, op: Op, done: str, out: Output, url: str, token_file: Path, wait: float, **options: Any
) -> None:
    obeyed = _ask(name, op, _Slots, url, token_file, wait, **options)
    slots = ", ".join(printable(s) for s in obeyed.slots)
    out.result({"device": name, **obeyed.model_dump()}, done.format(name=name, slots=slots))


def _ask(name: str, op: Op, answer: type[A], url: str, token_file: Path, wait: float, **options: Any) -> A:
    """Send a command through the controller; the device's answer is checked before anybody looks at it."""
    try:
        check_name(name)
        for option in ("slot", "owner"):
            check_name(options.get(option) or "x")
    except ValueError as e:
        raise UsageError(str(e)) from e
    with _controller.client(url, token_file) as fleet:
        result = fleet.command(name, op, wait_s=wait, **{"owner": _login(), **options})
    return parse_object(answer, result, what=f"the answer of {name}", error=ProtocolError)


def _login() -> str:
    """The login name as one that may travel; who has none is called operator."""
    try:
        login = getpass.getuser().lower()
    except (OSError, KeyError):
        # no such user on this machine, e.g. in a container
        login = ""
    return re.sub(r"[^a-z0-9._-]+", "-", login)[:64].strip("._-") or "operator"


def _when(at_s: object) -> str:
    if not isinstance(at_s, (int, float)) or not 0 < at_s < 1 << 40:
        return "?"
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_s))
