"""``edgectl keys``: the keys that sign releases, and the ceremony around them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from edgectl.cli import _controller
from edgectl.cli._keys import KEYS, Keys, More, NewPassphrase, key_ring
from edgectl.cli._output import Json, Output, table
from edgectl.core.clock import clock_says
from edgectl.core.errors import TrustError, UsageError

if TYPE_CHECKING:
    from edgectl.fleet.keys.keyfolder import Proposal

app = typer.Typer(name="keys", help="The keys that sign releases.", no_args_is_help=True)

_SOON_S = {"root": 60 * 86400.0}
_SOON_DEFAULT_S = 21 * 86400.0


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
    json: Json = False,
) -> None:
    """Make root, targets, online and director keys and the first root metadata."""
    output = Output(json)
    from edgectl.fleet.keys.ceremony import KeySet, init_keys

    secret = _choose(passphrase)
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
    json: Json = False,
) -> None:
    """Make one key, on the machine of its owner; its public half (.pub) is what is handed over."""
    output = Output(json)
    from edgectl.fleet.keys.ceremony import new_key

    public = new_key(path, _choose(passphrase))
    output.result({"private": path, "public": public}, f"{path} stays with its owner; hand over {public}")


@app.command("passphrase")
def change_passphrase(
    path: Annotated[
        Path, typer.Argument(help="A private key: a .pem file, or the ca.key of `edgectl broker ca`.")
    ],
    remove: Annotated[bool, typer.Option("--remove", help="Write it without a passphrase.")] = False,
    json: Json = False,
) -> None:
    """Give a private key a passphrase, another one, or none. The key stays the same: nothing has to be
    signed anew."""
    output = Output(json)
    from edgectl.cli import _passphrase

    key_ring(None).change_passphrase(path, None if remove else _passphrase.choose)
    output.result(
        {"private": path, "passphrase": not remove}, f"{path} has {'no' if remove else 'a new'} passphrase"
    )


@app.command("rotate")
def rotate(
    role: Annotated[str, typer.Argument(help="root, targets, online (snapshot and timestamp) or director.")],
    keys: Keys = KEYS,
    count: Annotated[int, typer.Option("--new", min=0, max=16, help="Keys to make here.")] = 1,
    threshold: Annotated[int, typer.Option(min=1, max=16, help="Keys of the role that must sign.")] = 1,
    public: Annotated[
        list[Path] | None, typer.Option(help="Public key that its owner hands over; may be repeated.")
    ] = None,
    revoke: Annotated[
        list[str] | None,
        typer.Option(help="Id (or its beginning) of a key that goes; without it, all of the role go."),
    ] = None,
    key: More = None,
    passphrase: NewPassphrase = False,
    json: Json = False,
) -> None:
    """Replace the keys of a role: root N+1, signed by the old root keys (and the new ones). Also how a
    stolen key is revoked."""
    output = Output(json)
    from edgectl.fleet.keys.ceremony import KeySet
    from edgectl.fleet.keys.ceremony import rotate as rotate_keys

    if count and role not in ("online", "director"):
        _note_open(output, keys, passphrase)
    wanted = KeySet(count, threshold, tuple(public or ()), _choose(passphrase))
    proposal = rotate_keys(keys, role, wanted, revoke=revoke or (), ring=key_ring(key))
    _tell(output, [proposal], keys)


@app.command("delegate")
def delegate(
    name: Annotated[str, typer.Argument(help="Name of the delegation, e.g. driving-team.")],
    profile: Annotated[
        list[str] | None, typer.Option(help="Device profile it may sign for; may be repeated.")
    ] = None,
    keys: Keys = KEYS,
    count: Annotated[int, typer.Option("--new", min=0, max=16, help="Keys to make here.")] = 1,
    threshold: Annotated[int, typer.Option(min=1, max=16, help="Keys that must sign.")] = 1,
    public: Annotated[
        list[Path] | None, typer.Option(help="Public key that its owner hands over; may be repeated.")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take the delegation back.")] = False,
    key: More = None,
    passphrase: NewPassphrase = False,
    json: Json = False,
) -> None:
    """Let a team sign releases for the devices of some profiles, and for no others."""
    output = Output(json)
    from edgectl.fleet.keys.ceremony import KeySet
    from edgectl.fleet.keys.ceremony import delegate as delegate_to

    if remove == bool(profile):
        raise UsageError("give at least one --profile, or --remove")
    wanted = KeySet(
        0 if public and count == 1 else count, threshold, tuple(public or ()), _choose(passphrase)
    )
    _tell(output, delegate_to(keys, name, tuple(profile or ()), wanted, ring=key_ring(key)), keys)


@app.command("renew")
def renew(
    role: Annotated[str, typer.Argument(help="root, targets or a delegation.")],
    keys: Keys = KEYS,
    key: More = None,
    json: Json = False,
) -> None:
    """Sign the same metadata with a later expiry. The controller renews snapshot and timestamp by itself."""
    output = Output(json)
    from edgectl.fleet.keys.ceremony import renew as renew_role

    _tell(output, [renew_role(keys, role, ring=key_ring(key))], keys)


@app.command("sign")
def sign(
    path: Annotated[
        Path, typer.Argument(help="A partly signed file, from the folder `pending` of another host.")
    ],
    keys: Keys = KEYS,
    key: More = None,
    json: Json = False,
) -> None:
    """Add the signatures that the keys here can give; in force here once there are enough, else hand the
    file on."""
    output = Output(json)
    from edgectl.fleet.keys.ceremony import sign as sign_file

    _tell(output, [sign_file(path, keys, ring=key_ring(key))], keys)


@app.command("status")
def status(keys: Keys = KEYS, json: Json = False) -> None:
    """Show roles, keys and expiries of a folder. Exit 8 if something has expired."""
    output = Output(json)
    from edgectl.fleet.keys.ceremony import status as status_of
    from edgectl.fleet.keys.keyring import KeyRing

    now = datetime.now(timezone.utc)
    found = status_of(keys)
    pending = sorted(p for p in (keys / "pending").glob("*.json"))

    def shown() -> Table:
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
    url: _controller.Url = _controller.URL,
    token_file: _controller.TokenFile = _controller.TOKEN_FILE,
    json: Json = False,
) -> None:
    """Take what others have signed and published since, before keys are rotated or delegated on this host."""
    output = Output(json)
    from edgectl.fleet.keys.keyfolder import take_newer

    with _controller.client(url, token_file) as fleet:
        files = {name: text.encode() for name, text in fleet.trust()["files"].items()}
    taken = take_newer(keys, files)
    output.result({"taken": taken}, "\n".join(taken) or "this host has the newest")


@app.command("publish")
def publish(
    keys: Keys = KEYS,
    url: _controller.Url = _controller.URL,
    token_file: _controller.TokenFile = _controller.TOKEN_FILE,
    json: Json = False,
) -> None:
    """Hand newer roots, targets and delegations to the controller, which tells every device."""
    output = Output(json)
    with _controller.client(url, token_file) as fleet:
        files = signed_files(keys)
        told = fleet.accept_trust(files)
    output.result({"roles": told["roles"]}, lambda: expiry_table(told["roles"]))


def signed_files(keys: Path) -> Mapping[str, bytes]:
    """What of a folder of keys is public and in force."""
    from edgectl.fleet.keys.keyfolder import public_files

    return public_files(keys)


def expiry_table(roles: list[dict[str, Any]]) -> Table:
    """Rows of :class:`edgectl.fleet.keys.trust.Expiry` as dictionaries."""
    now = datetime.now(timezone.utc).timestamp()
    t = table("metadata", ">version", "expires in")
    for r in roles:
        t.add_row(r["role"], str(r["version"]), left_text(r["role"], r["expires_s"] - now))
    return t


def expired_text(roles: list[dict[str, Any]]) -> str | None:
    """What of the controller's metadata is over, the clock first: it may be what is wrong. None: nothing
    is."""
    now = datetime.now(timezone.utc).timestamp()
    over = [
        f"{r['role']} ended {datetime.fromtimestamp(r['expires_s'], timezone.utc):%Y-%m-%d}"
        for r in roles
        if r["expires_s"] <= now
    ]
    return f"{clock_says(now)}, and by it signed metadata is expired: {', '.join(over)}" if over else None


def left_text(role: str, left_s: float | None) -> Text:
    """``83 days``, yellow when it is time to renew, red when it is over."""
    if left_s is None:
        return Text("-")
    if left_s <= 0:
        return Text("expired", "red")
    soon = role not in ("snapshot", "timestamp") and left_s < _SOON_S.get(role, _SOON_DEFAULT_S)
    days = f"{left_s / 86400:.0f} days" if left_s >= 2 * 86400 else f"{left_s / 3600:.0f} hours"
    return Text(f"{days}, renew it" if soon else days, "yellow" if soon else "")


def _note_open(output: Output, keys: Path, passphrase: bool) -> None:
    """New keys with less protection than those that they come beside are worth a word."""
    from edgectl.fleet.keys.keyring import KeyRing

    if not passphrase and any(f.locked for f in KeyRing().lying_in(keys)):
        output.say(
            "keys here have passphrases, the new ones have none: `edgectl keys passphrase FILE` gives them one"
        )


def _choose(passphrase: bool) -> bytes | None:
    from edgectl.cli import _passphrase

    return _passphrase.choose() if passphrase else None


def _tell(output: Output, proposals: list[Proposal], keys: Path) -> None:
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
