"""The controller's HTTP API: Starlette on uvicorn, loopback by default, bearer token, JSON. The dashboard
(:mod:`edgectl.fleet.web`) is served beside it.

Errors come as ``{"error": {"code", "message", "hint"}}``; :mod:`edgectl.fleet.client.client` makes the same
exception of them.
"""

from __future__ import annotations

import dataclasses
import hmac
import json
import socket
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from pydantic import Field, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from edgectl.core.errors import EdgectlError, LinkError, RolloutError, StorageError, UsageError
from edgectl.core.files import check_digest, check_name
from edgectl.core.schema import Digest, Message, Name, first_problem
from edgectl.core.trust import MAX_TRUST_BYTES
from edgectl.fleet.control.clearing import ClearRequest
from edgectl.fleet.control.commands import CommandRequest
from edgectl.fleet.control.controller import Controller
from edgectl.fleet.control.machine_view import machine_of
from edgectl.fleet.control.scraper import Scraper
from edgectl.fleet.control.totals_view import hour_rows, measured_rows
from edgectl.fleet.rollouts.groups import DeviceGroup
from edgectl.fleet.rollouts.planner import RolloutProgress, RolloutRequest, RolloutSpec
from edgectl.fleet.rollouts.selection import MAX_QUERY
from edgectl.fleet.store.totals import TotalsQuery
from edgectl.fleet.telemetry.exposition import wanted
from edgectl.fleet.web.app import Dashboard
from edgectl.link.http import BoundedProtocol, read_body

__all__ = ["MAX_CLASSES", "MAX_EVENTS", "ApiServer", "from_this_machine", "make_app"]

Endpoint = Callable[[Request], Awaitable[Response]]

MAX_EVENTS = 1000
"""Of one answer; older ones are asked for with ``before``."""
MAX_CLASSES = 200
"""Of latency, of one answer; the next ones are asked for with ``after``."""
_BODY_S = 60.0
"""For a whole body, blobs aside: those take as long as they go on."""
_SHUTDOWN_S = 5
_MAX_BODY = MAX_TRUST_BYTES + 65536
_ROLLOUT_OPS = ("pause", "resume", "approve", "abort", "halt", "rollback")
_STATUS: dict[type[EdgectlError], int] = {RolloutError: 409, LinkError: 504, StorageError: 507}


class ReleaseRequest(Message):
    release: str
    digest: Digest
    files: dict[str, str] = Field(max_length=512)
    """The signed ``targets.json``, or the file of a delegation, by name."""
    delta_from: str | None = None
    """The release whose devices get differences; None: the one before; "": none."""


class TrustRequest(Message):
    files: dict[str, str] = Field(max_length=512)
    """Newer roots, targets and delegations, by file name."""
    withdraw: tuple[str, ...] = ()
    stop_rollouts: bool = False
    """Withdraw them although rollouts are under way that need them: these are aborted."""


class ApproveRequest(Message):
    documents: dict[Name, str]
    """Device → its signed desired document."""


class EnrollRequest(Message):
    name: str
    again: bool = False
    """The device is in the fleet already, and gets its files once more."""


class RemoveRequest(Message):
    purge: bool = False


class EventQuery(Message):
    """Which events, in the words of :meth:`edgectl.fleet.store.inventory.Inventory.events`."""

    limit: int = Field(default=200, ge=1, le=MAX_EVENTS)
    about: str | None = Field(default=None, max_length=200)
    since_s: float | None = None
    before: int | None = Field(default=None, ge=0)
    acts: bool = False


class TelemetryQuery(Message):
    """Which totals of the fleet, in the words of :class:`edgectl.fleet.store.totals.TotalsQuery`."""

    release: str | None = Field(default=None, max_length=200)
    """``name@version``, or a digest."""
    slot: str | None = Field(default=None, max_length=64)
    profile: str | None = Field(default=None, max_length=64)
    stage: str | None = Field(default=None, max_length=100)
    preference: str | None = Field(default=None, max_length=32)
    power_mode: str | None = Field(default=None, max_length=64)
    throttled: bool | None = None
    since_s: float = 0.0
    until_s: float | None = None
    limit: int = Field(default=50, ge=1, le=MAX_CLASSES)
    after: int = Field(default=0, ge=0, le=1_000_000)
    """Classes to leave out: those of the pages before."""
    against: str | None = Field(default=None, max_length=200)

    def totals(self, controller: Controller) -> TotalsQuery:
        """Raises :class:`UsageError` for a release that nobody knows."""
        return TotalsQuery(
            None if self.release is None else controller.digest_of(self.release),
            self.slot,
            self.profile,
            self.stage,
            self.preference,
            self.power_mode,
            self.throttled,
            self.since_s,
            self.until_s,
        )


