"""Calibration and validation data: a video, a folder of images, a recording or a folder of them, an ``.npz``:
as engine inputs.

The very sources, preprocessing and features that run on the device make the inputs. Samples are spread evenly
over what is given and spooled to a folder, so that memory does not grow with their number. Calibration,
search and confirmation samples never overlap: what scales were fitted on, what candidates were chosen on and
what the result is judged on are three things.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from edgectl.builder.ingest.pixels import Pixels
from edgectl.core.bundle import TensorSpec
from edgectl.core.errors import DataError, UsageError
from edgectl.core.files import storage
from edgectl.core.task import AudioInput, ImageInput, TaskSpec
from edgectl.core.tensors import read_npz
from edgectl.core.uri import redact
from edgectl.engines.base import Engine, Feeds
from edgectl.pipelines.audio.features import windows
from edgectl.pipelines.sources import EndOfStream, open_source, read_audio
from edgectl.pipelines.video.preprocess import LetterboxMeta, Preprocessor

__all__ = [
    "Sample",
    "SampleStore",
    "Slices",
    "check_feeds",
    "collect",
    "npz_shapes",
    "random_samples",
    "slice_samples",
]

MAX_SAMPLES = 512
_MIN_SAMPLES = 8
_MANY = 256
_MAX_NPZ_BYTES = 4 << 30
_READ_TIMEOUT_S = 10.0
_AUDIO = (".wav", ".flac", ".ogg", ".mp3")


@dataclass(frozen=True)
class Sample:
    """One set of engine inputs; ``meta`` says where the picture lies in the tensor (images only)."""

    feeds: Feeds
    meta: LetterboxMeta | None = None


class SampleStore(Sequence[Sample]):
    """Samples in files of a folder, at most ``limit``: when twice as many were given, every second one is
    dropped.

    So the kept ones are spread evenly whatever the length of the source is, which a stream does not say
    beforehand.
    """

    def __init__(self, folder: Path, limit: int | None = None, *, picture: ImageInput | None = None) -> None:
        self._folder, self._limit = folder, MAX_SAMPLES if limit is None else limit
        self._pixels = None if picture is None or picture.dtype != "float32" else Pixels(picture)
        self._kept: list[tuple[Path, LetterboxMeta | None]] = []
        self._stride, self._seen = 1, 0

    @property
    def full(self) -> bool:
        """Whether as many are kept as will be used: a source without an end has given enough."""
        return len(self._kept) >= self._limit

    def wants(self) -> bool:
        """Whether the next sample would be kept; call :meth:`skip` or :meth:`add` for each."""
        return self._seen % self._stride == 0

    def skip(self) -> None:
        self._seen += 1

    def add(self, feeds: Feeds, meta: LetterboxMeta | None = None) -> None:
        if self.wants():
            path = self._folder / f"{self._seen:08d}.npz"
            arrays: Any = {}
            for name, array in feeds.items():
                codes = None if self._pixels is None else self._pixels.encode(array)
                arrays[f"_{name}" if codes is None else f"p{name}"] = array if codes is None else codes
            with storage(str(path)):
                np.savez(path, **arrays)
            self._kept.append((path, meta))
            if len(self._kept) >= 2 * self._limit:
                for gone, _ in self._kept[1::2]:
                    gone.unlink()
                self._kept = self._kept[::2]
                self._stride *= 2
        self._seen += 1

    def __len__(self) -> int:
        return min(len(self._kept), self._limit)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        spread = round((index % len(self)) * (len(self._kept) - 1) / max(1, len(self) - 1))
        path, meta = self._kept[spread]
        with np.load(path) as arrays:
            return Sample({name[1:]: self._read(name, arrays[name]) for name in arrays.files}, meta)

    def _read(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        return array if self._pixels is None or name[0] != "p" else self._pixels.decode(array)


@dataclass(frozen=True)
class Slices:
    """Three disjoint sets of samples. ``digest`` names the calibration samples; ``random``: made up, for
    speed only."""

    calibration: Sequence[Sample]
    search: Sequence[Sample]
    confirmation: Sequence[Sample]
    digest: str
    random: bool = False

    @property
    def seen(self) -> tuple[Sequence[Sample], ...]:
        """What scales were fitted on, and what candidates were chosen on."""
        return self.calibration, self.search


@dataclass(frozen=True)
class FeedsView(Sequence[Feeds]):
    """The inputs of samples, read when they are asked for."""

    samples: Sequence[Sample]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Any) -> Any:
        picked = self.samples[index]
        return [s.feeds for s in picked] if isinstance(index, slice) else picked.feeds


@dataclass(frozen=True)
class _View(Sequence[Sample]):
    store: Sequence[Sample]
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        return (
            [self.store[i] for i in self.indices[index]]
            if isinstance(index, slice)
            else self.store[self.indices[index]]
        )


def collect(
    uri: str,
    task: TaskSpec,
    inputs: tuple[TensorSpec, ...],
    engine: Engine,
    folder: Path,
    *,
    progress: Callable[[int], None] | None = None,
    enough: Callable[[], bool] = lambda: False,
    limit: int | None = None,
) -> SampleStore:
    """Read ``uri`` as the task says and keep at most ``limit`` (``MAX_SAMPLES``) sets of inputs in ``folder``.

    ``engine``: the float model, which drives its own recurrent state. ``enough`` is asked after each sample
    whether to stop. Raises :class:`DataError` or :class:`SourceError` for data that cannot be read or does
    not fit, :class:`UsageError` for a task that cannot use such data.
    """
    store = SampleStore(folder, limit, picture=task.input if isinstance(task.input, ImageInput) else None)
    path = Path(uri)
    if path.suffix == ".npz":
        source = _from_npz(path, inputs)
    elif isinstance(task.input, ImageInput):
        source = _from_pictures(uri, task.input, inputs, store)
    elif isinstance(task.input, AudioInput):
        source = _from_audio(uri, task.input, inputs, engine)
    else:
        raise UsageError(
            f"task {task.name} cannot make inputs from {path.name}",
            hint="give an .npz with one array per input, samples along axis 0",
        )
    for n, sample in enumerate(source, 1):
        check_feeds(n, sample.feeds, inputs)
        store.add(sample.feeds, sample.meta)
        if progress is not None:
            progress(len(store))
        if len(store) >= _MIN_SAMPLES and enough():
            break
    if len(store) < _MIN_SAMPLES:
        raise DataError(
            f"{redact(uri)} gives {len(store)} samples; at least {_MIN_SAMPLES} are needed",
            hint="give more data",
        )
    return store


def npz_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Array → shape, samples along axis 0, of an ``.npz``. Raises :class:`DataError` if it cannot be read."""
    if not path.is_file():
        raise DataError(f"there is no file {path}", hint="check the path of the calibration data")
    return {
        name: array.shape for name, array in read_npz(path, max_bytes=_MAX_NPZ_BYTES, error=DataError).items()
    }


