"""``edgectl keys``: the keys that sign releases, and the ceremony around them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgectl.cli._controller import ControllerOptions
from edgectl.cli._keys import (
    KEYS,
    Keys,
    KeySetOptions,
    NewPassphrase,
    SigningOptions,
    key_ring,
    new_passphrase,
)
from edgectl.cli._nouns import Noun
from edgectl.cli._printer import Printer, table
from edgectl.core.clock import clock_says
from edgectl.core.errors import TrustError, UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from edgectl.fleet.keys.keyfolder import Proposal

__all__ = ["app"]

app = Noun("keys")


@app.command("init")
def init(
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Folder for the keys; kept on the host, readable by you alone."),
    ] = KEYS,
    root_keys: Annotated[int, typer.Option(min=0, max=16, help="Root keys to make here.")] = 1,
    root_threshold: Annotated[int, typer.Option(min=1, max=16, help="Root keys that must sign.")] = 1,
    root_key: Annotated[
        list[Path] | None, typer.Option(help="Public root key that its owner hands over (`keys new`).")
    ] = None,
    targets_keys: Annotated[int, typer.Option(min=0, max=16, help="Targets keys to make here.")] = 1,
    targets_threshold: Annotated[
        int, typer.Option(min=1, max=16, help="Targets keys that must sign a release.")
    ] = 1,
    targets_key: Annotated[
        list[Path] | None, typer.Option(help="Public targets key that its owner hands over.")
    ] = None,
    director_threshold: Annotated[
        int, typer.Option(min=1, max=16, help="Director keys that must sign what a device runs.")
    ] = 1,
    director_key: Annotated[
        list[Path] | None,
        typer.Option(help="Public director key of an operator, beside the controller's own."),
    ] = None,
    passphrase: NewPassphrase = False,
    *,
    output: Printer,
) -> None:
    """Make root, targets, online and director keys and the first root metadata."""
    from edgectl.fleet.keys.ceremony import KeySet, init_keys

    secret = new_passphrase(passphrase)
    root = init_keys(
        out,
        root=KeySet(root_keys, root_threshold, tuple(root_key or ()), secret),
        targets=KeySet(targets_keys, targets_threshold, tuple(targets_key or ()), secret),
        director=KeySet(1, director_threshold, tuple(director_key or ())),
    )
    waiting = sorted(p for p in (out / "pending").glob("*.json"))
    text = (
        f"{out}: root*.pem and targets*.pem stay with you (keep copies offline, apart from each other);\n"
        f"online.pem, director.pem, 1.root.json and targets.json go to the controller if it is another machine"
    )
    if waiting:
        text += (
            "\nnot in force yet, other keys have to sign: "
            + ", ".join(str(p) for p in waiting)
            + "\nnext: edgectl keys sign FILE"
        )
    output.result({"keys": out, "root": root, "pending": waiting}, text)


@app.command("new")
def new(
    path: Annotated[Path, typer.Argument(help="File for the private key, e.g. alice.pem.")],
    passphrase: NewPassphrase = False,
    *,
    output: Printer,
) -> None:
    """Make one key on the machine of its owner, who hands over only its public half (.pub)."""
    from edgectl.fleet.keys.ceremony import new_key

    public = new_key(path, new_passphrase(passphrase))
    output.result({"private": path, "public": public}, f"{path} stays with its owner; hand over {public}")


@app.command("passphrase")
def change_passphrase(
    path: Annotated[
        Path, typer.Argument(help="A private key: a .pem file, or the ca.key of `edgectl broker ca`.")
    ],
    remove: Annotated[bool, typer.Option("--remove", help="Write it without a passphrase.")] = False,
    *,
    output: Printer,
) -> None:
    """Set, change or remove the passphrase of a private key. The key stays the same: nothing has to be
    signed again."""
    from edgectl.cli import _passphrase

    key_ring(None).change_passphrase(path, None if remove else _passphrase.choose)
    output.result(
        {"private": path, "passphrase": not remove}, f"{path} has {'no' if remove else 'a new'} passphrase"
    )


@app.command("rotate")
def rotate(
    role: Annotated[str, typer.Argument(help="root, targets, online (snapshot and timestamp) or director.")],
    revoke: Annotated[
        list[str] | None,
        typer.Option(
            help="Replace only the key with this id (or its beginning). Default: all keys of the role."
        ),
    ] = None,
    *,
    new: KeySetOptions,
    signing: SigningOptions,
    output: Printer,
) -> None:
    """Replace keys of a role, or revoke a stolen one. Makes the next root metadata, signed by the old
    root keys (and the new ones)."""
    from edgectl.fleet.keys.ceremony import rotate as rotate_keys

    if new.count and role not in ("online", "director"):
        _note_open(output, signing.keys, new.passphrase)
    proposal = rotate_keys(signing.keys, role, new.key_set(), revoke=revoke or (), ring=signing.ring())
    _tell(output, [proposal])


@app.command("delegate")
def delegate(
    name: Annotated[str, typer.Argument(help="Name of the delegation, e.g. driving-team.")],
    profile: Annotated[
        list[str] | None, typer.Option(help="Device profile it may sign for; may be repeated.")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take the delegation back.")] = False,
    *,
    new: KeySetOptions,
    signing: SigningOptions,
    output: Printer,
) -> None:
    """Let a team sign releases, only for devices of the profiles given."""
    from edgectl.fleet.keys.ceremony import delegate as delegate_to

    if remove == bool(profile):
        raise UsageError("give at least one --profile, or --remove")
    wanted = new.key_set(0 if new.public and new.count == 1 else new.count)
    _tell(output, delegate_to(signing.keys, name, tuple(profile or ()), wanted, ring=signing.ring()))


@app.command("renew")
def renew(
    role: Annotated[str, typer.Argument(help="root, targets or a delegation.")],
    *,
    signing: SigningOptions,
    output: Printer,
) -> None:
    """Sign the same metadata with a later expiry. The controller renews snapshot and timestamp by itself."""
    from edgectl.fleet.keys.ceremony import renew as renew_role

    _tell(output, [renew_role(signing.keys, role, ring=signing.ring())])


@app.command("sign")
def sign(
    path: Annotated[
        Path, typer.Argument(help="A partly signed file, from the folder `pending` of another host.")
    ],
    *,
    signing: SigningOptions,
    output: Printer,
) -> None:
    """Sign a pending file with the keys on this host. With enough signatures it is in force; else hand
    it to the next signer."""
    from edgectl.fleet.keys.ceremony import sign as sign_file

    _tell(output, [sign_file(path, signing.keys, ring=signing.ring())])


@app.command("status")
def status(keys: Keys = KEYS, *, output: Printer) -> None:
    """Show roles, keys and expiries of a folder. Exit 8 if something has expired."""
    from datetime import datetime, timezone

    from edgectl.fleet.keys.ceremony import status as status_of
    from edgectl.fleet.keys.keyring import KeyRing

    now = datetime.now(timezone.utc)
    found = status_of(keys)
    pending = sorted(p for p in (keys / "pending").glob("*.json"))

    def shown() -> Table:
        from edgectl.cli.views.expiry import left_text

        t = table("role", ">keys", ">here", ">threshold", ">version", "expires in")
        for s in found:
            left = s.left_s(now)
            t.add_row(
                s.role, str(s.keys), str(s.here), str(s.threshold), str(s.version), left_text(s.role, left)
            )
        return t

    rows = [
        {
            "role": s.role,
            "keys": s.keys,
            "here": s.here,
            "threshold": s.threshold,
            "version": s.version,
            "expires_in_s": s.left_s(now),
        }
        for s in found
    ]
    output.result({"roles": rows, "pending": pending}, shown)
    for p in pending:
        output.say(f"waits for signatures: {p}")
    for file in KeyRing().lying_in(keys):
        if file.keyid is None:
            output.say(
                f"{file.path} has a passphrase and no {file.public.name} beside it: whose it is cannot be told"
            )
    expired = [s.role for s in found if (left := s.left_s(now)) is not None and left <= 0]
    if expired:
        raise TrustError(
            f"{clock_says(now.timestamp())}, and by it {', '.join(expired)} expired: devices install nothing",
            hint=f"set the clock if it is wrong; else: edgectl keys renew {expired[0]}, then publish",
        )


@app.command("fetch")
def fetch(
    keys: Keys = KEYS,
    *,
    controller: ControllerOptions,
    output: Printer,
) -> None:
    """Fetch the newest metadata from the controller, before you rotate or delegate on this host."""
    from edgectl.fleet.keys.keyfolder import take_newer

    with controller.client() as fleet:
        files = {name: text.encode() for name, text in fleet.trust()["files"].items()}
    taken = take_newer(keys, files)
    output.result({"taken": taken}, "\n".join(taken) or "this host has the newest")


@app.command("publish")
def publish(
    keys: Keys = KEYS,
    *,
    controller: ControllerOptions,
    output: Printer,
) -> None:
    """Send newer roots, targets and delegations to the controller, which sends them to every device."""
    from edgectl.fleet.keys.keyfolder import public_files

    with controller.client() as fleet:
        told = fleet.accept_trust(public_files(keys))

    def shown() -> Table:
        from edgectl.cli.views.expiry import expiry_table

        return expiry_table(told["roles"])

    output.result({"roles": told["roles"]}, shown)


def _note_open(output: Printer, keys: Path, passphrase: bool) -> None:
    """New keys with less protection than those that they come beside are worth a word."""
    from edgectl.fleet.keys.keyring import KeyRing

    if not passphrase and any(f.locked for f in KeyRing().lying_in(keys)):
        output.say(
            "keys here have passphrases, the new ones have none: `edgectl keys passphrase FILE` gives them one"
        )


def _tell(output: Printer, proposals: list[Proposal]) -> None:
    lines = []
    for p in proposals:
        lines += [
            f"{p.path}: {'in force here' if p.complete else 'needs more signatures'} ({', '.join(p.signatures)})"
        ]
        lines += [f"  {change}" for change in p.changes]
    done = all(p.complete for p in proposals)
    lines.append(
        "next: edgectl keys publish"
        if done
        else "next: hand it over for `edgectl keys sign FILE --keys … --key …`"
    )
    output.result(proposals, "\n".join(lines))
