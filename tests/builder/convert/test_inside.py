"""The real child, in this very interpreter: what code of the user's may do there, and what a pickle may not."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.builder.converting import program

from edgectl.builder.budget import Budget
from edgectl.builder.convert.convert import converted
from edgectl.builder.convert.options import ConvertOptions
from edgectl.builder.monitor import BuildMonitor
from edgectl.core.errors import EdgectlError, ModelError, UsageError

GRANTED = "from pathlib import Path; import sys; from edgectl.builder.convert.inside.confine import confine\nprint(confine(Path(sys.argv[1]), memory=4 << 30, file_bytes=1 << 20))"


@pytest.fixture(scope="module")
def granted(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What this kernel allows."""
    folder = tmp_path_factory.mktemp("granted")
    return subprocess.run(
        [sys.executable, "-c", GRANTED, str(folder)], capture_output=True, text=True, check=True
    ).stdout


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the user stands, with a module of theirs."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not list(tmp_path.rglob("__pycache__"))


def make(here: Path, body: str) -> EdgectlError:
    """What is said of a function with this body, which makes no model."""
    (here / "mine.py").write_text(f"import os, pickle, socket\n\ndef make():\n    {body}\n")
    with (
        pytest.raises(EdgectlError) as e,
        converted(Path("mine:make"), ConvertOptions(), BuildMonitor(Budget(3600))),
    ):
        pass
    assert "\n" not in e.value.message
    return e.value


def test_a_function_that_makes_no_model_is_told(here: Path) -> None:
    error = make(here, "return 3")
    assert isinstance(error, UsageError)
    assert "the function made a int" in error.message


def test_what_a_function_raises_is_said_in_a_sentence(here: Path) -> None:
    error = make(here, "raise RuntimeError('weights.bin is not there\\nlook elsewhere')")
    assert isinstance(error, ModelError)
    assert error.message.endswith("failed: RuntimeError: weights.bin is not there")


def test_it_writes_nowhere_but_in_its_own_folder(here: Path, granted: str) -> None:
    if "files" not in granted:
        pytest.skip("this kernel has no landlock")
    (here / "kept").write_text("as it was")
    tried = (
        "open('new', 'w')",
        "open('kept', 'a')",
        "os.truncate('kept', 0)",
        "os.remove('kept')",
        "os.mkdir('new')",
        "os.symlink('kept', 'new')",
        "os.rename('kept', 'new')",
    )
    body = (
        f"refused = []\n    for code in {tried!r}:\n        try:\n            eval(code)\n"
        "        except PermissionError:\n            refused.append(code)\n    raise RuntimeError(len(refused))"
    )
    assert make(here, body).message.endswith(f"RuntimeError: {len(tried)}")
    assert (here / "kept").read_text() == "as it was"
    assert sorted(p.name for p in here.iterdir()) == ["kept", "mine.py"]


def test_it_reaches_nobody(here: Path, granted: str) -> None:
    if "network" not in granted:
        pytest.skip("this kernel lets nobody without rights have a network of their own")
    with __import__("socket").create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert "OSError" in make(here, f"socket.create_connection(('127.0.0.1', {port}), 5)").message


def test_memory_that_it_asks_for_is_bounded(here: Path) -> None:
    assert "MemoryError" in make(here, "return bytearray(12 << 30)").message


def test_a_file_that_it_writes_is_bounded(here: Path) -> None:
    body = "os.truncate(os.open(os.environ['TMPDIR'] + '/big', os.O_CREAT | os.O_RDWR), 1 << 40)"
    assert "OSError" in make(here, body).message


def test_a_module_is_imported_from_where_the_user_stands_and_never_here(here: Path) -> None:
    make(here, "raise RuntimeError(str(os.getpid()))")
    assert "mine" not in sys.modules
    with pytest.raises(UsageError, match="needs what is not installed: No module named 'absent'"):
        converted(Path("absent:make"), ConvertOptions(), BuildMonitor(Budget(3600))).__enter__()
    (here / "mine.py").write_text("x = 1\n")
    with pytest.raises(UsageError, match="mine has no function make"):
        converted(Path("mine:make"), ConvertOptions(), BuildMonitor(Budget(3600))).__enter__()


class Evil:
    """A pickle that makes a file where it is opened."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.open, (self._path, os.O_CREAT)


def test_a_pickle_is_opened_only_with_the_users_word_and_never_here(here: Path) -> None:
    mark = here / "opened"
    for name in ("model.pkl", "model.joblib"):
        (here / name).write_bytes(pickle.dumps(Evil(mark)))
        with pytest.raises(UsageError, match="runs whatever code is in it") as e:
            converted(Path(name), ConvertOptions(), BuildMonitor(Budget(3600))).__enter__()
        assert "--trust-source" in (e.value.hint or "")
    assert not mark.exists()


def test_no_pickle_is_opened_where_the_format_needs_none(here: Path) -> None:
    """As the child does before it opens a .pt2: whatever library opens a pickle then."""
    mark = here / "opened"
    (here / "evil.pkl").write_bytes(pickle.dumps(Evil(mark)))
    code = (
        "import pickle, sys\nfrom edgectl.builder.convert.inside.pickles import refuse_pickles\nrefuse_pickles()\n"
        "pickle.load(open('evil.pkl', 'rb'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "it holds a pickle that wants posix.open" in done.stderr
    assert not mark.exists()
    subprocess.run([sys.executable, "-c", "import pickle; pickle.load(open('evil.pkl', 'rb'))"], check=True)
    assert mark.exists(), "without the hook it does open"


def test_a_trusted_pickle_is_not_opened_where_the_kernel_bounds_nothing(here: Path, tmp_path: Path) -> None:
    mark = here / "opened"
    (here / "model.pkl").write_bytes(pickle.dumps(Evil(mark)))
    python = program(
        tmp_path,
        "import os, runpy\nfrom edgectl.builder.convert.inside import confine\n"
        "confine.confine = lambda folder, *, memory, file_bytes: ('files',)\n"
        "sys.dont_write_bytecode, sys.argv = True, ['inside', str(folder), step, str(os.getppid())]\n"
        "runpy.run_module('edgectl.builder.convert.inside', run_name='__main__')",
    )
    options = ConvertOptions(python, trust_source=True)
    with pytest.raises(UsageError, match=r"nothing here keeps that from the network$") as e:
        converted(Path("model.pkl"), options, BuildMonitor(Budget(3600))).__enter__()
    assert "export it to ONNX" in (e.value.hint or "")
    assert not mark.exists()


def test_a_child_whose_starter_has_ended_already_does_nothing(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    module = "edgectl.builder.convert.inside"
    found = subprocess.run(
        [sys.executable, "-m", module, str(tmp_path), "convert", str(ended.pid)],
        capture_output=True,
        timeout=60,
    )
    assert found.returncode == 1
    # not even the job was asked for
    assert found.stderr == b""
