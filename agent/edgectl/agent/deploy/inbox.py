"""Receives what the broker delivers and decides whether it counts: metadata sets, the controller's state,
desired documents, commands.

What counts is passed on. What is refused for a reason that may pass is kept and tried again: newer root
metadata may name the signer, the disk may have room again, a clock that is ahead may be set.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgectl.agent.deploy.deployer import SlotDeployer
from edgectl.agent.deploy.reporter import Reporter
from edgectl.agent.trust.store import StaleTrust, TrustStore
from edgectl.core.errors import EdgectlError, ProtocolError, StorageError, TrustError
from edgectl.core.states import State
from edgectl.core.wire import Command, Failure, Reply, ReportedSlot, Topics

__all__ = ["Inbox", "Refusal"]

log = logging.getLogger(__name__)


@dataclass
class Refusal:
    """A desired document that was not accepted. It is reported once at least, even where a good one
    follows on its heels."""

    payload: bytes
    why: Failure
    reported: bool = False
    mended: bool = False
    """A good one was accepted since."""


class Inbox:
    """The handlers run on the dispatcher thread of the link; all else is for any thread."""

    def __init__(
        self,
        topics: Topics,
        name: str,
        trust: TrustStore,
        deployers: Mapping[str, SlotDeployer],
        reporter: Reporter,
        *,
        frozen: bool,
        obey: Callable[[Command], dict[str, object]],
        reply: Callable[[Reply], None],
        allow_peers: Callable[[bool], None],
        make_room: Callable[[], None],
    ) -> None:
        """``frozen``: as the journal has it; ``obey`` raises :class:`EdgectlError` with the reason why
        not; ``make_room`` is called when the disk does not take the generation of a desired document."""
        self._topics = topics
        self._name = name
        self._trust = trust
        self._deployers = deployers
        self._reporter = reporter
        self._obey = obey
        self._reply = reply
        self._allow_peers = allow_peers
        self._make_room = make_room
        self._lock = threading.RLock()
        """Held while one is judged, commands aside: what comes again later must not overtake what came
        since."""
        self.frozen = frozen
        """Nothing may be activated now."""
        self.gen = trust.generation
        """The generation of the desired document in force, also before the broker has told it again: an
        older one is refused."""
        self.without_slot: Mapping[str, ReportedSlot] = {}
        """What it asks for in slots that this device does not have."""
        self._refusal: Refusal | None = None
        self._unheard: bytes | None = None
        """A state of the controller that was refused: newer root metadata may name who signed it."""
        self._unkept: bytes | None = None
        """A desired document that a full disk keeps from being accepted."""
        self._untrusted: bytes | None = None
        """A metadata set that a full disk, or a clock that is ahead, keeps from being accepted."""

    @property
    def handlers(self) -> dict[str, Callable[[str, bytes], None]]:
        """By topic. A message that is not accepted is logged: the sender is at fault, and the device goes
        on."""
        handlers = {
            self._topics.trust: self.on_trust,
            self._topics.ctl: self.on_controller,
            self._topics.desired(self._name): self.on_desired,
            self._topics.command(self._name): self.on_command,
        }
        return {topic: _guarded(handler) for topic, handler in handlers.items()}

    @property
    def refusal(self) -> Refusal | None:
        """What is still to be reported of a desired document that was refused."""
        r = self._refusal
        return None if r is None or (r.mended and r.reported) else r

    def try_again(self) -> None:
        """What came and could not be accepted for a reason that passes. Metadata first: the desired state may
        rest on them."""
        with self._lock:
            if (trust := self._untrusted) is not None:
                try:
                    self._trust.update(trust)
                except (StaleTrust, StorageError):
                    log.debug("the metadata set still waits")  # why was told when it came
                except TrustError:
                    self._untrusted = None
                else:
                    self.on_trust(trust)
            if (desired := self._unkept) is not None:
                self.on_desired(desired)

    def on_trust(self, payload: bytes) -> None:
        with self._lock:
            self._untrusted = None
            try:
                self._trust.update(payload)
                self._reporter.trouble = None
            except StaleTrust as e:
                # a clock that is ahead becomes right some day, and the set does not come again by itself
                self._untrusted = payload
                self._reporter.trouble = Failure(code="expired", detail=e.message, retryable=True)
            except TrustError as e:
                self._reporter.trouble = Failure(code="trust", detail=e.message)
            except StorageError as e:
                self._untrusted = payload
                self._reporter.storage_fails(e)
            # Newer root metadata may name the director who signed these.
            if self._refusal is not None and not self._refusal.mended:
                self.on_desired(self._refusal.payload)
            if self._unheard is not None:
                _guarded(self.on_controller)(self._topics.ctl, self._unheard)
        for deployer in self._deployers.values():
            deployer.nudge()
        self._reporter.again()

    def on_controller(self, payload: bytes) -> None:
        """Raises :class:`TrustError` or :class:`ProtocolError`."""
        with self._lock:
            try:
                state = self._trust.accept_state(payload, self._topics.fleet)
            except (TrustError, ProtocolError):
                self._unheard = payload
                # tell the number that was seen: the controller goes on there
                self._reporter.again()
                raise
            self._allow_peers(state.peers)
            if state.freeze is None:
                return
            self._unheard = None
            self.frozen = state.freeze
        for deployer in self._deployers.values():
            deployer.nudge()

    def on_desired(self, payload: bytes) -> None:
        with self._lock:
            self._take_desired(payload)
        self._reporter.changed()

    def _take_desired(self, payload: bytes) -> None:
        self._unkept = None
        try:
            desired = self._trust.accept_desired(payload, self._topics.fleet, self._name)
        except (TrustError, ProtocolError) as e:
            log.warning("desired state is refused: %s", e.message)
            self._refusal = Refusal(payload, Failure(code="desired", detail=e.message))
            return
        except StorageError as e:
            # the generation could not be written down: asked again until it can
            log.error("desired state waits: %s", e.message)
            self._make_room()
            self._unkept = payload
            self._reporter.storage_fails(e)
            return
        if self._refusal is not None:
            self._refusal.mended = True
        self._reporter.storage_works()
        self.gen = desired.gen
        for slot in self._deployers.keys() - desired.slots.keys() - desired.clear.keys():
            self._deployers[slot].want_nothing(desired.gen)
        for slot in self._deployers.keys() & desired.clear.keys():
            self._deployers[slot].want(desired.gen, desired.clear[slot], desired.hold)
        for slot in self._deployers.keys() & desired.slots.keys():
            self._deployers[slot].want(desired.gen, desired.slots[slot], desired.hold)
        empty = {
            slot: ReportedSlot(state=State.CLEARED, gen=desired.gen)
            for slot in desired.clear.keys() - self._deployers.keys()
        }
        self.without_slot = empty | {
            slot: ReportedSlot(
                state=State.REJECTED,
                gen=desired.gen,
                release=wanted.release,
                digest=wanted.digest,
                error=Failure(code="no_slot", detail=f"this device has no slot {slot}"),
            )
            for slot, wanted in desired.slots.items()
            if slot not in self._deployers
        }

    def on_command(self, payload: bytes) -> None:
        """Raises :class:`TrustError` or :class:`ProtocolError`: it is not from the director, and gets no
        answer."""
        command = self._trust.open_command(payload, self._topics.fleet, self._name)
        try:
            self._trust.admit(command)
            reply = Reply(id=command.id, ok=True, result=self._obey(command))
        except EdgectlError as e:
            reply = Reply(id=command.id, ok=False, error=Failure(code=e.code, detail=e.message[:1024]))
            # tell the number that was seen: the controller goes on there
            self._reporter.again()
        self._reply(reply)


def _guarded(handler: Callable[[bytes], None]) -> Callable[[str, bytes], None]:
    def handle(topic: str, payload: bytes) -> None:
        try:
            handler(payload)
        except EdgectlError as e:
            log.warning("%s: %s", topic, e.message)

    return handle
