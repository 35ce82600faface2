"""A configuration as a release: written, read, and not taken for engines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.bundle import make_bundle

from edgectl.core.bundle import Bundle, Variant
from edgectl.core.bundle.config_release import (
    MAX_CONFIG_BYTES,
    ConfigBundle,
    ConfigDocument,
    ConfigRelease,
    open_artifact,
    open_release,
)
from edgectl.core.errors import BundleError, IntegrityError
from edgectl.core.files import hex_of
from edgectl.fleet.client.config_writer import write_config

RULES = ConfigRelease(name="gate-rules", version="3", kind="surveillance")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "c").mkdir()
    write_config(tmp_path / "c", RULES, "rules: []\n# ü\n".encode())
    return tmp_path / "c"


def test_what_is_written_is_read_and_the_same_contents_have_the_same_digest(
    folder: Path, tmp_path: Path
) -> None:
    found = open_release(folder)
    assert isinstance(found, ConfigBundle)
    assert (found.name, found.version, found.document.config) == ("gate-rules", "3", RULES)
    assert found.document.text() == "rules: []\n# ü\n"
    assert found.verify() > 0
    (tmp_path / "d").mkdir()
    assert write_config(tmp_path / "d", RULES, "rules: []\n# ü\n".encode()) == found.digest
    (tmp_path / "e").mkdir()
    assert write_config(tmp_path / "e", RULES, b"rules: []\n") != found.digest


def test_engines_and_configurations_are_told_apart(folder: Path, tmp_path: Path) -> None:
    engines = make_bundle(tmp_path / "b")
    assert isinstance(open_release(engines), Bundle)
    variant = Bundle(engines).variants[0]
    assert isinstance(open_artifact(variant.blobs, variant.digest), Variant)
    document = ConfigBundle(folder).document
    assert isinstance(open_artifact(document.blobs, document.digest), ConfigDocument)
    with pytest.raises(BundleError, match="is a configuration and has no engines"):
        Bundle(folder)
    with pytest.raises(BundleError, match="this is an engine and no configuration"):
        ConfigDocument.open(variant.blobs, variant.digest)


def test_flipped_byte_is_found(folder: Path) -> None:
    document = ConfigBundle(folder).document
    (layer,) = document.manifest.layers
    path = document.blobs / hex_of(layer.digest)
    path.write_bytes(path.read_bytes().replace(b"rules", b"rulez"))
    with pytest.raises(IntegrityError):
        open_release(folder).verify()


def test_text_is_bounded_and_utf8(tmp_path: Path) -> None:
    for name, data, why in (
        ("large", b"#" * (MAX_CONFIG_BYTES + 1), "bytes"),
        ("latin", b"# \xe4", "is not UTF-8 text"),
    ):
        (tmp_path / name).mkdir()
        write_config(tmp_path / name, RULES, data)
        with pytest.raises(BundleError, match=why):
            ConfigBundle(tmp_path / name).document.text()


def test_more_than_one_manifest_is_refused(folder: Path) -> None:
    index = json.loads((folder / "index.json").read_text())
    index["manifests"] *= 2
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(BundleError, match="has 2 manifests, it has to have one"):
        open_release(folder)
