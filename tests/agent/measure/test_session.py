"""One measuring session, whatever comes in whatever order."""

from __future__ import annotations

import base64
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl.agent.measure.session import MeasureSession
from edgectl.core.bundle import Descriptor
from edgectl.core.errors import BusyError, EngineError, LinkError, ProtocolError, UsageError
from edgectl.core.measuring import MAX_RESULT_BYTES, PAGE_BYTES, MeasureOrder, MeasureState

JOB = Descriptor(mediaType="a", digest="sha256:" + "1" * 64, size=100)


def order(act: str, **more: object) -> MeasureOrder:
    return MeasureOrder.model_validate({"act": act, "session": "s", "lease_s": 10.0, **more})


def working() -> MeasureSession:
    session = MeasureSession("s", 10.0, 0.0)
    session.ready({"arch": "x86_64"})
    session.obey(order("start", job=JOB), 1.0)
    return session


def test_job_is_handed_out_once_and_its_result_comes_in_pages() -> None:
    session = working()
    assert session.taken() == JOB
    assert session.taken() is None
    data = bytes(range(256)) * 400 + b"".join(i.to_bytes(4, "big") for i in range(60_000))
    session.finished(data)
    answer = session.obey(order("look"), 2.0)
    assert (answer.state, answer.pages > 1) == (MeasureState.DONE, True)
    pages = [base64.b64decode(session.obey(order("result", page=i), 3.0).page) for i in range(answer.pages)]
    assert all(len(p) <= PAGE_BYTES for p in pages)
    assert zlib.decompress(b"".join(pages)) == data
    with pytest.raises(UsageError, match=f"no page {answer.pages}"):
        session.obey(order("result", page=answer.pages), 3.0)
    session.obey(order("start", job=JOB), 4.0)
    with pytest.raises(UsageError, match="no page 0"):
        session.obey(order("result"), 4.0)


def test_lease_that_is_not_renewed_ends_it_and_what_comes_late_hears_why() -> None:
    session = working()
    assert session.look(10.9)
    session.obey(order("look"), 10.9)
    assert session.look(20.8), "renewed"
    assert not session.look(21.0)
    answer = session.obey(order("look"), 22.0)
    assert answer.state is MeasureState.ENDED
    assert answer.trouble is not None
    assert answer.trouble.code == "link"
    assert "did not renew its lease of 10 s" in answer.trouble.detail
    for late in (order("start", job=JOB), order("result"), order("close")):
        assert session.obey(late, 22.0) == answer
    assert session.taken() is None


def test_job_that_came_to_nothing_leaves_the_session_for_the_next_one() -> None:
    session = working()
    session.taken()
    session.failed(EngineError("measuring died by SIGKILL", hint="take another"))
    answer = session.obey(order("look"), 2.0)
    assert (answer.state, answer.pages) == (MeasureState.DONE, 0)
    assert answer.trouble is not None
    assert answer.trouble.detail == "measuring died by SIGKILL (take another)"
    assert session.obey(order("start", job=JOB), 3.0).trouble is None


def test_result_that_cannot_be_sent_is_refused_before_it_is_kept() -> None:
    session = working()
    with pytest.raises(ProtocolError, match="more than can be sent"):
        session.finished(bytes(MAX_RESULT_BYTES + 1))
    assert session.state is MeasureState.WORKING


acts = st.tuples(
    st.sampled_from(["open", "start", "look", "result", "close", "idle", "finish", "fail", "end", "take"]),
    st.floats(0, 15),
)


@given(st.lists(acts, max_size=20))
def test_whatever_comes_only_typed_errors_and_nothing_after_the_end(steps: list[tuple[str, float]]) -> None:
    session, now, why = MeasureSession("s", 10.0, 0.0), 0.0, None
    for act, passed in steps:
        now += passed
        was = session.state
        try:
            if act in ("open", "start", "look", "result", "close"):
                answer = session.obey(order(act, **({"job": JOB} if act == "start" else {})), now)
                assert answer.state is session.state
                assert answer.pages == 0 or answer.state is MeasureState.DONE
            elif act == "idle":
                session.ready({})
            elif act == "finish":
                session.finished(b"{}")
            elif act == "fail":
                session.failed(EngineError("x"))
            elif act == "end":
                session.end(BusyError("a deployment began"))
            else:
                assert session.taken() is None or session.state is MeasureState.WORKING
        except (UsageError, ProtocolError):
            assert session.state is was, "what is refused changes nothing"
        if was is MeasureState.ENDED:
            assert session.state is MeasureState.ENDED
            assert session.trouble is why, "the first reason counts"
        why = session.trouble
        assert not session.over or isinstance(why, BusyError | LinkError)
