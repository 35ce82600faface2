"""Configuration of a production broker for one fleet: TLS with client certificates, access rules, limits.
Pure: text out of values.

One table of access rules (:func:`rules`) is written in the words of each broker. A client is who its
certificate says (common name), never who it says it is: client ids are free, and nothing rests on them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from edgectl.core.errors import UsageError
from edgectl.core.wire import Topics
from edgectl.fleet.keys.ca import CONTROLLER

__all__ = ["BROKERS", "AclRule", "BrokerSettings", "broker_files", "rules"]

BROKERS = ("mosquitto", "emqx", "rabbitmq")

MAX_PACKET_BYTES = (1 << 20) + (64 << 10)
"""The trust message (1 MiB at most) with its header is the largest packet there is."""
_DEVICE = "{device}"


@dataclass(frozen=True)
class AclRule:
    """What every device may do on a topic filter in which ``{device}`` is its own name."""

    access: Literal["read", "write"]
    topic: str


@dataclass(frozen=True)
class BrokerSettings:
    """What a configuration depends on. ``folder`` is where the files lie on the broker's machine."""

    fleet: str
    folder: PurePosixPath
    port: int = 8883
    host: str | None = None
    """Address to listen on; None: all."""
    peer_seeding: bool = False
    memory_mb: int = 512
    state: str = "/var/lib/mosquitto"


def rules(fleet: str, *, peer_seeding: bool = False) -> list[AclRule]:
    """Everything a device may do; what is not here it may not."""
    t = Topics(fleet).root
    reads = [
        "trust",
        "ctl",
        "a/+/m/+",
        "a/+/b",
        "a/+/st",
        f"a/+/r/{_DEVICE}",
        f"d/{_DEVICE}/desired",
        f"d/{_DEVICE}/cmd",
    ]
    # what peers send; nobody does unless the line below is there
    reads += ["a/+/p/+", "a/+/st/+"]
    writes = [
        f"a/+/need/{_DEVICE}",
        *(f"d/{_DEVICE}/{leaf}" for leaf in ("conn", "reported", "rsp", "tele", "ev/+")),
    ]
    # under its own name; chunks are checked against signed hashes, so a liar wastes bandwidth and installs
    # nothing
    if peer_seeding:
        reads.append("a/+/need/+")
        writes += [f"a/+/p/{_DEVICE}", f"a/+/st/{_DEVICE}"]
    return [AclRule("read", f"{t}/{x}") for x in reads] + [AclRule("write", f"{t}/{x}") for x in writes]


def broker_files(broker: str, settings: BrokerSettings, devices: Iterable[str] = ()) -> dict[str, str]:
    """File name → text. ``devices``: RabbitMQ knows its users by name; the others need no list.

    Raises :class:`UsageError` for a broker that is not known, or a device name that RabbitMQ cannot tell
    apart from others.
    """
    if broker == "mosquitto":
        return _mosquitto(settings)
    if broker == "emqx":
        return _emqx(settings)
    if broker == "rabbitmq":
        return _rabbitmq(settings, tuple(devices))
    raise UsageError(f"there is no configuration for {broker!r}", hint=f"one of {', '.join(BROKERS)}")


def _mosquitto(p: BrokerSettings) -> dict[str, str]:
    acl = [
        f"# Who may do what, by common name. Written by `edgectl broker config mosquitto`.\nuser {CONTROLLER}"
    ]
    acl += [
        f"topic readwrite {Topics(p.fleet).root}/#",
        "",
        "# Mosquitto warns of patterns without %u: they are meant, for every device.",
    ]
    acl += [
        f"pattern {r.access} {r.topic.replace(_DEVICE, '%u')}"
        for r in rules(p.fleet, peer_seeding=p.peer_seeding)
    ]
    conf = f"""\
# Mosquitto 2.0 or later, for fleet {p.fleet}. Written by `edgectl broker config mosquitto`.
listener {p.port}{f" {p.host}" if p.host else ""}
cafile {p.folder}/ca.crt
certfile {p.folder}/server.crt
keyfile {p.folder}/server.key
# Read again on SIGHUP; who is connected already stays until the broker is restarted.
crlfile {p.folder}/crl.pem
tls_version tlsv1.2
require_certificate true
# The common name is the user name of the access rules. Never use_username_as_clientid: a device has two connections.
use_identity_as_username true
allow_anonymous false
acl_file {p.folder}/acl

# Slow readers lose what is above these bounds, and ask for it again: completeness is proven by hash, not by the broker.
max_inflight_messages 20
max_queued_messages 256
max_packet_size {MAX_PACKET_BYTES}
memory_limit {p.memory_mb << 20}
max_keepalive 120
persistent_client_expiration 1d

# Retained messages and sessions outlive a restart; a crash may cost the last minute, which controller and devices publish again.
persistence true
persistence_location {p.state.rstrip("/")}/
autosave_interval 60

log_type error
log_type warning
log_type notice
"""
    return {"mosquitto.conf": conf, "acl": "\n".join(acl) + "\n"}


