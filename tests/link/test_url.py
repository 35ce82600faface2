"""A broker's address: what it means, and that nothing shows its password."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgectl.core.errors import UsageError
from edgectl.link.mqtt import BrokerOptions, Tls
from edgectl.link.url import broker_of_url


@pytest.mark.parametrize(
    ("url", "broker"),
    [
        ("mqtt://nas", BrokerOptions("nas")),
        ("mqtt://nas:1884/", BrokerOptions("nas", 1884)),
        ("mqtt://u:p%40ss@[::1]", BrokerOptions("::1", 1883, "u", "p@ss")),
        ("mqtts://nas", BrokerOptions("nas", 8883, tls=Tls())),
    ],
)
def test_an_address_is_a_broker(url: str, broker: BrokerOptions) -> None:
    assert broker_of_url(url) == broker
    assert broker_of_url(url).password == broker.password


def test_an_authority_is_for_tls() -> None:
    assert broker_of_url("mqtts://nas", ca=Path("ca.pem")).tls == Tls(Path("ca.pem"))
    with pytest.raises(UsageError, match="one with TLS"):
        broker_of_url("mqtt://nas", ca=Path("ca.pem"))


@pytest.mark.parametrize(
    "url",
    [
        "http://u:geheim@h",
        "mqtt://u:geheim@",
        "mqtt://u:geheim@h:x",
        "mqtt://u:ge/heim@h",
        "mqtt://u:geheim@h/t",
        "",
    ],
)
def test_what_is_no_address_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(UsageError) as e:
        broker_of_url(url)
    assert "geheim" not in f"{e.value} {e.value.hint}"
    assert "mqtt://user:password@host" in str(e.value.hint)
