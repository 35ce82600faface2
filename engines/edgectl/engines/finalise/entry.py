"""One line of the cache of finalised engines: a model on a machine, its record, and the file that counts.

A file without its JSON, or with another digest or key, is a miss. Kill at any point leaves the cache as it was, or with a
temporary.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgectl.core.bundle import Recipe, Variant
from edgectl.core.files import atomic_write, file_digest, fsync_dir, storage
from edgectl.core.plan import key_hex

__all__ = ["CacheEntry", "alone"]

_SIBLINGS = 6
"""Engines of one model that are kept for other variants: active and previous ones of a few preferences."""


@contextlib.contextmanager
def alone(cache: Path, model: Path) -> Iterator[None]:
    """One finaliser per model at a time, whatever the process: two slots may get the same one. The lock
    dies with its holder."""
    with storage(str(cache)):
        cache.mkdir(parents=True, exist_ok=True)
        lock = (cache / f".lock-{model.name[:16]}").open("wb")
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True)
class CacheEntry:
    """One line of the cache: a model on a machine. ``key``: what the machine is, the model's digest, the
    golden outputs to meet."""

    cache: Path
    model: Path
    stem: str
    suffix: str
    key: dict[str, Any]
    recipe: Recipe

    @classmethod
    def of(cls, variant: Variant, model: Path, cache: Path, key: dict[str, Any], suffix: str) -> CacheEntry:
        whole = {**key, "model": model.name, "golden": variant.digest}
        stem = f"{model.name[:16]}-{key_hex(whole)[:16]}"
        return cls(cache, model, stem, suffix, whole, variant.config.recipe)

    @property
    def scratch(self) -> str:
        """Prefix of the folders in which engines of this model are made."""
        return f".making-{self.stem.split('-')[0]}-"

    def read(self) -> dict[str, Any] | None:
        """The record if it is this entry's and its file is what was written; None is a miss."""
        try:
            record = json.loads((self.cache / f"{self.stem}.json").read_bytes())
        except (OSError, ValueError):
            return None
        if not isinstance(record, dict) or record.get("key") != self.key:
            return None
        if record["file"] == "original":
            return record
        path = self.path(record)
        return (
            record
            if path.parent == self.cache and path.is_file() and file_digest(path) == record["digest"]
            else None
        )

    def path(self, record: dict[str, Any]) -> Path:
        return self.model if record["file"] == "original" else self.cache / str(record["file"])

    def invalidate(self) -> None:
        """Before a new engine of a model is made, its older ones go: other version, other driver, or a torn
        write of this one.

        Those that other variants have of this model on this machine stay: other streams run them, or a
        rollback will.
        """
        siblings = self._siblings()
        with storage(str(self.cache)):
            for old in self.cache.glob(f"{self.stem.split('-')[0]}-*"):
                if not old.name.startswith(siblings):
                    old.unlink(missing_ok=True)
            self.sweep()

    def _siblings(self) -> tuple[str, ...]:
        """Stems of the newest entries of this model that differ only in what is a variant's own."""
        found: list[tuple[float, str]] = []
        for path in self.cache.glob(f"{self.stem.split('-')[0]}-*.json"):
            try:
                known, written = json.loads(path.read_bytes()).get("key"), path.stat().st_mtime
            except (OSError, ValueError, AttributeError):
                continue
            if (
                path.stem != self.stem
                and isinstance(known, dict)
                and _of_machine(known) == _of_machine(self.key)
            ):
                found.append((written, path.stem))
        return tuple(stem for _, stem in sorted(found, reverse=True)[:_SIBLINGS])

    def sweep(self) -> None:
        """Remove what a killed finaliser of this model left."""
        for torn in self.cache.glob(f"{self.scratch}*"):
            for file in torn.iterdir():
                file.unlink(missing_ok=True)
            torn.rmdir()

    def commit(self, temporary: Path, name: str, **record: Any) -> Path:
        """Name the engine, durably; the JSON beside it comes last and is what makes it count. Then the one
        before it goes."""
        final = self.cache / name
        digest = file_digest(temporary)
        with storage(str(final)):
            with temporary.open("rb") as f:
                os.fsync(f.fileno())
            temporary.replace(final)
            fsync_dir(self.cache)
        self.record(file=name, digest=digest, **record)
        for old in self.cache.glob(f"{self.stem}*.{self.suffix}"):
            if old != final:
                old.unlink(missing_ok=True)
        return final

    def record(self, **values: Any) -> None:
        atomic_write(self.cache / f"{self.stem}.json", json.dumps({"key": self.key, **values}).encode())


def _of_machine(key: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in key.items() if k not in ("golden", "settings", "dla")}
