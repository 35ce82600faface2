"""The signed metadata set as one message, and what its targets mean (TUF 1.0; DESIGN.md §5).

A target ``releases/<name>/<version>`` has the length and sha256 of the bundle's ``index.json``; its custom field lists the
profiles. Signing is the host's business (``edgectl.fleet.trust``), verifying the device's (``edgectl.agent.trust``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from edgectl.core.errors import TrustError, UsageError
from edgectl.core.files import check_name
from edgectl.core.schema import parse_json
from edgectl.core.wire import Trust

__all__ = ["MAX_TRUST_BYTES", "decode_trust", "encode_trust", "release_name", "target_path"]

MAX_TRUST_BYTES = 4 << 20
_FILE = re.compile(r"([1-9][0-9]{0,8}\.root|timestamp|snapshot|targets)\.json\Z")


def encode_trust(files: Mapping[str, bytes]) -> bytes:
    """The retained message. Raises :class:`TrustError` if the set would not be accepted by a device."""
    data = Trust(files={name: content.decode() for name, content in sorted(files.items())}).encode()
    decode_trust(data)
    return data


def decode_trust(data: bytes) -> dict[str, bytes]:
    """File name → exact bytes. Bounded; nothing is believed yet. Raises :class:`TrustError`."""
    trust = parse_json(Trust, data, max_bytes=MAX_TRUST_BYTES, what="trust message", error=TrustError)
    for name in trust.files:
        if not _FILE.match(name):
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
