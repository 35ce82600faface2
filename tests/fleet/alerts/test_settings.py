from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from edgectl.fleet.alerts.settings import AlertsConfig


@pytest.mark.parametrize(
    "url", ["ftp://a", "https://", "//a", "http://a b", "https://a:99999", "javascript:1"]
)
def test_webhook_that_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="address"):
        AlertsConfig(webhook=url, webhook_secret=Path("x"))


def test_webhook_has_a_secret_and_is_not_printed() -> None:
    with pytest.raises(ValidationError, match="webhook_secret names no file"):
        AlertsConfig(webhook="https://example.org/T0KEN")
    config = AlertsConfig(webhook="https://example.org/T0KEN", webhook_secret=Path("s")).relative_to(
        Path("/etc")
    )
    assert config.webhook_secret == Path("/etc/s")
    assert "T0KEN" not in repr(config)
