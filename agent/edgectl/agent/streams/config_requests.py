"""Requests to a stream: go on with another configuration. Waits for the worker's answer; what the worker cannot change
while it runs restarts that stream alone."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from typing import Any

from edgectl.agent.config import StreamConfig
from edgectl.agent.streams.supervised_stream import SupervisedStream
from edgectl.agent.streams.worker_states import WorkerState
from edgectl.core.errors import ConfigError
from edgectl.pipelines.host.protocol import Configure, ConfigureFailed

__all__ = ["NEW_AGENT", "configure_stream"]

NEW_AGENT = ("kind", "slots", "isolate")
"""Settings of a stream that hold from the agent's next start on: they say which worker it is in."""
_LOOK_S = 0.2
_numbers = itertools.count(1)


def configure_stream(
    stream: SupervisedStream, config: StreamConfig, told: Mapping[str, Any], timeout_s: float = 60.0
) -> str:
    """Have a stream go on with ``config``, whose kind and slots are those that it has. Returns what came of it, in one
    sentence. Raises :class:`ConfigError` for one that it does not take: it goes on as before."""
    before = stream.config
    if config == before:
        return "nothing has changed"
    asked = config.config != before.config
    if asked and (refused := _ask(stream, config, told, timeout_s)) is not None:
        if isinstance(refused, str) and config.model_copy(update={"config": before.config}) == before:
            return refused
        if isinstance(refused, ConfigureFailed):
            if not refused.needs_start:
                raise ConfigError(refused.error.detail or refused.error.code, key=refused.key)
            stream.adopt(config)
            stream.restart(f"its configuration is another one: {refused.error.detail}")
            return f"starts again: {refused.error.detail}"
    changed = [
        name for name in ("source", "out", "stall_s") if getattr(config, name) != getattr(before, name)
    ]
    # what came of ``config`` is known, and the stream may have gone back from it by now
    stream.adopt_all_but_config(config)
    if changed == ["stall_s"] or not changed:
        return "in force"
    stream.restart(f"its {' and '.join(changed)} changed")
    return f"starts again: its {' and '.join(changed)} changed"


def _ask(
    stream: SupervisedStream, config: StreamConfig, told: Mapping[str, Any], timeout_s: float
) -> str | ConfigureFailed | None:
    """What came of it, in one sentence, or the refusal; the stream starts with it from now on, unless it is refused."""
    number, deadline = next(_numbers), time.monotonic() + timeout_s
    with stream.changed:
        place = stream.place
        if stream.life.state is not WorkerState.RUNNING or place is None:
            stream.adopt(config)
            return "holds from its next start on: it does not run now"
        stream.config_asked[number] = config.config
        stream.send(Configure(stream=stream.stream, number=number, config=config.config, told=dict(told)))
        while (answer := stream.config_answers.pop(number, None)) is None:
            if stream.place is not place:
                # who killed the worker in the middle of it finds it in force all the same
                stream.adopt(config)
                return "holds from its next start on: its worker has ended"
            if time.monotonic() > deadline:
                raise ConfigError(f"{stream.stream} gave no answer within {timeout_s:.0f} s")
            stream.changed.wait(_LOOK_S)
        if isinstance(answer, ConfigureFailed):
            return answer
    what = ", ".join(answer.changed[:8]) + (" …" if len(answer.changed) > 8 else "")
    return f"{what or 'nothing that it did not have'}: in force" + (
        "" if answer.in_force else " from the camera's next frame on"
    )
