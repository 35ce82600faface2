from __future__ import annotations

import json
import re
from pathlib import PurePosixPath

import pytest

from edgectl.core.errors import UsageError
from edgectl.core.trust import MAX_TRUST_BYTES
from edgectl.core.wire import Topics
from edgectl.fleet.broker.mosquitto import BROKERS, MAX_PACKET_BYTES, BrokerSettings, broker_files, rules

T = Topics("home")
DIGEST = "sha256:" + "ab" * 32
MAY_READ = [
    T.trust,
    T.ctl,
    T.manifest(DIGEST, 3),
    T.broadcast(DIGEST),
    T.rounds(DIGEST),
    T.repair(DIGEST, "gate-1"),
    T.desired("gate-1"),
    T.command("gate-1"),
]
MAY_WRITE = [
    T.need(DIGEST, "gate-1"),
    T.conn("gate-1"),
    T.reported("gate-1"),
    T.reply("gate-1"),
    T.telemetry("gate-1"),
    T.event("gate-1", "yard"),
]
FOREIGN = [
    T.desired("gate-2"),
    T.reported("gate-2"),
    T.repair(DIGEST, "gate-2"),
    T.need(DIGEST, "gate-2"),
    T.desired("gate-11"),
    T.event("gate-2", "x"),
]
PLAN = BrokerSettings("home", PurePosixPath("/etc/broker"))


def peer_topics(device: str) -> list[str]:
    return [T.peer(DIGEST, device), T.peer_rounds(DIGEST, device)]


def matches(pattern: str, topic: str) -> bool:
    """MQTT 3.1.1 §4.7, without ``#``, which no rule has."""
    parts, levels = pattern.split("/"), topic.split("/")
    return len(parts) == len(levels) and all(
        p in ("+", level) for p, level in zip(parts, levels, strict=True)
    )


def may(access: str, topic: str, **options: bool) -> bool:
    return any(
        r.access == access and matches(r.topic.replace("{device}", "gate-1"), topic)
        for r in rules("home", **options)
    )


def test_rules_cover_what_a_device_does_and_nothing_else() -> None:
    assert all(may("read", t) and not may("write", t) for t in MAY_READ)
    assert all(may("write", t) and not may("read", t) for t in MAY_WRITE)
    assert not any(may(a, t) for a in ("read", "write") for t in FOREIGN)
    own, other = peer_topics("gate-1"), peer_topics("gate-2")
    assert [t for t in (*MAY_READ, *own, *other) if may("write", t, peer_seeding=True)] == own
    assert not any(may("write", t) for t in own)
    assert may("read", T.need(DIGEST, "gate-2"), peer_seeding=True)
    assert not any("#" in r.topic for r in rules("home", peer_seeding=True))


def test_rabbitmq_says_the_same_in_regular_expressions() -> None:
    definitions = json.loads(broker_files("rabbitmq", PLAN, ["gate-1", "gate-11"])["definitions.json"])
    assert [u["name"] for u in definitions["users"]] == ["Controller", "gate-1", "gate-11"]
    assert all(u["password_hash"] == "" and u["tags"] == [] for u in definitions["users"]), (
        "certificates only"
    )
    mine = next(p for p in definitions["topic_permissions"] if p["user"] == "gate-1")
    for access in ("read", "write"):
        for topic in (*MAY_READ, *MAY_WRITE, *FOREIGN, "x/" + T.trust, T.trust + "/x"):
            assert bool(re.search(mine[access], topic.replace("/", "."))) == may(access, topic), (
                access,
                topic,
            )
    with pytest.raises(UsageError, match=r"RabbitMQ cannot serve a device called gate\.1"):
        broker_files("rabbitmq", PLAN, ["gate.1"])


def test_emqx_says_the_same_in_its_own_words() -> None:
    acl = broker_files("emqx", PLAN)["acl.conf"]
    said = re.findall(r'\{allow, all, (subscribe|publish), \["([^"]+)"\]\}\.', acl)
    verb = {"subscribe": "read", "publish": "write"}
    assert [(verb[v], t.replace("${username}", "{device}")) for v, t in said] == [
        (r.access, r.topic) for r in rules("home")
    ]
    assert acl.rstrip().endswith("{deny, all}.")
    conf = broker_files("emqx", PLAN)["emqx.conf"]
    for line in (
        "verify = verify_peer",
        "fail_if_no_peer_cert = true",
        "peer_cert_as_username = cn",
        "no_match = deny",
        "deny_action = disconnect",
        "backend.storage_type = disc",
    ):
        assert line in conf
    assert conf.count("{") == conf.count("}")


@pytest.mark.parametrize("broker", BROKERS)
def test_every_broker_asks_for_a_certificate_and_bounds_its_queues(broker: str) -> None:
    text = "".join(broker_files(broker, PLAN).values())
    assert "/etc/broker/ca.crt" in text
    assert "256" in text
    assert "anonymous true" not in text


def test_largest_packet_carries_the_largest_trust_message() -> None:
    assert MAX_PACKET_BYTES > MAX_TRUST_BYTES + 1024
    assert f"max_packet_size {MAX_PACKET_BYTES}" in broker_files("mosquitto", PLAN)["mosquitto.conf"]


def test_unknown_broker_is_refused() -> None:
    with pytest.raises(UsageError, match="no configuration for 'hivemq'"):
        broker_files("hivemq", PLAN)
