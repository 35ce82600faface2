"""Have a device wait, go on or go back."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from edgectl.cli._options import OptionGroup, duration
from edgectl.cli._printer import Printer, printable
from edgectl.cli.device.asking import AskOptions, Name, login

if TYPE_CHECKING:
    from edgectl.core.wire import Op

__all__ = ["cancel", "force", "hold", "lock", "release", "rollback", "unlock"]

_DAY_S = 86400.0


def _of_a_lease(text: str) -> float:
    seconds = duration(text)
    if not 0 < seconds <= _DAY_S:
        raise typer.BadParameter(
            "a lease lasts at most 24 hours, and more than none; take it again before it runs out"
        )
    return seconds


For = Annotated[
    float,
    typer.Option(
        "--for", parser=_of_a_lease, metavar="TIME", help="How long, at most a day: 30m, 2h, 1h30m."
    ),
]


@dataclass(frozen=True)
class ByHand(OptionGroup):
    """Who gives the order, and why. The device writes it down."""

    reason: Annotated[str, typer.Option(help="Why, for the device's log.")] = ""
    owner: Annotated[
        str | None, typer.Option(help="Who asks, for the device's log. Default: your login name.")
    ] = None

    @property
    def said(self) -> dict[str, str]:
        return {"owner": self.owner or login(), "reason": self.reason}


@dataclass(frozen=True)
class SlotByHand(ByHand):
    """An order about one slot, or about all."""

    slot: Annotated[str | None, typer.Option(help="Only this slot; default: all.")] = None


def lock(name: Name, duration: For, *, order: ByHand, device: AskOptions, out: Printer) -> None:
    """Let a device activate nothing for a while. It still fetches releases, and its pipelines keep
    running."""
    from edgectl.cli.device.answers import LeaseAnswer

    said = order.said
    lease = device.ask(name, "lock", LeaseAnswer, ttl_s=duration, **said)
    until = time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() + lease.ttl_s))
    out.result(
        {"device": name, **lease.model_dump()},
        f"{name} activates nothing until {until}, by {printable(lease.owner)}\n"
        f"next: edgectl device unlock {name} --owner {said['owner']}",
    )


def unlock(name: Name, *, order: ByHand, device: AskOptions, out: Printer) -> None:
    """End `device lock` before its time."""
    from edgectl.cli.device.answers import LeaseAnswer

    lease = device.ask(name, "unlock", LeaseAnswer, **order.said)
    out.result(
        {"device": name, **lease.model_dump()}, f"{printable(lease.owner)} no longer holds {name} back"
    )


def hold(name: Name, *, order: SlotByHand, device: AskOptions, out: Printer) -> None:
    """Let a device activate nothing until `device release` or a restart of its agent."""
    done = "nothing is activated until `edgectl device release {name}` or a restart of its agent"
    _order(name, "hold", done, order, device, out)


def release(name: Name, *, order: SlotByHand, device: AskOptions, out: Printer) -> None:
    """End `device hold`."""
    _order(name, "release", "no longer held", order, device, out)


def force(name: Name, *, order: SlotByHand, device: AskOptions, out: Printer) -> None:
    """Activate a waiting release now, whatever maintenance windows and leases say. Holds and the freeze
    still count."""
    done = "windows and leases are passed once; a hold or the freeze is not"
    _order(name, "force", done, order, device, out)


def cancel(name: Name, *, order: SlotByHand, device: AskOptions, out: Printer) -> None:
    """Give up a deployment that is not activated yet; roll back one in probation."""
    _order(name, "cancel", "canceled", order, device, out)


def rollback(name: Name, *, order: SlotByHand, device: AskOptions, out: Printer) -> None:
    """Roll back a deployment in probation, and block its release on this device."""
    _order(name, "rollback", "the engine before comes back", order, device, out)


def _order(name: str, op: Op, done: str, order: SlotByHand, device: AskOptions, out: Printer) -> None:
    from edgectl.cli.device.answers import SlotsAnswer

    obeyed = device.ask(name, op, SlotsAnswer, slot=order.slot, **order.said)
    slots = ", ".join(printable(slot) for slot in obeyed.slots)
    out.result({"device": name, **obeyed.model_dump()}, f"{slots} of {name}: {done.format(name=name)}")
