"""Any bytes, any JSON and flipped bytes end in one typed error, and change nothing."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.tuf import DIGEST, RELEASE, Device, Repository, sign
from tuf.api.metadata import MetaFile

from edgectl.agent.trust.store import TrustStore
from edgectl.core.errors import EdgectlError, TrustError
from edgectl.core.trust import encode_trust

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["signed", "signatures", "files", "keyid", "_type", "x"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)
_FUZZ = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(st.binary(max_size=200) | _JSON.map(lambda v: json.dumps(v).encode()))
@_FUZZ
def test_any_bytes_are_one_trust_error(served: Device, payload: bytes) -> None:
    for take in (served.store.update, served.wants):
        with pytest.raises(TrustError):
            take(payload)
    with pytest.raises(TrustError):
        TrustStore(served.folder / "trust", payload, served.journal)


@given(st.sampled_from(["timestamp.json", "snapshot.json", "targets.json", "2.root.json"]), _JSON)
@_FUZZ
def test_any_json_in_the_place_of_a_file_is_one_trust_error(
    served: Device, repository: Repository, name: str, value: object
) -> None:
    files = repository.files() | {name: json.dumps(value).encode()}
    with pytest.raises(TrustError):
        served.store.update(encode_trust(files))


@given(st.data())
@_FUZZ
def test_flipped_byte_never_changes_what_is_trusted(
    served: Device, repository: Repository, data: st.DataObject
) -> None:
    message, wish = repository.message(), served.desired(5, *repository.signers["director"])
    for payload, take in ((message, served.store.update), (wish, served.wants)):
        at = data.draw(st.integers(0, len(payload) - 1))
        changed = bytearray(payload)
        changed[at] ^= data.draw(st.integers(1, 255))
        try:
            found = take(bytes(changed))
        except TrustError:
            continue
        except EdgectlError as e:
            raise AssertionError(f"not a trust error: {e!r}") from e
        if take is served.wants:  # the key id of a second signature, white space …
            assert found == served.wants(wish)
    assert served.store.check(RELEASE, DIGEST)


def test_deeply_nested_documents_are_refused(served: Device) -> None:
    for payload in (
        b"[" * 100_000,
        b'{"signed":' * 20_000,
        b'{"signed":{"x":' + b"[" * 700 + b"]" * 700 + b'},"signatures":[]}',
    ):
        for take in (served.store.update, served.wants):
            with pytest.raises(TrustError):
                take(payload)


def test_meta_file_lengths_and_hashes_are_checked_where_they_are_given(
    served: Device, repository: Repository
) -> None:
    repository.bump("targets")
    files = repository.files()
    repository.snapshot.meta["targets.json"] = MetaFile(repository.targets.version, length=10)
    bad = {**files, "snapshot.json": sign(repository.snapshot, repository.signers["snapshot"])}
    with pytest.raises(TrustError, match="exceeding the maximum allowed length of 10"):
        served.store.update(encode_trust(bad))
