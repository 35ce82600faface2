import errno
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.builder.nets import residual_net

from edgectl.builder.ingest.samples import SampleStore, collect, random_samples, slice_samples
from edgectl.builder.passes.shapes import resolve_inputs
from edgectl.core.bundle import SessionSettings, TensorSpec
from edgectl.core.errors import DataError, EdgectlError, StorageError, UsageError
from edgectl.core.task import ImageInput, TaskSpec, TensorInput
from edgectl.engines.finalise.open import open_model
from edgectl.pipelines.tasks import load_task

IMAGE = TaskSpec(name="net", input=ImageInput(width=32, height=32))
INPUTS = (TensorSpec(name="image", shape=(1, 3, 32, 32), dtype="float32"),)


@pytest.fixture
def engine():
    return open_model(residual_net().SerializeToString(), SessionSettings())


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(1, 20))
def test_kept_samples_are_bounded_and_spread_evenly(
    tmp_path_factory: pytest.TempPathFactory, total: int, limit: int
) -> None:
    folder = tmp_path_factory.mktemp("s")
    store = SampleStore(folder, limit)
    for i in range(total):
        store.add({"x": np.asarray([i])})
    kept = [int(s.feeds["x"][0]) for s in store]
    assert len(kept) == min(total, limit)
    assert len(list(folder.iterdir())) <= 2 * limit
    assert kept == sorted(set(kept))
    assert kept[0] == 0
    if limit > 1 and total >= 2 * limit:
        assert kept[-1] >= total * 0.45
        assert max(np.diff(kept)) <= 4 * total / limit


def test_slices_never_overlap() -> None:
    samples = random_samples(IMAGE, INPUTS, Path(), count=0)
    assert len(samples) == 0
    s = slice_samples([*map(_fake, range(20))], None)
    parts = [{int(x.feeds["image"][0]) for x in part} for part in (s.calibration, s.search, s.confirmation)]
    assert set.union(*parts) == set(range(20))
    assert sum(map(len, parts)) == 20
    held_out = slice_samples([*map(_fake, range(8))], [*map(_fake, range(100, 110))])
    assert {int(x.feeds["image"][0]) for x in held_out.calibration} == set(range(8))
    assert not {int(x.feeds["image"][0]) for x in held_out.search} & {
        int(x.feeds["image"][0]) for x in held_out.confirmation
    }
    assert s.digest != held_out.digest


def _fake(i: int):
    from edgectl.builder.ingest.samples import Sample

    return Sample({"image": np.asarray([i])})


def test_an_npz_with_or_without_batch_axis(tmp_path: Path, engine) -> None:
    rng = np.random.default_rng(0)
    for shape in ((9, 3, 32, 32), (9, 1, 3, 32, 32)):
        np.savez(tmp_path / "c.npz", image=rng.random(shape).astype(np.float32))
        (tmp_path / str(len(shape))).mkdir()
        store = collect(str(tmp_path / "c.npz"), IMAGE, INPUTS, engine, tmp_path / str(len(shape)))
        assert len(store) == 9
        assert store[0].feeds["image"].shape == (1, 3, 32, 32)


def test_a_folder_of_images_goes_through_the_device_preprocessing(tmp_path: Path, engine) -> None:
    import cv2

    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(10):
        cv2.imwrite(str(folder / f"{i}.png"), np.full((40, 60, 3), i * 20, np.uint8))
    store = collect(str(folder), IMAGE, INPUTS, engine, tmp_path)
    assert len(store) == 10
    assert store[3].feeds["image"][0, 0, 16, 16] == pytest.approx(60 / 255)
    assert store[3].meta is not None
    assert (store[3].meta.width, store[3].meta.height) == (60, 40)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"picture": np.zeros((9, 3, 32, 32), np.float32)}, "has no array image; it has picture"),
        ({"image": np.zeros((9, 3, 16, 16), np.float32)}, r"gives float32\[3, 16, 16\] for input image"),
        ({"image": np.zeros((9, 3, 32, 32), np.int32)}, "gives int32"),
        ({"image": np.full((9, 3, 32, 32), 1e300)}, "input image of sample 1 is not finite"),
        ({"image": np.zeros((3, 3, 32, 32), np.float32)}, "gives 3 samples; at least 8"),
        ({}, "it has none"),
    ],
)
def test_data_that_does_not_fit_is_named(
    tmp_path: Path, engine, arrays: dict[str, np.ndarray], says: str
) -> None:
    np.savez(tmp_path / "c.npz", **arrays)
    with pytest.raises(DataError, match=says):
        collect(str(tmp_path / "c.npz"), IMAGE, INPUTS, engine, tmp_path)


@pytest.mark.parametrize("kind", [np.float64, np.float16])
def test_numbers_of_another_float_type_are_taken(tmp_path: Path, engine, kind: type[np.generic]) -> None:
    np.savez(tmp_path / "c.npz", image=np.full((9, 3, 32, 32), 0.25, kind))
    sample = collect(str(tmp_path / "c.npz"), IMAGE, INPUTS, engine, tmp_path)[0].feeds["image"]
    assert sample.dtype == np.float32
    assert np.all(sample == 0.25)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
# one in each slice: what is only judged is looked at, too
@pytest.mark.parametrize("slot", [0, 2, 3])
def test_a_value_that_is_not_finite_is_named(tmp_path: Path, engine, bad: float, slot: int) -> None:
    data = np.zeros((8, 3, 32, 32), np.float32)
    data[slot, 0, 5, 5] = bad
    np.savez(tmp_path / "d.npz", image=data)
    with pytest.raises(DataError, match=f"sample {slot + 1} is not finite"):
        collect(str(tmp_path / "d.npz"), IMAGE, INPUTS, engine, tmp_path)


def test_data_that_is_not_there_or_not_readable(tmp_path: Path, engine) -> None:
    (tmp_path / "noise.mp4").write_bytes(b"no video" * 100)
    (tmp_path / "bad.npz").write_bytes(b"no zip")
    for name in ("missing.npz", "bad.npz", "missing.mp4", "noise.mp4"):
        with pytest.raises(EdgectlError):
            collect(str(tmp_path / name), IMAGE, INPUTS, engine, tmp_path)
    with pytest.raises(UsageError, match="cannot make inputs"):
        collect(
            str(tmp_path / "noise.mp4"), TaskSpec(name="t", input=TensorInput()), INPUTS, engine, tmp_path
        )


def test_silero_drives_its_own_state(shared: Path, tmp_path: Path) -> None:
    import onnx

    task = load_task("silero-vad")
    model = onnx.load(shared / "models/silero-vad-16k.onnx")
    inputs = resolve_inputs(model, task)
    vad = open_model(shared / "models/silero-vad-16k.onnx", SessionSettings())
    store = collect(str(shared / "media/speech-60s.wav"), task, inputs, vad, tmp_path)
    assert not store[0].feeds["state"].any()
    assert store[40].feeds["state"].any()
    assert store[40].feeds["sr"] == 16000
    probabilities = [float(vad.run(s.feeds)["output"].item()) for s in store]
    assert min(probabilities) < 0.1  # speech and pauses, both
    assert max(probabilities) > 0.9


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(StorageError, match="disk is full"):
        SampleStore(tmp_path).add({"x": np.zeros(1)})
