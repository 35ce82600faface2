"""The signed metadata set as one message, and what its parts mean (TUF 1.0).

A target ``releases/<name>/<version>`` has the length and sha256 of the bundle's ``index.json``; its custom
field lists the profiles. ``profiles/<profile>/releases/<name>/<version>`` is the same for the devices of one
profile: targets delegate such paths, so that a team can sign for its devices only. Two fields of ours travel
inside signed metadata: root names the *director*, whose signature every ``desired`` document, command and
freeze needs, and timestamp says when it was signed.

Signing is the host's business (``edgectl.fleet.keys.trust``), verifying the device's (``edgectl.agent.trust.store``).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from securesystemslib.signer import Key, Signer, SSlibKey
from tuf.api.metadata import TOP_LEVEL_ROLE_NAMES, Root, Timestamp

from edgectl.core.errors import TrustError, UsageError
from edgectl.core.files import check_name
from edgectl.core.schema import parse_json, parse_object
from edgectl.core.signed import Keys, open_signed, seal
from edgectl.core.wire import (
    MAX_COMMAND_S,
    MAX_MESSAGE_BYTES,
    RUNS_FILES,
    Command,
    ControllerState,
    Desired,
    Trust,
)

__all__ = [
    "DIRECTOR",
    "MAX_TRUST_BYTES",
    "SIGNED_AT",
    "decode_trust",
    "delegated_path",
    "delegation_paths",
    "director_keys",
    "encode_trust",
    "keyset_id",
    "open_command",
    "open_desired",
    "open_state",
    "release_name",
    "role_name",
    "seal_command",
    "seal_desired",
    "seal_state",
    "set_director",
    "signed_at",
    "target_path",
]

MAX_TRUST_BYTES = 1 << 20
"""About 4000 releases. Brokers are configured for it (:mod:`edgectl.fleet.broker.mosquitto`)."""

DIRECTOR = "x-edgectl-director"
"""Field of root metadata: ``{"keys": {keyid: key}, "threshold": n}``. TUF knows no fifth top-level role."""
SIGNED_AT = "x-edgectl-signed-at"
"""Field of timestamp metadata: Unix time of the signature, in whole seconds."""

_FILE = re.compile(r"([1-9][0-9]{0,8}\.root|timestamp|snapshot|targets|[a-z0-9][a-z0-9-]{0,62})\.json\Z")
_ROLE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")


def encode_trust(files: Mapping[str, bytes]) -> bytes:
    """The retained message. Raises :class:`TrustError` if the set would not be accepted by a device."""
    data = Trust(files={name: content.decode() for name, content in sorted(files.items())}).encode()
    decode_trust(data)
    return data


def decode_trust(data: bytes) -> dict[str, bytes]:
    """File name → exact bytes. Bounded; nothing is believed yet. Raises :class:`TrustError`."""
    trust = parse_json(Trust, data, max_bytes=MAX_TRUST_BYTES, what="trust message", error=TrustError)
    for name in trust.files:
        if not _FILE.match(name) or name == "root.json":
            raise TrustError(f"trust message has a file {name[:60]!r} that no metadata set has")
    return {name: text.encode() for name, text in trust.files.items()}


def release_name(name: str, version: str) -> str:
    """``name@version``. Raises :class:`UsageError` for names that cannot be topic levels and file names."""
    try:
        return f"{check_name(name)}@{check_name(version)}"
    except ValueError as e:
        raise UsageError(f"a release cannot be called {name}@{version}: {e}") from e


def target_path(release: str) -> str:
    """The TUF target of ``name@version``. Raises :class:`UsageError`."""
    name, at, version = release.partition("@")
    if not at:
        raise UsageError(f"{release[:80]!r} is not a release", hint="releases are called name@version")
    release_name(name, version)
    return f"releases/{name}/{version}"


def delegated_path(profile: str, release: str) -> str:
    """The TUF target of a release for the devices of one profile. Raises :class:`UsageError`."""
    return f"profiles/{_profile(profile)}/{target_path(release)}"


def delegation_paths(profiles: tuple[str, ...]) -> list[str]:
    """The path patterns that a delegation for these profiles covers."""
    return [f"profiles/{_profile(p)}/releases/*/*" for p in profiles]


def role_name(text: str) -> str:
    """``text`` if it may name a delegated role: it becomes a file name beside ``root.json``. Raises
    :class:`UsageError`."""
    if not _ROLE.match(text) or text in TOP_LEVEL_ROLE_NAMES or text in ("online", "director"):
        raise UsageError(
            f"{text[:80]!r} cannot name a delegation",
            hint="use a-z, 0-9 and '-'; not root, targets and the like",
        )
    return text


def _profile(text: str) -> str:
    try:
        return check_name(text)
    except ValueError as e:
        raise UsageError(f"profile {e}") from e


# ---- the director


def set_director(root: Root, keys: list[Key], threshold: int) -> None:
    """Name the keys whose signature ``desired`` documents need."""
    root.unrecognized_fields[DIRECTOR] = {
        "keys": {k.keyid: k.to_dict() for k in keys},
        "threshold": threshold,
    }


def director_keys(root: Root) -> Keys | None:
    """The director that (verified) root metadata name; None: this fleet has none. Raises
    :class:`TrustError` if it is malformed."""
    field = root.unrecognized_fields.get(DIRECTOR)
    if field is None:
        return None
    try:
        # The key is copied: from_dict takes the dictionary apart.
        keys = {keyid: SSlibKey.from_dict(keyid, dict(key)) for keyid, key in field["keys"].items()}
        threshold = field["threshold"]
        if not (isinstance(threshold, int) and 1 <= threshold <= len(keys)):
            raise ValueError(f"threshold {threshold!r} of {len(keys)} keys")
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise TrustError(f"the root metadata name a director that is none: {e}") from e
    return Keys(keys, threshold)


def seal_desired(fleet: str, device: str, desired: Desired, signers: Sequence[Signer]) -> bytes:
    """The signed ``desired`` document of one device. ``signers``: the director's."""
    document = desired.model_copy(update={"fleet": fleet, "device": device})
    return seal(document.encode(), signers)


