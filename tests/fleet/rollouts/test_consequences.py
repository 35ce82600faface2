"""What an operator is shown before he signs: everything in the document, whoever wrote it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.tuf import DIGEST, OTHER, Repository

from edgectl.core.errors import TrustError
from edgectl.core.trust import director_keys, seal_desired
from edgectl.core.wire import ClearSlot, Desired, DesiredSlot, Policy, ShadowGate
from edgectl.fleet.keys.approval import CLEARED, check_known, consequences, director_in, missing_from

SLOT = DesiredSlot(release="gate@2", digest=DIGEST)


def document(desired: Desired, device: str = "gate-1") -> bytes:
    return seal_desired("home", device, desired, [])


def terms(policy: Policy | None = None, **fields: Any) -> tuple[str, ...]:
    slot = SLOT.model_copy(update={"policy": policy or Policy(), **fields})
    (found,) = consequences("gate-1", document(Desired(gen=3, slots={"gate": slot})), None)
    return found.terms


def changed(change: dict[str, Any]) -> bytes:
    """A document with fields that no model of ours writes."""
    envelope = json.loads(document(Desired(gen=3, slots={"gate": SLOT})))
    envelope["signed"] |= change
    return json.dumps(envelope).encode()


def test_usual_document_has_no_terms() -> None:
    assert terms() == ()


def test_every_term_that_is_not_as_usual_is_told() -> None:
    assert terms(Policy(shared_plans=True)) == ("shared plans yes",)
    assert terms(Policy(windows=("mon-fri 01:00-05:00", "sat 02:00-04:00"))) == (
        "windows mon-fri 01:00-05:00, sat 02:00-04:00",
    )
    assert terms(Policy(max_latency_ratio=9.0, max_latency_ms=80.0, percentile=50)) == (
        "percentile 50",
        "max latency ratio 9.0",
        "max latency ms 80.0",
    )
    assert terms(Policy(probation_s=0.5, min_inferences=1, max_error_rate=1.0)) == (
        "probation s 0.5",
        "min inferences 1",
        "max error rate 1.0",
    )
    assert terms(attempt=2, expires_s=1_800_000_000.0) == ("attempt 2", "expires s 2027-01-15 08:00:00 UTC")
    told = terms(Policy(shadow=ShadowGate()))
    assert "shadow percent 10.0" in told
    assert len(told) == len(ShadowGate.model_fields), "there is no usual shadow"


@pytest.mark.parametrize("model", [Policy, DesiredSlot, Desired])
def test_no_field_of_the_wire_can_be_added_without_being_told(model: type[Any]) -> None:
    """Whatever a model gains is shown when it is set: here each field is set to something that it never
    is."""
    for name in model.model_fields.keys() - {
        "release",
        "digest",
        "gen",
        "fleet",
        "device",
        "slots",
        "clear",
        "policy",
        "shadow",
    }:
        envelope = json.loads(document(Desired(gen=3, slots={"gate": SLOT})))
        slot = envelope["signed"]["slots"]["gate"]
        values = {
            "windows": ["sun 01:00-02:00"],
            "percentile": 99,
            "events": {"max_ratio": 3.0},
            "shared_plans": True,
            "hold": True,
            "attempt": 7,
        }
        {Policy: slot["policy"], DesiredSlot: slot, Desired: envelope["signed"]}[model][name] = values.get(
            name, 1
        )
        (found,) = consequences("gate-1", json.dumps(envelope).encode(), None)
        assert any(t.startswith(name.replace("_", " ")) for t in found.terms), name


def test_hold_and_a_document_without_slots_are_told_too() -> None:
    (found,) = consequences("gate-1", document(Desired(gen=3, hold=True)), None)
    assert (found.slot, found.terms) == ("", ("hold yes",))
    both = consequences("gate-1", document(Desired(gen=3, hold=True, slots={"a": SLOT, "b": SLOT})), None)
    assert [(c.slot, c.terms) for c in both] == [("a", ("hold yes",)), ("b", ("hold yes",))]


def test_slot_that_is_to_be_cleared_is_told_with_what_runs_there() -> None:
    payload = document(Desired(gen=3, slots={"a": SLOT}, clear={"gate": ClearSlot(number=2)}))
    reported = {"slots": {"gate": {"active": OTHER, "active_release": "gate@1"}}}
    kept, cleared = consequences("gate-1", payload, reported)
    assert (kept.slot, kept.release) == ("a", "gate@2")
    assert (cleared.slot, cleared.release, cleared.replaces) == ("gate", "", "gate@1")
    assert cleared.terms == (CLEARED, "number 2")
    envelope = json.loads(payload)
    envelope["signed"]["clear"]["gate"]["gently"] = True
    with pytest.raises(TrustError, match="more than can be shown"):
        check_known(consequences("gate-1", json.dumps(envelope).encode(), reported))


def test_document_that_wants_a_release_and_nothing_in_one_slot_is_refused() -> None:
    envelope = json.loads(document(Desired(gen=3, slots={"gate": SLOT})))
    envelope["signed"]["clear"] = {"gate": {"number": 1}}
    with pytest.raises(TrustError, match="slot gate is to have a release and to be empty"):
        consequences("gate-1", json.dumps(envelope).encode(), None)


@pytest.mark.parametrize(
    ("reported", "replaces"),
    [
        (None, "unknown"),
        ({"slots": {}}, "nothing"),
        ({"slots": {"gate": {"active": None, "active_release": None}}}, "nothing"),
        ({"slots": {"gate": {"active": OTHER, "active_release": "gate@1"}}}, "gate@1"),
        ({"slots": {"gate": {"active": OTHER}}}, OTHER),
        ({"slots": {"gate": {"active": DIGEST, "active_release": "gate@2"}}}, "the same"),
    ],
)
def test_what_it_replaces_is_what_runs_there_now(reported: dict[str, Any] | None, replaces: str) -> None:
    (found,) = consequences("gate-1", document(Desired(gen=3, slots={"gate": SLOT})), reported)
    assert found.replaces == replaces


def test_document_of_another_device_is_not_shown_as_this_ones() -> None:
    with pytest.raises(TrustError, match="that waits for gate-1 is for dash-1"):
        consequences("gate-1", document(Desired(gen=3), device="dash-1"), None)
    with pytest.raises(TrustError, match="that waits for gate-1 is for None"):
        consequences("gate-1", b'{"signed": {"gen": 1}, "signatures": []}', None)


@pytest.mark.parametrize(
    "change", [{"exec": "rm"}, {"slots": {"gate": {"release": "gate@2", "digest": DIGEST, "as": "root"}}}]
)
def test_terms_that_nobody_here_can_explain_are_shown_and_not_signed(change: dict[str, Any]) -> None:
    found = consequences("gate-1", changed(change), None)
    assert "(unknown to this edgectl)" in found[0].terms[0]
    with pytest.raises(TrustError, match="says more than can be shown here"):
        check_known(found)
    check_known(consequences("gate-1", changed({}), None))


@pytest.mark.parametrize(
    "payload",
    [b"", b"[]", b"{}", b'{"signed": []}', b'{"signed": {"gen": -1}}', b"[" * 5000, b" " * (1 << 19)],
)
def test_anything_else_is_one_typed_error(payload: bytes) -> None:
    with pytest.raises(TrustError):
        consequences("gate-1", payload, None)


def test_only_directors_who_have_not_signed_are_missing() -> None:
    repository = Repository()
    (mine,) = repository.signers["director"]
    director = director_in({name: data.decode() for name, data in repository.roots.items()})
    assert director == director_keys(repository.root)
    unsigned = document(Desired(gen=3))
    assert missing_from(unsigned, director, "gate-1") == ({mine.public_key.keyid}, 1)
    assert missing_from(seal_desired("home", "gate-1", Desired(gen=3), [mine]), director, "gate-1") == (
        frozenset(),
        0,
    )
    with pytest.raises(TrustError, match="no list of signatures"):
        missing_from(b'{"signed": {}, "signatures": 3}', director, "gate-1")