class GroupRequest(Message):
    devices: frozenset[Name] = Field(default=frozenset(), max_length=100_000)
    select: str = Field(default="", max_length=MAX_QUERY)


class DropRequest(Message):
    blobs: tuple[Digest, ...] = Field(max_length=4096)


class FreezeRequest(Message):
    freeze: bool


def make_app(controller: Controller, token: str, dashboard: Dashboard | None = None) -> Starlette:
    """The ASGI application. ``dashboard``: served beside the API, at ``/``."""

    def may(request: Request) -> bool:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        return hmac.compare_digest(given.encode(), token.encode())

    def guarded(endpoint: Endpoint) -> Endpoint:
        async def call(request: Request) -> Response:
            if not may(request):
                return _error(
                    401,
                    UsageError(
                        "the API token is missing or wrong", hint="it lies in the controller's state folder"
                    ),
                )
            try:
                return await endpoint(request)
            except ClientDisconnect:
                return Response(status_code=400)  # nobody reads it
            except TimeoutError:
                return _error(
                    408, UsageError(f"the request was not whole within {_BODY_S:g} s", hint="send it again")
                )
            except ValidationError as e:
                return _error(422, UsageError(f"the request is not valid: {first_problem(e)}"))
            except ValueError as e:
                return _error(422, UsageError(str(e)))
            except EdgectlError as e:
                return _error(
                    next((status for kind, status in _STATUS.items() if isinstance(e, kind)), 400), e
                )

        return call

    scraper = Scraper(controller)

    async def metrics(request: Request) -> Response:
        access = controller.config.api.metrics
        if access == "off":
            return Response("there are no metrics: [api] metrics is off\n", 404, media_type="text/plain")
        if not may(request) and (access == "token" or not from_this_machine(request)):
            return Response("metrics need the API token\n", 401, media_type="text/plain")
        form = wanted(request.headers.get("accept", ""))
        try:
            body = await run_in_threadpool(scraper.answer, form)
        except EdgectlError as e:
            return Response(f"{e.message}\n", 503, media_type="text/plain")
        return Response(body, headers={"content-type": form})

    def get(value: Callable[[Request], object]) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            return JSONResponse(await run_in_threadpool(value, request))

        return guarded(endpoint)

    async def has_blob(request: Request) -> Response:
        digest = check_digest(request.path_params["digest"])
        return Response(status_code=200 if controller.blobs.expects(digest) else 404)

    async def put_blob(request: Request) -> Response:
        digest = check_digest(request.path_params["digest"])
        size = await controller.blobs.put(digest, request.stream(), controller.config.api.max_blob_mb << 20)
        return JSONResponse({"digest": digest, "size": size}, status_code=201)

    async def drop_blobs(request: Request) -> Response:
        r = DropRequest.model_validate_json(await _body(request))
        await run_in_threadpool(controller.drop_blobs, r.blobs)
        return JSONResponse({})

    async def add_release(request: Request) -> Response:
        r = ReleaseRequest.model_validate_json(await _body(request))
        found = await run_in_threadpool(
            controller.add_release, r.release, r.digest, _bytes(r.files), r.delta_from
        )
        return JSONResponse(dataclasses.asdict(found), status_code=201)

    async def accept_trust(request: Request) -> Response:
        r = TrustRequest.model_validate_json(await _body(request))
        await run_in_threadpool(
            controller.accept_trust, _bytes(r.files), r.withdraw, stop_rollouts=r.stop_rollouts
        )
        return JSONResponse(_trust(controller), status_code=201)

    async def approve(request: Request) -> Response:
        r = ApproveRequest.model_validate_json(await _body(request))
        return JSONResponse(await run_in_threadpool(controller.approve, _bytes(r.documents)))

    async def start_rollout(request: Request) -> Response:
        r = RolloutRequest.model_validate_json(await _body(request))
        spec = await run_in_threadpool(controller.start_rollout, r)
        return JSONResponse(_rollout(spec, RolloutProgress()), status_code=201)

    async def preview_rollout(request: Request) -> Response:
        r = RolloutRequest.model_validate_json(await _body(request))
        return JSONResponse(dataclasses.asdict(await run_in_threadpool(controller.preview_rollout, r)))

    async def change_rollout(request: Request) -> Response:
        rollout, op = request.path_params["id"], request.path_params["op"]
        if op not in _ROLLOUT_OPS:
            raise UsageError(f"{op!r} is nothing to do with a rollout: {', '.join(_ROLLOUT_OPS)}")
        await run_in_threadpool(controller.change_rollout, rollout, op)
        return JSONResponse(_rollout(*controller.rollout(rollout)))

    async def skip_device(request: Request) -> Response:
        rollout, device = request.path_params["id"], check_name(request.path_params["name"])
        await run_in_threadpool(controller.skip_device, rollout, device)
        return JSONResponse(_rollout(*controller.rollout(rollout)))

    async def set_group(request: Request) -> Response:
        r = GroupRequest.model_validate_json(await _body(request))
        group = DeviceGroup(name=check_name(request.path_params["name"]), devices=r.devices, select=r.select)
        found = await run_in_threadpool(controller.set_group, group)
        return JSONResponse({**group.model_dump(mode="json"), "members": found})

    async def drop_group(request: Request) -> Response:
        await run_in_threadpool(controller.drop_group, check_name(request.path_params["name"]))
        return JSONResponse({})

    async def clear_slot(request: Request) -> Response:
        slot = check_name(request.path_params["slot"])
        r = ClearRequest.model_validate_json(await _body(request))
        return JSONResponse(
            [dataclasses.asdict(c) for c in await run_in_threadpool(controller.clear_slot, slot, r)]
        )

    async def enroll(request: Request) -> Response:
        r = EnrollRequest.model_validate_json(await _body(request))
        name = check_name(r.name)
        return JSONResponse(
            await run_in_threadpool(partial(controller.enroll, name, again=r.again)), status_code=201
        )

    async def remove(request: Request) -> Response:
        device = check_name(request.path_params["name"])
        r = RemoveRequest.model_validate_json(await _body(request))
        return JSONResponse(
            {"rollouts": await run_in_threadpool(partial(controller.remove, device, purge=r.purge))}
        )

    async def revoked(request: Request) -> Response:
        device = check_name(request.path_params["name"])
        return JSONResponse({"rollouts": await run_in_threadpool(controller.revoke, device)})

    async def command(request: Request) -> Response:
        device = check_name(request.path_params["name"])
        r = CommandRequest.model_validate_json(await _body(request))
        return JSONResponse(_json(await run_in_threadpool(controller.command, device, r)))

    async def freeze(request: Request) -> Response:
        r = FreezeRequest.model_validate_json(await _body(request))
        await run_in_threadpool(controller.freeze, r.freeze)
        return JSONResponse(_state(controller))

    async def open_dashboard(_: Request) -> Response:
        if dashboard is None:
            raise UsageError("this controller serves no dashboard")
        return JSONResponse(dashboard.link(), status_code=201)

    return Starlette(
        routes=[
            Route("/metrics", metrics),
            Route("/v1/blobs/drop", guarded(drop_blobs), methods=["POST"]),
            Route("/v1/blobs/{digest}", guarded(has_blob), methods=["HEAD"]),
            Route("/v1/blobs/{digest}", guarded(put_blob), methods=["PUT"]),
            Route(
                "/v1/releases",
                get(lambda _: _releases(controller)),
            ),
            Route(
                "/v1/releases/{release}/tasks",
                get(
                    lambda r: [t.model_dump(mode="json") for t in controller.tasks(r.path_params["release"])]
                ),
            ),
            Route("/v1/releases", guarded(add_release), methods=["POST"]),
            Route(
                "/v1/configurations/{release}",
                get(lambda r: _configuration(controller, r.path_params["release"])),
            ),
            Route("/v1/licences", get(lambda _: controller.config.licences.model_dump())),
            Route("/v1/devices", get(lambda _: _devices(controller))),
            Route("/v1/devices", guarded(enroll), methods=["POST"]),
            Route("/v1/devices/{name}/machine", get(lambda r: _machine(controller, r.path_params["name"]))),
            Route("/v1/devices/{name}/commands", guarded(command), methods=["POST"]),
            Route("/v1/devices/{name}/remove", guarded(remove), methods=["POST"]),
            Route("/v1/devices/{name}/revoked", guarded(revoked), methods=["POST"]),
            Route("/v1/groups", get(lambda _: _groups(controller))),
            Route("/v1/groups/{name}", guarded(set_group), methods=["PUT"]),
            Route("/v1/groups/{name}", guarded(drop_group), methods=["DELETE"]),
            Route("/v1/archive", get(lambda _: _archive(controller))),
            Route(
                "/v1/rollouts",
                get(lambda _: [_rollout(*r) for r in controller.inventory.rollouts().values()]),
            ),
            Route("/v1/rollouts", guarded(start_rollout), methods=["POST"]),
            Route("/v1/preview", guarded(preview_rollout), methods=["POST"]),
            Route("/v1/rollouts/{id}", get(lambda r: _rollout(*controller.rollout(r.path_params["id"])))),
            Route("/v1/rollouts/{id}/decisions", get(lambda r: _decisions(controller, r.path_params["id"]))),
            Route("/v1/rollouts/{id}/{op}", guarded(change_rollout), methods=["POST"]),
            Route("/v1/rollouts/{id}/devices/{name}/skip", guarded(skip_device), methods=["POST"]),
            Route("/v1/slots/{slot}/clear", guarded(clear_slot), methods=["POST"]),
            Route("/v1/trust", get(lambda _: _trust(controller))),
            Route("/v1/trust", guarded(accept_trust), methods=["POST"]),
            Route("/v1/waiting", get(lambda _: {d: p.decode() for d, p in controller.waiting().items()})),
            Route("/v1/waiting", guarded(approve), methods=["POST"]),
            Route("/v1/latency", get(lambda _: _latency(controller))),
            Route("/v1/telemetry", get(lambda r: _telemetry(controller, r))),
            Route("/v1/telemetry/hours", get(lambda r: _hours(controller, r))),
            Route("/v1/telemetry/regressions", get(lambda r: _regressions(controller, r))),
            Route("/v1/alerts", get(lambda _: [_json(a) for a in controller.alerts()])),
            Route("/v1/rows", get(lambda _: [dataclasses.asdict(r) for r in controller.rows()])),
            Route("/v1/events", get(lambda r: _events(controller, r))),
            Route("/v1/transfer", get(lambda _: dataclasses.asdict(controller.seeder.counters))),
            Route("/v1/freeze", get(lambda _: _state(controller))),
            Route("/v1/freeze", guarded(freeze), methods=["POST"]),
            Route("/v1/dashboard", guarded(open_dashboard), methods=["POST"]),
            *(dashboard.routes() if dashboard is not None else ()),
        ]
    )


