from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from conftest import ROOT
from support.postgres import postgres, store_url  # noqa: F401, fixtures


def _run(folder: Path, *options: str) -> Counter[str]:
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "tests/support/store_kills.py",
            folder,
            "--times",
            "12",
            "--seed",
            "1",
            *options,
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Counter(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.slow
def test_controller_that_is_killed_anywhere_has_told_nobody_what_it_does_not_remember(
    tmp_path: Path,
    store_url: str | None,
) -> None:
    """Twelve times at a random statement, commit or message, in the middle of one rollout after the other
    (by hand a hundred times: ``python tests/support/store_kills.py FOLDER``)."""
    seen = _run(tmp_path, *(["--url", store_url] if store_url else []))
    assert seen["killed"] == 12
    assert seen["rollouts"] > 1
    assert min(seen[what] for what in ("acts", "numbers", "documents")) > 0, seen


@pytest.mark.slow
@pytest.mark.usefixtures("postgres")
def test_database_that_dies_anywhere_costs_no_decision_and_no_controller(tmp_path: Path) -> None:
    seen = _run(tmp_path, "--restarts")
    assert seen["restarts"] == 12
    assert seen["rollouts"] > 1
    assert min(seen[what] for what in ("acts", "numbers", "documents")) > 0, seen
