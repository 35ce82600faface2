"""What the documentation shows can be used as it stands: links lead somewhere, examples are valid."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from edgectl.agent.config import AgentConfig
from edgectl.core.task import TaskSpec
from edgectl.device_profiles.catalogue import load_profile
from edgectl.fleet.config import ControllerConfig
from edgectl.pipelines.host.config import load_config
from edgectl.pipelines.kinds import KINDS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "models/README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]


def blocks(language: str) -> list[str]:
    """Without those of plugins.md, which belong together: tests/pipelines/test_plugins.py runs them."""
    found = [
        b
        for page in PAGES
        if page.name != "plugins.md"
        for b in re.findall(rf"```{language}\n(.*?)```", page.read_text("utf-8"), re.S)
    ]
    assert found
    return found


@pytest.mark.parametrize("text", blocks("yaml"), ids=lambda t: t.splitlines()[0][:40])
def test_pipeline_examples_are_valid(text: str, tmp_path: Path) -> None:
    (tmp_path / "pipeline.yaml").write_text(text)
    title = text.split()[1].strip(".").lower()
    load_config(title if title in KINDS.own else "surveillance", tmp_path / "pipeline.yaml")


@pytest.mark.parametrize("path", sorted((ROOT / "docs/examples").glob("*.yaml")), ids=lambda p: p.name)
def test_example_files_are_valid(path: Path) -> None:
    assert load_config("driving" if path.stem == "highway" else "surveillance", path).rules


@pytest.mark.parametrize("text", blocks("toml"), ids=lambda t: t.splitlines()[0][:40])
def test_toml_examples_are_valid(text: str, tmp_path: Path) -> None:
    kind = text.splitlines()[0].removeprefix("# ")
    if kind == "profile":
        (tmp_path / "profile.toml").write_text(text)
        assert load_profile(str(tmp_path / "profile.toml")).name == "my-box"
        return
    model = {"task": TaskSpec, "agent": AgentConfig, "controller": ControllerConfig}[kind]
    model.model_validate(tomllib.loads(text))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text("utf-8"))
    missing = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
    assert missing == []