class ApiServer:
    """uvicorn on the thread ``api``."""

    def __init__(self, controller: Controller, token: str) -> None:
        """Bind at once. Raises :class:`LinkError` if the port is taken."""
        c = controller.config.api
        try:
            self._socket = socket.create_server((c.host, c.port))
        except OSError as e:
            raise LinkError(
                f"the API cannot listen on {c.host}:{c.port}: {e.strerror}", hint="choose another [api] port"
            ) from e
        # head and body are two writes: the second must not wait for the first to be acknowledged (40 ms). Connections
        # inherit it on Linux; asyncio sets it only where a socket names its protocol
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._dashboard = Dashboard(controller, token)
        self._server = uvicorn.Server(
            uvicorn.Config(
                make_app(controller, token, self._dashboard),
                http=BoundedProtocol,
                log_level="warning",
                ws="none",
                lifespan="off",
                access_log=False,
                timeout_graceful_shutdown=_SHUTDOWN_S,
            )
        )
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="api", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._dashboard.close()
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join()
        self._socket.close()


def from_this_machine(request: Request) -> bool:
    """By whoever connects, and by the name that was asked for: not a page of elsewhere that a browser here has open, nor
    through a proxy here for somebody elsewhere."""
    try:
        host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    except ValueError:
        return False
    passed_on = any(name in request.headers for name in ("forwarded", "x-forwarded-for", "x-real-ip", "via"))
    here = request.client is not None and _is_loopback(request.client.host)
    return here and not passed_on and (host == "localhost" or _is_loopback(host))


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False


