from __future__ import annotations

import pytest

from edgectl.core.errors import TrustError, UsageError
from edgectl.core.trust import MAX_TRUST_BYTES, decode_trust, encode_trust, release_name, target_path


def test_set_round_trips_byte_for_byte() -> None:
    files = {
        "1.root.json": b'{"a": "\\u00e4",\n "b":1}',
        "timestamp.json": b"{}",
        "snapshot.json": b"[]",
        "targets.json": "ü".encode(),
    }
    assert decode_trust(encode_trust(files)) == files


@pytest.mark.parametrize(
    "name",
    ["../root.json", "root.json", "0.root.json", "X.json", "a.b.json", "timestamp.json/..", "1.root.json\n"],
)
def test_foreign_file_names_are_refused(name: str) -> None:
    with pytest.raises(TrustError, match="no metadata set has"):
        encode_trust({name: b"{}"})


def test_oversized_message_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(TrustError, match="more than"):
        decode_trust(b" " * (MAX_TRUST_BYTES + 1))


def test_target_paths_name_release_and_version() -> None:
    assert target_path(release_name("gate-detector", "1.0.0")) == "releases/gate-detector/1.0.0"


@pytest.mark.parametrize("release", ["x", "x@", "@1", "../x@1", "x@1/2", "x@1@2"])
def test_names_that_could_leave_their_folder_are_refused(release: str) -> None:
    with pytest.raises(UsageError):
        target_path(release)