def _emqx(p: BrokerSettings) -> dict[str, str]:
    bind = f"{p.host or '0.0.0.0'}:{p.port}"  # noqa: S104 - a broker listens to its network; TLS and certificates are asked of everybody
    conf = f"""\
# EMQX 5.1 or later, for fleet {p.fleet}. Include it from emqx.conf, or append it. Written by `edgectl broker config emqx`.
listeners.tcp.default.enable = false
listeners.ws.default.enable = false
listeners.wss.default.enable = false
listeners.ssl.default {{
  bind = "{bind}"
  ssl_options {{
    cacertfile = "{p.folder}/ca.crt"
    certfile = "{p.folder}/server.crt"
    keyfile = "{p.folder}/server.key"
    versions = ["tlsv1.3", "tlsv1.2"]
    verify = verify_peer
    fail_if_no_peer_cert = true
  }}
}}

mqtt {{
  # The common name is the user name of the access rules.
  peer_cert_as_username = cn
  max_packet_size = "{MAX_PACKET_BYTES // 1024}KB"
  max_inflight = 20
  max_mqueue_len = 256
  mqueue_store_qos0 = false
  session_expiry_interval = "1d"
}}
force_shutdown.max_heap_size = "64MB"

# Retained messages outlive a restart.
retainer {{
  max_payload_size = "1MB"
  backend.storage_type = disc
}}

authorization {{
  no_match = deny
  # EMQX listens before it has read the rules, and refuses everything until then. Who is ignored would stay connected and hear nothing.
  deny_action = disconnect
  sources = [{{ type = file, enable = true, path = "{p.folder}/acl.conf" }}]
}}
"""
    acl = ["%% Who may do what, by common name. Written by `edgectl broker config emqx`."]
    acl += [f'{{allow, {{username, "{CONTROLLER}"}}, all, ["{Topics(p.fleet).root}/#"]}}.']
    verb = {"read": "subscribe", "write": "publish"}
    for r in rules(p.fleet, peer_seeding=p.peer_seeding):
        # A subscription to exactly this filter, or a publish to a topic that it covers.
        acl.append(f'{{allow, all, {verb[r.access]}, ["{r.topic.replace(_DEVICE, "${username}")}"]}}.')
    acl.append("{deny, all}.")
    return {"emqx.conf": conf, "acl.conf": "\n".join(acl) + "\n"}


def _rabbitmq(p: BrokerSettings, devices: tuple[str, ...]) -> dict[str, str]:
    if dotted := [d for d in devices if "." in d]:
        raise UsageError(
            f"RabbitMQ cannot serve a device called {dotted[0]}: it takes '.' for '/'",
            hint="use '-' in names of devices",
        )
    listener = f"{p.host or '0.0.0.0'}:{p.port}"  # noqa: S104
    conf = f"""\
# RabbitMQ 3.10 or later with the plugins in enabled_plugins, for fleet {p.fleet}. Written by `edgectl broker config rabbitmq`.
listeners.tcp = none
mqtt.listeners.tcp = none
mqtt.listeners.ssl.default = {listener}
mqtt.allow_anonymous = false
mqtt.vhost = /
mqtt.exchange = amq.topic
mqtt.prefetch = 20
mqtt.subscription_ttl = 86400000
# The common name is the user name; users are made without a password, so that nothing else lets them in.
mqtt.ssl_cert_login = true
ssl_cert_login_from = common_name
ssl_options.cacertfile = {p.folder}/ca.crt
ssl_options.certfile = {p.folder}/server.crt
ssl_options.keyfile = {p.folder}/server.key
ssl_options.versions.1 = tlsv1.2
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
vm_memory_high_watermark.absolute = {p.memory_mb}MB
load_definitions = {p.folder}/definitions.json
"""
    return {
        "rabbitmq.conf": conf,
        "enabled_plugins": "[rabbitmq_mqtt].\n",
        "definitions.json": json.dumps(_definitions(p, devices), indent=1) + "\n",
    }


def _definitions(p: BrokerSettings, devices: tuple[str, ...]) -> dict[str, Any]:
    names = (CONTROLLER, *devices)
    ours = rules(p.fleet, peer_seeding=p.peer_seeding)
    everything = f"^{re.escape(Topics(p.fleet).root.replace('/', '.'))}\\."
    patterns = {
        "read": _routing_keys(r.topic for r in ours if r.access == "read"),
        "write": _routing_keys(r.topic for r in ours if r.access == "write"),
    }

    def topics(name: str) -> Mapping[str, str]:
        if name == CONTROLLER:
            return {"read": everything, "write": everything}
        return {
            access: pattern.replace(re.escape(_DEVICE), re.escape(name))
            for access, pattern in patterns.items()
        }

    # A subscription is a queue that is bound to the exchange, and a queue's name begins with
    # mqtt-subscription-.
    own = "^mqtt-subscription-.*"
    return {
        "vhosts": [{"name": "/"}],
        "users": [
            {
                "name": n,
                "password_hash": "",
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": [],
            }
            for n in names
        ],
        "permissions": [
            {
                "user": n,
                "vhost": "/",
                "configure": own,
                "write": f"{own}|^amq\\.topic$",
                "read": f"{own}|^amq\\.topic$",
            }
            for n in names
        ],
        "topic_permissions": [{"user": n, "vhost": "/", "exchange": "amq.topic", **topics(n)} for n in names],
        "policies": [
            {
                "vhost": "/",
                "name": "edgectl-queues",
                "pattern": "^mqtt-subscription-",
                "apply-to": "queues",
                "definition": {"max-length": 256, "overflow": "drop-head"},
                "priority": 0,
            }
        ],
    }


def _routing_keys(topics: Iterable[str]) -> str:
    """One expression for topics, in RabbitMQ's words: levels are parted by dots, ``+`` is a ``*`` where it
    was subscribed to."""
    escaped = (re.escape(t.replace("/", ".")).replace(r"\+", r"[^.]+") for t in topics)
    return f"^({'|'.join(escaped)})$"
