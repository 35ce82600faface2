"""``edgectl slot``: what is in a slot of a device, without a release and its rollout."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgectl.cli._controller import ControllerOptions
from edgectl.cli._nouns import Noun
from edgectl.cli._options import key_value
from edgectl.cli._printer import Printer, table
from edgectl.core.errors import RolloutError

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["app"]

app = Noun("slot")


@app.command("clear")
def clear(
    slot: Annotated[str, typer.Argument(help="The slot that is to be empty, e.g. gate-detector.")],
    device: Annotated[list[str] | None, typer.Option(help="On this device; may be repeated.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE: on every device that has the slot and this label.")
    ] = None,
    wait: Annotated[
        float,
        typer.Option(min=0, help="Seconds to wait until all devices that are online report it empty."),
    ] = 0.0,
    *,
    controller: ControllerOptions,
    out: Printer,
) -> None:
    """Empty a slot, its previous engines included. Its pipelines stop until a rollout fills it again.

    A device does it at once, unless a hold, the freeze or a lease delays it. Exit 12 if some did not in
    time.
    """
    with controller.client() as fleet:
        told = fleet.clear_slot(slot, device or [], dict(key_value(text, "--label") for text in label or []))
        deadline = time.monotonic() + wait
        with out.progress() as update:
            while (
                (found := _found(fleet.devices(), told, slot))
                and _open(found)
                and time.monotonic() < deadline
            ):
                update(
                    f"{len(_open(found))} of {len(found)} devices have not emptied it yet",
                    1 - len(_open(found)) / len(found),
                )
                time.sleep(0.3)

    def shown() -> Table:
        t = table("device", "slot", "had", "state")
        for c in found:
            t.add_row(c["device"], slot, c["active_release"] or "-", c["state"])
        return t

    out.result(found, shown)
    if wait and (late := _open(found)):
        raise RolloutError(
            f"{', '.join(late[:3])}{f' and {len(late) - 3} more' if len(late) > 3 else ''}: slot {slot} is not empty after {wait:g} s",
            hint="`edgectl fleet devices` shows what they wait for; the wish stands",
        )


def _found(devices: list[dict[str, Any]], told: list[dict[str, Any]], slot: str) -> list[dict[str, Any]]:
    """Each device that was told, with the state of its slot: ``cleared``, ``away``, what it is doing, or
    that it was asked."""
    now = {d["name"]: d for d in devices}
    return [{**c, "state": _state(now.get(c["device"], {}), c, slot)} for c in told]


def _state(device: dict[str, Any], told: dict[str, Any], slot: str) -> str:
    r = ((device.get("reported") or {}).get("slots") or {}).get(slot) or {}
    if r.get("gen", 0) >= told["gen"]:
        why = r.get("stage") or (r.get("error") or {}).get("detail")
        return f"{r['state']}: {why}" if why and r["state"] != "cleared" else str(r["state"])
    return "asked" if device.get("online") else "away: empties it when it is back"


def _open(found: list[dict[str, Any]]) -> list[str]:
    return [c["device"] for c in found if c["state"] != "cleared" and not c["state"].startswith("away")]
