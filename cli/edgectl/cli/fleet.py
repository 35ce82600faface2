"""``edgectl fleet``: what the devices say."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgectl.cli._controller import ControllerOptions
from edgectl.cli._nouns import Noun
from edgectl.cli._options import past_time
from edgectl.cli._printer import Printer, outcomes, printable, table
from edgectl.core.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

__all__ = ["app"]

app = Noun("fleet")

_PAGE = 1000
"""What the controller answers with at most."""


@app.command("devices")
def devices(
    removed: Annotated[
        bool,
        typer.Option("--removed", help="List devices that were removed, as they were then."),
    ] = False,
    *,
    controller: ControllerOptions,
    out: Printer,
) -> None:
    """List devices, slots and releases. With --json also the machines behind each device's name."""
    with controller.client() as fleet:
        found = fleet.archive() if removed else fleet.devices()

    def shown_removed() -> Table:
        t = table("device", "removed", "last heard", "had")
        for d in found:
            slots = (d["reported"] or {}).get("slots") or {}
            had = (
                ", ".join(sorted({s["active_release"] for s in slots.values() if s.get("active_release")}))
                or "-"
            )
            t.add_row(
                d["name"], _minute(d["removed_s"]), _minute(d["seen_s"]) if d["seen_s"] else "never", had
            )
        return t

    def shown() -> Table:
        t = table("device", "online", "profile", "slot", "state", "active", "note")
        for d in found:
            slots = (d.get("reported") or {}).get("slots") or {"-": None}
            for name, s in sorted(slots.items()):
                state = (s or {}).get("state", "-")
                waits = (s or {}).get("stage") if state in ("deferred", "staged") else None
                note = _rivals(d) or ((s or {}).get("error") or {}).get("detail") or waits or ""
                profile = (d.get("conn") or {}).get("profile") or "-"
                t.add_row(
                    d["name"], _online(d), profile, name, state, (s or {}).get("active_release") or "-", note
                )
        return t

    out.result(found, shown_removed if removed else shown)


def _minute(wall_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(wall_s))


def _online(d: dict[str, Any]) -> str:
    if d.get("revoked"):
        return "revoked"
    if d["online"]:
        return "yes"
    return f"no, since {_minute(d['seen_s'])}" if d.get("seen_s") else "no"


def _rivals(d: dict[str, Any]) -> str:
    """Who all claims to be this device, where they are several."""
    rivals = d.get("rivals") or []
    places = "; ".join(
        f"{c.get('host') or '?'} at {c.get('address') or '?'} (start {c['epoch']})" for c in rivals
    )
    return f"{len(rivals)} machines claim to be {d['name']}: {places}" if rivals else ""


