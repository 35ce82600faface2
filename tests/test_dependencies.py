"""Everything imported is declared, everything declared is imported; the constraints fit; a wheel in an
empty environment works."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from edgectl.builder.build import build_bundle
from edgectl.models import reference
from edgectl.pipelines.tasks import load_task

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
COMPONENTS = (
    "core",
    "link",
    "device_profiles",
    "models",
    "engines",
    "pipelines",
    "builder",
    "agent",
    "fleet",
    "cli",
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]

NOT_INSTALLED_HERE = {
    "ai_edge_litert": "ai-edge-litert",
    "cuda": "cuda-python",
    "joblib": "joblib",
    "keras": "keras",
    "pycuda": "pycuda",
    "skl2onnx": "skl2onnx",
    "tensorflow": "tensorflow-cpu",
    "tensorrt": "tensorrt",
    "tf2onnx": "tf2onnx",
    "torch": "torch",
    "tomli": "tomli",
}
"""Modules of extras that need hardware, or of other Pythons, and the distribution that brings each."""
BY_NAME = {
    "onnxscript": "torch.onnx loads it",
    "onnxruntime-gpu": "the module onnxruntime of another distribution",
    "psycopg": "SQLAlchemy loads it for a postgresql+psycopg:// URL",
}
"""Declared, and imported by somebody else."""
DEVELOPMENT = {"dev", "demo"}
KNOWS_ALL_MODULES = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="Python 3.10 knows only modules of a top_level.txt"
)


def named(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(r).name) for r in requirements}


def declared() -> set[str]:
    """Base and extras, without those for development."""
    extras = [r for extra, rs in EXTRAS.items() if extra not in DEVELOPMENT for r in rs]
    return named(PROJECT["dependencies"] + extras) - {"edgectl"}


def imported() -> dict[str, set[str]]:
    """Distribution → files of ours that import a module of it. Imports under ``TYPE_CHECKING`` count, too:
    mypy needs them."""
    distributions = packages_distributions()
    found: dict[str, set[str]] = defaultdict(set)
    for component in COMPONENTS:
        for path in (ROOT / component / "edgectl").rglob("*.py"):
            for module in modules_of(path):
                if module in sys.stdlib_module_names or module in ("edgectl", "tomllib"):
                    continue
                names = (
                    {NOT_INSTALLED_HERE[module]}
                    if module in NOT_INSTALLED_HERE
                    else set(distributions.get(module, ()))
                )
                assert names, (
                    f"{path.relative_to(ROOT)} imports {module}, which is neither installed nor known"
                )
                for name in names:
                    found[canonicalize_name(name)].add(str(path.relative_to(ROOT)))
    return found


def modules_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


@KNOWS_ALL_MODULES
def test_everything_imported_is_declared() -> None:
    lacking = {name: sorted(files)[:3] for name, files in imported().items() if name not in declared()}
    assert lacking == {}


@KNOWS_ALL_MODULES
def test_everything_declared_is_imported() -> None:
    assert declared() - set(imported()) - set(BY_NAME) == set()


def test_the_base_has_no_runtime_and_either_extra_brings_one() -> None:
    base = named(PROJECT["dependencies"])
    assert not {n for n in base if n.startswith(("onnxruntime", "openvino", "tensorrt", "onnx", "torch"))}
    assert named(EXTRAS["cpu"]) == {"onnxruntime"}
    assert named(EXTRAS["gpu"]) == {"onnxruntime-gpu"}
    both = [extra for extra in EXTRAS if {"onnxruntime", "onnxruntime-gpu"} <= closure(extra)]
    assert both == [], "an extra that pulls both breaks whichever is installed first"
    assert "onnxruntime" not in closure("builder") | closure("fleet") | closure("compress"), (
        "they go with [cpu] or [gpu]"
    )


def test_tensorrt_brings_one_binding_of_cuda_and_cuda_graphs_the_other() -> None:
    assert named(EXTRAS["tensorrt"]) == {"tensorrt", "pycuda"}
    assert named(EXTRAS["cuda-graphs"]) == {"cuda-python"}


def closure(extra: str) -> set[str]:
    """Distributions that ``edgectl[extra]`` brings of its own, through extras of ours that it names."""
    found: set[str] = set()
    for text in EXTRAS[extra]:
        requirement = Requirement(text)
        if canonicalize_name(requirement.name) == "edgectl":
            found |= set().union(*(closure(e) for e in requirement.extras))
        else:
            found.add(canonicalize_name(requirement.name))
    return found


def private_names_of_others() -> dict[str, set[str]]:
    """Distribution → private names of it that we use, as far as a parser sees them: ``from lib import _x``
    and ``lib._x``."""
    found: dict[str, set[str]] = defaultdict(set)
    distributions = packages_distributions()
    for component in COMPONENTS:
        for path in (ROOT / component / "edgectl").rglob("*.py"):
            tree = ast.parse(path.read_text())
            origin: dict[str, str] = {}
            for node in ast.walk(tree):
                if isinstance(node, ast.Import):
                    origin |= {(a.asname or a.name).split(".")[0]: a.name.split(".")[0] for a in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module:
                    top = node.module.split(".")[0]
                    origin |= {a.asname or a.name: top for a in node.names}
                    private = [
                        p
                        for p in (*node.module.split("."), *(a.name for a in node.names))
                        if re.match(r"_[a-z]", p)
                    ]
                    for name in private:
                        for d in distributions.get(top, ()):
                            found[canonicalize_name(d)].add(name)
            for node in ast.walk(tree):
                if (
                    isinstance(node, ast.Attribute)
                    and re.match(r"_[a-z]", node.attr)
                    and isinstance(node.value, ast.Name)
                ):
                    for d in distributions.get(origin.get(node.value.id, ""), ()):
                        found[canonicalize_name(d)].add(node.attr)
    found.pop("edgectl", None)
    return found


@KNOWS_ALL_MODULES
def test_a_private_name_of_a_library_bounds_its_version_from_above() -> None:
    # of a base class: no parser sees whose it is
    users = {"paho-mqtt": {"_sock_recv"}, **private_names_of_others()}
    link = (ROOT / "link/edgectl/link/bounded_client.py").read_text()
    assert "super()._sock_recv" in link, "without it paho-mqtt needs no upper bound"
    for name in users:
        texts = [
            r
            for rs in (PROJECT["dependencies"], *EXTRAS.values())
            for r in rs
            if canonicalize_name(Requirement(r).name) == name
        ]
        assert any("<" in str(Requirement(r).specifier) for r in texts), f"{name}: {users[name]}"


def test_no_newer_paho_is_allowed_than_the_one_that_the_tests_of_its_private_names_ran_with() -> None:
    [allowed] = [r.specifier for r in map(Requirement, PROJECT["dependencies"]) if r.name == "paho-mqtt"]
    tested = Version(version("paho-mqtt"))
    assert allowed.contains(tested)
    following = f"{tested.major}.{tested.minor + 1}"
    assert not allowed.contains(following), (
        f"paho-mqtt {following} is allowed, and the tests ran with {tested}: update it, or lower the bound"
    )


def test_the_constraints_are_bare_versions_that_fit_what_is_declared() -> None:
    pins = [
        Requirement(line)
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and line[0] != "#"
    ]
    for pin in pins:
        assert re.fullmatch(r"==[0-9A-Za-z.+!]+", str(pin.specifier)), str(pin)
        assert pin.url is None
    wanted = [
        Requirement(r)
        for r in (
            *PROJECT["dependencies"],
            *(r for e in ("cpu", "builder", "fleet", "broker", "openvino", "dev") for r in EXTRAS[e]),
        )
    ]
    for python in ("3.10", "3.11", "3.12", "3.13"):
        environment = {
            **default_environment(),
            "python_version": python,
            "python_full_version": f"{python}.0",
        }
        versions = {
            canonicalize_name(p.name): str(p.specifier)[2:]
            for p in pins
            if p.marker is None or p.marker.evaluate(environment)
        }
        for r in wanted:
            if r.name == "edgectl" or (r.marker is not None and not r.marker.evaluate(environment)):
                continue
            assert canonicalize_name(r.name) in versions, f"{r.name} has no version for Python {python}"
            assert r.specifier.contains(versions[canonicalize_name(r.name)]), str(r)


# -- the wheel ----------------------------------------------------------------------------------------------------------------


def clean() -> dict[str, str]:
    """The environment without what leads to this checkout."""
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}


def pip(python: Path | str, *arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [str(python), "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=500, check=False, env=clean()
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    made = pip(sys.executable, "wheel", "--no-deps", "--wheel-dir", out, ROOT)
    if (
        made.returncode
        and "CI" not in os.environ
        and "Could not find a version that satisfies" in made.stderr
    ):
        pytest.skip("no package index to take the build backend from")
    assert made.returncode == 0, made.stderr
    return next(out.glob("*.whl"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_wheel_has_every_file_of_the_components_and_says_what_each_extra_brings(wheel: Path) -> None:
    listing = subprocess.run(
        ["git", "ls-files", "*/edgectl/*"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    with zipfile.ZipFile(wheel) as z:
        inside = set(z.namelist())
        metadata = z.read(next(n for n in inside if n.endswith(".dist-info/METADATA"))).decode()
    wanted = {f.split("/", 1)[1] for f in listing.stdout.split() if f.split("/")[0] in COMPONENTS}
    assert wanted - inside == set()
    assert "edgectl/__init__.py" not in inside
    needs = re.findall(r"^Requires-Dist: (.*)$", metadata, re.MULTILINE)
    runtimes = [Requirement(n) for n in needs if n.startswith("onnxruntime")]
    for_users = {(r.name, str(r.marker)) for r in runtimes if not re.search("demo|dev", str(r.marker))}
    assert for_users == {("onnxruntime-gpu", 'extra == "gpu"'), ("onnxruntime", 'extra == "cpu"')}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_empty_environment_runs_with_cpu_and_says_what_it_lacks_without(
    wheel: Path, tmp_path: Path
) -> None:
    ours = reference("yard-detector")
    bundle, source = tmp_path / "yard", "synth://yard?seed=5&paced=0&fps=2&seconds=8"
    task = load_task(str(ours.task))
    build_bundle(
        ours.model,
        profiles=["cpu"],
        task=task,
        calibration=source,
        out=bundle,
        minutes=0.02,
        name="yard",
        max_drop=0.5,
    )
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True, timeout=120)
    python = tmp_path / "venv/bin/python"
    installed = pip(python, "install", "-c", ROOT / "constraints.txt", wheel, cwd=tmp_path)
    assert installed.returncode == 0, installed.stderr

    def edgectl(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(tmp_path / "venv/bin/edgectl"), *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={**clean(), "HOME": str(tmp_path)},
        )

    checks = {c["name"]: c for c in json.loads(edgectl("doctor", "--json").stdout)["checks"]}
    assert checks["runtime"]["state"] == "missing"
    assert "edgectl[cpu]" in checks["runtime"]["next_step"]
    (tmp_path / "agent.toml").write_text(
        'name = "gate-1"\nstate_dir = "state"\n[broker]\nhost = "127.0.0.1"\n'
    )
    model = "lib/python{}.{}/site-packages/edgectl/models/yard-detector.onnx".format(*sys.version_info[:2])
    for arguments in (
        (
            "build",
            str(tmp_path / "venv" / model),
            "--task",
            "tensor",
            "--profile",
            "cpu",
            "--random-calibration",
        ),
        ("run", "surveillance", "-b", "yard", "--source", source),
        ("bench", "yard"),
        ("demo",),
        ("finalise", "yard", "--cache", "cache"),
        ("agent", "run", "--config", "agent.toml"),
    ):
        said = edgectl(*arguments)
        assert said.returncode == 2, (arguments, said.stdout, said.stderr)
        assert "Traceback" not in said.stderr
        assert re.search(r"next: pip install 'edgectl\[(cpu|builder|fleet|demo)\]'", said.stderr), (
            arguments,
            said.stderr,
        )

    installed = pip(
        python, "install", "-c", ROOT / "constraints.txt", f"edgectl[cpu] @ file://{wheel}", cwd=tmp_path
    )
    assert installed.returncode == 0, installed.stderr
    checked = pip(python, "check")
    assert checked.returncode == 0, checked.stdout
    doctor = edgectl("doctor", "--json")
    assert doctor.returncode == 0, doctor.stdout
    states = {c["name"]: c["state"] for c in json.loads(doctor.stdout)["checks"]}
    assert (states["runtime"], states["onnxruntime"]) == ("ok", "ok")
    run = edgectl("run", "surveillance", "-b", "yard", "--source", source, "--json")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["frames"]["processed"] == 16
    probe = subprocess.run(
        [str(python), "-c", DEVICE_IMPORTS],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=clean(),
    )
    assert probe.returncode == 0, probe.stderr


DEVICE_IMPORTS = """
import importlib, pkgutil
for component in ("core", "link", "device_profiles", "models", "engines", "pipelines", "agent"):
    package = importlib.import_module(f"edgectl.{component}")
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        # they need a GPU's libraries
        if module.name.split(".")[-1] in ("tensorrt", "trt_check", "trt_compile", "tensorrt_rtx", "rtx_check", "rtx_compile"):
            continue
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as e:  # the live page needs [view]
            if e.name not in ("h11", "starlette", "uvicorn") or not module.name.startswith(
                ("edgectl.link.http", "edgectl.pipelines.view.")
            ):
                raise
"""
