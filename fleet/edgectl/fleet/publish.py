"""From a bundle on disk to a release: verify, upload what is missing, sign, announce."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from edgectl.core.bundle import Bundle
from edgectl.core.files import hex_of
from edgectl.fleet.client import FleetClient
from edgectl.fleet.releases import sign_release

__all__ = ["publish_bundle"]


def publish_bundle(
    client: FleetClient,
    bundle_dir: Path,
    keys: Path,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    *,
    delegation: str | None = None,
    more: Iterable[Path] = (),
    delta_from: str | None = None,
) -> str:
    """Publish and return ``name@version``. ``progress``: (bytes done, bytes in all). Safe to repeat.

    ``delegation``: sign with the keys of this delegation, for the devices of its profiles; ``more``: private keys that lie elsewhere.
    ``delta_from``: devices that have this release get differences; None: the release of this name before it; "": none.

    Raises :class:`BundleError` / :class:`IntegrityError` (the bundle), :class:`TrustError` (the keys), :class:`LinkError`.
    """
    bundle = Bundle(bundle_dir)
    bundle.verify()
    files = {d: bundle.blobs / hex_of(d) for v in bundle.variants for d in (v.digest, *(x.digest for x in v.descriptors()))}
    files[bundle.digest] = bundle_dir / "index.json"
    total = sum(path.stat().st_size for path in files.values())
    done = 0
    for digest, path in files.items():
        if client.has_blob(digest):
            done += path.stat().st_size
            progress(done, total)
            continue

        def count(piece: int) -> None:
            nonlocal done
            done += piece
            progress(done, total)

        client.put_blob(digest, path, count)
    name = f"{delegation or 'targets'}.json"
    release, targets = sign_release(keys, bundle, client.signed_file(name), delegation=delegation, more=more)
    client.add_release(release, bundle.digest, {name: targets}, delta_from)
    return release
