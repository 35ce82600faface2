"""``edgectl controller open``: a link to the dashboard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from conftest import free_port
from support.controller import World
from typer.testing import CliRunner

from edgectl.cli.main import app
from edgectl.core.errors import UsageError
from edgectl.fleet.api.app import ApiServer
from edgectl.fleet.config import ApiConfig


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Of a controller that runs."""
    world = World(tmp_path / "controller", monkeypatch)
    api = ApiConfig(port=free_port())
    world.controller.config = world.controller.config.model_copy(update={"api": api})
    (tmp_path / "token").write_text("secret")
    server = ApiServer(world.controller, "secret")
    server.start()
    yield ["--controller", f"http://127.0.0.1:{api.port}", "--token-file", str(tmp_path / "token")]
    server.close()
    world.controller.inventory.close()


def test_the_link_lets_one_browser_in(options: list[str]) -> None:
    told = CliRunner().invoke(app, ["controller", "open", *options])
    link = told.stdout.strip()
    assert "secret" not in link
    with httpx.Client(follow_redirects=True) as browser:
        assert "What is wrong" in browser.get(link).text
    with httpx.Client(follow_redirects=True) as other:
        assert other.get(link).status_code == 401


def test_json_has_the_link_too_and_a_browser_is_opened_where_one_is(
    options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda url: opened.append(url) or bool(url))
    told = CliRunner().invoke(app, ["controller", "open", "--browser", "--json", *options])
    assert opened == [json.loads(told.stdout)["url"]]
    monkeypatch.setattr("webbrowser.open", lambda url: False)
    told = CliRunner().invoke(app, ["controller", "open", "--browser", *options])
    assert "copy the link into one" in told.stderr


def test_without_a_token_it_says_what_is_missing(options: list[str], tmp_path: Path) -> None:
    told = CliRunner().invoke(app, ["controller", "open", *options[:-1], str(tmp_path / "none")])
    assert isinstance(told.exception, UsageError)
    assert "cannot read the API token" in told.exception.message
