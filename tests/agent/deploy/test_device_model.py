"""Anything in any order: the real deployer, journal, store and receiver, driven by hypothesis in simulated
time.

After every step, and while it runs: what serves is whole and signed, the version floor does not sink, ends
are reported once, an engine serves from the first commit on. Whatever happened, once everybody leaves the
device alone it comes to rest.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from pathlib import Path

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.device import POLICY, SLOT, Catalogue, Device, Violation
from support.power import Disk, PowerCut

from edgectl.core.files import hex_of
from edgectl.core.states import State
from edgectl.core.wire import ShadowGate

_WORLD: list[Catalogue] = []
CLEAR = "clear"
"""In place of a version: the slot is to be empty."""


def world() -> Catalogue:
    """The releases are made once."""
    if not _WORLD:
        w = Catalogue(Path(tempfile.mkdtemp(prefix="edgectl-model-")))
        for version in ("1", "2", "3"):
            w.add(version, 140_000)
        w.add("rogue", 3000, signed=False)
        for version, behaviour in {
            "cold": {"warm": False},
            "stuck": {"swap": False},
            "crash": {"crash": True},
            "slow": {"latency_ms": 50.0},
            "other": {"agreement": 0.2},
            "failing": {"errors": True},
        }.items():
            w.add(version, 3000, **behaviour)
        _WORLD.append(w)
    return _WORLD[0]


class Anything(RuleBasedStateMachine):
    @initialize(seed=st.integers(0, 1 << 20))
    def a_device_that_has_its_first_release(self, seed: int) -> None:
        w = world()
        w.version, w.stale = 1, False
        memory = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(prefix="edgectl-", dir=memory if memory.is_dir() else None))
        self.chance = random.Random(seed)
        self.starts = 0
        self.gen = 1
        self.emptied = False
        self.wish = ("1", 1, POLICY)
        self.here = self.folder / "0"
        self.device = Device(self.here, w, self.chance)
        self._on()
        self._live(60)
        assert self.device.state is State.COMMITTED

    # ---- life

    def _on(self) -> None:
        self.disk = Disk(self.here, self.chance, into=self.folder / str(self.starts + 1))
        self.device.effect = self.disk.operation
        with self.disk:
            self.device.boot()
        self._tell()

    def _tell(self) -> None:
        version, attempt, policy = self.wish
        if version == CLEAR:
            self.device.clear(self.gen, attempt)
        else:
            self.device.want(version, self.gen, attempt, policy=policy)

    def _live(self, turns: int) -> None:
        left = iter(range(turns))
        try:
            with self.disk:
                self.device.run(lambda: self.device.resting or next(left, None) is None)
        except PowerCut:
            self._again()

    def _again(self) -> None:
        """On again, from what the cut left; the broker tells what it had retained."""
        self.device.off()
        self.starts += 1
        before, self.here = self.device, self.folder / str(self.starts)
        self.device = Device(
            self.here,
            before.world,
            self.chance,
            now_s=before.now_s,
            wall_s=before.wall_s,
            loss=before.loss,
            frozen=False,
            seen=before.seen,
            floor=before.floor,
            repaired=before.repaired,
        )
        self._on()

    # ---- what happens

    @rule(
        version=st.sampled_from(
            ["1", "2", "3", "rogue", "cold", "stuck", "crash", "slow", "other", "failing"]
        ),
        again=st.booleans(),
        shadow=st.booleans(),
        windows=st.sampled_from([(), ("daily 03:00-04:00",)]),
    )
    def desired(self, version: str, again: bool, shadow: bool, windows: tuple[str, ...]) -> None:
        policy = POLICY.model_copy(update={"shadow": ShadowGate() if shadow else None, "windows": windows})
        self.gen += 1
        self.wish = (version, self.wish[1] + again, policy)
        self._tell()

    @rule(again=st.booleans())
    def slot_is_to_be_empty(self, again: bool) -> None:
        self.gen += 1
        self.wish = (CLEAR, self.wish[1] + again, POLICY)
        self.emptied = True
        self._tell()

    @rule(turns=st.integers(1, 12))
    def time_passes(self, turns: int) -> None:
        self._live(turns)

    @rule(after=st.integers(1, 60), kill=st.booleans())
    def power_is_cut_or_the_process_killed(self, after: int, kill: bool) -> None:
        self.disk.kill = kill
        self.disk.cut_at = len(self.disk.done) + after
        self._live(12)
        self.disk.cut_at = None

    @rule()
    def cancel(self) -> None:
        self.device.deployer.order("cancel")

    @rule(loss=st.sampled_from([0.0, 0.1, 0.3]))
    def network(self, loss: float) -> None:
        self.device.loss = loss

    @rule(gen=st.integers(0, 5))
    def broker_restarts_and_repeats_itself(self, gen: int) -> None:
        self._tell()
        self.device.want("cold", min(gen, self.gen - 1))  # late and older: ignored

    @rule(seconds=st.sampled_from([-10.0 * 86400, 60.0, 400.0 * 86400]))
    def clock_jumps(self, seconds: float) -> None:
        self.device.wall_s += seconds

    @rule(writes=st.integers(1, 12))
    def disk_is_full_for_a_while(self, writes: int) -> None:
        left = iter(range(writes))
        self.disk.full = lambda what: next(left, None) is not None
        self._live(10)
        self.disk.full = None

    @rule(stale=st.booleans())
    def metadata_expires_or_is_renewed(self, stale: bool) -> None:
        self.device.world.stale = stale

    @rule(up=st.booleans())
    def metadata_is_newer_or_an_attacker_shows_an_old_one(self, up: bool) -> None:
        self.device.world.version = max(1, self.device.world.version + (1 if up else -1))

    @rule(frozen=st.booleans())
    def freeze(self, frozen: bool) -> None:
        self.device.frozen = frozen
        with self.disk:
            self.device.journal.set_frozen(frozen)

    @rule(ttl_s=st.sampled_from([5.0, 3600.0]))
    def somebody_takes_a_lease(self, ttl_s: float) -> None:
        with self.disk:
            self.device.leases.take("car", ttl_s, "it drives")

    @precondition(lambda self: self.device.journal.slot(SLOT).active is not None)
    @rule()
    def engine_rots_while_the_device_is_off(self) -> None:
        self.device.off()
        slot = self.device.journal  # closed: read the record anew below
        del slot
        shutil.copytree(self.here, self.folder / str(self.starts + 1))
        here = self.folder / str(self.starts + 1)
        blobs = sorted((here / "store" / "blobs").iterdir())
        path = self.chance.choice(blobs)
        data = bytearray(path.read_bytes())
        data[self.chance.randrange(len(data))] ^= 1
        path.write_bytes(data)
        self.device.repaired = True
        self._again()

    @rule(bytes_=st.integers(1, 2000))
    def journal_is_damaged_while_the_device_is_off(self, bytes_: int) -> None:
        self.device.off()
        here = self.folder / str(self.starts + 1)
        shutil.copytree(self.here, here)
        for path in here.glob("journal.db*"):
            data = bytearray(path.read_bytes())
            at = self.chance.randrange(max(1, len(data)))
            data[at : at + bytes_] = self.chance.randbytes(len(data[at : at + bytes_]))
            path.write_bytes(data)
        self._again()

    # ---- what holds

    @invariant()
    def one_whole_signed_engine_serves(self) -> None:
        self.device.check()
        empty = self.emptied and self.device.journal.slot(SLOT).active is None
        if (
            self.device.serving is None
            and not empty
            and self.device.state is not State.DEGRADED
            and not self.device.repaired
        ):
            raise Violation(f"nothing serves in {self.device.state.value}")

    @invariant()
    def blobs_have_the_names_of_their_content(self) -> None:
        active = self.device.journal.slot(SLOT).active
        if active is not None:
            assert self.device.store.path(active.manifest).name == hex_of(active.manifest)

    def teardown(self) -> None:
        if not hasattr(self, "device"):
            return
        try:
            d = self.device
            d.world.stale, d.frozen, d.loss = False, False, 0.0
            d.world.version = max(d.world.version, d.floor)
            with self.disk:
                d.journal.set_frozen(False)
                d.run()
                d.check_rest()
            d.off()
        finally:
            shutil.rmtree(self.folder)


_MORE = int(os.environ.get("EDGECTL_MODEL_EXAMPLES", "0"))
"""The default run draws the same 20 walks each time; this many others are drawn if it is set. Shrinking
one takes minutes: not here."""
Anything.TestCase.settings = settings(
    max_examples=_MORE or 20,
    derandomize=not _MORE,
    database=None,
    stateful_step_count=25,
    deadline=None,
    phases=(Phase.generate,),
)
TestAnything = Anything.TestCase
