"""Write the files with which a device joins a fleet: ``agent.toml``, ``root.json`` and, with a CA, its key
and certificate."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from edgectl.core.errors import UsageError
from edgectl.core.files import atomic_write, check_name
from edgectl.fleet.keys.ca import Certificate
from edgectl.fleet.keys.csr import requested_key

__all__ = ["check_folder", "write_enrolment"]


def check_folder(folder: Path, request: bytes, name: str) -> None:
    """Raises :class:`UsageError` if ``folder`` has a ``device.key`` that is not the requested one's: copied
    to the device, it would replace the key that the certificate is for.
    """
    path = folder / "device.key"
    if not path.exists():
        return
    try:
        key = load_pem_private_key(path.read_bytes(), None).public_key()
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if key != requested_key(request, name):
        raise UsageError(
            f"{path} is not the key of the certificate request", hint="remove it, or choose another --out"
        )


def write_enrolment(
    folder: Path,
    name: str,
    *,
    root: bytes,
    fleet: str,
    broker: Mapping[str, Any],
    pipelines: Mapping[str, Mapping[str, Any]] | None = None,
    profile: str = "auto",
    labels: Mapping[str, str] | None = None,
    certificate: Certificate | None = None,
    **settings: Any,
) -> Path:
    """Write ``folder/agent.toml`` and ``folder/root.json``; returns the former. State goes to
    ``folder/state``.

    ``broker``: ``host``, ``port`` and TLS options; ``pipelines``: stream → ``kind``, ``source``, ``slots``,
    ``config``; ``certificate``: written as ``device.crt``, ``ca.crt`` and, unless the device has it,
    ``device.key`` (0600), and named in ``[broker]``; ``settings``: other keys of ``agent.toml``. Raises
    :class:`UsageError` for a bad name.
    """
    try:
        check_name(name)
        check_name(fleet)
    except ValueError as e:
        raise UsageError(str(e)) from e
    top = {
        "name": name,
        "fleet": fleet,
        "state_dir": "state",
        "root": "root.json",
        "profile": profile,
        **settings,
    }
    lines = [f"{key} = {_toml(value)}" for key, value in top.items()]
    if certificate is not None:
        broker = {**broker, "tls": True, "ca": "ca.crt", "cert": "device.crt", "key": "device.key"}
    lines += [
        "",
        "[broker]",
        *(f"{key} = {_toml(value)}" for key, value in broker.items() if value is not None),
    ]
    if labels:
        lines += ["", "[labels]", *(f"{_key(key)} = {_toml(value)}" for key, value in labels.items())]
    for stream, pipeline in (pipelines or {}).items():
        lines += ["", f"[pipelines.{_key(stream)}]"]
        lines += [f"{key} = {_toml(value)}" for key, value in pipeline.items() if value is not None]
    if certificate is not None:
        certificate.write(folder, "device")
    atomic_write(folder / "root.json", root)
    # it may hold a password
    atomic_write(folder / "agent.toml", ("\n".join(lines) + "\n").encode(), mode=0o600)
    return folder / "agent.toml"


def _key(key: str) -> str:
    return json.dumps(key, ensure_ascii=False)


def _toml(value: Any) -> str:
    """A TOML value. JSON strings are TOML basic strings; mappings become inline tables."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | Path):
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(k)} = {_toml(v)}" for k, v in value.items() if v is not None) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    raise UsageError(f"{value!r} cannot be written to TOML")