async def _body(request: Request) -> bytes:
    return await read_body(request.stream(), "the request", max_bytes=_MAX_BODY, within_s=_BODY_S)


def _error(status: int, e: EdgectlError) -> JSONResponse:
    return JSONResponse({"error": {"code": e.code, "message": e.message, "hint": e.hint}}, status_code=status)


def _bytes(files: dict[str, str]) -> dict[str, bytes]:
    return {name: text.encode() for name, text in files.items()}


def _groups(controller: Controller) -> list[dict[str, Any]]:
    members = controller.group_members()
    return [
        {**group.model_dump(mode="json"), "members": members.get(group.name, [])}
        for group in controller.groups().values()
    ]


def _trust(controller: Controller) -> dict[str, Any]:
    return {
        "files": {name: data.decode() for name, data in controller.trust.files().items()},
        "roles": [dataclasses.asdict(e) for e in controller.trust.expiries()],
    }


def _configuration(controller: Controller, release: str) -> dict[str, Any]:
    document = controller.configuration(release)
    found = {"release": release, "kind": document.config.kind, "text": document.text()}
    parts = {part: one.model_dump() for part, one in document.config.parts.items()}
    return {**found, "parts": parts} if parts else found


def _releases(controller: Controller) -> list[dict[str, Any]]:
    """With what each is: ``engine``, ``config`` or ``set``, and the parts of that."""
    return [
        {
            **dataclasses.asdict(release),
            "type": None if sort is None else sort.name,
            "parts": {} if sort is None else {part: one.release for part, one in sort.parts.items()},
        }
        for release, sort in controller.releases()
    ]


