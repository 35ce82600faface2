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
from edgectl.fleet.rollouts.policy_file import read_policy
from edgectl.pipelines.host.config import load_config
from edgectl.pipelines.kinds import KINDS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(p for p in ROOT.glob("*/README.md") if p.parent.name != "docs"),
    *sorted((ROOT / "docs").rglob("*.md")),
]

WRAPPED = (
    "README",
    "architecture",
    "camera",
    "dashboard",
    "delivery",
    "device",
    "device-setup",
    "fleet",
    "gates",
    "glossary",
    "model",
    "not-run",
    "rollouts",
    "security",
)


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
    if title == "rollout":
        assert read_policy(tmp_path / "pipeline.yaml").waves
        return
    load_config(title if title in KINDS.own else "surveillance", tmp_path / "pipeline.yaml")


@pytest.mark.parametrize("path", sorted((ROOT / "docs/examples").glob("*.yaml")), ids=lambda p: p.name)
def test_example_files_are_valid(path: Path) -> None:
    if path.stem == "rollout":
        assert path.read_text().partition("\n")[2] in (ROOT / "docs/rollouts.md").read_text()
        return
    assert load_config("driving" if path.stem == "highway" else "surveillance", path).rules


@pytest.mark.parametrize("text", blocks("toml"), ids=lambda t: t.splitlines()[0][:40])
def test_toml_examples_are_valid(text: str, tmp_path: Path) -> None:
    kind = text.splitlines()[0].removeprefix("# ")
    if kind == "pyproject.toml" or kind.startswith("[project."):
        assert tomllib.loads(text)
        return
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


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_within_pages_lead_to_a_heading(page: Path) -> None:
    """As GitHub makes anchors: lower case, without punctuation, spaces become hyphens."""
    links = re.findall(r"\]\(([^):]*?)#([^)]+)\)", page.read_text("utf-8"))
    missing = [
        f"{target}#{anchor}"
        for target, anchor in links
        if target.endswith(".md") or not target
        if anchor not in _anchors(page.parent / target if target else page)
    ]
    assert missing == []


def _anchors(page: Path) -> set[str]:
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.S)
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


@pytest.mark.parametrize(
    "page",
    [
        *sorted(p for p in ROOT.glob("*.md") if p.name != "CHANGELOG.md"),
        *(ROOT / "docs" / f"{name}.md" for name in WRAPPED),
    ],
    ids=lambda p: p.name,
)
def test_prose_fits_a_window(page: Path) -> None:
    """No line over 120 but in tables and where a link alone is longer; in the README none at all."""
    text = page.read_text("utf-8")
    if page.name != "README.md" or page.parent != ROOT:
        text = re.sub(r"^ *\|.*$", "", text, flags=re.M)
    assert [line for line in text.splitlines() if len(line) > 120] == []


def test_the_readme_stays_short() -> None:
    """Measurements and details go to docs/."""
    assert len((ROOT / "README.md").read_text("utf-8").split()) <= 870


def test_pictures_stay_small() -> None:
    pictures = [p for p in (ROOT / "docs/pictures").iterdir() if p.suffix in {".svg", ".jpg", ".png"}]
    assert pictures
    assert sum(p.stat().st_size for p in pictures) <= 300_000


def test_architecture_names_every_wing() -> None:
    text = (ROOT / "docs/architecture.md").read_text("utf-8")
    wings = {p.parent.name: _wings(p.parent.name) for p in ROOT.glob("*/edgectl/*/__init__.py")}
    assert {component for component, names in wings.items() if names} >= {
        "agent",
        "engines",
        "fleet",
        "pipelines",
    }
    missing = [
        f"{component}/{wing}"
        for component, names in wings.items()
        for wing in names
        if f"`{wing}/`" not in text.partition(f"| `{component}` |")[2].partition("\n")[0]
    ]
    assert missing == []


def test_paths_that_pages_name_exist() -> None:
    named = re.compile(
        r"`((?:core|link|models|device_profiles|engines|pipelines|agent|builder|fleet|cli)/edgectl/[a-z0-9_/.]+)`"
    )
    pages = [p for p in PAGES if p.name != "CHANGELOG.md" and p.parent.name != "adr"]
    assert [
        f"{page.name}: {path}"
        for page in pages
        for path in named.findall(page.read_text("utf-8"))
        if not (ROOT / path).exists()
    ] == []


def _wings(component: str) -> list[str]:
    """Subfolders that an import contract orders."""
    with (ROOT / "pyproject.toml").open("rb") as f:
        contracts = tomllib.load(f)["tool"]["importlinter"]["contracts"]
    names = [
        name.strip()
        for contract in contracts
        if f"edgectl.{component}" in contract.get("containers", ())
        for layer in contract["layers"]
        for name in re.split(r"[|:]", layer)
    ]
    return [name for name in names if (ROOT / component / "edgectl" / component / name).is_dir()]
