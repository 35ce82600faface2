"""Where what waits lies: with the files of a stream, or with its user's states, for the next run alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgectl.core.errors import StorageError
from edgectl.pipelines.sinks.spool_place import SpoolPlace, state_folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "edgectl/sinks"


def place(stream: str = "run", receiver: str = "http://nas/geheim", out: Path | None = None) -> SpoolPlace:
    return SpoolPlace("webhook", stream, receiver, out, max_bytes=1 << 20, max_age_s=3600)


def waiting(one: SpoolPlace) -> list[bytes]:
    return [row.payload for row in one.spool.oldest(10)]


def test_what_waits_is_there_for_the_next_run_of_the_same_stream_to_the_same_receiver(home: Path) -> None:
    first = place()
    first.spool.put("event", "", b"late", 2e9)
    first.close()
    for other in (place("door"), place(receiver="http://nas/other")):
        assert waiting(other) == []
        other.close()
    second = place()
    assert waiting(second) == [b"late"]
    second.spool.delete(second.spool.oldest(1)[0])
    second.close()
    # nothing waits: nothing stays but whose place it is
    assert {p.suffix for p in home.iterdir()} == {".lock"}
    assert home.stat().st_mode & 0o777 == 0o700
    assert not any("geheim" in p.name or "nas" in p.name for p in home.iterdir())


def test_two_runs_at_the_same_time_do_not_send_each_other_s_events(home: Path) -> None:
    first, second = place(), place()
    first.spool.put("event", "", b"of the first", 2e9)
    assert waiting(second) == []
    second.close()
    first.close()
    third = place()
    assert waiting(third) == [b"of the first"]
    third.close()


def test_a_folder_for_files_holds_it(tmp_path: Path, home: Path) -> None:
    one = place(out=tmp_path / "out")
    assert (tmp_path / "out/webhook-spool.db").is_file()
    assert "--out" in one.who
    one.close()
    assert (tmp_path / "out/webhook-spool.db").is_file()
    assert not home.exists()


def test_a_service_has_the_folder_that_systemd_gave_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", f"{tmp_path}:/elsewhere")
    assert state_folder() == tmp_path / "sinks"
    monkeypatch.delenv("STATE_DIRECTORY")
    monkeypatch.setenv("XDG_STATE_HOME", "not/absolute")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert state_folder() == tmp_path / ".local/state/edgectl/sinks"


def test_a_user_without_a_home_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError

    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(StorageError) as failed:
        place()
    assert "--out" in str(failed.value.hint)


def test_a_place_that_cannot_be_made_is_an_error_and_nothing_is_locked(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgectl.pipelines.sinks.spool_place._MOST", 1)
    first = place()
    with pytest.raises(StorageError, match="of this name"):
        place()
    first.close()
    place().close()
    home.rename(home.with_name("other"))
    home.write_text("a file")
    with pytest.raises(StorageError):
        place()
