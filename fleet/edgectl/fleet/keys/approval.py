"""What an operator's signature on a ``desired`` document makes a device do, told before he gives it.

The document itself is read, not what the controller says of it: a controller that was taken over must not get
a signature for something that was not shown. Only what runs on the device now is the controller's word.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edgectl.core.errors import TrustError
from edgectl.core.schema import parse_object
from edgectl.core.signed import Keys
from edgectl.core.wire import MAX_MESSAGE_BYTES, Desired, DesiredSlot, ShadowGate
from edgectl.fleet.keys.keyfolder import keys_of
from edgectl.fleet.keys.signing import follow

__all__ = ["CLEARED", "Consequence", "check_known", "consequences", "director_in", "missing_from"]

CLEARED = "the slot is cleared"
"""The term of a slot that is to be empty."""
_UNKNOWN = "(unknown to this edgectl)"


@dataclass(frozen=True)
class Consequence:
    """What one slot of one device is to run, and on which terms."""

    fleet: str
    device: str
    gen: int
    slot: str
    """Empty: the document names no slot; only its other terms count."""
    release: str
    """Empty: the slot is cleared (``terms`` say so), or no slot is named."""
    digest: str
    replaces: str
    """The release that runs there now, as the controller tells; ``nothing``, ``the same`` or ``unknown``."""
    terms: tuple[str, ...]
    """Everything else in the document that is not as usual."""


def consequences(device: str, payload: bytes, reported: Mapping[str, Any] | None) -> list[Consequence]:
    """Everything that the document for ``device`` says. ``reported``: what the controller knows of the device
    (JSON), or None.

    Raises :class:`TrustError` for what is no ``desired`` document, or one for another device.
    """
    signed = _envelope(payload, device)["signed"]
    desired = parse_object(Desired, signed, what=f"the document for {device}", error=TrustError)
    if desired.device != device or desired.fleet is None:
        raise TrustError(
            f"the document that waits for {device} is for {desired.device}",
            hint="do not trust this controller",
        )
    whole = tuple(
        _terms(
            {k: v for k, v in signed.items() if k not in ("fleet", "device", "gen", "slots", "clear")},
            _DESIRED,
        )
    )
    slots = signed.get("slots", {})
    found = []
    for slot, wanted in sorted(desired.slots.items()):
        now = _now(reported, slot)
        terms = tuple(_terms({k: v for k, v in slots[slot].items() if k not in ("release", "digest")}, _SLOT))
        found.append(
            Consequence(
                desired.fleet,
                device,
                desired.gen,
                slot,
                wanted.release,
                wanted.digest,
                "the same" if now.get("active") == wanted.digest else _replaces(reported, slot),
                (*whole, *terms),
            )
        )
    for slot in sorted(desired.clear):
        terms = tuple(_terms(signed["clear"][slot], {"number": 1}))
        replaces = _replaces(reported, slot)
        found.append(
            Consequence(desired.fleet, device, desired.gen, slot, "", "", replaces, (*whole, CLEARED, *terms))
        )
    return found or [Consequence(desired.fleet, device, desired.gen, "", "", "", "", whole)]


def _now(reported: Mapping[str, Any] | None, slot: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = (reported or {}).get("slots", {}).get(slot, {})
    return found


def _replaces(reported: Mapping[str, Any] | None, slot: str) -> str:
    now = _now(reported, slot)
    return "unknown" if reported is None else str(now.get("active_release") or now.get("active") or "nothing")


def check_known(found: list[Consequence]) -> None:
    """Raises :class:`TrustError` if a document has terms that this version cannot explain: nobody signs
    those."""
    for c in found:
        if strange := [t for t in c.terms if t.endswith(_UNKNOWN)]:
            raise TrustError(
                f"the document for {c.device} says more than can be shown here: {strange[0]}",
                hint="update edgectl",
            )


def director_in(files: Mapping[str, str]) -> Keys:
    """The director's keys, as the newest root among the controller's metadata names them. Raises
    :class:`TrustError`."""
    roots = {n: text.encode() for n, text in files.items() if n.endswith(".root.json")}
    ordered = dict(sorted(roots.items(), key=lambda item: int(item[0].split(".")[0])))
    return keys_of(follow(ordered)[-1].signed, "director")


def missing_from(payload: bytes, director: Keys, device: str) -> tuple[frozenset[str], int]:
    """Ids of the director's keys that have not signed the document, and how many of them have to. No
    signature is verified."""
    try:
        there = {entry["keyid"] for entry in _envelope(payload, device)["signatures"]}
    except (KeyError, TypeError) as e:
        raise TrustError(f"what waits for {device} has no list of signatures") from e
    have = director.keys.keys() & there
    return frozenset(director.keys.keys() - have), director.threshold - len(have)


def _envelope(payload: bytes, device: str) -> dict[str, Any]:
    try:
        found = json.loads(payload) if len(payload) <= MAX_MESSAGE_BYTES else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("signed"), dict):
        raise TrustError(f"what waits for {device} is not a document that can be signed")
    return found


_DESIRED: dict[str, Any] = Desired(gen=0).model_dump(mode="json")
_SLOT: dict[str, Any] = DesiredSlot(release="", digest="sha256:" + "0" * 64).model_dump(mode="json")
_SHADOW: dict[str, Any] = dict.fromkeys(ShadowGate.model_fields)
"""There is no usual shadow: all of it is told."""


def _terms(said: Mapping[str, Any], usual: Mapping[str, Any], within: str = "") -> Iterator[str]:
    """Each field that is not as usual: ``max latency ratio 2.0``."""
    for name, value in said.items():
        words = f"{within}{name}".replace("_", " ")
        if name not in usual:
            yield f"{words} {json.dumps(value)} {_UNKNOWN}"
        elif name == "shadow" and isinstance(value, dict):
            yield from _terms(value, _SHADOW, "shadow ")
        elif isinstance(value, dict) and isinstance(usual[name], dict):
            yield from _terms(value, usual[name], f"{name} " if name == "events" else "")
        elif value != usual[name]:
            yield f"{words} {_value(name, value)}"


def _value(name: str, value: Any) -> str:
    if name == "expires_s" and isinstance(value, int | float):
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(value))
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
