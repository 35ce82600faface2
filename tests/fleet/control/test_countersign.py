"""A document goes out with all its signatures only, and with those for what is wanted now."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.tuf import keys_in

from edgectl.core.signed import add_signatures
from edgectl.core.wire import Desired
from edgectl.fleet.control.countersign import Countersignatures
from edgectl.fleet.keys.ceremony import KeySet, init_keys, new_key
from edgectl.fleet.keys.trust import Director, OnlineTrust
from edgectl.fleet.store.inventory import Inventory


@pytest.fixture
def inventory(tmp_path: Path) -> Iterator[Inventory]:
    with closing(Inventory(tmp_path, "sqlite://")) as made:
        yield made


@pytest.fixture
def boot(tmp_path: Path, inventory: Inventory) -> Callable[[], Countersignatures]:
    """Two keys have to sign, and one is the operator's."""
    public = new_key(tmp_path / "operator.pem")
    keys = tmp_path / "keys"
    init_keys(keys, director=KeySet(1, 2, (public,)))
    director = Director("home", OnlineTrust(tmp_path / "trust", keys), [keys])
    return lambda: Countersignatures(tmp_path / "approved", director, inventory)


def test_document_waits_until_it_is_signed_and_again_when_something_else_is_wanted(
    tmp_path: Path, boot: Callable[[], Countersignatures], inventory: Inventory
) -> None:
    operator = keys_in(tmp_path / "operator.pem")
    kept = boot()
    first, second = Desired(gen=1), Desired(gen=2)
    for _ in range(2):
        assert kept.seal("gate-1", first) is None
    (waits,) = kept.waiting().values()
    signed = add_signatures(waits, operator)
    kept.take("gate-1", signed, 1)
    assert kept.waiting() == {}
    assert kept.seal("gate-1", first) == signed
    assert boot().seal("gate-1", first) == signed, "what was approved stays approved"
    assert kept.seal("gate-2", first) is None, "it was for another device"
    assert kept.seal("gate-1", second) is None
    assert set(kept.waiting()) == {"gate-1", "gate-2"}
    told = [e.text for e in inventory.events() if e.subject == "gate-1"]
    assert told == [
        "generation 1 waits for 1 more signatures",
        "generation 1 is approved",
        "generation 2 waits for 1 more signatures",
    ]