@app.command("status")
def status(
    *,
    controller: ControllerOptions,
    out: Printer,
) -> None:
    """Show the state of the fleet: devices and what is wrong with them, running rollouts, expiry of
    signed metadata."""
    from edgectl.cli.views.devices import BAD

    with controller.client() as fleet:
        found = fleet.devices()
        roles = fleet.trust()["roles"]
        waiting = sorted(fleet.waiting())
        state = fleet.state()
        rollouts = [r for r in fleet.rollouts() if r["state"] in ("running", "paused", "rolling_back")]
    troubles = [
        {"device": d["name"], "clock": r.get("clock"), "error": (r.get("error") or {}).get("detail")}
        for d in found
        if (r := d.get("reported") or {}).get("error") or r.get("clock")
    ]
    slots = [
        {
            "device": d["name"],
            "slot": name,
            "state": s["state"],
            "why": (s.get("error") or {}).get("detail") or s.get("stage") or "",
        }
        for d in found
        for name, s in sorted(((d.get("reported") or {}).get("slots") or {}).items())
        if s["state"] in BAD or s["state"] == "deferred"
    ]
    held_back = Counter(s["why"] or "not now" for s in slots if s["state"] == "deferred")
    due = [r for r in roles if r["due"]]

    def shown() -> Group:
        from rich.console import Group

        from edgectl.cli.views.expiry import expired_text, expiry_table

        online = sum(d["online"] for d in found)
        lines = [f"{online} of {len(found)} devices online"]
        if over := expired_text(roles):
            lines.insert(0, over)
        if not state["connected"]:
            lines.insert(0, "the controller does not reach the broker: what follows is what it heard last")
        if revoked := [d["name"] for d in found if d.get("revoked")]:
            lines.append(
                f"revoked, and still in the fleet: {', '.join(revoked)}: edgectl device remove {revoked[0]}"
            )
        if state["freeze"]:
            lines.append("the fleet is frozen: edgectl fleet freeze --off")
        lines += [printable(f"{_rivals(d)}: was a disk copied?") for d in found if _rivals(d)]
        lines += [
            f"{t['device']}: {t['error'] or ''}{' clock:' + t['clock'] if t['clock'] else ''}"
            for t in troubles
        ]
        lines += [
            printable(f"{s['device']}/{s['slot']}: {s['state']}: {s['why']}")
            for s in slots
            if s["state"] in BAD
        ]
        lines += [printable(f"{n} slots wait: {why}") for why, n in held_back.most_common()]
        for r in rollouts:
            why = f" ({r['note']})" if r.get("note") else ""
            lines.append(f"rollout {r['id']} of {r['release']} is {r['state']}: {outcomes(r)}{why}")
        if waiting:
            lines.append(f"{len(waiting)} devices wait for an operator's signature: edgectl rollout approve")
        lines += [f"{r['role']} metadata: edgectl keys renew {r['role']}" for r in due]
        return Group("\n".join(lines), "", expiry_table(roles))

    out.result(
        {
            **state,
            "devices": len(found),
            "online": sum(d["online"] for d in found),
            "rivals": {d["name"]: d["rivals"] for d in found if d.get("rivals")},
            "revoked": [d["name"] for d in found if d.get("revoked")],
            "troubles": troubles,
            "slots": slots,
            "rollouts": [{"id": r["id"], "release": r["release"], "state": r["state"]} for r in rollouts],
            "waiting": waiting,
            "metadata": roles,
        },
        shown,
    )


@app.command("alerts")
def alerts(
    *,
    controller: ControllerOptions,
    out: Printer,
) -> None:
    """List the alerts that fire: what is wrong, where, and since when."""
    with controller.client() as fleet:
        found = fleet.alerts()

    def shown() -> Table:
        t = table("since", "alert", "site", "severity", ">count", "what")
        for a in found:
            named = [printable(f"{who}: {why}") for who, why in a["about"].items()]
            more = [f"and {a['count'] - 3} more"] if a["count"] > 3 else []
            what = "\n".join([*named[:3], *more])
            t.add_row(
                _minute(a["since_s"]), a["rule"], a["site"] or "-", a["severity"], str(a["count"]), what
            )
        return t

    out.result(found, shown if found else "no alert fires")


@app.command("freeze")
def freeze(
    off: Annotated[bool, typer.Option("--off", help="Let devices activate again.")] = False,
    *,
    controller: ControllerOptions,
    out: Printer,
) -> None:
    """Stop all devices from activating anything, within seconds and across restarts. Pipelines keep
    running."""
    with controller.client() as fleet:
        state = fleet.freeze(not off)
    said = "the fleet is no longer frozen" if off else "the fleet is frozen\nnext: edgectl fleet freeze --off"
    if not state["connected"]:
        said = "kept, and not sent yet: the controller does not reach the broker; devices hear of it when it does"
    out.result(state, said)