def open_desired(payload: bytes, director: Keys, fleet: str, device: str) -> Desired:
    """What the director wants of this very device. Whether its ``gen`` is news is for the caller to decide.

    Raises :class:`TrustError`: not signed, signed by others, or meant for another device or fleet.
    """
    return parse_object(
        Desired,
        _addressed(payload, director, "desired state", None, fleet, device),
        what="desired state",
        error=TrustError,
    )


# What follows can hold, take back and stop, never install: one of the director's keys is enough, whatever its
# threshold, so that whoever is on duty can stop a fleet. Commands by which a device opens files that no release
# names (``measure``) need all. The type keeps each document from being read as another.


def seal_command(fleet: str, device: str, command: Command, signers: Sequence[Signer]) -> bytes:
    """The signed command to one device. ``signers``: at least one of the director's."""
    return seal(
        command.model_copy(update={"type": "command", "fleet": fleet, "device": device}).encode(), signers
    )


def open_command(payload: bytes, director: Keys, fleet: str, device: str) -> Command:
    """A command to this very device that one of the director's keys has signed; one of :data:`RUNS_FILES`: as
    many as the director's threshold says. Whether it is in time, and news, is for the caller to decide.

    Raises :class:`TrustError`, also for one that may wait longer than :data:`MAX_COMMAND_S`.
    """
    document = _addressed(payload, replace(director, threshold=1), "command", "command", fleet, device)
    command = parse_object(Command, document, what="command", error=TrustError)
    if command.op in RUNS_FILES:
        _addressed(payload, director, f"command {command.op}", "command", fleet, device)
    if command.deadline_s > command.seq / 1000 + MAX_COMMAND_S:
        raise TrustError(f"the command may be obeyed for longer than {MAX_COMMAND_S} s after its signature")
    return command


def seal_state(fleet: str, state: ControllerState, signers: Sequence[Signer]) -> bytes:
    """The signed state of the controller, with the freeze. ``signers``: at least one of the director's."""
    return seal(state.model_copy(update={"type": "controller", "fleet": fleet}).encode(), signers)


def open_state(payload: bytes, director: Keys, fleet: str) -> ControllerState:
    """The controller's state that one of the director's keys has signed. Whether its ``seq`` is news is for
    the caller to decide.

    Raises :class:`TrustError`.
    """
    document = _addressed(
        payload, replace(director, threshold=1), "controller state", "controller", fleet, None
    )
    return parse_object(ControllerState, document, what="controller state", error=TrustError)


def _addressed(
    payload: bytes, director: Keys, what: str, kind: str | None, fleet: str, device: str | None
) -> dict[str, Any]:
    document = open_signed(payload, director, max_bytes=MAX_MESSAGE_BYTES, what=what)
    if document.get("type") != kind:
        raise TrustError(f"{what} is signed as something else: {_short(document, 'type')}")
    if (document.get("fleet"), document.get("device")) != (fleet, device):
        to = f"device {_short(document, 'device')} of " if device is not None else ""
        raise TrustError(f"{what} is for {to}fleet {_short(document, 'fleet')}")
    return document


def _short(document: Mapping[str, Any], key: str) -> str:
    return repr(document.get(key))[:80]


# ---- helpers for version and time floors


def keyset_id(keys: Keys) -> str:
    """A short name for who may sign. A floor holds for these signers: who is replaced takes what he
    claimed with him."""
    return hashlib.sha256("\n".join([str(keys.threshold), *sorted(keys.keys)]).encode()).hexdigest()[:16]


def signed_at(timestamp: Timestamp) -> int:
    """When (verified) timestamp metadata were signed, Unix seconds; 0 if they do not say."""
    at = timestamp.unrecognized_fields.get(SIGNED_AT)
    return at if isinstance(at, int) and 0 <= at < 1 << 40 else 0
