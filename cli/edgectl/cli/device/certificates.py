"""Certificates of devices: renewed, revoked, listed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgectl.cli._ca import CA, CaFolder
from edgectl.cli._controller import ControllerOptions
from edgectl.cli._options import OptionGroup
from edgectl.cli._printer import Printer, table
from edgectl.cli.device.asking import Name
from edgectl.core.clock import clock_says
from edgectl.core.errors import EdgectlError, TrustError, UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from edgectl.fleet.keys.ca import FleetCa

__all__ = [
    "NEXT_CRL",
    "BrokerFolder",
    "CertificateOptions",
    "DeviceFolder",
    "certificates",
    "renew",
    "replace_crl",
    "revoke",
]

DeviceFolder = Annotated[
    Path | None, typer.Option("--out", "-o", help="Folder of the device's files; default: NAME.")
]
BrokerFolder = Annotated[
    Path | None, typer.Option(help="Folder of `edgectl broker config`: its crl.pem is replaced, too.")
]


@dataclass(frozen=True)
class CertificateOptions(OptionGroup):
    """What a device's certificate is for, and for how long."""

    csr: Annotated[
        Path | None,
        typer.Option(
            help="device.csr that `edgectl device request` made: the certificate is for the key on the device."
        ),
    ] = None
    days: Annotated[int, typer.Option(min=1, help="Lifetime of the certificate.")] = 730

    def request(self, folder: Path, name: str) -> bytes | None:
        """Looked at before anything is asked of the controller or written into the CA's book."""
        from edgectl.fleet.keys.csr import read_request
        from edgectl.fleet.keys.enroll import check_folder

        if self.csr is None:
            return None
        data = read_request(self.csr)
        check_folder(folder, data, name)
        return data


def renew(
    name: Name,
    ca: CaFolder = CA,
    out: DeviceFolder = None,
    *,
    certificate: CertificateOptions,
    output: Printer,
) -> None:
    """Give a device a new certificate, and a new key unless it has its own. The old one stays valid until
    it ends or is revoked."""
    from edgectl.cli._passphrase import ask
    from edgectl.fleet.keys.ca import FleetCa

    authority = FleetCa(ca, ask)
    if name not in authority.clients():
        raise UsageError(
            f"{name} has no valid certificate of this CA", hint=f"edgectl device enroll {name} --ca {ca}"
        )
    folder = out or Path(name)
    asked = certificate.request(folder, name)
    if asked is None and authority.makes_own_key(name):
        raise UsageError(
            f"{name} made its own key: give the request for its certificate",
            hint=f"`edgectl device request {name}` on the device, then renew with --csr device.csr",
        )
    paths = authority.issue_client(name, days=certificate.days, request=asked).write(folder, "device")
    output.result(
        {"device": name, "files": paths},
        f"copy {', '.join(str(p) for p in paths)} to the device and restart its agent",
    )


def revoke(
    name: Name,
    ca: CaFolder = CA,
    broker: BrokerFolder = None,
    *,
    controller: ControllerOptions,
    output: Printer,
) -> None:
    """Revoke a device's certificate, for example because it was stolen. If the controller can be
    reached, rollouts leave the device out."""
    from edgectl.cli._passphrase import ask
    from edgectl.fleet.keys.ca import FleetCa

    authority = FleetCa(ca, ask)
    count = authority.revoke(name)
    crl = replace_crl(authority, broker)
    try:
        with controller.client() as fleet:
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
        f"certificates of {name} that are revoked now: {count}, in {crl}\n{told}\n{NEXT_CRL.format(name=name)}",
    )


def certificates(ca: CaFolder = CA, *, output: Printer) -> None:
    """List the certificates that were given out. Exit 8 if one that is in use has expired."""
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


NEXT_CRL = (
    "next: copy it to the broker if it runs elsewhere; Mosquitto: reload keeps the device out, restart throws it out where it is connected\n"
    "(RabbitMQ: rabbitmqctl delete_user {name}; EMQX: ban the user name)"
)


def replace_crl(authority: FleetCa, broker: Path | None) -> Path:
    """Where the list of revoked certificates lies now, beside the CA or in the broker's folder."""
    from edgectl.core.files import atomic_write

    if broker is not None:
        atomic_write(broker / "crl.pem", authority.crl)
    return (broker or authority.folder) / "crl.pem"
