"""Models by name: what we ship is what its card says; what we fetch is what the catalogue says, or
nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgectl.core.errors import IntegrityError, LinkError, UsageError
from edgectl.core.files import digest_of
from edgectl.engines.finalise.open import open_model
from edgectl.engines.finalise.rtx import accept, has_compiler
from edgectl.models import catalogue, entries, pull, reference, references
from edgectl.pipelines.tasks import load_task


@pytest.mark.parametrize("name", ["yard-detector", "road-detector", "kiosk-keyword"])
def test_reference_model_fits_its_task_and_its_card(name: str) -> None:
    ours = reference(name)
    task = load_task(str(ours.task))
    engine = open_model(ours.model.read_bytes())
    assert tuple(ours.card["labels"]) == task.labels
    assert engine.inputs[0].name == task.input.tensor  # type: ignore[union-attr]
    assert ours.model.stat().st_size < 1_000_000
    if task.input.kind == "image":
        assert engine.inputs[0].shape == (1, 3, task.input.height, task.input.width)
        assert engine.outputs[0].shape[1] == 5 + len(task.labels)
    elif task.input.kind == "audio":
        assert engine.inputs[0].shape == task.input.shape
        assert engine.outputs[0].shape[1] == len(task.labels)
    engine.close()


@pytest.mark.skipif(not has_compiler(), reason="NVIDIA's compiler is for x86-64 alone")
@pytest.mark.parametrize("name", [r.name for r in references()])
def test_nvidias_compiler_takes_each_reference_model(name: str) -> None:
    verdict = accept(reference(name).model, ("8.6", "12.0"))
    assert verdict.accepted, verdict.told()


def test_pull_takes_the_file_from_a_local_folder_by_its_digest(tmp_path: Path, shared: Path) -> None:
    path = pull("fastestdet-352", tmp_path / "here", local=shared / "models")
    assert digest_of(path.read_bytes()) == next(e.digest for e in entries() if e.name == "fastestdet-352")
    again = pull("fastestdet-352", tmp_path / "here", local=tmp_path / "nowhere")  # intact: not fetched again
    assert again == path


def test_pull_copies_a_reference_model(tmp_path: Path) -> None:
    assert pull("yard-detector", tmp_path).read_bytes() == reference("yard-detector").model.read_bytes()


def test_a_name_that_is_not_there_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as e:
        pull("fastest-det", tmp_path)
    assert "fastestdet-352" in (e.value.hint or "")
    with pytest.raises(UsageError):
        reference("yard")
    assert len(references()) == 3


def test_a_folder_without_the_file_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "fastestdet-352.onnx").write_bytes(b"x" * 998169)  # right name and size, other bytes
    with pytest.raises(UsageError, match="digest"):
        pull("fastestdet-352", tmp_path / "to", local=tmp_path / "from")
    assert not (tmp_path / "to").exists()


def _serve(entry: catalogue.Entry, body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    monkeypatch.setattr(catalogue, "entries", lambda: (entry,))
    monkeypatch.setattr("urllib.request.urlopen", lambda url, timeout: io.BytesIO(body))


@pytest.mark.parametrize("body", [b"other bytes!", b"longer than the catalogue says"])
def test_a_download_of_other_bytes_leaves_nothing(
    body: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = catalogue.Entry(
        name="m",
        file="m.onnx",
        url="https://example.invalid/m",
        digest=digest_of(b"right bytes!"),
        size=12,
        licence="MIT",
        task="tensor",
        about="-",
    )
    _serve(entry, body, monkeypatch)
    with pytest.raises(IntegrityError):
        pull("m", tmp_path)
    assert list(tmp_path.iterdir()) == []
    _serve(entry, b"right bytes!", monkeypatch)
    assert pull("m", tmp_path).read_bytes() == b"right bytes!"


def test_no_network_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import urllib.error

    def unreachable(url: str, timeout: float) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    with pytest.raises(LinkError, match="cannot download"):
        pull("fastestdet-352", tmp_path)
    assert list(tmp_path.iterdir()) == []
