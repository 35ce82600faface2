"""The options of the live page: ``--view`` and its address."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from edgectl.cli._options import OptionGroup

if TYPE_CHECKING:
    from edgectl.cli._printer import Printer
    from edgectl.pipelines.view.live_view import LiveView

__all__ = ["LivePage"]


@dataclass
class LivePage(OptionGroup):
    view: Annotated[
        bool,
        typer.Option(
            "--view", help="Show the pictures, numbers and events on a page for a browser on this machine."
        ),
    ] = False
    view_at: Annotated[
        str | None,
        typer.Option(
            "--view-at",
            metavar="HOST:PORT",
            help="Show them at another address. One that other machines can reach needs a token: it is printed.",
        ),
    ] = None
    view_token: Annotated[
        str | None,
        typer.Option(
            "--view-token",
            envvar="EDGECTL_VIEW_TOKEN",
            show_envvar=False,
            help="The token of the page, instead of one that is made. Set EDGECTL_VIEW_TOKEN instead: the shell's history keeps what you type here.",
        ),
    ] = None

    @contextmanager
    def open(self, output: Printer) -> Iterator[LiveView | None]:
        """The page, or None where nobody asked for it. Its address goes to stderr."""
        if not self.view and self.view_at is None:
            yield None
            return
        from edgectl.pipelines.view.guard import parse_address
        from edgectl.pipelines.view.live_view import LiveView

        host, port = ("127.0.0.1", None) if self.view_at is None else parse_address(self.view_at)
        with LiveView(host, port, token=self.view_token) as page:
            output.stderr.print(f"watch live: {page.url_with_token}", soft_wrap=True)
            yield page
