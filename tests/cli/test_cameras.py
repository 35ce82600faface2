"""``edgectl cameras discover``: what is printed, as text and as JSON."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from edgectl.cli.main import app
from edgectl.core.errors import SourceError, UsageError
from edgectl.pipelines.sources.media import onvif
from edgectl.pipelines.sources.media.onvif import FoundCamera


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    cameras = [
        FoundCamera("10.0.0.7", "Gate\x1b[31m", "http://10.0.0.7/onvif"),
        FoundCamera("10.0.0.8", "Yard", "http://10.0.0.8/onvif"),
    ]

    def streams(camera: FoundCamera, user: str, password: str) -> list[str]:
        assert (user, password) == ("admin", "pw")
        if camera.host == "10.0.0.8":
            raise SourceError("cannot open http://10.0.0.8/onvif: the server says 401")
        return ["rtsp://10.0.0.7:554/main"]

    monkeypatch.setattr(onvif, "discover", lambda wait_s, interface: cameras)
    monkeypatch.setattr(onvif, "stream_uris", streams)
    monkeypatch.setenv("EDGECTL_CAMERA_PASSWORD", "pw")


def discover(*words: str) -> str:
    done = CliRunner().invoke(app, ["cameras", "discover", *words], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.usefixtures("two")
def test_cameras_are_listed_with_their_streams_or_why_there_are_none() -> None:
    told = discover("--user", "admin")
    assert "rtsp://10.0.0.7:554/main" in told
    assert "says 401" in told
    assert "\x1b[31m" not in told
    found = json.loads(discover("--json"))["cameras"]
    assert [c["host"] for c in found] == ["10.0.0.7", "10.0.0.8"]
    assert "streams" not in found[0]


def test_no_camera_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onvif, "discover", lambda wait_s, interface: [])
    assert "no camera answered" in discover()


def test_a_user_without_a_password_is_told_where_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGECTL_CAMERA_PASSWORD", raising=False)
    done = CliRunner().invoke(app, ["cameras", "discover", "--user", "admin"])
    assert isinstance(done.exception, UsageError)
    assert "EDGECTL_CAMERA_PASSWORD" in (done.exception.hint or "")
