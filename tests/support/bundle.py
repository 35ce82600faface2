"""Tiny synthetic bundles for delivery tests: a real OCI layout whose engine is random bytes behind a line of
JSON.

The line says how the fake worker (tests/support/worker.py) and the warm-up double behave with this engine:
``{"latency_ms": 5.0, "warm": true, "swap": true, "crash": false, "errors": false}``.
"""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

from edgectl.core.bundle import (
    ANNOTATION_CHUNKS,
    ANNOTATION_PROFILE,
    ANNOTATION_RUNTIME,
    ANNOTATION_VARIANT,
    LAYER_ENGINE,
    LAYER_GOLDEN,
    LAYER_PACKED,
    MEDIA_CONFIG,
    MEDIA_INDEX,
    MEDIA_MANIFEST,
    Descriptor,
    GoldenSpec,
    Index,
    Manifest,
    Preference,
    Recipe,
    TensorSpec,
    Tolerance,
    Unpacked,
    Variant,
    VariantConfig,
)
from edgectl.core.codebook import pack
from edgectl.core.files import digest_of, hex_of
from edgectl.core.memory import EngineMemory
from edgectl.core.task import TaskSpec, TensorInput
from edgectl.core.transfer import chunk_hashes, chunks_digest


def make_bundle(
    root: Path,
    name: str = "gate-detector",
    version: str = "1.0.0",
    *,
    size: int = 300_000,
    profile: str = "cpu",
    variant: str = "float",
    requires: tuple[str, ...] = (),
    seed: int = 0,
    packed: bool = False,
    unpacked: Unpacked | None = None,
    engine: bytes | None = None,
    preferences: tuple[Preference, ...] = (),
    licence: str | None = None,
    memory: EngineMemory | None = None,
    task: TaskSpec | None = None,
    **behaviour: Any,
) -> Path:
    """Write a bundle with one fallback variant of ``size`` engine bytes. Returns ``root``.

    ``engine``: these bytes instead. ``packed``: the engine has few different words and travels packed;
    ``unpacked``: what the config says of it, right or wrong.
    """
    blobs = root / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes, media_type: str, annotations: dict[str, str] | None = None) -> Descriptor:
        digest = digest_of(data)
        (blobs / hex_of(digest)).write_bytes(data)
        hashes = chunk_hashes(data)
        extra = {ANNOTATION_CHUNKS: chunks_digest(hashes)} if len(hashes) > 1 else {}
        return Descriptor(
            mediaType=media_type, digest=digest, size=len(data), annotations={**extra, **(annotations or {})}
        )

    header = json.dumps({"latency_ms": 5.0, **behaviour}).encode() + b"\n"
    engine = engine or header + random.Random(f"{name}{version}{seed}").randbytes(size - len(header))
    layer = put(engine, LAYER_ENGINE) if not packed else None
    if layer is None:
        words = bytes(
            b
            for w in random.Random(seed).choices(
                [b"\0\0\x80?", b"\0\0\0@", b"\0\0\x80@"], k=(size - len(header)) // 4
            )
            for b in w
        )
        engine = header + words
        layer = put(pack(engine, [words]), LAYER_PACKED)
        unpacked = unpacked or Unpacked(digest=digest_of(engine), size=len(engine))
    config = VariantConfig(
        name=name,
        version=version,
        profile=profile,
        variant=variant,
        runtime="onnxruntime",
        requires=requires,
        task=task or TaskSpec(name="tensor", input=TensorInput()),
        recipe=Recipe(family="float"),
        inputs=(TensorSpec(name="x", shape=(1, 4), dtype="float32"),),
        outputs=(TensorSpec(name="y", shape=(1, 4), dtype="float32"),),
        golden=GoldenSpec(samples=1, tolerances={"y": Tolerance(cosine=0.99, max_abs=0.1)}),
        fallback=True,
        preferences=preferences,
        licence=licence,
        memory=memory,
        unpacked=unpacked,
    )
    manifest = Manifest(
        config=put(config.model_dump_json().encode(), MEDIA_CONFIG),
        layers=(layer, put(b"golden of " + version.encode(), LAYER_GOLDEN)),
    )
    entry = put(
        manifest.encode(),
        MEDIA_MANIFEST,
        {ANNOTATION_PROFILE: profile, ANNOTATION_VARIANT: variant, ANNOTATION_RUNTIME: "onnxruntime"},
    )
    index = Index(
        mediaType=MEDIA_INDEX,
        manifests=(entry,),
        annotations={"org.opencontainers.image.title": name, "org.opencontainers.image.version": version},
    )
    (root / "index.json").write_bytes(index.encode())
    (root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return root


def join_bundles(root: Path, *parts: Path) -> Path:
    """One bundle of the variants of several, all of one name and version. Returns ``root``."""
    shutil.copytree(parts[0], root)
    for part in parts[1:]:
        shutil.copytree(part / "blobs", root / "blobs", dirs_exist_ok=True)
    indices = [Index.model_validate_json((part / "index.json").read_bytes()) for part in parts]
    whole = indices[0].model_copy(update={"manifests": tuple(m for i in indices for m in i.manifests)})
    (root / "index.json").write_bytes(whole.encode())
    return root


def behaviour_of(blobs: Path, manifest: str) -> dict[str, Any]:
    """The line of JSON at the start of a variant's engine."""
    with Variant.open(blobs, manifest).need(LAYER_ENGINE).open("rb") as f:
        found: dict[str, Any] = json.loads(f.readline(4096))
        return found
