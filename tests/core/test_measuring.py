"""What a builder and a device say to each other: whatever comes, it is refused in one way or is whole."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edgectl.core.errors import ProtocolError
from edgectl.core.measuring import MAX_JOB_BYTES, MeasureEvent, MeasureOrder, MeasureState, after
from edgectl.core.schema import parse_json
from edgectl.core.wire import Command

JOB = {"mediaType": "a", "digest": "sha256:" + "1" * 64, "size": 100}


@given(st.lists(st.sampled_from(MeasureEvent)))
def test_session_is_ready_before_it_works_and_never_comes_back_from_its_end(
    events: list[MeasureEvent],
) -> None:
    state, seen, refused = MeasureState.LOOKING, [MeasureState.LOOKING], [True]
    for event in events:
        try:
            state = after(state, event)
        except ProtocolError as e:
            refused.append(
                f"{event.value} is not possible while the measuring session is {state.value}" == e.message
            )
            continue
        seen.append(state)
    assert all(refused)
    ended = [s is MeasureState.ENDED for s in seen]
    assert ended == sorted(ended)
    if MeasureState.WORKING in seen:
        assert seen[1] is MeasureState.READY
    for before, then in itertools.pairwise(seen):
        assert then is not MeasureState.DONE or before is MeasureState.WORKING


@pytest.mark.parametrize(
    ("order", "words"),
    [
        ({"act": "start"}, "a job comes with start"),
        ({"act": "look", "job": JOB}, "a job comes with start"),
        ({"act": "start", "job": JOB | {"size": MAX_JOB_BYTES + 1}}, "at most"),
        ({"act": "start", "job": JOB | {"digest": "md5:1"}}, "digest"),
        ({"act": "open", "lease_s": 0.1}, "lease_s"),
        ({"act": "open", "lease_s": 1e9}, "lease_s"),
        ({"act": "result", "page": 64}, "page"),
        ({"act": "explode"}, "act"),
    ],
)
def test_order_that_is_none_is_refused(order: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        MeasureOrder.model_validate({"session": "s", **order})


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(JOB),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
orders = st.fixed_dictionaries(
    {},
    optional={
        "act": st.sampled_from(["open", "start", "look", "result", "close"]) | values,
        "session": st.sampled_from(["build-1", "..", "a/b", ""]) | values,
        "lease_s": st.floats() | values,
        "job": st.just(JOB) | values,
        "page": st.integers() | values,
    },
)


@given(orders)
def test_whatever_comes_as_an_order_is_whole_or_one_typed_error(order: dict[str, object]) -> None:
    try:
        found = parse_json(MeasureOrder, json.dumps(order).encode(), max_bytes=1 << 16, what="order")
    except ProtocolError:
        return
    assert 1 <= found.lease_s <= 600
    assert (found.act == "start") == (found.job is not None)
    assert parse_json(MeasureOrder, found.encode(), max_bytes=1 << 16, what="order") == found


@pytest.mark.parametrize("op", ["probe", "measure"])
def test_command_carries_an_order_if_and_only_if_it_measures(op: str) -> None:
    more = {"measure": {"act": "look", "session": "s"}} if op == "probe" else {}
    with pytest.raises(ValidationError, match="a measure order"):
        Command.model_validate({"id": "1", "op": op, "deadline_s": 1.0, **more})
