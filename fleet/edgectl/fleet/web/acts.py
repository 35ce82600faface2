"""What is done from the dashboard: a page that asks, and the act itself. All of it is the controller's to do and to log."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from edgectl.core.errors import ConfigError, EdgectlError, UsageError
from edgectl.core.files import check_name
from edgectl.fleet.control.controller import Controller
from edgectl.fleet.rollouts.preview import Preview
from edgectl.fleet.rollouts.values import RolloutRequest
from edgectl.fleet.web.answers import answer_tables
from edgectl.fleet.web.forms import command_of, start_of
from edgectl.fleet.web.page_source import PageSource
from edgectl.fleet.web.pages import COMMANDS
from edgectl.fleet.web.rollout_view import ACTS
from edgectl.fleet.web.sessions import Session

__all__ = ["Acts", "Html"]

_QUESTIONS = ("probe", "health", "logs")
"""Commands whose answer is what is wanted."""
_WHOLE = (*_QUESTIONS, "lock", "unlock")
"""Commands that are of no slot."""
_DANGER = ("rollback", "cancel", "force")


class Html(Protocol):
    """Renders a page for a session."""

    def __call__(
        self,
        request: Request,
        session: Session,
        template: str,
        title: str,
        *,
        status: int = 200,
        **context: Any,
    ) -> Response: ...


class Acts:
    """Endpoints. They raise :class:`EdgectlError` for what is refused."""

    def __init__(
        self,
        controller: Controller,
        source: PageSource,
        html: Html,
        run: Callable[[Callable[[], Any]], Awaitable[Any]],
    ) -> None:
        """``run``: on the thread of ``source``."""
        self._controller = controller
        self._source = source
        self._html = html
        self._run = run

    async def start_form(self, request: Request, session: Session) -> Response:
        form = {
            "release": request.query_params.get("release", ""),
            "slot": request.query_params.get("slot", ""),
        }
        return await self._start_page(request, session, form)

    async def preview(self, request: Request, session: Session, form: Mapping[str, str]) -> Response:
        try:
            wanted = start_of(form)
            preview = await run_in_threadpool(self._controller.preview_rollout, wanted)
        except EdgectlError as e:
            return await self._start_page(request, session, form, problem=e)
        return await self._start_page(request, session, form, wanted=wanted, preview=preview)

    async def start(self, request: Request, session: Session, form: Mapping[str, str]) -> Response:
        wanted = RolloutRequest.model_validate_json(form.get("request", ""))
        spec = await run_in_threadpool(self._controller.start_rollout, wanted)
        session.notice = f"Rollout {spec.id} of {spec.release} has begun."
        return RedirectResponse(f"/rollouts/{quote(spec.id)}", 303)

    async def _start_page(
        self,
        request: Request,
        session: Session,
        form: Mapping[str, str],
        *,
        problem: EdgectlError | None = None,
        wanted: RolloutRequest | None = None,
        preview: Preview | None = None,
    ) -> Response:
        releases, slots = await self._run(self._source.choices)
        return self._html(
            request,
            session,
            "start.html",
            "Start a rollout",
            status=422 if problem else 200,
            nav="/rollouts",
            form={
                name: form.get(name, "") for name in ("release", "slot", "select", "canary", "soak", "policy")
            },
            field=_field_of(problem),
            problem=problem,
            wanted=wanted,
            encoded=wanted.encode().decode() if wanted else "",
            preview=preview,
            releases=releases,
            slots=slots,
        )

    async def ask_rollout(self, request: Request, session: Session) -> Response:
        id_, op = request.path_params["id"], request.path_params["op"]
        act = _known(ACTS, op)
        spec, _ = await run_in_threadpool(self._controller.rollout, id_)
        device = request.query_params.get("device", "")
        what = f"{act.label}{f' {device}' if device else ''} — {spec.id}, {spec.release}"
        return self._ask(
            request,
            session,
            what,
            act.question,
            f"/rollouts/{quote(id_)}",
            act.label,
            danger=act.danger,
            fields={"device": device} if device else {},
        )

    async def change_rollout(self, request: Request, session: Session, form: Mapping[str, str]) -> Response:
        id_, op = request.path_params["id"], request.path_params["op"]
        act = _known(ACTS, op)
        if op == "skip":
            device = check_name(form.get("device", ""))
            await run_in_threadpool(self._controller.skip_device, id_, device)
            session.notice = f"{id_} goes on without {device}."
        else:
            await run_in_threadpool(self._controller.change_rollout, id_, op)
            session.notice = f"{id_}: {act.label.lower()} is done."
        return RedirectResponse(f"/rollouts/{quote(id_)}", 303)

    async def ask_freeze(self, request: Request, session: Session) -> Response:
        frozen = bool(self._controller.frozen)
        question = (
            "Devices may activate releases again."
            if frozen
            else "No device of the fleet activates anything until the freeze is ended. Pipelines go on."
        )
        label = "End the freeze" if frozen else "Freeze the fleet"
        return self._ask(
            request,
            session,
            label,
            question,
            "/",
            label,
            danger=not frozen,
            fields={"freeze": "off" if frozen else "on"},
        )

    async def freeze(self, _request: Request, session: Session, form: Mapping[str, str]) -> Response:
        freeze = {"on": True, "off": False}.get(form.get("freeze", ""))
        if freeze is None:
            raise UsageError("freeze is on or off")
        await run_in_threadpool(self._controller.freeze, freeze)
        session.notice = "The fleet is frozen." if freeze else "The freeze is over."
        return RedirectResponse("/", 303)

    async def ask_device(self, request: Request, session: Session) -> Response:
        name, op = request.path_params["name"], request.path_params["op"]
        label, question = _known(COMMANDS, op)
        device = self._controller.device(name)
        slots = sorted(device.conn.slots) if device.conn and op not in _WHOLE else []
        changes = op not in _QUESTIONS
        return self._ask(
            request,
            session,
            f"{label} — {name}",
            question,
            f"/devices/{quote(name)}",
            label,
            slots=slots,
            lease=op == "lock",
            reason=changes,
            danger=op in _DANGER,
        )

    async def command(self, request: Request, session: Session, form: Mapping[str, str]) -> Response:
        name, op = check_name(request.path_params["name"]), request.path_params["op"]
        label, _ = _known(COMMANDS, op)
        reply = await run_in_threadpool(self._controller.command, name, command_of(op, form))
        if not reply.ok:
            why = reply.error.detail or reply.error.code if reply.error else "it does not say why"
            raise UsageError(f"{name} refuses: {why}")
        if op in _QUESTIONS:
            tables = answer_tables(reply.result)
            return self._html(
                request,
                session,
                "answer.html",
                f"{label} of {name}",
                nav="/devices",
                name=name,
                tables=tables,
            )
        session.notice = f"{name}: {label.lower()} is done."
        return RedirectResponse(f"/devices/{quote(name)}", 303)

    def _ask(
        self,
        request: Request,
        session: Session,
        what: str,
        question: str,
        back: str,
        label: str,
        *,
        danger: bool = False,
        fields: Mapping[str, str] | None = None,
        slots: list[str] | None = None,
        lease: bool = False,
        reason: bool = False,
    ) -> Response:
        """Whether it is meant. A page of its own, from which the script takes the form into a dialog."""
        return self._html(
            request,
            session,
            "ask.html",
            what,
            question=question,
            back=back,
            label=label,
            danger=danger,
            fields=fields or {},
            slots=slots or [],
            lease=lease,
            reason=reason,
        )


def _field_of(problem: EdgectlError | None) -> str:
    """The field of the form that is wrong; empty: none of them alone."""
    if isinstance(problem, ConfigError):
        return "policy"
    return str(problem.key[0]) if isinstance(problem, UsageError) and problem.key else ""


def _known(table: Mapping[str, Any], op: str) -> Any:
    if op not in table:
        raise UsageError(f"there is nothing called {op[:40]!r} to do here")
    return table[op]
