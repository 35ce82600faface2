"""Makes the picture of the dashboard: a rollout that fills, in Debian's Chromium.

    make .venv/.dev
    apt-get install chromium
    .venv/bin/python docs/pictures/dashboard.py

``dashboard.jpg``: the page of a rollout. The devices are made up; controller, planner and page are those of this checkout.
"""

from __future__ import annotations

import base64
import random
import sys
import tempfile
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from conftest import free_port
from support.browser import Browser
from support.controller import T
from support.dashboard import TOKEN, DashWorld

from edgectl.core.states import State
from edgectl.core.wire import Policy, Reported, ReportedSlot
from edgectl.fleet.api.app import ApiServer
from edgectl.fleet.config import ApiConfig
from edgectl.fleet.rollouts.planner import RolloutRequest
from edgectl.fleet.rollouts.values import Wave
from edgectl.fleet.store.inventory import Release

HERE = Path(__file__).resolve().parent
MAX_BYTES = 60_000
SIZE = (1100, 760)
SITES, PROFILES = ("north", "south", "east"), ("jetson-orin", "cpu")


def rolled_out(world: DashWorld) -> str:
    """Sixty devices, and a rollout in its last wave."""
    chance = random.Random(1)
    new = world.publish("gate", "2.0.0", licence="Apache-2.0")
    for i in range(60):
        name = f"cam-{i:03d}"
        world.add_device(name, labels={"site": SITES[i % 3]}, profile=PROFILES[i % 2])
        for k in range(3):
            world.measures(name, k + 1, ms=5 + chance.random() * 3)
    spec = world.controller.start_rollout(
        RolloutRequest(
            release=new.release,
            slot="gate",
            canary=3,
            strata=("label.site",),
            policy=Policy(probation_s=5),
            waves=(Wave(share=0.5, soak_s=60, approval=True), Wave(share=1.0)),
        )
    )
    world.now, seq = time.time(), 10
    for _ in range(10):
        world.tick()
        members = world.controller.rollout(spec.id)[1].members
        for name, m in members.items():
            told = world.told(name)
            if m.outcome.value == "admitted" and told is not None and (m.wave == 0 or chance.random() < 0.7):
                seq += 1
                slot = ReportedSlot(
                    state=State.COMMITTED,
                    gen=told.gen,
                    release=new.release,
                    digest=new.digest,
                    active=new.digest,
                    active_release=new.release,
                )
                world.hears(T.reported(name), Reported(epoch=1, seq=seq, gen=told.gen, slots={"gate": slot}))
                world.measures(name, seq, digest=new.digest, ms=3 + chance.random() * 1.5)
        progress = world.controller.rollout(spec.id)[1]
        if progress.wave == 0 and progress.wave_done_s is not None and not progress.approved:
            world.controller.change_rollout(spec.id, "approve")
        world.now += 70
    world.tick()
    return spec.id


def main() -> int:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        world = DashWorld(folder, patch)
        api = ApiConfig(port=free_port())
        world.controller.config = world.controller.config.model_copy(update={"api": api})
        world.controller.inventory.save_release(Release("gate@1", "sha256:" + "a" * 64, ("cpu",), 1.7e9))
        rollout = rolled_out(world)
        server = ApiServer(world.controller, TOKEN)
        server.start()
        try:
            with Browser(folder, SIZE) as browser:
                url = f"http://127.0.0.1:{api.port}"
                browser.open(url + server._dashboard.link()["path"])
                browser.open(f"{url}/rollouts/{rollout}")
                browser.until("document.getElementById('connection').textContent === 'live'")
                for quality in (75, 65, 55, 45):
                    shot = browser.call("Page.captureScreenshot", format="jpeg", quality=quality)
                    picture = base64.b64decode(shot["data"])
                    if len(picture) <= MAX_BYTES:
                        break
        finally:
            server.close()
            world.close()
    (HERE / "dashboard.jpg").write_bytes(picture)
    print(f"dashboard.jpg: {len(picture)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