@app.command("events")
def events(
    about: Annotated[str | None, typer.Option(help="Only events of this device, rollout or release.")] = None,
    last: Annotated[int, typer.Option(min=1, help="So many of the newest events.")] = 50,
    since: Annotated[
        float | None,
        typer.Option(
            parser=past_time,
            metavar="TIME",
            help="Only from then on: 30m, 2h, 7d ago, or 2026-11-28, or '2026-11-28 14:00'.",
        ),
    ] = None,
    before: Annotated[
        int | None,
        typer.Option(min=1, help="Only events older than the one with this number."),
    ] = None,
    acts: Annotated[
        bool, typer.Option("--acts", help="Only what operators did; what devices said is left out.")
    ] = False,
    *,
    controller: ControllerOptions,
    out: Printer,
) -> None:
    """Show what happened and who asked for it: rollouts, devices, commands, freezes, keys."""
    with controller.client() as fleet:
        found: list[dict[str, Any]] = []
        while len(found) < last:
            page = fleet.events(
                min(_PAGE, last - len(found)),
                about=about,
                since_s=since,
                before=found[0]["id"] if found else before,
                acts=acts,
            )
            found = page + found
            if not page:
                break

    def shown() -> Table:
        t = table(">no", "when", "kind", "about", "what")
        for e in found:
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(e["wall_s"]))
            t.add_row(str(e["id"]), when, e["kind"], e["subject"], printable(e["text"]))
        return t

    out.result(found, shown)


@app.command("groups")
def groups(
    name: Annotated[str | None, typer.Argument(help="Only this one; with an option, the one to set.")] = None,
    device: Annotated[
        list[str] | None, typer.Option("--device", help="The group is these devices. Several times.")
    ] = None,
    select: Annotated[
        str,
        typer.Option(help="The group is whatever this query means, at any time, e.g. 'label.site = north'."),
    ] = "",
    remove: Annotated[bool, typer.Option("--remove", help="Remove the group; devices stay.")] = False,
    *,
    controller: ControllerOptions,
    out: Printer,
) -> None:
    """List groups of devices, set one, or remove it. Rollouts select by them: --select 'group = NAME'."""
    changes = [what for what in (device, select, remove) if what]
    if len(changes) > 1:
        raise UsageError("a group has devices or a query, or is removed: one of --device, --select, --remove")
    if changes and name is None:
        raise UsageError("which group?", hint="edgectl fleet groups NAME --select 'label.site = north'")
    with controller.client() as fleet:
        if name is not None and remove:
            fleet.drop_group(name)
            out.result({"removed": name}, f"group {name} is removed")
            return
        if name is not None and changes:
            found = fleet.set_group(name, devices=device or (), select=select)
            next_ = f"next: edgectl rollout start RELEASE --slot SLOT --select 'group = {name}'"
            out.result(found, f"group {name} has {_some(found['members'])}\n{next_}")
            return
        known = fleet.groups()
    if name is not None and not any(g["name"] == name for g in known):
        raise UsageError(f"there is no group {name}", hint="`edgectl fleet groups` lists them")
    known = [g for g in known if name in (None, g["name"])]

    def shown() -> Table:
        t = table("group", "is", "devices now")
        for g in known:
            t.add_row(g["name"], printable(g["select"] or f"{len(g['devices'])} named"), _some(g["members"]))
        return t

    out.result(known, shown)


def _some(devices: list[str]) -> str:
    shown = ", ".join(devices[:5]) + (", …" if len(devices) > 5 else "")
    return f"{len(devices)}: {shown}" if devices else "none"


@app.command("watch")
def watch(
    seconds: Annotated[
        float | None, typer.Option(min=0, help="Stop after this time; default: until interrupted.")
    ] = None,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between two updates.")] = 1.0,
    *,
    controller: ControllerOptions,
    out: Printer,
) -> None:
    """Show devices, states and latency percentiles live. With --json: one line each time."""
    from rich.live import Live

    from edgectl.cli.views.devices import rows_table

    end = None if seconds is None else time.monotonic() + seconds
    with controller.client() as fleet:
        if out.as_json or not out.stdout.is_terminal:
            while True:
                found = fleet.rows()
                if out.as_json:
                    out.line({"time": time.time(), "rows": found}, "")
                else:
                    out.stdout.print(rows_table(found))
                if end is not None and time.monotonic() + every > end:
                    return
                time.sleep(every)
        with Live(rows_table(fleet.rows()), console=out.stdout, refresh_per_second=4) as live:
            while end is None or time.monotonic() < end:
                time.sleep(every)
                live.update(rows_table(fleet.rows()))
