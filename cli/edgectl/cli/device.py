"""``edgectl device``: devices join the fleet. What is said to one that did: :mod:`edgectl.cli.device_commands`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from edgectl.cli import _controller
from edgectl.cli._output import Json, Output, table
from edgectl.core.errors import TrustError, UsageError
from edgectl.core.files import atomic_write
from edgectl.core.uri import redact_text

app = typer.Typer(name="device", help="Devices join the fleet, and are spoken to.", no_args_is_help=True)

Csr = Annotated[
    Path | None, typer.Option(help="device.csr that `edgectl device request` made: the certificate is for the key on the device.")
]


@app.command("request")
def request(
    name: Annotated[str, typer.Argument(help="Name of the device: a-z, 0-9, '.', '_' and '-'.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the device's files; default: NAME.")] = None,
    json: Json = False,
) -> None:
    """On the device: make its key, which stays there, and ask for a certificate. A key that is there already is kept."""
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
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the device's files; default: NAME.")] = None,
    stream: Annotated[
        list[str] | None,
        typer.Option(
            help="A stream to run: KIND=SOURCE, e.g. surveillance=rtsp://cam7/sub. Its slot is named after the release you roll out."
        ),
    ] = None,
    slot: Annotated[
        list[str] | None,
        typer.Option(help="Slot of each --stream's engine, in order: ROLE=SLOT; default detector=STREAM-detector."),
    ] = None,
    profile: Annotated[str, typer.Option(help="Device profile; auto: the probe of the device decides.")] = "auto",
    label: Annotated[list[str] | None, typer.Option(help="KEY=VALUE, for selecting devices in a rollout.")] = None,
    ca: Annotated[Path | None, typer.Option(help="Folder that `edgectl broker ca` made: gives the device a certificate.")] = None,
    csr: Csr = None,
    days: Annotated[int, typer.Option(min=1, help="Lifetime of the certificate.")] = 730,
    url: _controller.Url = _controller.URL,
    token_file: _controller.TokenFile = _controller.TOKEN_FILE,
    json: Json = False,
) -> None:
    """Make a device known to the controller and write the files that it needs."""
    output = Output(json)
    from edgectl.cli._passphrase import ask
    from edgectl.fleet.ca import FleetCa
    from edgectl.fleet.enroll import write_enrolment

    if csr is not None and ca is None:
        raise UsageError("--csr needs the CA that is asked", hint="give its folder with --ca")
    folder = out or Path(name)
    authority = FleetCa(ca, ask) if ca is not None else None
    if (folder / "agent.toml").exists():
        raise UsageError(
            f"{folder / 'agent.toml'} is there already",
            hint=f"`edgectl device renew {name}` makes a new certificate; to enroll it anew, give another --out",
        )
    asked = _read_request(csr, folder, name)
    if authority is not None:
        authority.check_client(name, asked)
    with _controller.client(url, token_file) as fleet:
        granted = fleet.enroll(name)
    if granted["broker"].get("tls") and authority is None:
        output.say("the controller's broker speaks TLS: give --ca for a certificate, or ca, cert and key in agent.toml")
    config = write_enrolment(
        folder,
        name,
        root=granted["root"].encode(),
        fleet=granted["fleet"],
        broker=granted["broker"],
        pipelines=_pipelines(stream or [], slot or []),
        profile=profile,
        labels=dict(_pair(item, "--label") for item in label or []),
        certificate=authority.issue_client(name, days=days, request=asked) if authority is not None else None,
    )
    output.result(
        {"device": name, "config": config},
        f"{config}\nnext: {'' if stream else f'name its cameras in {config} ([pipelines.NAME], docs/configuration.md), '}"
        f"copy {config.parent} to the device{', beside device.key' if asked else ''}, and there: "
        f"edgectl agent run --config {config.name}",
    )


@app.command("renew")
def renew(
    name: Annotated[str, typer.Argument(help="Name of the device.")],
    ca: Annotated[Path, typer.Option(help="Folder that `edgectl broker ca` made.")] = Path("ca"),
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the device's files; default: NAME.")] = None,
    csr: Csr = None,
    days: Annotated[int, typer.Option(min=1, help="Lifetime of the certificate.")] = 730,
    json: Json = False,
) -> None:
    """Give a device a new certificate, and a new key unless it has its own. The old one stays valid until it ends or is revoked."""
    output = Output(json)
    from edgectl.cli._passphrase import ask
    from edgectl.fleet.ca import FleetCa

    authority = FleetCa(ca, ask)
    if name not in authority.clients():
        raise UsageError(f"{name} has no valid certificate of this CA", hint=f"edgectl device enroll {name} --ca {ca}")
    folder = out or Path(name)
    asked = _read_request(csr, folder, name)
    if asked is None and authority.makes_own_key(name):
        raise UsageError(
            f"{name} made its own key: give the request for its certificate",
            hint=f"`edgectl device request {name}` on the device, then renew with --csr device.csr",
        )
    paths = authority.issue_client(name, days=days, request=asked).write(folder, "device")
    output.result(
        {"device": name, "files": paths}, f"copy {', '.join(str(p) for p in paths)} to the device and restart its agent"
    )


@app.command("revoke")
def revoke(
    name: Annotated[str, typer.Argument(help="Name of the device.")],
    ca: Annotated[Path, typer.Option(help="Folder that `edgectl broker ca` made.")] = Path("ca"),
    broker: Annotated[Path | None, typer.Option(help="Folder of `edgectl broker config`: its crl.pem is replaced, too.")] = None,
    json: Json = False,
) -> None:
    """Take a device's access to the broker away, e.g. because it was stolen."""
    output = Output(json)
    from edgectl.cli._passphrase import ask
    from edgectl.fleet.ca import FleetCa

    authority = FleetCa(ca, ask)
    count = authority.revoke(name)
    if broker is not None:
        atomic_write(broker / "crl.pem", authority.crl)
    crl = (broker or ca) / "crl.pem"
    output.result(
        {"device": name, "revoked": count, "crl": crl},
        f"certificates of {name} that are revoked now: {count}, in {crl}\n"
        "next: copy it to the broker if it runs elsewhere; Mosquitto: reload keeps the device out, restart throws it out where it is connected\n"
        f"(RabbitMQ: rabbitmqctl delete_user {name}; EMQX: ban the user name)",
    )


