"""The Silero graph driven directly gives what the reference wrapper gives; the segmenter is pure and
closes what it opens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
from hypothesis import given
from hypothesis import strategies as st

from edgectl.core.bundle import TensorSpec
from edgectl.engines.base import Feeds, Outputs
from edgectl.pipelines.audio.blocks import AudioBlock, Reframer
from edgectl.pipelines.audio.vad import Segmenter, VoiceActivity
from edgectl.pipelines.sources import open_audio
from edgectl.pipelines.tasks import load_task

# silero-vad 806dcba, VADIterator with its defaults and OnnxWrapper(silero_vad_16k_op15.onnx) over
# tests/data/test.wav in chunks of 512: every edge it reported, in samples.
REFERENCE = [
    32,
    32736,
    42528,
    75232,
    79392,
    110048,
    149024,
    213472,
    216608,
    241632,
    245280,
    253920,
    260640,
    286688,
    293920,
    313824,
    325152,
    521696,
    523296,
    569824,
    571936,
    602080,
    607264,
    623072,
    637984,
    692704,
    697888,
    714208,
    720416,
    749024,
    781344,
    799712,
    817184,
    867808,
    871456,
    918496,
    920096,
    953312,
    957984,
]


class OnnxEngine:
    def __init__(self, path: Path) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.inputs = (
            TensorSpec(name="input", shape=(1, 576), dtype="float32"),
            TensorSpec(name="state", shape=(2, 1, 128), dtype="float32"),
            *(
                TensorSpec(name=i.name, shape=(), dtype="int64")
                for i in self._session.get_inputs()
                if i.name == "sr"
            ),
        )
        self.outputs = tuple(
            TensorSpec(name=o.name, shape=(), dtype="float32") for o in self._session.get_outputs()
        )
        self.runtime = "onnxruntime"

    def run(self, feeds: Feeds) -> Outputs:
        names = [o.name for o in self._session.get_outputs()]
        return dict(zip(names, self._session.run(None, dict(feeds)), strict=True))

    def close(self) -> None:
        pass


def test_speech_segments_equal_the_reference_iterator(shared: Path) -> None:
    vad = VoiceActivity(OnnxEngine(shared / "models/silero-vad-16k.onnx"), load_task("silero-vad"))
    reframer, segmenter = Reframer(vad.spec.window, vad.spec.context), Segmenter()
    source = open_audio(str(shared / "media/speech-60s.wav"))
    edges = []
    while (block := source.read()) is not None:
        for end, frame in reframer.push(block)[1]:
            if edge := segmenter.step(end, vad.spec.window, vad.probability(frame)):
                edges.append(edge)
    assert [e.sample for e in edges] == REFERENCE
    assert [e.kind for e in edges] == ["speech_start", "speech_end"] * 19 + ["speech_start"]
    assert segmenter.finish(960_000).sample == 960_000  # type: ignore[union-attr]


@given(st.lists(st.floats(0, 1), max_size=200))
def test_starts_and_ends_alternate_and_never_run_backwards(probabilities: list[float]) -> None:
    segmenter = Segmenter()
    steps = (segmenter.step((i + 1) * 512, 512, p) for i, p in enumerate(probabilities))
    edges = [e for e in [*steps, segmenter.finish(len(probabilities) * 512)] if e is not None]
    assert [e.kind for e in edges] == (["speech_start", "speech_end"] * len(edges))[: len(edges)]
    assert len(edges) % 2 == 0
    assert all(a.sample <= b.sample for a, b in zip(edges[::2], edges[1::2], strict=True))


@given(st.data())
def test_frames_are_the_same_for_any_block_sizes(data: st.DataObject) -> None:
    sound = np.arange(9000, dtype=np.float32)
    cuts = sorted(data.draw(st.sets(st.integers(1, 8999), max_size=20)))
    whole = Reframer(512, 64).push(AudioBlock(0, sound, 0))[1]
    reframer = Reframer(512, 64)
    pieces = [
        f
        for a, b in zip([0, *cuts], [*cuts, 9000], strict=True)
        for f in reframer.push(AudioBlock(a, sound[a:b], 0))[1]
    ]
    assert [end for end, _ in pieces] == [end for end, _ in whole]
    assert all(np.array_equal(x, y) for (_, x), (_, y) in zip(pieces, whole, strict=True))
    assert np.array_equal(whole[0][1][:64], np.zeros(64))