def slice_samples(
    store: Sequence[Sample], validation: Sequence[Sample] | None, *, random: bool = False
) -> Slices:
    """Without validation data, of every four samples two calibrate, one searches and one confirms (of
    many: one, one and two)."""
    n = len(store)
    if validation is None:
        quarters = ((0, 1), (2,), (3,)) if n < _MANY else ((0,), (1,), (2, 3))
        parts = [tuple(i for i in range(n) if i % 4 in quarter) for quarter in quarters]
        calibration, search, confirmation = (_View(store, p) for p in parts)
    else:
        calibration = _View(store, tuple(range(n)))
        m = len(validation)
        search, confirmation = (_View(validation, tuple(range(start, m, 2))) for start in (0, 1))
    sha = hashlib.sha256()
    for sample in calibration:
        for name in sorted(sample.feeds):
            sha.update(name.encode() + np.ascontiguousarray(sample.feeds[name]).tobytes())
    return Slices(calibration, search, confirmation, "sha256:" + sha.hexdigest(), random)


def random_samples(
    task: TaskSpec, inputs: tuple[TensorSpec, ...], folder: Path, *, count: int = 32, seed: int = 0
) -> SampleStore:
    """Noise in the range of the task's inputs: enough to measure speed, worthless for scales."""
    rng = np.random.default_rng(seed)
    store = SampleStore(folder)
    for _ in range(count):
        store.add({i.name: _noise(i, task, rng) for i in inputs})
    return store


def _noise(spec: TensorSpec, task: TaskSpec, rng: np.random.Generator) -> NDArray[Any]:
    dtype = np.dtype(spec.dtype)
    if isinstance(task.input, AudioInput) and not spec.shape and dtype.kind == "i":
        return np.asarray(task.input.rate, dtype)
    if dtype.kind == "f":
        return np.asarray(
            rng.random(spec.shape) if isinstance(task.input, ImageInput) else rng.standard_normal(spec.shape),
            dtype,
        )
    return np.asarray(rng.integers(0, 2 if dtype.kind == "b" else 127, spec.shape), dtype)