def _json(message: Message | None) -> Any:
    return json.loads(message.encode()) if message is not None else None


def _state(controller: Controller) -> dict[str, Any]:
    return {"freeze": controller.frozen, "connected": controller.connected}


def _rollout(spec: RolloutSpec, progress: RolloutProgress) -> dict[str, Any]:
    return {**_json(spec), **{k: v for k, v in _json(progress).items() if k != "decisions"}}


def _decisions(controller: Controller, rollout: str) -> list[Any]:
    """What its gates decided, with the numbers: too much to go along each time that somebody looks."""
    return [_json(d) for d in controller.rollout(rollout)[1].decisions]


def _devices(controller: Controller) -> list[dict[str, Any]]:
    return [
        {
            "name": d.name,
            "online": bool(d.conn and d.conn.online),
            "revoked": controller.is_revoked(d.name),
            "rivals": [_json(claim.conn) for claim in controller.rivals(d.name)],
            "seen_s": d.seen_s,
            "conn": _json(d.conn),
            "reported": _json(d.reported),
            "desired": _json(d.desired),
        }
        for d in controller.devices()
    ]


def _archive(controller: Controller) -> list[dict[str, Any]]:
    return [
        {
            "name": a.device.name,
            "removed_s": a.removed_s,
            "seen_s": a.device.seen_s,
            "conn": _json(a.device.conn),
            "reported": _json(a.device.reported),
            "desired": _json(a.device.desired),
        }
        for a in controller.inventory.archived()
    ]


def _events(controller: Controller, request: Request) -> list[dict[str, Any]]:
    q = EventQuery.model_validate(dict(request.query_params))
    found = controller.inventory.events(
        q.limit, about=q.about, since_s=q.since_s, before=q.before, acts=q.acts
    )
    return [dataclasses.asdict(e) for e in found]


def _machine(controller: Controller, device: str) -> dict[str, Any]:
    """What it told last of its machine; empty where nothing is known."""
    return machine_of(controller.telemetry(device)).model_dump(mode="json", exclude_none=True)


def _latency(controller: Controller) -> list[dict[str, Any]]:
    return [
        {
            "slot": slot,
            "digest": digest,
            "n": h.n,
            **{f"p{p:g}_ms": h.percentile_ms(p) for p in (50.0, 90.0, 95.0, 99.0)},
        }
        for (slot, digest), h in sorted(controller.engines().items())
    ]


def _telemetry(controller: Controller, request: Request) -> dict[str, Any]:
    q = TelemetryQuery.model_validate(dict(request.query_params))
    found = controller.inventory.totals(q.totals(controller), q.limit + 1, q.after)
    rows = measured_rows(found, _names(controller))
    return {"rows": [dataclasses.asdict(r) for r in rows[: q.limit]], "more": len(rows) > q.limit}


def _hours(controller: Controller, request: Request) -> dict[str, Any]:
    """``classes``: how many this page holds, for ``after`` of the next."""
    q = TelemetryQuery.model_validate(dict(request.query_params))
    found = controller.inventory.totals(q.totals(controller), q.limit, q.after)
    return {"rows": hour_rows(found, _names(controller)), "classes": len(found)}


def _regressions(controller: Controller, request: Request) -> dict[str, Any]:
    q = TelemetryQuery.model_validate(dict(request.query_params))
    if q.against is None:
        raise UsageError("nothing is named to compare with", hint="against=RELEASE")
    rows, alone = controller.regressions(q.totals(controller), q.against)
    return {"rows": [r.told() for r in rows], "alone": [dataclasses.asdict(of) for of in alone]}


def _names(controller: Controller) -> dict[str, str]:
    return {r.digest: r.release for r in controller.inventory.releases().values()}