@app.command("certificates")
def certificates(
    ca: Annotated[Path, typer.Option(help="Folder that `edgectl broker ca` made.")] = Path("ca"), json: Json = False
) -> None:
    """List the certificates that were given out. Exit 8 if one that is in use has expired."""
    output = Output(json)
    from edgectl.fleet.ca import FleetCa

    issued = FleetCa(ca).issued()
    now = time.time()

    def shown() -> Table:
        t = table("name", "for", "key", "expires", "state")
        for i in issued:
            left = i.expires_s - now
            state = "revoked" if i.revoked_s else "expired" if left <= 0 else "renew it" if left < 60 * 86400 else "valid"
            end = time.strftime("%Y-%m-%d", time.gmtime(i.expires_s))
            t.add_row(i.name, "client" if i.client else "broker", "its own" if i.own_key else "made here", end, state)
        return t

    output.result(issued, shown)
    newest = {(i.name, i.client): i for i in issued if i.revoked_s is None}
    if over := [i.name for i in newest.values() if i.expires_s <= now]:
        raise TrustError(f"the certificate of {over[0]} has expired", hint=f"edgectl device renew {over[0]}")


def _read_request(csr: Path | None, folder: Path, name: str) -> bytes | None:
    """Looked at before anything is asked of the controller or written into the CA's book."""
    from edgectl.fleet.csr import read_request
    from edgectl.fleet.enroll import check_folder

    if csr is None:
        return None
    data = read_request(csr)
    check_folder(folder, data, name)
    return data


def _pipelines(streams: list[str], slots: list[str]) -> dict[str, dict[str, Any]]:
    """``KIND=SOURCE`` → a pipeline named after its kind (``surveillance``, ``surveillance-2`` …)."""
    if len(slots) > len(streams):
        raise UsageError("there are more --slot than --stream")
    found: dict[str, dict[str, Any]] = {}
    for i, text in enumerate(streams):
        kind, source = _pair(text, "--stream")
        if kind not in ("surveillance", "driving", "speech"):
            raise UsageError(f"--stream {redact_text(text)!r}: the kind is surveillance, driving or speech")
        name = kind if kind not in found else f"{kind}-{i + 1}"
        role = "keyword" if kind == "speech" else "detector"
        role, slot = _pair(slots[i], "--slot") if i < len(slots) else (role, f"{name}-{role}")
        found[name] = {"kind": kind, "source": source, "slots": {role: slot}}
    return found


def _pair(text: str, option: str) -> tuple[str, str]:
    key, sep, value = text.partition("=")
    if not (sep and key and value):
        raise UsageError(f"{option} {redact_text(text)!r} is not KEY=VALUE")
    return key, value
