"""Which streams a command line means."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgectl.cli.run import named_bundles, named_configs, named_sources
from edgectl.core.errors import UsageError


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["clip.mp4"], {"run": "clip.mp4"}),
        (["synth://yard?seed=1"], {"run": "synth://yard?seed=1"}),
        (["gate=rtsp://cam/sub?a=b"], {"gate": "rtsp://cam/sub?a=b"}),
        (["a.mp4", "gate=b.mp4", "c.mp4"], {"run-1": "a.mp4", "gate": "b.mp4", "run-3": "c.mp4"}),
    ],
)
def test_a_source_may_bring_a_name(given: list[str], expected: dict[str, str]) -> None:
    assert named_sources(given) == expected


def test_a_file_whose_name_has_an_equals_sign_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b").write_bytes(b"")
    assert named_sources(["a=b"]) == {"run": "a=b"}


def test_the_environment_gives_one_source_whole_where_the_command_line_gives_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EDGECTL_SOURCE", "my clip.mp4")
    assert named_sources([]) == {"run": "my clip.mp4"}
    assert named_sources(["other.mp4"]) == {"run": "other.mp4"}
    monkeypatch.delenv("EDGECTL_SOURCE")
    with pytest.raises(UsageError, match="no source"):
        named_sources([])


def test_a_configuration_is_for_all_or_for_the_stream_that_it_names() -> None:
    sources = {"gate": "a.mp4", "yard": "b.mp4"}
    assert named_configs(["all.yaml", "gate=gate.yaml"], sources) == {
        "": Path("all.yaml"),
        "gate": Path("gate.yaml"),
    }
    for given, problem in (
        (["door=x.yaml"], "'door', which has no source"),
        (["a.yaml", "b.yaml"], "two configurations for all streams"),
        (["gate=a", "gate=b"], "two configurations for the stream 'gate'"),
    ):
        with pytest.raises(UsageError, match=problem):
            named_configs(given, sources)


def test_a_bundle_is_for_the_part_that_it_names_or_for_what_its_task_says(tmp_path: Path) -> None:
    assert named_bundles(["out/gate", "gear=out/gear", "plate=out/plates"]) == (
        [Path("out/gate")],
        {"gear": Path("out/gear"), "plate": Path("out/plates")},
    )
    with pytest.raises(UsageError, match="both for the part 'gear'"):
        named_bundles(["gear=a", "gear=b"])


def test_two_sources_of_one_name_are_refused() -> None:
    with pytest.raises(UsageError, match="two sources are called 'gate'"):
        named_sources(["gate=a", "gate=b"])
