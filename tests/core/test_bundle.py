"""Which variant a machine takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgectl.core.bundle import (
    Bundle,
    Descriptor,
    GoldenSpec,
    Manifest,
    Preference,
    Recipe,
    TensorSpec,
    Variant,
    VariantConfig,
    select,
    select_fitting,
)
from edgectl.core.errors import AdmissionError, BundleError
from edgectl.core.task import TaskSpec, TensorInput

SPEC = (TensorSpec(name="x", shape=(1,), dtype="float32"),)


def variant(name: str, profile: str = "cpu", **config: Any) -> Variant:
    values = VariantConfig(
        name="m",
        version="1",
        profile=profile,
        variant=name,
        task=TaskSpec(name="t", input=TensorInput()),
        inputs=SPEC,
        outputs=SPEC,
        recipe=Recipe(family="float"),
        golden=GoldenSpec(samples=1, tolerances={}),
        **{"runtime": "onnxruntime", **config},
    )
    digest = "sha256:" + "0" * 64
    return Variant(
        Path(), digest, Manifest(config=Descriptor(mediaType="c", digest=digest, size=1), layers=()), values
    )


VARIANTS = (
    variant("openvino-int8", runtime="openvino", preferences=("fast",)),
    variant("int8", preferences=("fast", "low-power"), requires=("isa:avx2",)),
    variant("float", preferences=("accurate",), fallback=True),
    variant("arm", profile="cpu-arm64", requires=("arch:aarch64",)),
)


def chosen(
    preference: Preference | None, facts: set[str], *runtimes: str, profile: str | None = "cpu"
) -> str:
    return select(
        VARIANTS, frozenset(facts), profile=profile, runtimes=("onnxruntime", *runtimes), prefer=preference
    ).config.variant


@pytest.mark.parametrize(
    ("preference", "with_openvino", "without"),
    [
        (None, "openvino-int8", "int8"),
        ("fast", "openvino-int8", "int8"),
        ("accurate", "float", "float"),
        ("low-power", "int8", "int8"),
    ],
)
def test_the_first_that_fits_or_the_one_of_the_role(
    preference: Preference | None, with_openvino: str, without: str
) -> None:
    assert chosen(preference, {"isa:avx2"}, "openvino") == with_openvino
    assert chosen(preference, {"isa:avx2"}) == without


def test_a_role_that_cannot_run_here_or_that_nobody_has_says_nothing() -> None:
    assert chosen("low-power", set()) == "float"
    assert chosen("low-power", {"arch:aarch64"}, profile="cpu-arm64") == "arm"
    with pytest.raises(BundleError, match="needs isa:avx2"):
        select(VARIANTS[:2], frozenset(), profile=None, runtimes=("onnxruntime",), prefer="fast")


def test_a_folder_that_is_not_there_and_one_that_is_no_bundle_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"there is no bundle .*none"):
        Bundle(tmp_path / "none")
    with pytest.raises(BundleError, match="is not a bundle: it has no oci-layout"):
        Bundle(tmp_path)


def test_what_does_not_fit_is_passed_over_and_told() -> None:
    asked = []

    def unfit(v: Variant) -> str | None:
        asked.append(v.config.variant)
        return "needs 9 MiB" if v.config.variant == "int8" else None

    facts = frozenset({"isa:avx2"})
    found = select_fitting(VARIANTS, facts, profile="cpu", runtimes=["onnxruntime"], unfit=unfit)
    assert found.variant.config.variant == "float"
    assert found.passed_over == {"cpu/int8": "needs 9 MiB"}
    assert asked == ["int8", "float"], (
        "whoever cannot run is not asked, nor is anybody behind the first that fits"
    )
    with pytest.raises(AdmissionError, match=r"cpu/int8 no; .*cpu/float no") as refused:
        select_fitting(VARIANTS, facts, profile="cpu", runtimes=["onnxruntime"], unfit=lambda v: "no")
    assert (refused.value.code, refused.value.exit_code, refused.value.retryable) == ("memory", 14, True)
    with pytest.raises(BundleError, match="runs on this machine"):
        select_fitting(VARIANTS, facts, profile="cpu", runtimes=[], unfit=lambda v: "no")


def test_a_bundle_from_before_memory_was_measured_opens() -> None:
    config = variant("old").config
    assert "memory" not in config.model_dump(exclude_none=True)
    assert VariantConfig.model_validate(config.model_dump(exclude_none=True)).memory is None
