"""Commands to single devices: numbered, signed, sent, and the device's answer waited for.

A number is the time in ms, and always above the one before, so that a controller which was installed anew
goes on above what devices have seen. A clock that was ahead is the one case in which it would not: then
devices say which number they have seen, and numbers go on there.
"""

from __future__ import annotations

import json
import queue
import secrets
import threading
import time
from functools import partial

from pydantic import Field

from edgectl.core.errors import EdgectlError, LinkError, ProtocolError
from edgectl.core.measuring import MeasureOrder
from edgectl.core.schema import Message, Name, parse_json
from edgectl.core.wire import MAX_MESSAGE_BYTES, READ_ONLY, Command, Op, Reply, Topics
from edgectl.fleet.keys.trust import Director
from edgectl.fleet.store.inventory import Inventory
from edgectl.link.mqtt import Link

__all__ = ["MAX_WAIT_S", "CommandRequest", "Commander", "SequenceNumbers"]

MAX_WAIT_S = 60.0
_LATE_S = 300.0
"""What the clock of a device may be ahead of ours (the agent's own tolerance)."""
_BELIEVED_MS = 10 * 365 * 86_400_000
"""How far ahead of our time a number may be that a device claims to have seen. Whoever lies (devices do
not sign) drives the numbers up to here and no further; there is room for 285 000 years above."""
_NAME = "signed"


class CommandRequest(Message):
    """What is asked of a device: the fields of :class:`edgectl.core.wire.Command` that are the operator's
    to choose."""

    op: Op
    slot: Name | None = None
    owner: Name | None = None
    ttl_s: float | None = Field(default=None, gt=0, le=86400)
    reason: str = Field(default="", max_length=200)
    measure: MeasureOrder | None = None
    wait_s: float = Field(default=10.0, gt=0, le=MAX_WAIT_S)
    """How long to wait for the answer."""

    @property
    def is_act(self) -> bool:
        """Whether it is written down: what a builder asks every few seconds is not."""
        return self.measure is None or self.measure.act in ("open", "close")


class SequenceNumbers:
    """One line of numbers for everything that the director's keys sign and that must not be repeated.
    Thread-safe, kept before use."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        self._lock = threading.Lock()
        self._last = inventory.number(_NAME)

    def next(self, now_s: float) -> int:
        """Above all before it."""
        with self._lock:
            return self._keep(max(self._last + 1, int(now_s * 1000)))

    def heard(self, number: int, now_s: float) -> bool:
        """A device has seen this one. True: it is above ours and can be believed, and numbers go on from
        there."""
        with self._lock:
            believed = self._last < number <= now_s * 1000 + _BELIEVED_MS
            if believed:
                self._keep(number)
            return believed

    def _keep(self, number: int) -> int:
        self._inventory.keep_number(_NAME, number)
        self._last = number
        return number


class Commander:
    """Sends commands and matches the answers. Thread-safe."""

    def __init__(
        self, topics: Topics, director: Director, numbers: SequenceNumbers, inventory: Inventory, link: Link
    ) -> None:
        self._topics = topics
        self._director = director
        self._numbers = numbers
        self._inventory = inventory
        self._link = link
        self._in_order = threading.Lock()
        self._waiting: dict[tuple[str, str], queue.Queue[Reply]] = {}
        """(device, id) → where its answer goes."""

    def send(self, device: str, request: CommandRequest) -> Reply:
        """Ask, and return the device's answer. Who asked what, and what came of it, is in the inventory's
        log.

        Raises :class:`LinkError`: the broker is away, or no answer came in time; :class:`TrustError` for a command
        that more keys have to sign than are here.
        """
        log = partial(self._inventory.log, "command", device) if request.is_act else _unsaid
        log(_asked(request))
        try:
            reply = self._ask(device, request)
        except EdgectlError as e:
            log(f"{request.op}: {e.message}")
            raise
        if not reply.ok:
            why = reply.error.detail or reply.error.code if reply.error else "no reason given"
            log(f"{request.op}: refused: {why}")
        elif request.op not in READ_ONLY:
            log(f"{request.op}: done")
        return reply

    def on_reply(self, device: str, payload: bytes) -> None:
        """From the broker: anything may come. Raises :class:`ProtocolError` for what is no answer; one
        that nobody waits for is dropped."""
        reply = parse_json(Reply, payload, max_bytes=MAX_MESSAGE_BYTES, what="reply")
        try:
            json.dumps(reply.result, allow_nan=False)
        except (ValueError, RecursionError) as e:
            raise ProtocolError("the reply has a result that is not JSON") from e
        answers = self._waiting.pop((device, reply.id), None)
        if answers is not None:
            answers.put(reply)

    def _ask(self, device: str, request: CommandRequest) -> Reply:
        # it would be sent when nobody expects it any more
        if not self._link.is_up:
            raise LinkError(
                f"the controller is not connected to the broker at {self._link.broker}",
                hint="is the broker running?",
            )
        key = (device, secrets.token_hex(8))
        answers = self._waiting[key] = queue.Queue()
        deadline_s = round(time.time() + request.wait_s + _LATE_S, 3)
        try:
            # a device obeys no number below one that it has seen
            with self._in_order:
                command = Command(
                    id=key[1],
                    deadline_s=deadline_s,
                    seq=self._numbers.next(time.time()),
                    **request.model_dump(exclude={"wait_s"}),
                )
                payload = self._director.seal_command(device, command)
                self._link.publish(self._topics.command(device), payload, timeout_s=request.wait_s)
            return answers.get(timeout=request.wait_s)
        except queue.Empty:
            until = time.strftime("%H:%M:%S UTC", time.gmtime(deadline_s))
            raise LinkError(
                f"{device} did not answer within {request.wait_s:g} s; it may still obey until {until}",
                hint=f"`edgectl fleet devices`; what was done shows `edgectl device logs {device}`",
            ) from None
        finally:
            self._waiting.pop(key, None)


def _unsaid(text: str) -> None:
    """Not written down."""


def _asked(r: CommandRequest) -> str:
    words = [f"{r.owner or 'operator'}: {r.op}"]
    words += [r.measure.act] if r.measure else []
    words += [f"of {r.slot}"] if r.slot else []
    words += [f"for {r.ttl_s:g} s"] if r.ttl_s else []
    return " ".join(words) + (f": {r.reason}" if r.reason else "")
