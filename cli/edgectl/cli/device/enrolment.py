"""A device joins the fleet, and leaves it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from edgectl.cli._controller import ControllerOptions
from edgectl.cli._options import key_value
from edgectl.cli._printer import Printer
from edgectl.cli.device.asking import Name
from edgectl.cli.device.certificates import (
    NEXT_CRL,
    BrokerFolder,
    CertificateOptions,
    DeviceFolder,
    replace_crl,
)
from edgectl.core.errors import UsageError
from edgectl.core.uri import redact_text

__all__ = ["enroll", "remove", "request"]

NewName = Annotated[str, typer.Argument(help="Name of the device: a-z, 0-9, '.', '_' and '-'.")]


def request(name: NewName, out: DeviceFolder = None, *, output: Printer) -> None:
    """On the device: make its key and a certificate request (device.csr). The key never leaves the
    device; one that exists is kept."""
    from edgectl.agent.identity import make_request

    key, csr, new = make_request(out or Path(name), name)
    output.result(
        {"device": name, "key": key, "request": csr, "new": new},
        f"{key} {'stays here' if new else 'was there and stays'}\nnext: copy {csr} to the operator, and there: "
        f"edgectl device {'enroll' if new else 'renew'} {name} --ca ca --csr {csr.name}",
    )


def enroll(
    name: NewName,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the device's files; default: NAME.")
    ] = None,
    stream: Annotated[
        list[str] | None,
        typer.Option(
            help="A stream to run: KIND=SOURCE, e.g. surveillance=rtsp://cam7/sub; may be repeated."
        ),
    ] = None,
    slot: Annotated[
        list[str] | None,
        typer.Option(
            help="PART=SLOT for each --stream, in order: the slot that the part takes its engine from. Default: detector=STREAM-detector."
        ),
    ] = None,
    config_slot: Annotated[
        list[str] | None,
        typer.Option(
            help="Slot for each --stream, in order, that its configuration comes from (`edgectl config publish`)."
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
    again: Annotated[
        bool,
        typer.Option(
            "--again",
            help="Enroll a device again that is in the fleet: its files are lost, or it moves to another machine.",
        ),
    ] = False,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure", help="Let builds measure candidates on it while it is idle (edgectl build --on)."
        ),
    ] = False,
    *,
    certificate: CertificateOptions,
    controller: ControllerOptions,
    output: Printer,
) -> None:
    """Add a device to the fleet and write the files that it needs. If this is refused, nothing is
    written."""
    from edgectl.cli._passphrase import ask
    from edgectl.fleet.keys.ca import FleetCa
    from edgectl.fleet.keys.enroll import write_enrolment

    if certificate.csr is not None and ca is None:
        raise UsageError("--csr needs the CA that is asked", hint="give its folder with --ca")
    folder = out or Path(name)
    authority = FleetCa(ca, ask) if ca is not None else None
    if (folder / "agent.toml").exists():
        raise UsageError(
            f"{folder / 'agent.toml'} is there already",
            hint=f"`edgectl device renew {name}` makes a new certificate; to enroll it anew, give another --out and --again",
        )
    pipelines = _pipelines(stream or [], slot or [], config_slot or [])
    labels = dict(key_value(item, "--label") for item in label or [])
    _check_agent(name, pipelines, profile, labels)
    asked = certificate.request(folder, name)
    if authority is not None:
        authority.check_client(name, asked)
    with controller.client() as fleet, _made(folder):
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
                **({"measure": {}} if measure else {}),
                certificate=authority.issue_client(name, days=certificate.days, request=asked)
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


def remove(
    name: Name,
    purge: Annotated[
        bool,
        typer.Option(
            "--purge",
            help="Delete what is known of it, except its name and what operators did. Default: keep it as an archive.",
        ),
    ] = False,
    ca: Annotated[
        Path | None,
        typer.Option(help="Folder that `edgectl broker ca` made: its certificates are revoked, too."),
    ] = None,
    broker: BrokerFolder = None,
    *,
    controller: ControllerOptions,
    output: Printer,
) -> None:
    """Take a device out of the fleet: the controller ignores it, the broker retains nothing of it, and
    rollouts leave it out."""
    from edgectl.cli._passphrase import ask
    from edgectl.fleet.keys.ca import FleetCa

    authority = FleetCa(ca, ask) if ca is not None else None
    with controller.client() as fleet:
        rollouts = fleet.remove(name, purge=purge)
    lines = [
        f"{name} has left the fleet; {'only its name is kept' if purge else 'what is known of it is archived'}"
    ]
    lines += [f"no longer counted by {', '.join(rollouts)}"] if rollouts else []
    revoked, crl = None, None
    if authority is None:
        lines.append(f"next: stop its agent; if it has a certificate: edgectl device revoke {name} --ca ca")
    elif name in authority.clients():
        revoked, crl = authority.revoke(name), replace_crl(authority, broker)
        lines += [
            f"certificates of {name} that are revoked now: {revoked}, in {crl}",
            NEXT_CRL.format(name=name),
        ]
    else:
        lines.append(f"{name} has no valid certificate of this CA: nothing to revoke")
    lines.append(f"to take it back: edgectl device enroll {name} --out ANOTHER")
    output.result(
        {"device": name, "purged": purge, "rollouts": rollouts, "revoked": revoked, "crl": crl},
        "\n".join(lines),
    )


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[None]:
    """``folder``, before anybody is told that there will be something in it; on an error nothing is there
    that was not before."""
    import tempfile

    from edgectl.core.files import storage

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
    from pydantic import ValidationError

    from edgectl.agent.config import AgentConfig
    from edgectl.core.schema import first_problem

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


def _pipelines(streams: list[str], slots: list[str], config_slots: list[str]) -> dict[str, dict[str, Any]]:
    """``KIND=SOURCE`` → a pipeline named after its kind (``surveillance``, ``surveillance-2`` …)."""
    if len(slots) > len(streams):
        raise UsageError("there are more --slot than --stream")
    if len(config_slots) > len(streams):
        raise UsageError("there are more --config-slot than --stream")
    from edgectl.pipelines.kinds import KINDS

    found: dict[str, dict[str, Any]] = {}
    for i, text in enumerate(streams):
        kind, source = key_value(text, "--stream")
        if kind not in KINDS:
            raise UsageError(f"--stream {redact_text(text)!r}: the kind is one of {', '.join(KINDS.names())}")
        name = kind if kind not in found else f"{kind}-{i + 1}"
        part = KINDS.get(kind).parts[0]
        part, slot = key_value(slots[i], "--slot") if i < len(slots) else (part, f"{name}-{part}")
        found[name] = {"kind": kind, "source": source, "slots": {part: slot}}
        if i < len(config_slots):
            found[name]["config_slot"] = config_slots[i]
    return found
