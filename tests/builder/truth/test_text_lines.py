"""Tables of file and text in each form; words that are classes; recordings that are longer than what the model hears."""

import json
import wave
from pathlib import Path

import numpy as np
import pytest

from edgectl.builder.ingest.labelled_samples import LabelledSamples
from edgectl.builder.judge.labelled_scores import scorer_for
from edgectl.builder.truth.labelled import LabelledSet
from edgectl.builder.truth.layouts import read_labels
from edgectl.core.bundle import TensorSpec
from edgectl.core.errors import DataError
from edgectl.core.task import AudioInput, DecodeSpec, FeatureSpec, TaskSpec

AUDIO = AudioInput(features=FeatureSpec(kind="waveform", window=1600, hop=1600))
KEYWORDS = TaskSpec(
    name="k", input=AUDIO, decode=DecodeSpec(kind="keyword"), labels=("turn left", "stop"), metric="top1"
)
SPEECH = TaskSpec(name="s", input=AUDIO, decode=DecodeSpec(kind="ctc"), labels=tuple("ab "))


def record(path: Path, samples: int = 800) -> Path:
    with wave.open(str(path), "wb") as f:
        f.setparams((1, 2, 16000, 0, "NONE", ""))
        f.writeframes(np.full(samples, 8000, np.int16).tobytes())
    return path


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    for n in range(4):
        record(tmp_path / f"{n}.wav")
    return tmp_path


def read(path: Path, task: TaskSpec = SPEECH, **more: object) -> LabelledSet:
    found = read_labels(str(path), task, **more)  # type: ignore[arg-type]
    assert found is not None
    return found


WORDS = ["a b", "stop, b", "b", "a"]
TABLES = {
    "t.tsv": "".join(f"{n}.wav\t{w}\n" for n, w in enumerate(WORDS)),
    "plain.csv": "".join(f'{n}.wav,"{w}"\n' for n, w in enumerate(WORDS)),
    "named.csv": "id,sentence,path\n" + "".join(f'{n},"{w}",{n}.wav\n' for n, w in enumerate(WORDS)),
    "t.jsonl": "".join(
        json.dumps({"audio_filepath": f"{n}.wav", "text": w, "duration": 0.1}) + "\n\n"
        for n, w in enumerate(WORDS)
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_each_form_of_a_table_says_the_same(clips: Path, name: str) -> None:
    (clips / name).write_text(TABLES[name])
    found = read(clips / name)
    assert [i.truth for i in found.items] == WORDS
    assert [i.path.name for i in found.items] == [f"{n}.wav" for n in range(4)]
    assert (found.kind, found.layout) == ("text", "lines of text")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", 'file,text\r\n0.wav,"a\r\nb"\r\n1.wav,b\r\n'),
        ("t.jsonl", '{"file": "0.wav", "text": "a\u2028b"}\r\n{"file": "1.wav", "text": "b"}'),
        ("t.tsv", "0.wav\ta\x85b\r\n1.wav\tb\r\n"),
    ],
)
def test_a_text_of_several_lines_stays_whole(clips: Path, name: str, text: str) -> None:
    (clips / name).write_bytes(text.encode())
    assert [str(i.truth).split() for i in read(clips / name).items] == [["a", "b"], ["b"]]


def test_text_files_beside_recordings(clips: Path) -> None:
    for n, w in enumerate(WORDS):
        (clips / f"{n}.txt").write_text(w + "\n")
    assert [i.truth for i in read(clips).items] == WORDS
    (clips / "2.txt").unlink()
    with pytest.raises(DataError, match=r"1 of 4 files have no text file; the first is 2\.wav"):
        read(clips)


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("t.jsonl", "[1]\n", r"t\.jsonl:1: there is no file or no text"),
        ("t.jsonl", '{"audio_filepath": 3, "text": "a"}', "no file or no text"),
        ("t.jsonl", '\n{"file": "0.wav", ', r"t\.jsonl:2: the line is not JSON"),
        ("t.jsonl", "[" * 5000, "not JSON"),
        ("t.csv", "0.wav\n", r"t\.csv:1: there are 1 columns"),
        ("t.csv", "0.wav,a,b\n", "there are 3 columns"),
        ("t.csv", "0.wav,a\n1.wav,a, then b\n", r"t\.csv:2: there are 3 columns, not 2"),
        ("t.csv", "file,text\n0.wav,a, then b\n", r"t\.csv:2: there are 3 columns, not 2"),
        ("t.csv", 'file,text\n0.wav,"a\n', r"t\.csv:2"),
        ("t.csv", "file,text\n../x.wav,a\n", "leads out of"),
        ("t.csv", "file,text\n", "names no files"),
        ("t.csv", "file,text\n0.wav,a\n0.wav,b\n", "twice"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(clips: Path, name: str, text: str, sentence: str) -> None:
    (clips / name).write_text(text)
    with pytest.raises(DataError, match=sentence):
        read(clips / name)


def test_words_are_classes_of_a_keyword_model(clips: Path) -> None:
    table = clips / "said.tsv"
    table.write_text("0.wav\tTurn-left\n1.wav\tstop\n2.wav\tstop\n3.wav\tjump\n")
    with pytest.raises(DataError, match="'jump'"):
        read(table, KEYWORDS)
    found = read(table, KEYWORDS, known_only=True)
    assert [i.truth for i in found.items] == [0, 1, 1]
    assert (found.kind, found.classes) == ("class", (0, 1))
    assert "jump" in found.notes[0]
    for n, word in enumerate(["stop", "turn left", "stop", "stop"]):
        (clips / f"{n}.txt").write_text(word)
    assert [i.truth for i in read(clips, KEYWORDS).items] == [1, 0, 1, 1]


def test_a_keyword_model_without_labels_is_told(clips: Path) -> None:
    (clips / "t.tsv").write_text("0.wav\tstop\n")
    with pytest.raises(DataError, match="no labels to match the texts"):
        read(clips / "t.tsv", KEYWORDS.model_copy(update={"labels": ()}))


def test_a_speech_model_is_judged_by_word_error_and_hears_all_of_a_recording(tmp_path: Path) -> None:
    for n in range(9):
        record(tmp_path / f"{n}.wav", 1600 if n else 3200)
        (tmp_path / f"{n}.txt").write_text("a b")
    samples = LabelledSamples(
        read(tmp_path), SPEECH, (TensorSpec(name="x", shape=(1, 1600), dtype="float32"),)
    )
    scorer = scorer_for(samples.labelled.kind, SPEECH, ())
    assert scorer.names[0] == "word_error"
    with pytest.raises(DataError, match=r"0\.wav lasts 0\.2 s, and the model hears 0\.1 s at once"):
        list(samples)
    record(tmp_path / "0.wav", 700)
    assert [s.truth for s in samples] == ["a b"] * 9
