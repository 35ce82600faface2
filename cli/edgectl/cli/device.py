"""``edgectl device``: devices join the fleet. What is said to one that did:
:mod:`edgectl.cli.device_commands`."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from rich.table import Table

from edgectl.cli import _controller
from edgectl.cli._output import Json, Output, table
from edgectl.core.clock import clock_says
from edgectl.core.errors import EdgectlError, TrustError, UsageError
from edgectl.core.files import atomic_write, storage
from edgectl.core.schema import first_problem
from edgectl.core.uri import redact_text

if TYPE_CHECKING:
    from edgectl.fleet.keys.ca import FleetCa

app = typer.Typer(name="device", help="Devices join the fleet, and are spoken to.", no_args_is_help=True)

Csr = Annotated[
    Path | None,
    typer.Option(
        help="device.csr that `edgectl device request` made: the certificate is for the key on the device."
    ),
]


@app.command("request")
def request(
    name: Annotated[str, typer.Argument(help="Name of the device: a-z, 0-9, '.', '_' and '-'.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the device's files; default: NAME.")
    ] = None,
    json: Json = False,
) -> None:
    """On the device: make its key, which stays there, and ask for a certificate. A key that is there
    already is kept."""
    output = Output(json)
    from edgectl.agent.identity import make_request

    key, csr, new = make_request(out or Path(name), name)
    output.result(
        {"device": name, "key": key, "request": csr, "new": new},
        f"{key} {'stays here' if new else 'was there and stays'}\nnext: copy {csr} to the operator, and there: "
        f"edgectl device {'enroll' if new else 'renew'} {name} --ca ca --csr {csr.name}",
    )


@app.command("enroll")
def enroll(
    name: Annotated[str, typer.Argument(help="Name of the device: a-z, 0-9, '.', '_' and '-'.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the device's files; default: NAME.")
    ] = None,
    stream: Annotated[
        list[str] | None,
        typer.Option(
            help="A stream to run: KIND=SOURCE, e.g. surveillance=rtsp://cam7/sub. Its slot is named after the release you roll out."
        ),
    ] = None,
    slot: Annotated[
        list[str] | None,
        typer.Option(
            help="Slot of each --stream's engine, in order: PART=SLOT; default detector=STREAM-detector."
        ),
    ] = None,
    profile: Annotated[
        str, typer.Option(help="Device profile; auto: the probe of the device decides.")
    ] = "auto",
    label: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE, for selecting devices in a rollout.")
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option(help="Folder that `edgectl broker ca` made: gives the device a certificate."),
    ] = None,
    csr: Csr = None,
    days: Annotated[int, typer.Option(min=1, help="Lifetime of the certificate.")] = 730,
    again: Annotated[
        bool,
        typer.Option(
            "--again",
            help="The device is in the fleet already: its files are lost, or it gets another machine.",
        ),
    ] = False,
    url: _controller.Url = _controller.URL,
    token_file: _controller.TokenFile = _controller.TOKEN_FILE,
    json: Json = False,
) -> None:
    """Make a device known to the controller and write the files that it needs. What is refused leaves
    nothing behind."""
    output = Output(json)
    from edgectl.cli._passphrase import ask
    from edgectl.fleet.keys.ca import FleetCa
    from edgectl.fleet.keys.enroll import write_enrolment

    if csr is not None and ca is None:
        raise UsageError("--csr needs the CA that is asked", hint="give its folder with --ca")
    folder = out or Path(name)
    authority = FleetCa(ca, ask) if ca is not None else None
    if (folder / "agent.toml").exists():
        raise UsageError(
            f"{folder / 'agent.toml'} is there already",
            hint=f"`edgectl device renew {name}` makes a new certificate; to enroll it anew, give another --out and --again",
        )
    pipelines = _pipelines(stream or [], slot or [])
    labels = dict(_pair(item, "--label") for item in label or [])
    _check_agent(name, pipelines, profile, labels)
    asked = _read_request(csr, folder, name)
    if authority is not None:
        authority.check_client(name, asked)
    with _controller.client(url, token_file) as fleet, _made(folder):
        granted = fleet.enroll(name, again=again)
        try:
            config = write_enrolment(
                folder,
                name,
                root=granted["root"].encode(),
                fleet=granted["fleet"],
                broker=granted["broker"],
                pipelines=pipelines,
                profile=profile,
                labels=labels,
                certificate=authority.issue_client(name, days=days, request=asked)
                if authority is not None
                else None,
            )
        except BaseException:
            # what is archived of one of that name that was removed before stays
            if granted.get("new"):
                fleet.remove(name, purge=all(d["name"] != name for d in fleet.archive()))
            raise
    if granted["broker"].get("tls") and authority is None:
        output.say(
            "the controller's broker speaks TLS: give --ca for a certificate, or ca, cert and key in agent.toml"
        )
    output.result(
        {"device": name, "config": config},
        f"{config}\nnext: {'' if stream else f'name its cameras in {config} ([pipelines.NAME], docs/configuration.md), '}"
        f"copy {config.parent} to the device{', beside device.key' if asked else ''}, and there: "
        f"edgectl agent run --config {config.name}",
    )


@app.command("remove")
def remove(
    name: Annotated[str, typer.Argument(help="Name of the device.")],
    purge: Annotated[
        bool,
        typer.Option(
            "--purge",
            help="Keep nothing of it but its name, and what operators did; default: it is archived.",
        ),
    ] = False,
    ca: Annotated[
        Path | None,
        typer.Option(help="Folder that `edgectl broker ca` made: its certificates are revoked, too."),
    ] = None,
    broker: Annotated[
        Path | None, typer.Option(help="Folder of `edgectl broker config`: its crl.pem is replaced, too.")
    ] = None,
    url: _controller.Url = _controller.URL,
    token_file: _controller.TokenFile = _controller.TOKEN_FILE,
    json: Json = False,
) -> None:
    """Take a device out of the fleet: nobody listens to it any more, the broker keeps nothing of it, no
    rollout counts it."""
    output = Output(json)
    from edgectl.cli._passphrase import ask
    from edgectl.fleet.keys.ca import FleetCa

    authority = FleetCa(ca, ask) if ca is not None else None
    with _controller.client(url, token_file) as fleet:
        rollouts = fleet.remove(name, purge=purge)
    lines = [
        f"{name} has left the fleet; {'only its name is kept' if purge else 'what is known of it is archived'}"
    ]
    lines += [f"no longer counted by {', '.join(rollouts)}"] if rollouts else []
    revoked, crl = None, None
    if authority is None:
        lines.append(f"next: stop its agent; if it has a certificate: edgectl device revoke {name} --ca ca")
    elif name in authority.clients():
        revoked, crl = authority.revoke(name), _replace_crl(authority, broker)
        lines += [
            f"certificates of {name} that are revoked now: {revoked}, in {crl}",
            _NEXT_CRL.format(name=name),
        ]
    else:
        lines.append(f"{name} has no valid certificate of this CA: nothing to revoke")
    lines.append(f"to take it back: edgectl device enroll {name} --out ANOTHER")
    output.result(
        {"device": name, "purged": purge, "rollouts": rollouts, "revoked": revoked, "crl": crl},
        "\n".join(lines),
    )


@app.command("renew")
def renew(
    name: Annotated[str, typer.Argument(help="Name of the device.")],
    ca: Annotated[Path, typer.Option(help="Folder that `edgectl broker ca` made.")] = Path("ca"),
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the device's files; default: NAME.")
    ] = None,
    csr: Csr = None,
    days: Annotated[int, typer.Option(min=1, help="Lifetime of the certificate.")] = 730,
    json: Json = False,
) -> None:
    """Give a device a new certificate, and a new key unless it has its own. The old one stays valid until
    it ends or is revoked."""
    output = Output(json)
    from edgectl.cli._passphrase import ask
    from edgectl.fleet.keys.ca import FleetCa

    authority = FleetCa(ca, ask)
    if name not in authority.clients():
        raise UsageError(
            f"{name} has no valid certificate of this CA", hint=f"edgectl device enroll {name} --ca {ca}"
        )
    folder = out or Path(name)
    asked = _read_request(csr, folder, name)
    if asked is None and authority.makes_own_key(name):
        raise UsageError(
            f"{name} made its own key: give the request for its certificate",
            hint=f"`edgectl device request {name}` on the device, then renew with --csr device.csr",
        )
    paths = authority.issue_client(name, days=days, request=asked).write(folder, "device")
    output.result(
        {"device": name, "files": paths},
        f"copy {', '.join(str(p) for p in paths)} to the device and restart its agent",
    )


@app.command("revoke")
def revoke(
    name: Annotated[str, typer.Argument(help="Name of the device.")],
    ca: Annotated[Path, typer.Option(help="Folder that `edgectl broker ca` made.")] = Path("ca"),
    broker: Annotated[
        Path | None, typer.Option(help="Folder of `edgectl broker config`: its crl.pem is replaced, too.")
    ] = None,
    url: _controller.Url = _controller.URL,
    token_file: _controller.TokenFile = _controller.TOKEN_FILE,
    json: Json = False,
) -> None:
    """Take a device's access to the broker away, e.g. because it was stolen. A controller that can be
    asked counts it in no rollout any more."""
    output = Output(json)
    from edgectl.cli._passphrase import ask
    from edgectl.fleet.keys.ca import FleetCa

    authority = FleetCa(ca, ask)
    count = authority.revoke(name)
    crl = _replace_crl(authority, broker)
    try:
        with _controller.client(url, token_file) as fleet:
            rollouts: list[str] | None = fleet.revoked(name)
    except EdgectlError as e:
        rollouts = None
        told = f"the controller was not told ({e.message}): until `edgectl device remove {name}` there, rollouts count on it"
    else:
        told = f"no longer counted by {', '.join(rollouts or ['any rollout'])}; to take it out of the fleet: edgectl device remove {name}"
    output.result(
        {
            "device": name,
            "revoked": count,
            "crl": crl,
            "told": rollouts is not None,
            "rollouts": rollouts or [],
        },
        f"certificates of {name} that are revoked now: {count}, in {crl}\n{told}\n{_NEXT_CRL.format(name=name)}",
    )


@app.command("certificates")
def certificates(
    ca: Annotated[Path, typer.Option(help="Folder that `edgectl broker ca` made.")] = Path("ca"),
    json: Json = False,
) -> None:
    """List the certificates that were given out. Exit 8 if one that is in use has expired."""
    output = Output(json)
    from edgectl.fleet.keys.ca import FleetCa

    issued = FleetCa(ca).issued()
    now = time.time()

    def shown() -> Table:
        t = table("name", "for", "key", "expires", "state")
        for i in issued:
            left = i.expires_s - now
            state = (
                "revoked"
                if i.revoked_s
                else "expired"
                if left <= 0
                else "renew it"
                if left < 60 * 86400
                else "valid"
            )
            end = time.strftime("%Y-%m-%d", time.gmtime(i.expires_s))
            t.add_row(
                i.name,
                "client" if i.client else "broker",
                "its own" if i.own_key else "made here",
                end,
                state,
            )
        return t

    output.result(issued, shown)
    newest = {(i.name, i.client): i for i in issued if i.revoked_s is None}
    if over := [i.name for i in newest.values() if i.expires_s <= now]:
        raise TrustError(
            f"{clock_says(now)}, and by it the certificate of {over[0]} has expired",
            hint=f"set the clock if it is wrong; else: edgectl device renew {over[0]}",
        )


_NEXT_CRL = (
    "next: copy it to the broker if it runs elsewhere; Mosquitto: reload keeps the device out, restart throws it out where it is connected\n"
    "(RabbitMQ: rabbitmqctl delete_user {name}; EMQX: ban the user name)"
)


def _replace_crl(authority: FleetCa, broker: Path | None) -> Path:
    """Where the list of revoked certificates lies now, beside the CA or in the broker's folder."""
    if broker is not None:
        atomic_write(broker / "crl.pem", authority.crl)
    return (broker or authority.folder) / "crl.pem"


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[None]:
    """``folder``, before anybody is told that there will be something in it; on an error nothing is there
    that was not before."""
    missing = next((p for p in reversed((folder, *folder.parents)) if not p.exists()), None)
    before = set(folder.iterdir()) if folder.is_dir() else set()
    with storage(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    try:
        yield
    except BaseException:
        if missing is not None:
            shutil.rmtree(missing, ignore_errors=True)
        else:
            for path in set(folder.iterdir()) - before:
                path.unlink(missing_ok=True)
        raise


def _check_agent(
    name: str, pipelines: dict[str, dict[str, Any]], profile: str, labels: dict[str, str]
) -> None:
    """Whether an agent would take such a file, before anybody is asked. Raises :class:`UsageError`."""
    from edgectl.agent.config import AgentConfig

    asked = {
        "name": name,
        "broker": {"host": "-"},
        "state_dir": "state",
        "profile": profile,
        "labels": labels,
        "pipelines": pipelines,
    }
    try:
        AgentConfig.model_validate(asked)
    except ValidationError as e:
        raise UsageError(f"such a device cannot be: {first_problem(e)}") from e


def _read_request(csr: Path | None, folder: Path, name: str) -> bytes | None:
    """Looked at before anything is asked of the controller or written into the CA's book."""
    from edgectl.fleet.keys.csr import read_request
    from edgectl.fleet.keys.enroll import check_folder

    if csr is None:
        return None
    data = read_request(csr)
    check_folder(folder, data, name)
    return data


def _pipelines(streams: list[str], slots: list[str]) -> dict[str, dict[str, Any]]:
    """``KIND=SOURCE`` → a pipeline named after its kind (``surveillance``, ``surveillance-2`` …)."""
    if len(slots) > len(streams):
        raise UsageError("there are more --slot than --stream")
    from edgectl.pipelines.kinds import KINDS

    found: dict[str, dict[str, Any]] = {}
    for i, text in enumerate(streams):
        kind, source = _pair(text, "--stream")
        if kind not in KINDS:
            raise UsageError(f"--stream {redact_text(text)!r}: the kind is one of {', '.join(KINDS.names())}")
        name = kind if kind not in found else f"{kind}-{i + 1}"
        part = KINDS.get(kind).parts[0]
        part, slot = _pair(slots[i], "--slot") if i < len(slots) else (part, f"{name}-{part}")
        found[name] = {"kind": kind, "source": source, "slots": {part: slot}}
    return found


def _pair(text: str, option: str) -> tuple[str, str]:
    key, sep, value = text.partition("=")
    if not (sep and key and value):
        raise UsageError(f"{option} {redact_text(text)!r} is not KEY=VALUE")
    return key, value
