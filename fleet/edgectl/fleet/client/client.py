"""The controller's API as seen by the CLI: same words, same exceptions."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx

from edgectl.core import errors
from edgectl.core.errors import EdgectlError, LinkError, ProtocolError, TrustError, UsageError
from edgectl.core.licence import LicencePolicy
from edgectl.core.task import TaskSpec

__all__ = ["FleetClient"]

_BY_CODE: dict[str, type[EdgectlError]] = {
    name.removesuffix("Error").lower(): getattr(errors, name)
    for name in errors.__all__
    if name != "EdgectlError"
}

_DELTA_TIMEOUT_S = 1800.0


class FleetClient:
    """Every method raises :class:`LinkError` if the controller is not there, else the controller's own
    error."""

    def __init__(self, url: str, token: str, *, timeout_s: float = 30.0) -> None:
        self._url = url.rstrip("/")
        self._http = httpx.Client(
            base_url=self._url + "/v1",
            headers={"Authorization": f"Bearer {token}"},
            timeout=timeout_s,
            trust_env=False,
        )

    @classmethod
    def of(cls, url: str, token_file: Path) -> FleetClient:
        """With the token that the controller wrote into its state folder."""
        try:
            return cls(url, token_file.read_text().strip())
        except OSError as e:
            raise UsageError(
                f"cannot read the API token {token_file}: {e.strerror}", hint="has the controller run?"
            ) from e

    def __enter__(self) -> FleetClient:
        return self

    def __exit__(
        self, _t: type[BaseException] | None, _v: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # ---- releases

    def has_blob(self, digest: str) -> bool:
        return self._send("HEAD", f"/blobs/{digest}", missing_ok=True).status_code == 200

    def put_blob(
        self, digest: str, source: Path | bytes, progress: Callable[[int], None] = lambda _: None
    ) -> None:
        """Upload a file, or bytes; ``progress`` gets the bytes of each piece."""

        def pieces() -> Iterator[bytes]:
            with source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as f:
                while piece := f.read(1 << 18):
                    yield piece
                    progress(len(piece))

        self._send("PUT", f"/blobs/{digest}", content=pieces())

    def drop_blobs(self, digests: Iterable[str]) -> None:
        """Have the controller forget files that no release names."""
        self._send("POST", "/blobs/drop", json={"blobs": list(digests)})

    def trust(self) -> dict[str, Any]:
        """``files``: the controller's signed metadata by name; ``roles``:
        :class:`edgectl.fleet.keys.trust.Expiry` as dictionaries."""
        return dict(self._json("GET", "/trust"))

    def signed_file(self, name: str) -> bytes | None:
        """One file of the controller's signed metadata."""
        found = self.trust()["files"].get(name)
        return None if found is None else str(found).encode()

    def accept_trust(
        self, files: Mapping[str, bytes], withdraw: Iterable[str] = (), *, stop_rollouts: bool = False
    ) -> dict[str, Any]:
        """Hand newer signed metadata over. Returns as :meth:`trust`. ``stop_rollouts``: of the releases
        that are withdrawn."""
        signed = {n: d.decode() for n, d in files.items()}
        body = {"files": signed, "withdraw": list(withdraw), "stop_rollouts": stop_rollouts}
        return dict(self._json("POST", "/trust", json=body))

    def add_release(
        self, release: str, digest: str, files: Mapping[str, bytes], delta_from: str | None = None
    ) -> dict[str, Any]:
        """The controller makes differences before it answers: seconds a variant."""
        signed = {n: d.decode() for n, d in files.items()}
        body = {"release": release, "digest": digest, "files": signed, "delta_from": delta_from}
        return dict(self._json("POST", "/releases", json=body, timeout=_DELTA_TIMEOUT_S))

    def licences(self) -> LicencePolicy:
        """Which weights the fleet delivers."""
        return LicencePolicy.model_validate(self._json("GET", "/licences"))

    def releases(self) -> list[dict[str, Any]]:
        """``type``: engine, config or set, whose ``parts`` name the releases of its engines."""
        return list(self._json("GET", "/releases"))

    def tasks(self, release: str) -> list[TaskSpec]:
        """What the engines of a release do, each task once."""
        found = self._json("GET", f"/releases/{quote(release, safe='')}/tasks")
        return [TaskSpec.model_validate(task) for task in found]

    def configuration(self, release: str) -> dict[str, Any]:
        """``release``, ``kind`` and ``text`` of a published configuration, and ``parts`` of a set: part → ``release``,
        ``digest``."""
        return dict(self._json("GET", f"/configurations/{quote(release, safe='')}"))

    # ---- rollouts

    def start_rollout(self, release: str, slot: str, **options: Any) -> dict[str, Any]:
        """``options``: the other fields of :class:`edgectl.fleet.rollouts.planner.RolloutRequest`."""
        return dict(self._json("POST", "/rollouts", json={"release": release, "slot": slot, **options}))

    def preview_rollout(self, release: str, slot: str, **options: Any) -> dict[str, Any]:
        """What it would do: the fields of :class:`edgectl.fleet.rollouts.preview.Preview`."""
        return dict(self._json("POST", "/preview", json={"release": release, "slot": slot, **options}))

    def rollouts(self) -> list[dict[str, Any]]:
        return list(self._json("GET", "/rollouts"))

    def rollout(self, rollout: str) -> dict[str, Any]:
        return dict(self._json("GET", f"/rollouts/{rollout}"))

    def decisions(self, rollout: str) -> list[dict[str, Any]]:
        """What its gates decided last: :class:`edgectl.fleet.rollouts.gates.GateDecision`, as dictionaries."""
        return list(self._json("GET", f"/rollouts/{rollout}/decisions"))

    def change_rollout(self, rollout: str, op: str) -> dict[str, Any]:
        """``op``: pause, resume, approve (the next wave), abort, halt (nothing is taken back), rollback."""
        return dict(self._json("POST", f"/rollouts/{rollout}/{op}"))

    def skip_device(self, rollout: str, device: str) -> dict[str, Any]:
        """Have a rollout go on without a device."""
        return dict(self._json("POST", f"/rollouts/{rollout}/devices/{quote(device, safe='')}/skip"))

    def clear_slot(
        self, slot: str, devices: Iterable[str] = (), labels: Mapping[str, str] | None = None
    ) -> list[dict[str, Any]]:
        """Have a slot empty; the fields of :class:`edgectl.fleet.control.clearing.Cleared` of each device."""
        body = {"devices": list(devices), "labels": dict(labels or {})}
        return list(self._json("POST", f"/slots/{quote(slot, safe='')}/clear", json=body))

    def groups(self) -> list[dict[str, Any]]:
        """Each with ``members``: the devices that are there and in it."""
        return list(self._json("GET", "/groups"))

    def set_group(self, name: str, *, devices: Iterable[str] = (), select: str = "") -> dict[str, Any]:
        terms = {"devices": sorted(set(devices)), "select": select}
        return dict(self._json("PUT", f"/groups/{quote(name, safe='')}", json=terms))

    def drop_group(self, name: str) -> None:
        self._json("DELETE", f"/groups/{quote(name, safe='')}")

    def waiting(self) -> dict[str, bytes]:
        """Device → its desired document that more of the director's keys have to sign."""
        return {d: str(p).encode() for d, p in self._json("GET", "/waiting").items()}

    def approve(self, documents: Mapping[str, bytes]) -> list[str]:
        """Hand signed documents back; returns their devices."""
        return list(
            self._json("POST", "/waiting", json={"documents": {d: p.decode() for d, p in documents.items()}})
        )

    # ---- devices

    def enroll(self, name: str, *, again: bool = False) -> dict[str, Any]:
        """What its ``agent.toml`` needs, and whether it is ``new``. One that is known is refused unless it
        is enrolled ``again``."""
        return dict(self._json("POST", "/devices", json={"name": name, "again": again}))

    def remove(self, name: str, *, purge: bool = False) -> list[str]:
        """Take a device out of the fleet; ``purge``: with all that is known of it. Returns the rollouts
        that no longer count it."""
        return list(
            self._json("POST", f"/devices/{quote(name, safe='')}/remove", json={"purge": purge})["rollouts"]
        )

    def revoked(self, name: str) -> list[str]:
        """Tell that its certificate was revoked. Returns the rollouts that no longer count it."""
        return list(self._json("POST", f"/devices/{quote(name, safe='')}/revoked")["rollouts"])

    def archive(self) -> list[dict[str, Any]]:
        """Devices that were removed, oldest first."""
        return list(self._json("GET", "/archive"))

    def command(self, name: str, op: str, *, wait_s: float = 10.0, **options: Any) -> dict[str, Any]:
        """Ask a device, and return the ``result`` of its answer. ``options``: the other fields of
        :class:`edgectl.fleet.control.commands.CommandRequest`.

        What the device refuses is raised with the device's own kind of error.
        """
        body = {"op": op, "wait_s": wait_s, **options}
        reply = self._json(
            "POST", f"/devices/{quote(name, safe='')}/commands", json=body, timeout=2 * wait_s + 30
        )
        if not reply["ok"]:
            error = reply.get("error") or {"code": "", "detail": "it gave no reason"}
            kind = _BY_CODE.get(error["code"], ProtocolError)
            hint = "compare the clocks of device and controller; a number that was too low is right the next time"
            raise kind(
                f"{name} refuses: {error['detail'] or error['code']}",
                hint=hint if kind is TrustError else None,
            )
        return dict(reply["result"])

    def devices(self) -> list[dict[str, Any]]:
        return list(self._json("GET", "/devices"))

    def machine(self, device: str) -> dict[str, Any]:
        """What it told last of its machine: the fields of :class:`edgectl.fleet.control.machine_view.MachineView`."""
        return dict(self._json("GET", f"/devices/{quote(device, safe='')}/machine"))

    def rows(self) -> list[dict[str, Any]]:
        """The fields of :class:`edgectl.fleet.control.telemetry_view.StreamRow`, one dict per stream."""
        return list(self._json("GET", "/rows"))

    def latency(self) -> list[dict[str, Any]]:
        return list(self._json("GET", "/latency"))

    def measured(self, **query: Any) -> dict[str, Any]:
        """A page of what the fleet measured: ``rows`` (:class:`edgectl.fleet.control.totals_view.MeasuredRow`) and
        whether there are ``more``. ``query``: the fields of :class:`edgectl.fleet.api.app.TelemetryQuery`."""
        return dict(self._json("GET", "/telemetry", params=_asked(query)))

    def hours(self, **query: Any) -> dict[str, Any]:
        """A page of the hours and days behind it, with their histograms: ``rows``, and of how many ``classes``."""
        return dict(self._json("GET", "/telemetry/hours", params=_asked(query)))

    def regressions(self, release: str, against: str, **query: Any) -> dict[str, Any]:
        """``rows``: what both releases have, class by class; ``alone``: what only one of them has."""
        asked = _asked({**query, "release": release, "against": against})
        return dict(self._json("GET", "/telemetry/regressions", params=asked))

    def events(self, limit: int = 200, **query: Any) -> list[dict[str, Any]]:
        """The newest that fit, oldest of them first. ``query``: the other fields of
        :class:`edgectl.fleet.api.app.EventQuery`; an answer has at most 1000, and the ``id`` of its first one
        is the ``before`` of the next page."""
        return list(self._json("GET", "/events", params={"limit": limit, **_asked(query)}))

    def alerts(self) -> list[dict[str, Any]]:
        """Those that fire (:class:`edgectl.fleet.alerts.book.Alert`), the longest first."""
        return list(self._json("GET", "/alerts"))

    def transfer(self) -> dict[str, Any]:
        """What the seeder has sent since it started."""
        return dict(self._json("GET", "/transfer"))

    def freeze(self, frozen: bool) -> dict[str, Any]:
        """Order it. Returns what :meth:`state` does."""
        return dict(self._json("POST", "/freeze", json={"freeze": frozen}))

    def state(self) -> dict[str, Any]:
        """``freeze``: as ordered last, None if nobody knows; ``connected``: whether the controller reaches
        the broker."""
        return dict(self._json("GET", "/freeze"))

    def dashboard_link(self) -> str:
        """An address at which a browser is signed in to the dashboard, once and within a minute."""
        return self._url + str(self._json("POST", "/dashboard")["path"])

    def _json(self, method: str, path: str, **options: Any) -> Any:
        return self._send(method, path, **options).json()

    def _send(self, method: str, path: str, *, missing_ok: bool = False, **options: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **options)
        except httpx.TransportError as e:
            raise LinkError(
                f"the controller at {self._url} does not answer: {e}",
                hint="is `edgectl controller run` running there? --controller or EDGECTL_CONTROLLER name another",
            ) from e
        if response.is_success or (missing_ok and response.status_code == 404):
            return response
        try:
            error = response.json()["error"]
            raise _BY_CODE.get(error["code"], LinkError)(error["message"], hint=error["hint"])
        except (ValueError, KeyError, TypeError):
            raise LinkError(f"the controller at {self._url} answered {response.status_code}") from None


def _asked(query: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in query.items() if v is not None}
