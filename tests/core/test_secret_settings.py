"""Settings that hold credentials which no line of the text shows."""

from __future__ import annotations

from typing import Any

import pytest

from edgectl.core.schema import Key
from edgectl.core.secret_settings import secret_settings
from edgectl.pipelines.kinds import KINDS

HOOK = "https://ha/api/webhook/gate"


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ({}, []),
        ({"webhook": {"url": HOOK}}, [("sinks", "webhook", "url")]),
        (
            {"webhook": {"url": HOOK, "headers": {"X-Api-Key": "k"}}},
            [("sinks", "webhook", "url"), ("sinks", "webhook", "headers")],
        ),
        ({"webhook": {"url": HOOK, "headers": {}}}, [("sinks", "webhook", "url")]),
        ({"mqtt": {"url": "mqtt://nas:1883/"}}, []),
        ({"mqtt": {"url": "mqtt://cam:geheim@nas"}}, [("sinks", "mqtt", "url")]),
        ({"webhook": {"url": "https://nas"}}, []),
        ({"webhook": {"url": "https://nas/?key=1"}}, [("sinks", "webhook", "url")]),
        ({"mqtt": True}, []),
        ({"rules": [{"id": "mid", "line": [0.5, 1.0, 0.5, 0.0]}]}, []),
    ],
)
def test_settings_that_are_not_to_be_shown_are_found(written: dict[str, Any], found: list[Key]) -> None:
    config = KINDS.get("surveillance").config.model_validate(written)
    assert sorted(secret_settings(config)) == sorted(found)
