"""How a browser gets in and out: the token from a form, a link that works once, a session's cookie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from edgectl.fleet.web.forms import read_form
from edgectl.fleet.web.rendering import environment
from edgectl.fleet.web.sessions import LINK_S, SESSION_S, Session, Sessions

__all__ = ["ELSEWHERE", "Entrance", "is_own", "local"]

ELSEWHERE = "this did not come from a page of the dashboard: load the page again, and do it once more"


class Entrance:
    """Endpoints. They raise :class:`EdgectlError` for what is refused."""

    def __init__(self, sessions: Sessions, fleet: str, port: int) -> None:
        self._sessions = sessions
        self._fleet = fleet
        # browsers keep no cookies apart by ports: this does
        self._cookie = f"edgectl_dashboard_{port}"

    def link(self) -> dict[str, Any]:
        """Where a browser may enter once, within so many seconds."""
        return {"path": f"/enter/{self._sessions.link()}", "seconds": LINK_S}

    def session(self, request: Request) -> Session | None:
        return self._sessions.find(request.cookies.get(self._cookie))

    async def login_page(self, request: Request) -> Response:
        return self.form(request.query_params.get("next", ""), "", 200)

    async def login(self, request: Request) -> Response:
        if not is_own(request):
            return self.form("", f"{ELSEWHERE[:1].upper()}{ELSEWHERE[1:]}.", 403)
        form = await read_form(request)
        address = _address(request)
        if wait_s := self._sessions.wait_s(address):
            return self._too_many(form.get("next", ""), wait_s)
        cookie = self._sessions.sign_in(form.get("token", "").strip(), address)
        if cookie is None:
            return self.form(form.get("next", ""), "This is not the token.", 401)
        return self._welcome(request, cookie, form.get("next", ""))

    async def enter(self, request: Request) -> Response:
        address = _address(request)
        if wait_s := self._sessions.wait_s(address):
            return self._too_many("", wait_s)
        cookie = self._sessions.enter(request.path_params["once"], address)
        if cookie is None:
            said = "This link has been used, or is older than a minute. Ask for another one, or sign in with the token."
            return self.form("", said, 401)
        return self._welcome(request, cookie, "")

    def _too_many(self, next_: str, wait_s: int) -> Response:
        response = self.form(next_, f"Too many wrong tokens: try again in {wait_s} s.", 429)
        response.headers["retry-after"] = str(wait_s)
        return response

    def _welcome(self, request: Request, cookie: str, next_: str) -> Response:
        """The address bar keeps neither token nor secret; the browser keeps a cookie instead."""
        answer = RedirectResponse(local(next_), 303)
        answer.set_cookie(
            self._cookie,
            cookie,
            max_age=int(SESSION_S),
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer

    async def logout(self, request: Request, _session: Session, _form: Mapping[str, str]) -> Response:
        self._sessions.end(request.cookies.get(self._cookie, ""))
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(self._cookie, httponly=True, samesite="strict")
        return answer

    def form(self, next_: str, said: str, status: int) -> Response:
        html = environment().get_template("login.html").render(said=said, next=next_, fleet=self._fleet)
        return HTMLResponse(html, status)


def is_own(request: Request) -> bool:
    """Sent by a page of this very address: browsers name it on every form."""
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc == request.headers.get("host", "")


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def local(path: str) -> str:
    """A path of this server, or its first page."""
    return path if path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable() else "/"
