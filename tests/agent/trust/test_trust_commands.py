"""Commands and the freeze against whoever holds the broker: forged, meant for others, repeated, late, and
what a stolen key leaves behind."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner
from support.tuf import DAY, Device, Repository

from edgectl.core.errors import ProtocolError, StorageError, TrustError
from edgectl.core.signed import seal
from edgectl.core.trust import seal_command, seal_desired, seal_state, set_director
from edgectl.core.wire import MAX_GEN, Command, ControllerState, Desired

_IDS = itertools.count()


@pytest.fixture
def repository() -> Repository:
    return Repository()


@pytest.fixture
def device(tmp_path: Path, repository: Repository) -> Iterator[Device]:
    made = Device(tmp_path, repository)
    made.store.update(repository.message())
    yield made
    made.journal.close()


def command(device: Device, **more: Any) -> Command:
    """What a controller with the right time would ask now."""
    seq = int(device.wall * 1000)
    return Command.model_validate(
        {"id": str(next(_IDS)), "op": "force", "seq": seq, "deadline_s": device.wall + 60, **more}
    )


def give(device: Device, payload: bytes) -> Command:
    """Obeyed, if this does not raise."""
    found = device.store.open_command(payload, "home", "gate-1")
    device.store.admit(found)
    return found


def sealed(c: Command, *signers: CryptoSigner, fleet: str = "home", device: str = "gate-1") -> bytes:
    return seal_command(fleet, device, c, signers)


def state(seq: int, freeze: bool, *signers: CryptoSigner, fleet: str = "home") -> bytes:
    return seal_state(fleet, ControllerState(epoch=1, online=True, freeze=freeze, seq=seq), signers)


def hear(device: Device, payload: bytes) -> bool:
    """The freeze after a message on ``ctl``."""
    device.store.accept_state(payload, "home")
    return device.journal.frozen


# ---- commands


def test_device_obeys_a_command_that_the_director_signed_for_it(
    device: Device, repository: Repository
) -> None:
    asked = command(device, op="lock", ttl_s=0.5, owner="anna", reason="Übergabe")
    obeyed = give(device, sealed(asked, *repository.signers["director"]))
    assert (obeyed.op, obeyed.ttl_s, obeyed.owner, obeyed.reason) == ("lock", 0.5, "anna", "Übergabe")
    assert device.store.heard == asked.seq


def test_stolen_broker_cannot_command(device: Device, repository: Repository) -> None:
    director, c = repository.signers["director"], command(device)
    for payload, reason in (
        (c.encode(), "command is not signed"),
        (sealed(c), "command is not signed"),
        (sealed(c, CryptoSigner.generate_ed25519()), "signed by 0 of the 1 keys"),
        *(
            (sealed(c, *repository.signers[role]), "signed by 0 of the 1 keys")
            for role in ("root", "targets", "timestamp")
        ),
        (sealed(c, *director, device="gate-2"), "command is for device 'gate-2' of fleet 'home'"),
        (sealed(c, *director, fleet="away"), "command is for device 'gate-1' of fleet 'away'"),
        (sealed(c, *director).replace(b'"force"', b'"cancel"'), "signed by 0 of the 1 keys"),
        (seal(c.encode(), director), "signed as something else"),
        (
            seal_state("home", ControllerState(epoch=1, online=True), director),
            "signed as something else: 'controller'",
        ),
        (seal_desired("home", "gate-1", Desired(gen=1), director), "signed as something else: None"),
        (b"x" * 300_000, "more than the 262144 allowed"),
    ):
        with pytest.raises(TrustError, match=reason):
            device.store.open_command(payload, "home", "gate-1")
    assert device.store.heard == 0, "nothing of it leaves a trace"
    with pytest.raises(TrustError, match="signed as something else: 'command'"):
        device.wants(sealed(c, *director))


def test_one_key_of_two_directors_is_enough_for_a_command_but_not_for_a_desired_state(tmp_path: Path) -> None:
    repository, second = Repository(), CryptoSigner.generate_ed25519()
    set_director(repository.root, [s.public_key for s in (*repository.signers["director"], second)], 2)
    repository.publish_root()
    device = Device(tmp_path, repository)
    assert give(device, sealed(command(device), second))
    assert hear(device, state(1, True, second))
    with pytest.raises(TrustError, match="signed by 1 of the 2 keys"):
        device.wants(device.desired(1, second))
    # whoever measures has files opened that no release names
    measure = command(
        device, op="measure", seq=int(device.wall * 1000) + 2, measure={"act": "open", "session": "s"}
    )
    with pytest.raises(TrustError, match="command measure is signed by 1 of the 2 keys"):
        give(device, sealed(measure, second))
    assert give(device, sealed(measure, second, *repository.signers["director"]))
    device.journal.close()


def test_command_is_obeyed_once_also_after_a_restart_and_never_out_of_order(
    device: Device, repository: Repository
) -> None:
    director = repository.signers["director"]
    first, second = (sealed(command(device, seq=int(device.wall * 1000) + i), *director) for i in (0, 1))
    give(device, second)
    for _ in range(2):
        for repeated in (first, second):
            with pytest.raises(TrustError, match="this device has already seen"):
                give(device, repeated)
        device.lose_files()
        device.store.update(repository.message())


def test_command_that_was_held_back_past_its_deadline_is_refused(
    device: Device, repository: Repository
) -> None:
    late = sealed(command(device), *repository.signers["director"])
    device.sleep(61 / DAY)
    with pytest.raises(TrustError, match=r"the command ended at .* the clock here says"):
        give(device, late)


def test_deadline_is_judged_by_the_attested_time_where_the_clock_is_behind(
    device: Device, repository: Repository
) -> None:
    late = sealed(command(device), *repository.signers["director"])
    device.sleep(61 / DAY, clock=False)
    with pytest.raises(TrustError, match="the command ended"):
        give(device, late)
    device.wall = 1000.0
    fresh = command(device, seq=int((repository.now + 70) * 1000), deadline_s=repository.now + 130)
    assert give(device, sealed(fresh, *repository.signers["director"])), (
        "a device without a clock can be commanded"
    )


def test_no_command_lives_longer_than_an_hour(device: Device, repository: Repository) -> None:
    director = repository.signers["director"]
    with pytest.raises(TrustError, match="for longer than 3600 s"):
        give(device, sealed(command(device, deadline_s=device.wall + 3601), *director))
    assert give(device, sealed(command(device, deadline_s=device.wall + 3599), *director))


def test_number_that_a_thief_drove_up_goes_with_his_key(device: Device, repository: Repository) -> None:
    thief = repository.signers["director"]
    give(device, sealed(command(device, seq=MAX_GEN), *thief))
    assert hear(device, state(MAX_GEN, True, *thief))
    with pytest.raises(TrustError, match="has already seen 9007199254740991"):
        give(device, sealed(command(device), *thief))
    assert device.store.heard == MAX_GEN
    repository.rotate("director")
    repository.bump()
    device.store.update(repository.message())
    assert device.store.heard == 0
    with pytest.raises(TrustError, match="signed by 0 of the 1 keys"):
        hear(device, state(MAX_GEN, False, *thief))
    assert device.journal.frozen, "the freeze itself stays until somebody who may ends it"
    director = repository.signers["director"]
    assert give(device, sealed(command(device), *director))
    assert not hear(device, state(int(device.wall * 1000), False, *director))


def test_disk_that_takes_nothing_keeps_changes_away_but_not_questions(
    device: Device, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StorageError("the disk is full")

    director = repository.signers["director"]
    monkeypatch.setattr(device.journal, "raise_floor", full)
    monkeypatch.setattr(device.journal, "set_frozen", full)
    change, question = (
        sealed(command(device, op=op, seq=seq), *director)
        for seq, op in ((5_000_000_000_000, "force"), (5_000_000_000_001, "logs"))
    )
    with pytest.raises(StorageError):
        give(device, change)
    assert give(device, question).op == "logs"
    for repeated in (change, question):
        with pytest.raises(TrustError, match="has already seen"):
            give(device, repeated)
    assert device.store.accept_state(state(8, True, *director), "home").freeze, (
        "counts until the agent restarts"
    )
    with pytest.raises(TrustError, match="has number 7, this device has already seen 8"):
        device.store.accept_state(state(7, False, *director), "home")


def test_fleet_without_a_director_goes_on_unsigned_until_it_gets_one(tmp_path: Path) -> None:
    repository = Repository(director=False)
    device = Device(tmp_path, repository)
    plain = command(device, deadline_s=device.wall + 10 * DAY).encode()
    assert give(device, plain) == give(device, plain), "nothing tells the second from the first"
    with pytest.raises(TrustError, match="ended"):
        give(device, command(device, deadline_s=device.wall - 1).encode())
    with pytest.raises(ProtocolError, match="command is not valid"):
        give(device, b"{}")
    with pytest.raises(
        TrustError, match="command measure is not signed, and this fleet has nobody who could"
    ):
        give(device, command(device, op="measure", measure={"act": "open", "session": "s"}).encode())
    unsigned = ControllerState(epoch=1, online=True, freeze=True).encode()
    assert hear(device, unsigned)
    assert hear(device, ControllerState(epoch=1, online=False, freeze=False).encode()), (
        "a will says nothing about it"
    )
    assert device.store.heard == 0
    repository.rotate("director")
    device.store.update(repository.message())
    with pytest.raises(TrustError, match="command is not signed"):
        give(device, plain)
    assert hear(device, ControllerState(epoch=2, online=True, freeze=False).encode()), (
        "nor does what is not signed"
    )
    assert not hear(device, state(1, False, *repository.signers["director"]))
    device.journal.close()


# ---- the freeze


def test_stolen_broker_can_neither_freeze_nor_unfreeze(device: Device, repository: Repository) -> None:
    director = repository.signers["director"]
    free = state(1000, False, *director)
    assert not hear(device, free)
    assert hear(device, state(1001, True, *director))
    for _ in range(2):
        with pytest.raises(
            TrustError, match="the controller state has number 1000, this device has already seen 1001"
        ):
            hear(device, free)
        assert hear(device, state(1001, True, *director)), "retained: it comes again"
        device.lose_files()
        device.store.update(repository.message())
    for payload, reason in (
        (state(1002, False, CryptoSigner.generate_ed25519()), "signed by 0 of the 1 keys"),
        (state(1002, False, *repository.signers["timestamp"]), "signed by 0 of the 1 keys"),
        (state(1002, False), "is not signed"),
        (state(1002, False, *director, fleet="away"), "is for fleet 'away'"),
        (
            state(1001, True, *director).replace(b"1001", b"1002").replace(b"true", b"false"),
            "signed by 0 of the 1 keys",
        ),
        (sealed(command(device), *director), "signed as something else: 'command'"),
    ):
        with pytest.raises(TrustError, match=reason):
            hear(device, payload)
        assert device.journal.frozen
    for said in (
        {"epoch": 9, "online": True, "freeze": False, "seq": MAX_GEN},
        {"epoch": 9, "online": False},
    ):
        found = device.store.accept_state(json.dumps(said).encode(), "home")
        assert found.freeze is None, "unsigned, it says who is there and nothing else"
        assert device.journal.frozen
    assert not hear(device, state(1002, False, *director))


@pytest.mark.parametrize("cut_at", [1, 2])
def test_freeze_and_its_number_are_kept_together_or_not_at_all(
    device: Device, repository: Repository, monkeypatch: pytest.MonkeyPatch, cut_at: int
) -> None:
    director = repository.signers["director"]
    commit, commits = device.journal._commit, itertools.count(1)

    def cut(statements: Any) -> None:
        if next(commits) >= cut_at:
            raise OSError("power cut")
        commit(statements)

    with monkeypatch.context() as power:
        power.setattr(device.journal, "_commit", cut)
        device.store.accept_state(state(5, True, *director), "home")
    device.boot()
    assert (device.journal.frozen, device.store.heard) in ((False, 0), (True, 5))
    assert hear(device, state(5, True, *director))
    assert device.boot().heard == 5


# ---- any bytes

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["signed", "signatures", "keyid", "epoch", "online", "freeze", "seq", "op"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(payload=st.binary(max_size=60) | _JSON.map(lambda v: json.dumps(v).encode()) | st.just(b"[" * 90_000))
def test_any_bytes_change_nothing(device: Device, payload: bytes) -> None:
    with pytest.raises((TrustError, ProtocolError)):
        device.store.open_command(payload, "home", "gate-1")
    with contextlib.suppress(TrustError, ProtocolError):
        assert device.store.accept_state(payload, "home").freeze is None


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flipped_bit_is_refused_or_means_the_same(
    device: Device, repository: Repository, data: st.DataObject
) -> None:
    asked = command(device, op="lock", ttl_s=1.5, owner="anna")
    good = bytearray(sealed(asked, *repository.signers["director"]))
    at = data.draw(st.integers(0, len(good) - 1))
    good[at] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(TrustError):
        found = device.store.open_command(bytes(good), "home", "gate-1")
        assert found.model_copy(update={"type": None, "fleet": None, "device": None}) == asked
