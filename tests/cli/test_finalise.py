"""``edgectl finalise`` on a bundle: the CPU branch for real, TensorRT over the double."""

import json
from pathlib import Path

import pytest
from tests.engines.conftest import MakeVariant, make_variant, trt_double  # noqa: F401  (fixtures)
from typer.testing import CliRunner

from edgectl.cli.main import app
from edgectl.core.bundle import MEDIA_MANIFEST, Descriptor, Index, Variant
from edgectl.core.errors import AdmissionError, BundleError, ProfileError, UsageError
from edgectl.core.files import hex_of
from edgectl.core.memory import MIB, EngineMemory
from edgectl.device_profiles.admission import MemoryBound, MemoryRoom


def bundle_of(root: Path, *variants: Variant) -> Path:
    """A bundle around variants whose blobs are there already, in one folder."""
    blobs = variants[0].blobs
    (root / "blobs").mkdir(parents=True)
    (root / "blobs" / "sha256").symlink_to(blobs)
    sizes = {v.digest: (blobs / hex_of(v.digest)).stat().st_size for v in variants}
    index = Index(
        manifests=tuple(Descriptor(mediaType=MEDIA_MANIFEST, digest=d, size=s) for d, s in sizes.items())
    )
    (root / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (root / "index.json").write_bytes(index.encode())
    return root


def test_it_makes_the_engine_once_and_proves_it_each_time(make_variant: MakeVariant, tmp_path: Path) -> None:
    root = bundle_of(tmp_path / "bundle", make_variant())
    said = []
    for _ in range(2):
        result = CliRunner().invoke(
            app, ["finalise", str(root), "--cache", str(tmp_path / "cache"), "--json"]
        )
        assert result.exit_code == 0, result.output
        said.append(json.loads(result.stdout))
    with pytest.raises(UsageError, match="no TensorRT plan"):
        CliRunner().invoke(
            app,
            ["finalise", str(root), "--cache", str(tmp_path / "cache"), "--export", "x"],
            catch_exceptions=False,
        )
    assert [s["made"] for s in said] == [True, False]
    assert said[0]["kind"] in ("optimised", "original")
    assert said[0]["key"] == said[1]["key"]
    assert said[1]["golden"]["ok"] is True
    assert said[1]["golden"]["worst_cosine"] > 0.999


def test_a_tensorrt_variant_goes_through_the_limits_of_the_profile(
    make_variant: MakeVariant,
    trt_double: object,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from edgectl.device_profiles import machine as probing

    root = bundle_of(tmp_path / "bundle", make_variant(runtime="tensorrt"))
    machine = probing.probe()
    monkeypatch.setattr(
        probing,
        "probe",
        lambda: machine.model_copy(update={"runtimes": {"onnxruntime": "1.22.0", "tensorrt": "10.3.0"}}),
    )
    arguments = ["finalise", str(root), "--cache", str(tmp_path / "cache"), "--json"]
    result = CliRunner().invoke(
        app, [*arguments, "-p", "jetson-orin", "--level", "5", "--export", str(tmp_path / "handed")]
    )
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    handed = json.loads((tmp_path / "handed" / "plan.json").read_text())
    assert (handed["key"], handed["level"], handed["size"]) == (
        said["key"],
        5,
        (tmp_path / "handed" / "engine.plan").stat().st_size,
    )
    assert (said["kind"], said["level"], said["key"]["tensorrt"]) == ("plan", 5, "10.3.0.30")
    with pytest.raises(ProfileError, match="outside the range"):
        CliRunner().invoke(app, [*arguments, "-p", "jetson-xavier"], catch_exceptions=False)


def test_a_bundle_with_nothing_for_this_machine_is_one_sentence(
    make_variant: MakeVariant, tmp_path: Path
) -> None:
    root = bundle_of(tmp_path / "bundle", make_variant(requires=("isa:none",)))
    with pytest.raises(BundleError, match="needs isa:none"):
        CliRunner().invoke(app, ["finalise", str(root)], catch_exceptions=False)


def test_the_preference_chooses_the_variant(make_variant: MakeVariant, tmp_path: Path) -> None:
    fast, lean = make_variant(preferences=("fast",)), make_variant(preferences=("low-power",))
    root = bundle_of(tmp_path / "bundle", fast, lean)
    keys = []
    for more in ([], ["--prefer", "low-power"]):
        result = CliRunner().invoke(
            app, ["finalise", str(root), "-p", "cpu", "--cache", str(tmp_path / "cache"), "--json", *more]
        )
        assert result.exit_code == 0, result.output
        keys.append(json.loads(result.stdout)["key"]["golden"])
    assert keys == [fast.digest, lean.digest]


def test_a_runtime_that_compiles_nothing_is_not_said_to_have_a_cache(
    make_variant: MakeVariant, tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    root = bundle_of(tmp_path / "bundle", make_variant(runtime="openvino"))
    result = CliRunner().invoke(app, ["finalise", str(root), "--cache", str(tmp_path / "cache")])
    assert result.exit_code == 0, result.output
    assert "nothing is compiled for this runtime" in result.output
    assert "cache in" not in result.output


def test_what_does_not_fit_into_memory_is_passed_over_and_said(
    make_variant: MakeVariant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = MemoryRoom((MemoryBound(200 * MIB, 2048 * MIB, "the cgroup /x"),))
    monkeypatch.setattr("edgectl.device_profiles.fitting.memory_room", lambda **_: room)
    large = EngineMemory(source="measured", resident_bytes=412 * MIB, peak_bytes=412 * MIB)
    variants = [make_variant(variant="large", memory=large), make_variant(variant="small", name="other")]
    command = ["finalise", "--cache", str(tmp_path / "cache"), "--json"]
    result = CliRunner().invoke(app, [*command, str(bundle_of(tmp_path / "two", *variants))])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["variant"] == "small"
    assert "needs 412 MiB" in found["passed_over"]["cpu/large"]
    assert "cpu/large does not fit: needs 412 MiB beside what runs; 200 MiB of 2048 are free" in result.stderr
    with pytest.raises(AdmissionError, match="cpu/large needs 412 MiB") as refused:
        CliRunner().invoke(
            app, [*command, str(bundle_of(tmp_path / "one", variants[0]))], catch_exceptions=False
        )
    assert refused.value.exit_code == 14
