"""From a bundle or a configuration on disk to a release, and from a compiled plan to one that devices share: verify, upload
what is missing, sign, announce."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgectl.core.bundle import MAX_JSON_BYTES, Bundle, read_bounded
from edgectl.core.bundle.config_release import open_release
from edgectl.core.errors import BundleError, IntegrityError, UsageError
from edgectl.core.files import file_digest, hex_of, storage
from edgectl.core.plan import PLAN_FILE, PLAN_JSON, SharedPlan
from edgectl.core.schema import parse_json
from edgectl.core.trust import release_name
from edgectl.fleet.client.client import FleetClient
from edgectl.fleet.control.licences import check_licences
from edgectl.fleet.keys.keyring import KeyRing
from edgectl.fleet.keys.releases import sign_plan, sign_release, unlock_release

__all__ = ["publish_bundle", "share_plan"]


def publish_bundle(
    client: FleetClient,
    bundle_dir: Path,
    keys: Path,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    *,
    delegation: str | None = None,
    ring: KeyRing | None = None,
    delta_from: str | None = None,
) -> str:
    """Publish and return ``name@version``. ``progress``: (bytes done, bytes in all). Safe to repeat.

    ``delegation``: sign with the keys of this delegation, for the devices of its profiles; ``ring``: the
    private keys beside those of ``keys``. ``delta_from``: devices that have this release get differences;
    None: the release of this name before it; "": none.

    Raises :class:`BundleError` / :class:`IntegrityError` (the bundle), :class:`UsageError` (its licence, before
    anything is uploaded), :class:`TrustError` (the keys), :class:`LinkError`.
    """
    bundle = open_release(bundle_dir)
    bundle.verify()
    if isinstance(bundle, Bundle):
        check_licences(client.licences(), [v.config for v in bundle.variants])
    ring = ring or KeyRing()
    name = f"{delegation or 'targets'}.json"
    unlock_release(keys, bundle, client.signed_file(name), ring, delegation=delegation)
    files = {
        d: bundle.blobs / hex_of(d)
        for v in bundle.artifacts
        for d in (v.digest, *(x.digest for x in v.descriptors()))
    }
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
    release, targets = sign_release(keys, bundle, client.signed_file(name), delegation=delegation, ring=ring)
    client.add_release(release, bundle.digest, {name: targets}, delta_from)
    return release


def share_plan(
    client: FleetClient, bundle_dir: Path, folder: Path, keys: Path, *, ring: KeyRing | None = None
) -> tuple[str, SharedPlan]:
    """Sign and upload a plan that a device compiled from a bundle (``edgectl finalise --export``). Returns
    the release and the plan.

    Raises :class:`BundleError` / :class:`IntegrityError` (the folder), :class:`UsageError` (a plan of another
    bundle, or of a release that is not published), :class:`TrustError` (the keys), :class:`LinkError`.
    """
    file = folder / PLAN_FILE
    data = read_bounded(folder / PLAN_JSON, MAX_JSON_BYTES)
    plan = parse_json(SharedPlan, data, max_bytes=MAX_JSON_BYTES, what=PLAN_JSON, error=BundleError)
    with storage(str(file)):
        if file.stat().st_size != plan.size or file_digest(file) != plan.digest:
            raise IntegrityError(f"{file} is not the plan that {PLAN_JSON} describes", hint="export it again")
    bundle = Bundle(bundle_dir)
    release = release_name(bundle.name, bundle.version)
    if plan.key.get("golden") not in {v.digest for v in bundle.variants}:
        raise UsageError(
            f"the plan in {folder} was not compiled from a variant of {release}",
            hint="give the bundle it is from",
        )
    if not any((r["release"], r["digest"]) == (release, bundle.digest) for r in client.releases()):
        raise UsageError(f"{release} is not published", hint=f"`edgectl release publish {bundle_dir}` first")
    if not client.has_blob(plan.digest):
        client.put_blob(plan.digest, file)
    targets = sign_plan(keys, release, plan, client.signed_file("targets.json"), ring=ring)
    client.accept_trust({"targets.json": targets})
    return release, plan
