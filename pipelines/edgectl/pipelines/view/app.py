"""The page's HTTP interface.

::

    GET  /                              every stream
    GET  /streams/{stream}              one stream, large, with its zones and lines
    GET  /streams/{stream}/picture.jpg  the newest picture; where there is none, 503 and why, for a browser drawn
    GET  /streams/{stream}/live.mjpeg   all of them, multipart/x-mixed-replace, for other programs
    GET  /pictures?show=gate:640,…      pictures of many streams over one connection, for the page itself: a browser
                                        opens six connections to one host, and no more. ``gate:640:plain``: without
                                        what was found drawn in
    GET  /events                        numbers and events, server-sent
    GET  /streams/{stream}/snapshots/{event}.jpg
    POST /streams/{stream}/shapes       what zones and lines were made of: YAML, or what is wrong with them
    POST /streams/{stream}/shapes/save  written into the configuration file
    POST /login                         the token, from a form
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgectl.core.errors import BusyError, EdgectlError
from edgectl.pipelines.view import page
from edgectl.pipelines.view.absence import placeholder
from edgectl.pipelines.view.board import Board
from edgectl.pipelines.view.editor import ShapeEditor
from edgectl.pipelines.view.guard import HEADERS, Guard
from edgectl.pipelines.view.looks import Look, PictureSource, ViewerPicture, Watch, width_for

__all__ = ["STATIC", "make_app"]

STATIC = {"view.css": "text/css", "live.js": "text/javascript", "shapes.js": "text/javascript"}
_BOUNDARY = "edgectl-frame"
_NUMBERS_S = 1.0
"""How often numbers are sent."""
_FIRST_S = 5.0
"""How long a picture is waited for."""
_LAST_S = 1.0
"""The same of a stream that gives none now: its last one may have to be encoded."""
_MAX_BODY = 256 * 1024
_BODY_S = 10.0


def make_app(board: Board, hub: PictureSource, editors: dict[str, ShapeEditor], guard: Guard) -> ASGIApp:
    """The ASGI application. ``editors``: by stream, of those whose zones and lines can be drawn."""
    routes = _Routes(board, hub, editors, guard)
    app = Starlette(
        routes=[
            Route("/", routes.overview),
            Route("/login", routes.login, methods=["POST"]),
            Route("/static/{name}", routes.static),
            Route("/events", routes.events),
            Route("/pictures", routes.pictures),
            Route("/streams/{stream}", routes.stream),
            Route("/streams/{stream}/picture.jpg", routes.picture),
            Route("/streams/{stream}/live.mjpeg", routes.mjpeg),
            Route("/streams/{stream}/snapshots/{event}.jpg", routes.snapshot),
            Route("/streams/{stream}/shapes", routes.shapes),
            Route("/streams/{stream}/shapes", routes.check, methods=["POST"]),
            Route("/streams/{stream}/shapes/save", routes.save, methods=["POST"]),
        ],
        exception_handlers={HTTPException: _refused, EdgectlError: _wrong},
    )
    return _Guarded(app, guard)


class _Guarded:
    """Asks the guard about every request, and puts the headers of safety on every answer."""

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def safe_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        request = Request(scope)
        answer = self._refusal(request)
        await (self._app if answer is None else answer)(scope, receive, safe_send)

    def _refusal(self, request: Request) -> Response | None:
        guard, path = self._guard, request.url.path
        refusal = guard.refuses(request.method, request.headers)
        if refusal is not None:
            return JSONResponse({"error": refusal.why}, refusal.status)
        if path == "/login" or path.startswith("/static/"):
            return None
        if not guard.knows(request.headers, request.cookies, request.query_params.get("token")):
            if "text/html" in request.headers.get("accept", ""):
                return HTMLResponse(page.login(wrong="token" in request.query_params), 401)
            return JSONResponse({"error": "the token is missing or wrong"}, 401)
        if request.method == "POST" and not guard.may_write(request.headers):
            return JSONResponse({"error": "load the page again, then do it once more"}, 403)
        return None


class _Routes:
    def __init__(
        self, board: Board, hub: PictureSource, editors: dict[str, ShapeEditor], guard: Guard
    ) -> None:
        self._board = board
        self._hub = hub
        self._editors = editors
        self._guard = guard

    # -- pages --------------------------------------------------------------------------------------------------------

    async def overview(self, request: Request) -> Response:
        if "token" in request.query_params:
            return self._welcome()
        return HTMLResponse(page.overview(self._board.about(), self._board.events(), self._guard.word))

    async def stream(self, request: Request) -> Response:
        name = self._name(request)
        about = self._about(name)
        events = [event for event in self._board.events() if event["stream"] == name]
        return HTMLResponse(page.one_stream(about, events, self._guard.word, editable=name in self._editors))

    async def login(self, request: Request) -> Response:
        fields = await _body(request)
        with contextlib.suppress(UnicodeDecodeError):
            token = dict(p.partition("=")[::2] for p in fields.decode("ascii").split("&")).get("token", "")
            if self._guard.is_token(token):
                return self._welcome()
        return HTMLResponse(page.login(wrong=True), 401)

    def _welcome(self) -> Response:
        """To the page without the token in its address; the browser keeps a cookie instead."""
        answer = RedirectResponse("/", 303)
        answer.set_cookie(self._guard.cookie, self._guard.session, httponly=True, samesite="strict")
        return answer

    async def static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in STATIC:
            raise HTTPException(404, "there is no such file")
        data = (files("edgectl.pipelines.view") / "static" / name).read_bytes()
        return Response(data, media_type=STATIC[name])

    # -- pictures -----------------------------------------------------------------------------------------------------

    async def picture(self, request: Request) -> Response:
        name, look = self._name(request), _look(request)
        about = self._about(name)
        with self._watch({name: look}) as (watch, bell):
            runs = about["live"] is None or about["live"]["state"] == "running"
            until_s = time.monotonic() + (_FIRST_S if runs else _LAST_S)
            while (
                not (found := watch.take()) and (left_s := until_s - time.monotonic()) > 0 and not watch.over
            ):
                await bell.wait(left_s)
        if not found:
            why = self._about(name)["absence"]
            if "image/" in request.headers.get("accept", ""):
                drawn = placeholder(name, why, look.width)
                return Response(drawn, 503, {"retry-after": "2"}, media_type="image/svg+xml")
            raise HTTPException(503, "there is no picture yet" if runs else ": ".join(filter(None, why)))
        return Response(found[0].jpeg, media_type="image/jpeg")

    async def mjpeg(self, request: Request) -> Response:
        def part(picture: ViewerPicture) -> bytes:
            head = f"Content-Type: image/jpeg\r\nContent-Length: {len(picture.jpeg)}\r\n"
            head += f"X-Age-Ms: {picture.age_ms(time.monotonic_ns()):.1f}\r\n\r\n"
            # The next boundary comes at once: browsers show a part when they see its end.
            return head.encode() + picture.jpeg + f"\r\n--{_BOUNDARY}\r\n".encode()

        wanted = {self._name(request): _look(request)}
        media_type = f"multipart/x-mixed-replace; boundary={_BOUNDARY}"
        return self._follow(wanted, part, media_type, f"--{_BOUNDARY}\r\n".encode())

    async def pictures(self, request: Request) -> Response:
        wanted: dict[str, Look] = {}
        for item in request.query_params.get("show", "").split(","):
            name, width, plain = [*item.split(":"), "", ""][:3]
            if name in self._board and width.isascii() and width.isdecimal():
                wanted[name] = Look(width_for(int(width[:6])), annotated=plain != "plain")
        if not wanted:
            raise HTTPException(404, "show= names no stream: NAME:WIDTH,NAME:WIDTH:plain")
        return self._follow(
            wanted, lambda picture: picture.packed(time.monotonic_ns()), "application/octet-stream"
        )

    def _follow(
        self,
        wanted: dict[str, Look],
        part: Callable[[ViewerPicture], bytes],
        media_type: str,
        first: bytes = b"",
    ) -> Response:
        entered = contextlib.ExitStack()
        watch, bell = entered.enter_context(
            self._watch(wanted)
        )  # too many viewers are told before the answer begins

        async def body() -> AsyncIterator[bytes]:
            yield first
            while not watch.over:
                # Sends nothing, and waits until what was sent before is on its way: only then is chosen what is the
                # newest.
                yield b""
                if pictures := watch.take():
                    yield b"".join(part(picture) for picture in pictures)
                else:
                    await bell.wait(_FIRST_S)

        return _EndlessAnswer(body(), media_type, entered)

    @contextlib.contextmanager
    def _watch(self, wanted: dict[str, Look]) -> Iterator[tuple[Watch, _Bell]]:
        bell = _Bell()
        with self._hub.watch(wanted, bell.ring) as watch:
            yield watch, bell

    async def snapshot(self, request: Request) -> Response:
        jpeg = self._board.snapshot(self._name(request), request.path_params["event"])
        if jpeg is None:
            raise HTTPException(404, "this event has no picture")
        return Response(jpeg, media_type="image/jpeg")

    # -- numbers and events -------------------------------------------------------------------------------------------

    async def events(self, request: Request) -> Response:
        entered = contextlib.ExitStack()
        bell = _Bell()
        entered.enter_context(self._board.listen(bell.ring))

        async def body() -> AsyncIterator[bytes]:
            seen, numbers_s = 0, 0.0
            while not self._board.over:
                if events := self._board.events(seen):
                    seen = max(event["number"] for event in events)
                    yield _sse("happened", events)
                if time.monotonic() >= numbers_s:
                    numbers_s = time.monotonic() + _NUMBERS_S
                    yield _sse("numbers", {"time_s": time.time(), "streams": self._board.about()})
                await bell.wait(max(0.01, numbers_s - time.monotonic()))

        return _EndlessAnswer(body(), "text/event-stream", entered)

    # -- zones and lines ----------------------------------------------------------------------------------------------

    async def shapes(self, request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self._editor(request).now))

    async def check(self, request: Request) -> Response:
        return await self._edit(request, self._editor(request).check)

    async def save(self, request: Request) -> Response:
        return await self._edit(request, self._editor(request).save)

    async def _edit(self, request: Request, call: Callable[[bytes], dict[str, Any]]) -> Response:
        return JSONResponse(await run_in_threadpool(call, await _body(request)))

    def _editor(self, request: Request) -> ShapeEditor:
        editor = self._editors.get(self._name(request))
        if editor is None:
            raise HTTPException(404, "this stream has no zones and lines")
        return editor

    def _about(self, name: str) -> dict[str, Any]:
        return next(about for about in self._board.about() if about["name"] == name)

    def _name(self, request: Request) -> str:
        name: str = request.path_params["stream"]
        if name not in self._board:
            raise HTTPException(404, "there is no such stream")
        return name


class _EndlessAnswer(StreamingResponse):
    """An answer without an end. What it ``entered`` is left as soon as the client has gone, also one that goes before it
    begins."""

    def __init__(self, body: AsyncIterator[bytes], media_type: str, entered: contextlib.ExitStack) -> None:
        super().__init__(body, media_type=media_type)
        self._entered = entered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._entered:
            await super().__call__(scope, receive, send)


class _Bell:
    """Rung from any thread, heard by one task of the server's loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def ring(self) -> None:
        with contextlib.suppress(RuntimeError):  # the server has ended
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, timeout_s: float) -> None:
        """Until it is rung, at most so long."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._event.wait(), timeout_s)
        self._event.clear()


def _look(request: Request) -> Look:
    asked = request.query_params.get("width", "1280")
    if not (asked.isascii() and asked.isdecimal()):
        raise HTTPException(422, "width= is a number of pixels")
    return Look(width_for(int(asked[:6])))


async def _body(request: Request) -> bytes:
    body = bytearray()

    async def read() -> None:
        async for piece in request.stream():
            body.extend(piece)
            if len(body) > _MAX_BODY:
                raise HTTPException(413, f"the request has more than {_MAX_BODY} bytes")

    try:
        await asyncio.wait_for(read(), _BODY_S)
    except asyncio.TimeoutError as e:
        raise HTTPException(408, f"the request was not whole within {_BODY_S:g} s") from e
    return bytes(body)


def _sse(event: str, value: Any) -> bytes:
    return f"event: {event}\ndata: {json.dumps(value, separators=(',', ':'))}\n\n".encode()


async def _refused(request: Request, e: Exception) -> Response:
    assert isinstance(e, HTTPException)
    return JSONResponse({"error": e.detail}, e.status_code)


async def _wrong(request: Request, e: Exception) -> Response:
    assert isinstance(e, EdgectlError)
    status = 503 if isinstance(e, BusyError) else 422
    return JSONResponse({"error": e.message, "hint": e.hint}, status)
