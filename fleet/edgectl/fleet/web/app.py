"""The dashboard's HTTP interface, beside the API on the same port.

::

    GET  /login, POST /login, /logout    the API's token, from a form; a session's cookie for it
    GET  /enter/SECRET                   the same by a link that works once
    GET  /, /devices, /devices/NAME, /rollouts, /rollouts/ID, /releases, /releases/NAME@VERSION, /latency, /events
    GET  /live/…                         the parts of such a page that change, server-sent
    GET  /rollouts/new, POST /rollouts/new, POST /rollouts     a rollout: the form, what it would do, start
    GET, POST /rollouts/ID/OP, /devices/NAME/OP, /freeze       a page that asks, and the act itself
    GET  /static/…

Every act is a POST from a page of this very address, with the word of its session. What acts do is the controller's
business, which logs them as those of the API.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from urllib.parse import urlencode, urlsplit

from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from edgectl.core.errors import EdgectlError, LinkError, RolloutError, UsageError
from edgectl.core.schema import first_problem
from edgectl.fleet.control.controller import Controller
from edgectl.fleet.web.acts import Acts
from edgectl.fleet.web.entrance import ELSEWHERE, Entrance, is_own, local
from edgectl.fleet.web.feed import MAX_STREAMS, PERIOD_S, PageView, PartFeed, Sparing, render_parts
from edgectl.fleet.web.forms import read_form
from edgectl.fleet.web.page_source import PageSource
from edgectl.fleet.web.pages import Pages, Query
from edgectl.fleet.web.rendering import HEADERS, STATIC, Part, asset, environment, part_markup
from edgectl.fleet.web.sessions import Session, Sessions
from edgectl.fleet.web.stream import EventStream, event

__all__ = ["Dashboard"]

Builder = Callable[[Query, Query], PageView]
Seen = Callable[[Request, Session], Awaitable[Response]]
Open = Callable[[Request], Awaitable[Response]]

_STATUS: dict[type[EdgectlError], int] = {RolloutError: 409, LinkError: 504}
_KEEP_ALIVE_S = 15.0
_NO_SESSION = "your session has ended: sign in again"


class Dashboard:
    def __init__(
        self, controller: Controller, token: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``token``: of the API; ``clock``: monotonic seconds."""
        self._controller = controller
        self._feed = PartFeed(Sparing(clock))
        source = PageSource(controller, self._feed.sparing)
        self._pages = Pages(controller, source)
        self._thread = ThreadPoolExecutor(1, "dashboard")
        self._streams = 0
        self._over = False
        self._entrance = Entrance(Sessions(token, clock), controller.config.fleet, controller.config.api.port)
        self._acts = Acts(controller, source, self._html, self._run)

    def close(self) -> None:
        """Streams end; nothing else is answered."""
        self._over = True
        self._thread.shutdown(wait=False, cancel_futures=True)

    def link(self) -> dict[str, Any]:
        """Where a browser may enter once, within so many seconds."""
        return self._entrance.link()

    def routes(self) -> list[Route]:
        p = self._pages
        pages: dict[str, Builder] = {
            "/": p.fleet,
            "/devices": p.devices,
            "/devices/{name}": p.device,
            "/rollouts": p.rollouts,
            "/rollouts/{id}": p.rollout,
            "/releases": p.releases,
            "/releases/{release}": p.release,
            "/latency": p.latency,
            "/events": p.events,
        }
        get, post = ["GET"], ["POST"]
        return [
            Route("/login", self._answered(self._entrance.login_page), methods=get),
            Route("/login", self._answered(self._entrance.login), methods=post),
            Route("/logout", self._act(self._entrance.logout), methods=post),
            Route("/enter/{once}", self._answered(self._entrance.enter), methods=get),
            Route("/static/{name}", self._answered(self._static), methods=get),
            Route("/rollouts/new", self._page(self._acts.start_form), methods=get),
            Route("/rollouts/new", self._act(self._acts.preview), methods=post),
            Route("/rollouts", self._act(self._acts.start), methods=post),
            *(
                Route(path, self._page(partial(self._show, make)), methods=get)
                for path, make in pages.items()
            ),
            *(
                Route("/live" + path, self._answered(partial(self._live, make)), methods=get)
                for path, make in pages.items()
            ),
            Route("/freeze", self._page(self._acts.ask_freeze), methods=get),
            Route("/freeze", self._act(self._acts.freeze), methods=post),
            Route("/rollouts/{id}/{op}", self._page(self._acts.ask_rollout), methods=get),
            Route("/rollouts/{id}/{op}", self._act(self._acts.change_rollout), methods=post),
            Route("/devices/{name}/{op}", self._page(self._acts.ask_device), methods=get),
            Route("/devices/{name}/{op}", self._act(self._acts.command), methods=post),
        ]

    # ---- who may

    def _answered(self, endpoint: Open) -> Open:
        """With the headers of safety, and a page that says what is wrong."""

        async def call(request: Request) -> Response:
            try:
                response = await endpoint(request)
            except ClientDisconnect:
                return Response(status_code=400)
            except TimeoutError:
                response = self._problem(
                    request, 408, UsageError("the form did not come in time", hint="send it again")
                )
            except ValidationError as e:
                response = self._problem(request, 422, UsageError(f"this is not valid: {first_problem(e)}"))
            except ValueError as e:
                response = self._problem(request, 422, UsageError(str(e)))
            except EdgectlError as e:
                status = next((s for kind, s in _STATUS.items() if isinstance(e, kind)), 400)
                response = self._problem(request, status, e)
            for name, value in HEADERS.items():
                response.headers.setdefault(name, value)
            return response

        return call

    def _page(self, endpoint: Seen) -> Open:
        """For who has a session; others are asked to sign in."""

        async def call(request: Request) -> Response:
            session = self._entrance.session(request)
            if session is None:
                asked = request.url.path + (f"?{request.url.query}" if request.url.query else "")
                return RedirectResponse(f"/login?{urlencode({'next': asked})}", 303)
            return await endpoint(request, session)

        return self._answered(call)

    def _act(self, endpoint: Callable[[Request, Session, Mapping[str, str]], Awaitable[Response]]) -> Open:
        """A form from a page of ours, sent on purpose."""

        async def call(request: Request) -> Response:
            session = self._entrance.session(request)
            if session is None:
                return self._problem(request, 401, UsageError(_NO_SESSION))
            if not is_own(request):
                return self._problem(request, 403, UsageError(ELSEWHERE))
            form = await read_form(request)
            if not session.may_act(form.get("word", "")):
                return self._problem(request, 403, UsageError(ELSEWHERE))
            try:
                return await endpoint(request, session, form)
            finally:
                await self._run(self._feed.sparing.forget)

        return self._answered(call)

    # ---- what is shown

    async def _static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in STATIC:
            return Response(status_code=404)
        data, _ = asset(name)
        return Response(data, media_type=STATIC[name], headers={"cache-control": "private, max-age=86400"})

    async def _show(self, make: Builder, request: Request, session: Session) -> Response:
        def render() -> tuple[PageView, dict[str, Part]]:
            view = make(dict(request.path_params), dict(request.query_params))
            return view, render_parts(view)

        view, parts = await self._run(render)
        return self._html(
            request, session, view.template, view.title, parts=parts, nav=view.nav, **view.fixed
        )

    async def _live(self, make: Builder, request: Request) -> Response:
        if self._entrance.session(request) is None:
            return JSONResponse({"error": _NO_SESSION}, 401)
        if self._streams >= MAX_STREAMS:
            return JSONResponse({"error": f"{MAX_STREAMS} pages are kept current already"}, 503)
        address = f"{request.url.path}?{request.url.query}"
        path, query = dict(request.path_params), dict(request.query_params)
        entered = contextlib.ExitStack()
        self._streams += 1
        entered.callback(self._left)

        async def body() -> AsyncIterator[bytes]:
            sent: dict[str, str] = {}
            quiet_s = 0.0
            yield b"retry: 2000\n\n"
            while not self._over and self._entrance.session(request) is not None:
                try:
                    parts = await self._run(partial(self._feed.parts, address, partial(make, path, query)))
                except EdgectlError as e:
                    yield event("gone", e.message)  # e.g. the device has left the fleet
                    return
                changed = {
                    i: {"html": p.html, "tag": p.tag} for i, p in parts.items() if sent.get(i) != p.tag
                }
                sent = {i: p.tag for i, p in parts.items()}
                quiet_s = 0.0 if changed else quiet_s + PERIOD_S
                if changed:
                    yield event("parts", changed)
                elif quiet_s >= _KEEP_ALIVE_S:
                    quiet_s = 0.0
                    yield b": still here\n\n"
                # everybody looks at the same moment, so that one look serves all
                await asyncio.sleep(PERIOD_S - time.monotonic() % PERIOD_S)

        return EventStream(body(), entered)

    def _left(self) -> None:
        self._streams -= 1

    # ---- HTML

    async def _run(self, call: Callable[[], Any]) -> Any:
        """On the thread that reads for pages. Raises :class:`LinkError` once the server ends."""
        if self._over:
            raise LinkError("the controller ends", hint="load the page again once it is back")
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    def _html(
        self,
        request: Request,
        session: Session,
        template: str,
        title: str,
        *,
        status: int = 200,
        parts: Mapping[str, Part] | None = None,
        nav: str = "",
        **context: Any,
    ) -> Response:
        live = f"/live{request.url.path}" + (f"?{request.url.query}" if request.url.query else "")
        html = (
            environment()
            .get_template(template)
            .render(
                title=title,
                fleet=self._controller.config.fleet,
                session=session,
                notice=session.take_notice(),
                live=live if parts else "",
                nav=nav,
                part=partial(part_markup, parts or {}),
                **context,
            )
        )
        return HTMLResponse(html, status)

    def _problem(self, request: Request, status: int, e: EdgectlError) -> Response:
        session = self._entrance.session(request)
        if session is None:
            return self._entrance.form("", f"{e.message[:1].upper()}{e.message[1:]}.", status)
        back = urlsplit(request.headers.get("referer", "")).path or "/"
        return self._html(
            request,
            session,
            "problem.html",
            "That did not work",
            status=status,
            message=e.message,
            hint=e.hint,
            back=local(back),
        )