def check_feeds(n: int, feeds: Feeds, inputs: tuple[TensorSpec, ...]) -> None:
    """Raises :class:`DataError` for a sample that is not what the model takes, or is not finite."""
    for spec in inputs:
        array = feeds.get(spec.name)
        if array is None or array.shape != spec.shape or array.dtype != spec.dtype:
            got = "nothing" if array is None else f"{array.dtype}{list(array.shape)}"
            raise DataError(
                f"the data gives {got} for input {spec.name}, which takes {spec.dtype}{list(spec.shape)}",
                hint="give samples of that shape and type, or --shape where the model leaves sizes open",
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DataError(
                f"input {spec.name} of sample {n} is not finite",
                hint="leave that sample out, or mend what made it",
            )


def _from_npz(path: Path, inputs: tuple[TensorSpec, ...]) -> Iterator[Sample]:
    """Arrays named like the inputs, samples along axis 0 (a batch axis of 1 may be left out)."""
    if not path.is_file():
        raise DataError(f"there is no file {path}", hint="check the path of the calibration data")
    arrays = read_npz(path, max_bytes=_MAX_NPZ_BYTES, error=DataError)
    if missing := [i.name for i in inputs if i.name not in arrays]:
        raise DataError(
            f"{path.name} has no array {', '.join(missing)}; it has {', '.join(arrays) or 'none'}",
            hint="name each array like an input of the model, samples along the first axis: np.savez(FILE, "
            f"{inputs[0].name}=…)",
        )
    for n in range(min(len(arrays[i.name]) if arrays[i.name].ndim else 0 for i in inputs)):
        feeds = {}
        for i in inputs:
            one = np.asarray(arrays[i.name][n])
            one = one[None] if i.shape[:1] == (1,) and one.shape == i.shape[1:] else one
            feeds[i.name] = _as_float(one, i)
        yield Sample(feeds)


def _as_float(array: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    """Numbers in another float type than the model takes: numpy's own is float64. What does not fit
    becomes infinite, and is refused."""
    if array.dtype.kind != "f" or np.dtype(spec.dtype).kind != "f":
        return array
    with np.errstate(over="ignore"):
        return np.asarray(array, spec.dtype)


def _from_pictures(
    uri: str, spec: ImageInput, inputs: tuple[TensorSpec, ...], store: SampleStore
) -> Iterator[Sample]:
    if len(inputs) != 1:
        raise UsageError(
            f"the model has {len(inputs)} inputs; pictures feed one", hint="give an .npz of all inputs"
        )
    source = open_source(uri)
    preprocess = Preprocessor(spec)
    try:
        info = source.open()
        endless = info.kind in ("live", "synth") and info.frames is None
        while not (endless and store.full):
            try:
                frame = source.read(_READ_TIMEOUT_S)
            except EndOfStream:
                return
            if frame is None:
                raise DataError(
                    f"{redact(uri)} gave no frame for {_READ_TIMEOUT_S:g} s",
                    hint="calibrate from a recording",
                )
            if store.wants():
                tensor, meta = preprocess(frame)
                yield Sample({inputs[0].name: tensor}, meta)
            else:
                store.skip()
    finally:
        source.close()


def _from_audio(
    uri: str, spec: AudioInput, inputs: tuple[TensorSpec, ...], engine: Engine
) -> Iterator[Sample]:
    """Features of every recording, in name order. Further inputs are the sample rate (an integer) or
    recurrent state: a float tensor that has the shape of an output, fed back by running the model, from
    zeros at the start of each file."""
    main = next(i for i in inputs if i.name == (spec.tensor or inputs[0].name))
    states = _states(main, inputs, engine)
    if spec.rate != 16000:
        raise UsageError(
            f"recordings are read at 16000 Hz; the task takes {spec.rate}", hint="give an .npz of the inputs"
        )
    folder = Path(uri)
    files = (
        sorted(str(f) for f in folder.iterdir() if f.suffix.lower() in _AUDIO) if folder.is_dir() else [uri]
    )
    if not files:
        raise DataError(f"folder {folder} has no sound files", hint=f"looked for {', '.join(_AUDIO)}")
    # Eight inputs a window: one that slides frame by frame shows the same second fifty times.
    every = 1 if spec.features.kind == "waveform" else max(1, spec.features.frames // 8)
    for file in files:
        state = {i.name: np.zeros(i.shape, i.dtype) for i in inputs if i.name in states}
        for tensor in windows(spec, read_audio(file), every=every):
            feeds: dict[str, NDArray[Any]] = {main.name: tensor, **state}
            feeds.update({i.name: np.asarray(spec.rate, i.dtype) for i in inputs if i.name not in feeds})
            yield Sample(feeds)
            if states:
                outputs = engine.run(feeds)
                state = {name: outputs[output] for name, output in states.items()}


def _states(main: TensorSpec, inputs: tuple[TensorSpec, ...], engine: Engine) -> dict[str, str]:
    """Recurrent input → the output that feeds it. Raises :class:`UsageError` for an input that nothing
    explains."""
    probe = {i.name: np.zeros(i.shape, i.dtype) for i in inputs}
    outputs = engine.run(probe) if len(inputs) > 1 else {}
    states: dict[str, str] = {}
    for i in inputs:
        if i.name == main.name or (not i.shape and np.dtype(i.dtype).kind == "i"):
            continue
        match = next(
            (
                n
                for n, o in outputs.items()
                if o.shape == i.shape and o.dtype == i.dtype and n not in states.values()
            ),
            None,
        )
        if match is None:
            raise UsageError(
                f"nothing says what input {i.name} is fed with", hint="give an .npz of all inputs"
            )
        states[i.name] = match
    return states
