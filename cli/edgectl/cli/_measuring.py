"""Devices of a fleet measure for a build: the builder's :class:`~edgectl.builder.search.elsewhere.MeasuringDevice` over
the controller's API.

Files go to the controller, and from there to the device as blobs of any release do; orders are commands, which the
controller signs. While a build lasts, a thread renews the leases; what dies with this process ends on the devices by
itself.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import logging
import secrets
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgectl.cli._printer import printable
from edgectl.core.errors import (
    BusyError,
    EdgectlError,
    EngineError,
    LinkError,
    ProtocolError,
    TrustError,
    UsageError,
)
from edgectl.core.measuring import (
    MAX_JOB_BYTES,
    MAX_RESULT_BYTES,
    MeasureAnswer,
    MeasureOrder,
    MeasureState,
    MeasureTrouble,
)
from edgectl.core.schema import parse_object

if TYPE_CHECKING:
    from edgectl.device_profiles.machine import Machine
    from edgectl.engines.measure.job import MeasureJob
    from edgectl.engines.measure.job_child import MeasureResult
    from edgectl.fleet.client.client import FleetClient

__all__ = ["FleetDevice", "measuring_devices"]

log = logging.getLogger(__name__)

_LEASE_S = 60.0
_LOOKING_S = 60.0
"""For a device to say whether it is idle."""
_TIDY_S = 10.0
_POLL_S = (0.2, 3.0)
_TRIES = 3
_PATIENCE = 0.5
"""Of the lease: how long a controller or a device that is away is asked again, where asking changes nothing."""
_LATE_S = 120.0
_DEPTH = 32


class FleetDevice:
    """One device, with a session of its own from :meth:`open` to :meth:`close`. Thread-safe."""

    def __init__(
        self, fleet: FleetClient, name: str, profile: str, owner: str, lease_s: float = _LEASE_S
    ) -> None:
        self._fleet = fleet
        self._name = name
        self._profile = profile
        self._owner = owner
        self._lease_s = lease_s
        self._session = f"build-{secrets.token_hex(8)}"
        self._machine: Machine | None = None
        self._sent: set[str] = set()
        self._brought: set[str] = set()
        self._one = threading.Lock()
        """One job at a time."""

    @property
    def name(self) -> str:
        return self._name

    @property
    def profile(self) -> str:
        return self._profile

    @property
    def machine(self) -> Machine:
        assert self._machine is not None, "opened first"
        return self._machine

    @property
    def brought(self) -> frozenset[str]:
        """Digests of what was uploaded for it. What was there before is somebody else's, e.g. of a release that is being
        published."""
        return frozenset(self._brought)

    def open(self) -> None:
        """Begin, and wait until the device has found itself idle. Raises :class:`BusyError`, and whatever the
        controller and the device raise."""
        from edgectl.device_profiles.machine import Machine

        answer = self._begin()
        answer = self._until(answer, {MeasureState.READY}, time.monotonic() + _LOOKING_S)
        self._machine = parse_object(
            Machine, answer.machine, what=f"what {self._name} says that it is", error=ProtocolError
        )

    def _begin(self) -> MeasureAnswer:
        """Another session that has just ended is tidied away first."""
        deadline = time.monotonic() + _TIDY_S
        while True:
            try:
                return self._ask("open")
            except BusyError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(1.0)

    def renew(self) -> None:
        """Keep the lease. Raises :class:`EdgectlError`."""
        self._ask("look")

    def close(self) -> None:
        """End the session; one that is gone is as good."""
        with contextlib.suppress(EdgectlError):
            self._ask("close")

    def measure(self, job: MeasureJob, files: Mapping[str, bytes]) -> MeasureResult:
        """Raises :class:`LinkError` (the device or the controller is away), :class:`BusyError` (it has something else to
        do by now), :class:`EngineError` (the job came to nothing), :class:`ProtocolError`."""
        from edgectl.core.transfer import describe
        from edgectl.engines.measure.job_child import MeasureResult

        document = job.model_dump_json(exclude_none=True).encode()
        if len(document) > MAX_JOB_BYTES:
            raise ProtocolError(
                f"the measuring job has {len(document)} bytes, at most {MAX_JOB_BYTES} travel"
            )
        order = describe(document)
        with self._one:
            try:
                for digest, data in {**files, order.digest: document}.items():
                    self._upload(digest, data)
                answer = self._start(order)
                answer = self._until(answer, {MeasureState.DONE}, time.monotonic() + job.timeout_s + _LATE_S)
                if answer.trouble is not None:
                    raise EngineError(self._said(answer.trouble))
                data = self._result(answer)
            except (LinkError, BusyError, EngineError, ProtocolError):
                raise
            except EdgectlError as e:
                raise EngineError(e.message, hint=e.hint) from e
        what = f"what {self._name} measured"
        return parse_object(MeasureResult, _printed(_parsed(data, what)), what=what, error=ProtocolError)

    def _upload(self, digest: str, data: bytes) -> None:
        if digest not in self._sent:
            if not self._fleet.has_blob(digest):
                self._brought.add(digest)
                self._fleet.put_blob(digest, data)
            self._sent.add(digest)

    def _start(self, job: Any) -> MeasureAnswer:
        """An answer that was lost says nothing about the order."""
        try:
            return self._ask("start", tries=1, job=job)
        except LinkError:
            answer = self._ask("look")
            return answer if answer.state is MeasureState.WORKING else self._ask("start", job=job)

    def _until(self, answer: MeasureAnswer, wanted: set[MeasureState], deadline: float) -> MeasureAnswer:
        pause_s = _POLL_S[0]
        while answer.state not in wanted:
            if answer.state is MeasureState.ENDED:
                raise self._ended(answer.trouble)
            if time.monotonic() > deadline:
                raise LinkError(f"{self._name} is still {answer.state.value}, long after its time was over")
            time.sleep(pause_s)
            pause_s = min(_POLL_S[1], pause_s * 1.5)
            answer = self._ask("look")
        return answer

    def _ended(self, trouble: MeasureTrouble | None) -> EdgectlError:
        said = self._said(trouble)
        return LinkError(said) if trouble is not None and trouble.code == "link" else BusyError(said)

    def _said(self, trouble: MeasureTrouble | None) -> str:
        return f"{self._name}: {trouble.detail if trouble else 'it ended the session and gave no reason'}"

    def _result(self, answer: MeasureAnswer) -> bytes:
        packed = b""
        for i in range(answer.pages):
            found = self._ask("result", page=i)
            if found.state is not MeasureState.DONE:
                raise self._ended(found.trouble)
            try:
                packed += base64.b64decode(found.page, validate=True)
            except ValueError as e:
                raise ProtocolError(f"the result of {self._name} is not base64") from e
        if f"sha256:{hashlib.sha256(packed).hexdigest()}" != answer.digest:
            raise ProtocolError(f"the result of {self._name} came damaged", hint="build again")
        unpack = zlib.decompressobj()
        try:
            data = unpack.decompress(packed, MAX_RESULT_BYTES)
        except zlib.error as e:
            raise ProtocolError(f"the result of {self._name} cannot be unpacked: {e}") from e
        if not unpack.eof:
            raise ProtocolError(
                f"the result of {self._name} is larger than {MAX_RESULT_BYTES} bytes, or torn"
            )
        return data

    def _ask(self, act: str, *, tries: int = _TRIES, **more: Any) -> MeasureAnswer:
        order = MeasureOrder.model_validate(
            {"act": act, "session": self._session, "lease_s": self._lease_s, **more}
        )
        said = {"owner": self._owner, "measure": order.model_dump(mode="json", exclude_none=True)}
        until = time.monotonic() + (_PATIENCE * self._lease_s if act in ("look", "result") else 0.0)
        for tried in itertools.count(1):
            try:
                found = self._fleet.command(self._name, "measure", wait_s=10.0, **said)
                break
            except (LinkError, TrustError):
                # lost on the way, or a number that another command overtook
                if tried >= tries and time.monotonic() > until:
                    raise
                time.sleep(1.0)
        found = _printed(found)
        return parse_object(MeasureAnswer, found, what=f"the answer of {self._name}", error=ProtocolError)


def _parsed(data: bytes, what: str) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise ProtocolError(f"{what} is not valid JSON") from e
    if not isinstance(found, dict):
        raise ProtocolError(f"{what} is no JSON object")
    return found


def _printed(found: dict[str, Any]) -> dict[str, Any]:
    """What a device said, with nothing in it that a terminal would obey: it becomes notes and errors."""

    def clean(value: Any, depth: int) -> Any:
        if depth > _DEPTH:
            raise ProtocolError("what a device said is nested too deep")
        if isinstance(value, str):
            return printable(value)
        if isinstance(value, dict):
            return {printable(str(k)): clean(v, depth + 1) for k, v in value.items()}
        return [clean(v, depth + 1) for v in value] if isinstance(value, list) else value

    return {printable(k): clean(v, 0) for k, v in found.items()}


@contextlib.contextmanager
def measuring_devices(
    fleet: FleetClient, names: Sequence[str], profiles: Sequence[str], owner: str, lease_s: float = _LEASE_S
) -> Iterator[tuple[FleetDevice, ...]]:
    """The devices, each of which holds still until this ends. Then whatever came to the controller for them is removed
    there.

    Raises, before anything begins: :class:`UsageError` (unknown, of another profile, measures nothing for builders or is
    too old to), :class:`LinkError` (away), :class:`BusyError`.
    """
    known = {d["name"]: d for d in fleet.devices()}
    devices = []
    for name in names:
        profile = _profile_of(name, known, profiles)
        devices.append(FleetDevice(fleet, name, profile, owner, lease_s))
    stop = threading.Event()
    with contextlib.ExitStack() as stack:
        for d in devices:
            stack.callback(d.close)
            d.open()
            thread = threading.Thread(target=_renew, args=(d, stop, lease_s / 4), name=f"lease-{d.name}")
            thread.daemon = True
            thread.start()
            stack.callback(thread.join)
            stack.callback(stop.set)
        stack.callback(_drop, fleet, devices)
        yield tuple(devices)


def _profile_of(name: str, known: Mapping[str, Mapping[str, Any]], profiles: Sequence[str]) -> str:
    device = known.get(name)
    if device is None:
        raise UsageError(f"there is no device {name[:80]}", hint="`edgectl fleet devices` lists them")
    conn = device.get("conn") or {}
    if not device.get("online"):
        raise LinkError(
            f"{name} is not connected, so that nothing can be measured on it",
            hint=f"start its agent, or leave {name} out of --on",
        )
    if not conn.get("measures"):
        raise UsageError(
            f"{name} measures nothing for builders: its agent.toml has no [measure], or its agent or the controller is too old",
            hint="add an empty [measure] to its agent.toml, or update them; then start its agent again",
        )
    profile = conn.get("profile")
    if not isinstance(profile, str) or profile not in profiles:
        raise UsageError(
            f"{name} is of profile {profile or 'none'}, which is not built for: {', '.join(profiles)}",
            hint=f"add {profile or 'its profile'} to --profile, or leave {name} out of --on",
        )
    return profile


def _renew(device: FleetDevice, stop: threading.Event, every_s: float) -> None:
    """A device that is lost says so when it is asked to measure. Each has a thread of its own: asking one that does not
    answer takes as long as half a lease."""
    while not stop.wait(every_s):
        try:
            device.renew()
        except EdgectlError as e:
            log.info("%s", e.message)


def _drop(fleet: FleetClient, devices: Sequence[FleetDevice]) -> None:
    with contextlib.suppress(EdgectlError):
        fleet.drop_blobs(sorted(frozenset().union(*(d.brought for d in devices))))
