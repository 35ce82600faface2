"""The agent: connects the parts and lets them run until it is told to stop.

Threads: the caller's (reports, telemetry windows, systemd), one per slot (``deploy-…``), one per pipeline
(``pipe-…``), the telemetry sender, and two of the control link. The bulk link exists only while something is
fetched.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from edgectl.agent.config import AgentConfig, ViewConfig
from edgectl.agent.dependencies import AgentDependencies, default_dependencies
from edgectl.agent.deploy.commands import Commands
from edgectl.agent.deploy.config_deployer import ConfigDeployer
from edgectl.agent.deploy.config_probation import ConfigHealthBook
from edgectl.agent.deploy.dependencies import DeployerDependencies, engine_ref
from edgectl.agent.deploy.deployer import SlotDeployer
from edgectl.agent.deploy.deployment import WORKING
from edgectl.agent.deploy.inbox import Inbox
from edgectl.agent.deploy.leases import Leases
from edgectl.agent.deploy.memory_gate import MemoryGate
from edgectl.agent.deploy.plan_improver import PlanImprover
from edgectl.agent.deploy.probation import HealthBook
from edgectl.agent.deploy.reporter import Reporter
from edgectl.agent.deploy.set_slots import SetSlots
from edgectl.agent.deploy.start_check import check_slots, damage
from edgectl.agent.machine.watch import MachineWatch
from edgectl.agent.measure.measurer import Measurer, forget_measured
from edgectl.agent.outbox import Outbox
from edgectl.agent.presence import Presence
from edgectl.agent.state.journal import Journal
from edgectl.agent.state.lock import hold_folder
from edgectl.agent.state.store import Store
from edgectl.agent.streams.config_reload import ConfigReload
from edgectl.agent.streams.config_slots import ConfigSlots, as_released, released_engines
from edgectl.agent.streams.supervised_stream import WorkerCallbacks
from edgectl.agent.streams.supervisor import Supervisor
from edgectl.agent.streams.telemetry import TelemetryCollector, machine_health
from edgectl.agent.transfer.fetch import Fetcher
from edgectl.agent.transfer.peer import PeerSeeder
from edgectl.agent.trust.root_copy import open_trust
from edgectl.agent.worker_news import WorkerNews
from edgectl.core.errors import EdgectlError, StorageError, TrustError
from edgectl.core.files import forget_unfinished, storage
from edgectl.core.transfer import FRAME_BYTES
from edgectl.core.wire import Failure, Reply, Reported, Topics
from edgectl.link.mqtt import Link
from edgectl.link.notify import Watchdog, notify
from edgectl.pipelines.host.protocol import EngineRef

if TYPE_CHECKING:
    from edgectl.agent.streams.device_page import DevicePage

__all__ = ["AgentDependencies", "run_agent"]

log = logging.getLogger(__name__)

_BULK_QUEUE = 32  # chunks
# of messages that wait to be handled: eight of the largest metadata sets
_CONTROL_BYTES = 8 << 20
_REFRESH_S = 120.0
_MAX_BACKOFF_S = 60.0
_RETRY_S = 5.0
_AT_REST = frozenset({"waiting", "stopped"})
"""What streams are that take no processor (:data:`edgectl.agent.streams.worker_states.SHOWN`)."""
_REPORT_AGAIN = 10
"""Heartbeats after which the device says again what it has: somebody may have deleted it at the broker, or
another machine written over it."""


def run_agent(
    config: AgentConfig,
    stop: threading.Event,
    dependencies: AgentDependencies | None = None,
    reload: ConfigReload | None = None,
) -> None:
    """Run until ``stop`` is set, then stop workers and links in good order. ``reload``: reads the configuration again
    when it is asked to.

    Raises before anything runs: :class:`UsageError` (another agent has the state folder),
    :class:`StorageError` (state folder, and nothing in it to run), :class:`TrustError` (root metadata). A
    broker that is away is no error: the agent keeps trying and the pipelines keep running.
    """
    with hold_folder(config.state_dir):
        forget_unfinished(config.state_dir, config.state_dir / "trust")
        forget_measured(config.state_dir)
        agent = _Agent(config, dependencies or default_dependencies(), reload)
        try:
            agent.run(stop)
        finally:
            agent.close()


class _Agent:
    def __init__(
        self, config: AgentConfig, dependencies: AgentDependencies, reload: ConfigReload | None = None
    ) -> None:
        self._config = config
        self._topics = Topics(config.fleet)
        self._journal = Journal(config.state_dir / "journal.db")
        self._epoch, uncounted = _count_start(self._journal)
        profile = dependencies.profile if config.profile == "auto" else config.profile
        self._presence = Presence(config, self._epoch, profile, dependencies.machine)
        try:
            self._trust, self._root_notice = open_trust(
                config.state_dir / "trust", config.root, self._journal, profile
            )
        except TrustError:
            self._journal.close()
            raise
        quota = None if config.store_quota_mb is None else config.store_quota_mb << 20
        self._store = Store(config.state_dir / "store", reserve=config.reserve_mb << 20, quota=quota)
        self._leases = Leases(self._journal)
        checked = check_slots(self._journal, self._store, config.slots, config.config_slots)
        self._skipped = checked.skipped
        self._live = HealthBook()
        self._config_health = ConfigHealthBook(
            {name: p.config_slot for name, p in config.pipelines.items() if p.config_slot is not None}
        )
        self._collector = TelemetryCollector(self._epoch)
        self._wake = threading.Event()
        self._reporter = Reporter(
            self._epoch, self._trust, self._send_report, self._wake.set, instance=self._presence.instance
        )
        for trouble in filter(None, (uncounted, checked.trouble)):
            log.error("%s", trouble.message)
            self._reporter.storage_fails(trouble)
        will = (self._topics.conn(config.name), self._presence.death(clean=False).encode())
        self._link = Link(
            config.broker.options(),
            config.name,
            will=will,
            window=20,
            queue_bytes=_CONTROL_BYTES,
            # Once the broker is back, the device is heard within the time that it promised.
            max_backoff_s=min(_MAX_BACKOFF_S, config.heartbeat_s),
        )
        self._outbox = Outbox(
            config.state_dir,
            self._link,
            self._reporter,
            max_bytes=config.spool_mb << 20,
            max_age_s=config.spool_hours * 3600,
        )
        engine_cache = config.state_dir / "engines"
        self._supervisor = Supervisor(
            as_released(config.pipelines, self._engine_of),
            self._engine_of,
            self._journal,
            WorkerCallbacks(
                lambda stream, stats: self._news.stats(stream, stats),
                lambda stream, event: self._news.event(stream, event),
                lambda *loop: self._news.crash_loop(*loop),
                lambda stream, lease: self._news.lease(stream, lease),
            ),
            on_trial=lambda slot: self._deployers[slot].on_trial,
            set_engines=released_engines(config.pipelines, self._engine_of),
            command=dependencies.worker,
            stats_every_s=config.stats_every_s,
            timing=dependencies.timing,
            cache=engine_cache,
            pictures=None if config.view is None else config.state_dir / "view",
        )
        self._config_slots = ConfigSlots(config.pipelines, self._supervisor, self._engine_of)
        self._reload = reload
        if reload is not None:
            reload.serves(
                self._supervisor,
                self._config_slots.written,
                self._config_slots.accepted,
                lambda stream, why: self._news.refused_config(stream, why),
            )
        self._page_notice: Failure | None = None
        self._page = None if config.view is None else self._open_page(config.view)
        fetcher = Fetcher(
            self._bulk_link,
            self._topics,
            config.name,
            self._epoch,
            self._store,
            dependencies.machine,
            profile=profile,
            bps=config.download_kb_s and config.download_kb_s * 1000,
            site=config.site,
        )
        self._peer = PeerSeeder(config, self._topics, self._store)
        gate = MemoryGate(dependencies.memory, config.memory_reserve_mb)
        set_slots = SetSlots(self._journal, config.config_slots)
        context = DeployerDependencies(
            journal=self._journal,
            store=self._store,
            trust=self._trust,
            fetcher=fetcher,
            warm_up=dependencies.warm_up,
            pipelines=self._supervisor,
            live=self._live,
            frozen=lambda: self._inbox.frozen,
            changed=self._wake.set,
            disk=threading.Lock(),
            leases=self._leases,
            warm_runs=config.warm_runs,
            engine_cache=engine_cache,
            prefer=config.prefer,
            lighter=config.lighter,
            memory=gate,
            make_room=self._outbox.make_room,
            make_way=lambda: self._measurer.give_way(),
            set_of=set_slots.set_of,
        )
        self._machine = MachineWatch(config.state_dir)
        self._deployers = {slot: SlotDeployer(slot, context) for slot in config.slots}
        of_configs = replace(context, pipelines=self._config_slots)
        self._deployers |= {
            slot: ConfigDeployer(slot, of_configs, self._config_slots, self._config_health, set_slots)
            for slot in config.config_slots
        }
        self._news = WorkerNews(
            config.pipelines,
            self._supervisor,
            self._deployers,
            self._engine_of,
            self._config_slots.on_record,
            self._config_slots.engines_on_record,
            self._journal.activated,
            self._live,
            self._config_health,
            self._collector,
            self._leases,
            self._outbox,
            lambda stream: self._topics.event(config.name, stream),
            self._epoch,
            self._page,
        )
        self._measurer = Measurer(
            config.measure,
            config.state_dir,
            fetcher,
            gate,
            dependencies.memory,
            machine=dependencies.describe,
            idle=self._other_business,
            quiet=lambda seconds: dependencies.quiet(
                seconds, None if config.measure is None else config.measure.busy_cores
            ),
            reserve_mb=config.memory_reserve_mb,
        )
        commands = Commands(
            config.state_dir,
            dependencies.machine,
            self._journal,
            self._leases,
            self._deployers,
            self._news.recent,
            self._measurer.obey,
        )
        self._inbox = Inbox(
            self._topics,
            config.name,
            self._trust,
            self._deployers,
            self._reporter,
            frozen=self._journal.frozen,
            obey=commands.obey,
            reply=self._send_reply,
            allow_peers=self._peer.allow,
            make_room=self._outbox.give_way,
        )
        self._improver = PlanImprover(
            config.slots,
            self._engine_of,
            self._busy,
            lambda ref: dependencies.improve(ref.blobs, ref.manifest, engine_cache),
            lambda slot, ref: self._supervisor.refresh(slot, ref, _REFRESH_S),
            config.improve_after_s,
        )

    def _open_page(self, config: ViewConfig) -> DevicePage | None:
        """Without the page the device does its work as with it: what is wrong is said, and that is all."""
        from edgectl.agent.streams.device_page import DevicePage

        def socket_of(stream: str) -> Path:
            path = self._supervisor.pictures_of(stream)
            assert path is not None, "workers were told where to serve pictures"
            return path

        try:
            _make_private(self._config.state_dir / "view")
            page = DevicePage(config, self._config.pipelines, socket_of)
        except EdgectlError as e:
            said = e.message if e.hint is None else f"{e.message} ({e.hint})"
            self._page_notice = Failure(code=e.code, detail=f"there is no live page: {said}"[:1024])
            log.error("%s", self._page_notice.detail)
            return None
        log.info("live page: %s", page.url)
        return page

    def run(self, stop: threading.Event) -> None:
        for topic, handler in self._inbox.handlers.items():
            self._link.subscribe(topic, handler)
        self._link.on_up = self._on_up
        self._link.start()
        if self._page is not None:
            self._page.start()
        self._supervisor.start()
        for deployer in self._deployers.values():
            deployer.thread.start()
        self._outbox.thread.start()
        if self._config.improve_after_s:
            self._improver.thread.start()
        next_window = time.monotonic() + self._config.telemetry_s
        watchdog = Watchdog()
        next_try = 0.0
        # Not all at the same time, when all have just found a broker that was away.
        next_beat = time.monotonic() + self._config.heartbeat_s * random.uniform(0.2, 1)
        beats = 0
        ready = False
        while not stop.is_set():
            self._wake.wait(0.2)
            self._wake.clear()
            self._check_threads()
            self._report()
            if self._reload is not None:
                self._reload.look()
            if self._page is not None:
                self._page.tell(self._supervisor.states())
            self._machine.look()
            now = time.monotonic()
            if now >= next_window:
                self._telemetry(self._config.telemetry_s + now - next_window)
                next_window = now + self._config.telemetry_s
            if now >= next_beat and self._link.is_up:
                next_beat = now + self._config.heartbeat_s
                beats += 1
                self._beat(report=beats % _REPORT_AGAIN == 0)
            if now >= next_try:
                next_try = now + _RETRY_S
                self._inbox.try_again()
            if not ready and self._is_ready():
                ready = True
                notify("READY=1", "STATUS=running")
            if self._supervisor.progressing():
                watchdog.feed()

    def close(self) -> None:
        """Stop in the order that loses nothing: deployers, workers, last telemetry, the good-bye, the
        links, the files."""
        notify("STOPPING=1")
        if self._page is not None:
            self._page.close()
        self._improver.stop()
        self._measurer.close()
        self._peer.close()
        for deployer in self._deployers.values():
            deployer.stop()
        self._supervisor.close()
        for deployer in self._deployers.values():
            if deployer.thread.ident is not None:
                deployer.thread.join()
        self._outbox.stop()
        if self._link.is_up:
            self._link.publish(
                self._topics.conn(self._config.name),
                self._presence.death(clean=True).encode(),
                retain=True,
                timeout_s=1.0,
            )
        self._link.close()
        self._outbox.close()
        self._journal.close()

    def _busy(self) -> bool:
        """Something is being deployed or measured for a build, or the cores have other work."""
        working = any(d.report().state in WORKING for d in self._deployers.values())
        return working or self._measurer.active or psutil.getloadavg()[0] > (psutil.cpu_count() or 1)

    def _other_business(self) -> str | None:
        """Why nothing is measured for a builder now."""
        for deployer in self._deployers.values():
            state = deployer.report().state
            if state in WORKING:
                return f"slot {deployer.slot} is {state.value}"
        running = [name for name, (state, _) in self._supervisor.states().items() if state not in _AT_REST]
        if running and self._config.measure is not None and not self._config.measure.beside_streams:
            return f"stream {running[0]} runs" + (
                f", and {len(running) - 1} more" if len(running) > 1 else ""
            )
        return None

    # ---- from the link (dispatcher thread: nothing here waits)

    def _on_up(self) -> None:
        self._link.publish(
            self._topics.conn(self._config.name),
            self._presence.birth(self._link.address).encode(),
            retain=True,
        )
        self._reporter.again()  # the broker may have lost what it retained
        self._outbox.nudge()

    def _send_reply(self, reply: Reply) -> None:
        self._link.publish(self._topics.reply(self._config.name), reply.encode())

    # ---- the caller's thread

    def _beat(self, *, report: bool) -> None:
        """The birth again: whoever deleted or overwrote it at the broker finds it there again."""
        try:
            self._link.publish(
                self._topics.conn(self._config.name),
                self._presence.birth(self._link.address).encode(),
                retain=True,
                timeout_s=0.0,
            )
        except EdgectlError as e:
            log.info("the heartbeat waits for the next: %s", e.message)
        if report:
            self._reporter.again()

    def _report(self) -> None:
        if not self._link.is_up:
            return
        refusal = self._inbox.refusal
        error = (
            self._reporter.trouble
            or (refusal.why if refusal else None)
            or self._journal.notice
            or self._root_notice
            or self._page_notice
        )
        slots = {**self._inbox.without_slot, **{slot: d.report() for slot, d in self._deployers.items()}}
        if self._reporter.report(self._inbox.gen, slots, error) and refusal is not None:
            refusal.reported = True

    def _send_report(self, reported: Reported) -> None:
        self._link.publish(
            self._topics.reported(self._config.name), reported.encode(), retain=True, timeout_s=1.0
        )

    def _telemetry(self, window_s: float) -> None:
        try:
            self._trust.save_time()
        except StorageError as e:
            log.error("%s", e.message)
        self._leases.tidy()
        kinds = {stream: p.kind for stream, p in self._config.pipelines.items()}
        telemetry = self._collector.window(
            window_s,
            self._supervisor.states(),
            kinds,
            machine_health(self._config.state_dir),
            self._outbox.spool.dropped,
            self._machine.window(),
        )
        self._outbox.put("tele", self._topics.telemetry(self._config.name), telemetry.encode())

    def _check_threads(self) -> None:
        """A thread that ended by a defect, or a journal that rots, must not go unseen: the agent ends, and
        its next start mends and resumes."""
        if self._journal.damaged:
            raise StorageError(
                "the journal was damaged while it was in use", hint="start the agent again: it mends it"
            )
        threads = [d.thread for d in self._deployers.values()] + [
            self._outbox.thread,
            *self._supervisor.threads,
        ]
        if dead := [t.name for t in threads if not t.is_alive()]:
            raise EdgectlError(
                f"the thread {dead[0]} has ended unexpectedly", hint="see the log; start the agent again"
            )

    def _is_ready(self) -> bool:
        """Every pipeline has made its first inference, waits for its first release, or has been tried
        once: a camera that is not there must not have systemd kill the others."""
        return all(state != "starting" for state, _ in self._supervisor.states().values())

    def _engine_of(self, slot: str) -> EngineRef | None:
        i = self._journal.slot(slot).active
        over = self._skipped.get(slot)
        if (
            over is not None and i == over.damaged and damage(self._store, over.damaged) is not None
        ):  # not fetched again meanwhile
            i = over.instead
        if i is None:
            return None
        return engine_ref(self._store, i)

    def _bulk_link(self) -> Link:
        name = f"{self._config.name}-bulk"
        return Link(
            self._config.broker.options(), name, queue_size=_BULK_QUEUE, max_payload=max(FRAME_BYTES, 1 << 17)
        )


def _count_start(journal: Journal) -> tuple[int, StorageError | None]:
    """The epoch of this start, and why it could not be written down."""
    try:
        return journal.next_epoch(), None
    except StorageError as e:
        return journal.value("epoch") + 1, e


def _make_private(folder: Path) -> None:
    """A folder for this user alone. Raises :class:`StorageError`."""
    with storage(str(folder)):
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)
