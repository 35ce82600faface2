from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edgectl.agent.state.journal import Journal
from edgectl.agent.state.journal_file import check_file
from edgectl.agent.state.records import Deployment, Installed, Slot
from edgectl.core.errors import StorageError
from edgectl.core.histogram import Histogram
from edgectl.core.states import State
from edgectl.core.wire import ClearSlot, DesiredSlot, Failure, Policy

A = Installed(release="m@1", bundle="sha256:" + "a" * 64, manifest="sha256:" + "b" * 64)
B = Installed(release="m@2", bundle="sha256:" + "c" * 64, manifest="sha256:" + "d" * 64)


def deployment() -> Deployment:
    h = Histogram()
    h.record(1000.0)
    wish = DesiredSlot(release="m@2", digest=B.bundle, attempt=2, policy=Policy(max_latency_ms=3))
    return Deployment("s", 7, State.WARMING, wish, B, A, 1, Failure(code="x", detail="y"), h.data())


def test_everything_survives_a_restart(tmp_path: Path) -> None:
    j = Journal(tmp_path / "j.db")
    j.save_slot("s", Slot(A, None, A), deployment())
    j.mark_bad(B.bundle, 2, "health")
    assert (j.next_epoch(), j.next_epoch()) == (1, 2)
    j.raise_floor("floor:x", 5)
    j.raise_floor("floor:x", 3)
    j.close()
    j = Journal(tmp_path / "j.db")
    assert j.deployment("s") == deployment()
    assert j.slot("s") == Slot(A, None, A)
    assert j.slot("other") == Slot()
    assert (j.bad(B.bundle, 1), j.bad(B.bundle, 2), j.bad(B.bundle, 3)) == ("health", "health", None)
    assert j.next_epoch() == 3
    assert j.value("floor:x") == 5
    assert j.kept() == {A, B}
    j.save(deployment().at(State.FAILED))
    assert j.kept() == {A}, "what a failed deployment brought may go"
    j.close()


def test_order_in_which_slots_got_what_they_have_outlives_a_restart_and_ends_with_a_way_back(
    tmp_path: Path,
) -> None:
    j = Journal(tmp_path / "j.db")
    j.activate("s", Slot(A), deployment())
    j.activate("rules", Slot(B, A), replace(deployment(), slot="rules"))
    j.close()
    j = Journal(tmp_path / "j.db")
    assert 0 < j.activated("s") < j.activated("rules")
    j.save_slot("rules", Slot(B, None, A))
    assert j.activated("rules") > 0, "it still has the same"
    j.save_slot("rules", Slot(A))
    assert (j.activated("rules"), j.activated("other")) == (0, 0)
    j.close()


def test_slot_and_deployment_change_together_or_not_at_all(tmp_path: Path) -> None:
    j = Journal(tmp_path / "j.db")
    j.save_slot("s", Slot(A), deployment())
    broken = replace(deployment(), gen=None)  # type: ignore[arg-type]
    with pytest.raises(StorageError):
        j.save_slot("s", Slot(B, A), broken)
    assert j.slot("s") == Slot(A)
    j.close()


def test_a_count_is_on_disk_before_the_process_dies(tmp_path: Path) -> None:
    code = (
        "import os, sys, pathlib\nfrom edgectl.agent.state.journal import Journal\n"
        "j = Journal(pathlib.Path(sys.argv[1]))\nj.count('crash')\nos.kill(os.getpid(), 9)"
    )
    for _ in range(2):
        assert (
            subprocess.run([sys.executable, "-c", code, str(tmp_path / "j.db")], check=False).returncode == -9
        )
    j = Journal(tmp_path / "j.db")
    assert j.value("crash") == 2
    j.clear("crash")
    assert j.value("crash") == 0
    j.close()


def test_writes_are_durable_by_setting(tmp_path: Path) -> None:
    j = Journal(tmp_path / "j.db")
    assert j._db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    assert j._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    j.close()


def test_journal_that_rots_while_it_is_in_use_says_so_and_is_mended_at_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    journal = Journal(path)
    journal.save_slot("gate", Slot(A))
    journal.raise_floor("floor:root", 7)
    journal._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as f:
        f.seek(4096)
        f.write(b"\xeb" * (path.stat().st_size - 4096))
    journal._db.execute("PRAGMA shrink_memory")
    with pytest.raises(StorageError):
        journal.save_slot("gate", Slot())
    assert journal.damaged
    journal.close()
    again = Journal(path)
    assert (again.slot("gate"), again.value("floor:root"), again.damaged) == (Slot(A), 7, False)
    again.close()


def test_whatever_has_rotted_is_a_finding_and_no_traceback(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    Journal(path).close()
    whole = path.read_bytes()
    for seed in range(30):  # some of them make SQLite quote what is no text
        path.write_bytes(whole[:4000] + random.Random(seed).randbytes(3000) + whole[7000:])
        assert check_file(path)


def test_journal_that_lost_its_last_changes_on_a_full_disk_stops_no_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can be read, but what the mirror knows better cannot be written into it; later a part of the
    writes succeeds."""
    path = tmp_path / "j.db"
    journal = Journal(path)
    journal.save_slot("s", Slot(A))
    journal.close()
    older = path.read_bytes()
    journal = Journal(path)
    journal.save_slot("s", Slot(B, A))
    journal.raise_floor("floor:root", 7)
    journal.close()
    path.write_bytes(older)
    real = Journal._commit

    def full(self: Journal, statements: list[object]) -> None:
        if self._db.execute("PRAGMA database_list").fetchone()[2]:  # a file
            raise sqlite3.OperationalError("database or disk is full")
        real(self, statements)  # type: ignore[arg-type]

    with monkeypatch.context() as m:
        m.setattr(Journal, "_commit", full)
        journal = Journal(path)
        assert journal.volatile
        for _ in range(2):
            with pytest.raises(StorageError):
                journal.raise_floor("floor:x", 1)
            assert (journal.slot("s"), journal.value("floor:root"), journal.volatile) == (Slot(B, A), 7, True)
    journal.raise_floor("floor:x", 1)
    assert (journal.slot("s"), journal.value("floor:root"), journal.volatile) == (Slot(B, A), 7, False)
    journal.close()
    again = Journal(path)
    assert (again.slot("s"), again.value("floor:root")) == (Slot(B, A), 7)
    again.close()


def test_desired_state_to_clear_a_slot_is_kept_in_both_copies_and_in_words_that_an_older_agent_reads(
    tmp_path: Path,
) -> None:
    journal = Journal(tmp_path / "journal.db")
    cleared = Deployment("gate", 7, State.CLEARED, ClearSlot(number=3))
    journal.save(cleared)
    assert journal.deployment("gate") == cleared
    journal.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "journal.db")) as db:
        ((text,),) = db.execute("SELECT desired FROM deployments")
    assert DesiredSlot.model_validate_json(text).release == ""
    (tmp_path / "journal.db").write_bytes(b"rotten")
    for suffix in ("-wal", "-shm"):
        (tmp_path / f"journal.db{suffix}").unlink(missing_ok=True)
    mended = Journal(tmp_path / "journal.db")
    assert mended.deployment("gate") == cleared
    mended.close()


def test_journal_its_log_and_its_mirror_are_private(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        j = Journal(tmp_path / "j.db")
        j.next_epoch()
        modes = {p.name: p.stat().st_mode & 0o777 for p in tmp_path.iterdir()}
        j.close()
    finally:
        os.umask(before)
    assert {"j.db", "j.db-wal", "j.db-shm", "j.mirror.json"} <= modes.keys()
    assert set(modes.values()) == {0o600}
