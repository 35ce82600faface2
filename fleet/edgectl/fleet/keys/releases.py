"""Names releases in signed targets or in a delegation, withdraws them, and names compiled plans."""

from __future__ import annotations

import copy
from pathlib import Path

from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from edgectl.core.bundle import Bundle
from edgectl.core.bundle.config_release import ConfigBundle
from edgectl.core.errors import TrustError, UsageError
from edgectl.core.plan import PlanStatement, SharedPlan, plan_path
from edgectl.core.trust import delegated_path, delegation_paths, release_name, target_path
from edgectl.fleet.keys.keyfolder import own_targets, propose, root_of, take_newer, targets_of, unlock
from edgectl.fleet.keys.keyring import KeyRing
from edgectl.fleet.keys.signing import EXPIRY, delegated_roles, expires_in, parse, plans_of, read

__all__ = ["sign_plan", "sign_release", "unlock_release", "withdraw"]


def sign_release(
    keys: Path,
    bundle: Bundle | ConfigBundle,
    current: bytes | None = None,
    *,
    delegation: str | None = None,
    ring: KeyRing | None = None,
) -> tuple[str, bytes]:
    """Add a bundle to the signed targets, or to those of a delegation. ``current``: the controller's file,
    taken where it is newer.

    Returns (``name@version``, the new file), also written to ``keys``. A bundle that is named already changes
    nothing. Raises :class:`TrustError`: a release name is never reused for other bytes; signatures are
    missing.
    """
    release, role, targets = _naming(keys, bundle, current, delegation)
    return release, read(keys / f"{role}.json") if targets is None else _publishable(
        keys, role, targets, ring
    )


def unlock_release(
    keys: Path,
    bundle: Bundle | ConfigBundle,
    current: bytes | None,
    ring: KeyRing,
    *,
    delegation: str | None = None,
) -> None:
    """Find out whether :func:`sign_release` can do its work, and ask for the passphrases that it needs.
    Raises as it does."""
    _, role, targets = _naming(keys, bundle, current, delegation)
    if targets is not None:
        unlock(keys, role, ring)


def _naming(
    keys: Path, bundle: Bundle | ConfigBundle, current: bytes | None, delegation: str | None
) -> tuple[str, str, Targets | None]:
    """Release, role, and the role's targets with the bundle in them; None where they name it already."""
    release = release_name(bundle.name, bundle.version)
    role = delegation or "targets"
    root = root_of(keys)
    if current is not None:
        take_newer(keys, {f"{role}.json": current})
    targets = copy.deepcopy(own_targets(keys, role, must=True))
    digest = bundle.digest.removeprefix("sha256:")
    profiles = bundle.profiles
    paths = _paths(keys, root, role, release, profiles)
    for path in paths:
        known = targets.targets.get(path)
        if known is not None and known.hashes["sha256"] != digest:
            raise TrustError(
                f"release {release} is already signed with other content",
                hint="give the new bundle a new version",
            )
    if all(path in targets.targets for path in paths) and not targets.is_expired():
        return release, role, None
    for path in paths:
        targets.targets[path] = _target(path, bundle, profiles)
    return release, role, targets


def withdraw(
    keys: Path,
    release: str,
    current: bytes | None = None,
    *,
    delegation: str | None = None,
    ring: KeyRing | None = None,
) -> bytes:
    """Sign targets without ``release``: no device installs it from then on, until newer targets name it
    again.

    Safe to repeat: where the file in ``keys`` does not name it any more and ``current`` does, that file is
    what has to be handed over. Raises :class:`UsageError` where neither does, :class:`TrustError`: signatures
    are missing.
    """
    role = delegation or "targets"
    if current is not None:
        take_newer(keys, {f"{role}.json": current})
    targets = copy.deepcopy(own_targets(keys, role, must=True))
    path = target_path(release)
    gone = _names(targets, path)
    if (
        not gone
        and current is not None
        and _names(parse(current, Targets, f"{role}.json").signed, path)
        and not targets.is_expired()
    ):
        return read(keys / f"{role}.json")
    if not gone:
        raise UsageError(
            f"{role} do not name release {release}", hint="`edgectl release list` shows what is published"
        )
    for p in [*gone, *(p for p, (of, _) in plans_of(targets).items() if of == release)]:
        del targets.targets[p]
    return _publishable(keys, role, targets, ring)


def _names(targets: Targets, path: str) -> list[str]:
    return [p for p in targets.targets if p == path or p.endswith(f"/{path}")]


def sign_plan(
    keys: Path, release: str, plan: SharedPlan, current: bytes | None = None, *, ring: KeyRing | None = None
) -> bytes:
    """Name a compiled plan in the signed targets, for the devices with its very key. Returns the new file,
    also written to ``keys``.

    A plan that is named for the key already is replaced. Raises :class:`TrustError`: signatures are missing.
    """
    if current is not None:
        take_newer(keys, {"targets.json": current})
    targets = copy.deepcopy(own_targets(keys, "targets", must=True))
    path = plan_path(plan.key)
    custom = PlanStatement(key=plan.key, level=plan.level, release=release).model_dump()
    target = TargetFile(plan.size, {"sha256": plan.digest.removeprefix("sha256:")}, path, {"custom": custom})
    if targets.targets.get(path) == target and not targets.is_expired():
        return read(keys / "targets.json")
    targets.targets[path] = target
    return _publishable(keys, "targets", targets, ring)


def _publishable(folder: Path, role: str, targets: Targets, ring: KeyRing | None) -> bytes:
    targets.version += 1
    targets.expires = expires_in(EXPIRY["targets"])
    proposal = propose(folder, f"{role}.json", Metadata(targets), ring)
    if not proposal.complete:
        raise TrustError(
            f"{proposal.path} needs more signatures: {', '.join(proposal.signatures)}",
            hint="hand it over for `edgectl keys sign`, then publish again",
        )
    return read(proposal.path)


def _paths(folder: Path, root: Root, role: str, release: str, profiles: list[str]) -> list[str]:
    """Where a release is named: once for every device, or once for each profile that the delegation is
    for."""
    if role == "targets":
        return [target_path(release)]
    patterns = delegated_roles(targets_of(folder, root)).get(role, [])
    found = [
        delegated_path(p, release) for p in profiles if any(d in patterns for d in delegation_paths((p,)))
    ]
    if not found:
        raise TrustError(
            f"delegation {role} is not for the profiles of {release} ({', '.join(profiles)})",
            hint="build it for a profile of the delegation, or publish with the targets keys",
        )
    return found


def _target(path: str, bundle: Bundle | ConfigBundle, profiles: list[str]) -> TargetFile:
    digest = bundle.digest.removeprefix("sha256:")
    return TargetFile(len(bundle.index_bytes), {"sha256": digest}, path, {"custom": {"profiles": profiles}})
