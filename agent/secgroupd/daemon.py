"""The daemon: one loop that waits for something to happen, and lets the guard act on it.

What can happen: the document's files or the settings change, a link comes or goes, somebody changes
the ruleset (by its events, and by its generation number, looked at now and then), it is time for a
full comparison, a signal. Watchers only wake the loop. Stopping leaves the rules as they are.
"""

import logging
import os
import select
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from secgroupd import __version__
from secgroupd.config import DEFAULT_PATH, Settings, load
from secgroupd.configured import configure
from secgroupd.control import Control
from secgroupd.core.nflog import LIVE_GROUP
from secgroupd.dataplane.conntrack import Conntrack
from secgroupd.dataplane.events import RulesetEvents
from secgroupd.dataplane.interfaces import carried
from secgroupd.dataplane.links import Links
from secgroupd.dataplane.nflog import PacketLog
from secgroupd.dataplane.nft import Nft
from secgroupd.drops import Drops
from secgroupd.endpoint import Endpoint, Unservable, check
from secgroupd.errors import DataplaneError, SecgroupdError, SettingsError
from secgroupd.freed import give_back
from secgroupd.guard import Guard
from secgroupd.memory import FileMemory, PatientMemory
from secgroupd.metrics import Metrics
from secgroupd.notify import notify
from secgroupd.prose import sentence
from secgroupd.reconcile import Reconciler
from secgroupd.rundir import AlreadyRunning, holds, lock, make_directory
from secgroupd.sources.files import Watcher
from secgroupd.suspicion import Suspicion
from secgroupd.sweeper import Sweeper
from secgroupd.traffic import Traffic
from secgroupd.usage import EXIT_ERROR, EXIT_USAGE, options, program

SETTLE_SECONDS = 0.02
"""How long the loop waits after an event for those that belong to it, at the most."""

QUIET_SECONDS = 0.003
"""After how long without another event about files it waits no longer."""

LOOK_SECONDS = 1.0
"""How often the ruleset's generation number is looked at for changes by others."""

STUCK_SECONDS = 30.0
"""After how long in one turn the loop is no longer called healthy."""

FIRST_RETRY, LAST_RETRY = 0.1, 30.0
"""Seconds until a failed cycle is tried again: the first time, and at the most."""

log = logging.getLogger("secgroupd")


@dataclass(slots=True)
class Due:
    """When the next things are due, in seconds of the monotonic clock."""

    look: float = 0.0
    resync: float = 0.0
    retry: float | None = None
    repair: float = 0.0
    """Not before then is drift repaired again: a storm of it must not take all of a CPU."""
    drift: bool = False
    backoff: float = FIRST_RETRY

    def wait(self, now: float) -> float:
        """Return how long there is nothing to do."""
        times = [self.look, self.resync]
        times += [] if self.retry is None else [self.retry]
        times += [self.repair] if self.drift else []
        return max(0.0, min(times) - now)

    def done(self, began: float, now: float, settings: Settings, *, well: bool) -> None:
        """Note that a cycle has been run."""
        self.look = now + LOOK_SECONDS
        self.repair, self.drift = now + (now - began), False
        if well:
            self.retry, self.backoff = None, FIRST_RETRY
        else:
            self.retry = now + self.backoff
            self.backoff = min(self.backoff * 2, LAST_RETRY)
        if self.resync <= now:
            self.resync = now + settings.resync_interval


class Daemon:
    """A running daemon with everything that it holds open.

    Raises:
        SecgroupdError: it cannot begin: another one runs, or the kernel gives no sockets.
    """

    def __init__(self, settings: Settings, config: Path | None) -> None:
        self._config = config or DEFAULT_PATH
        self._open = ExitStack()
        self._stop = False
        self._reload = False
        self._turned = time.monotonic()
        self._control: Control | None = None
        self._control_trouble: str | None = None
        self._endpoint: Endpoint | None = None
        self._metrics_trouble: str | None = None
        self._ready = False
        self._watch_trouble: str | None = None
        try:
            self._start(settings)
        except BaseException:
            self._open.close()
            raise

    def _start(self, settings: Settings) -> None:
        for directory in (settings.run_dir, settings.state_dir):
            make_directory(directory)
        self._lock = lock(settings.run_dir)
        self._open.callback(lambda: os.close(self._lock))
        self.settings = settings
        self._ruleset = self._open.enter_context(RulesetEvents())
        self._nft = self._open.enter_context(Nft(self._ruleset.deaf))
        self._links = self._open.enter_context(Links())
        self._watcher = self._open.enter_context(Watcher(settings.source_directory))
        self._settings_watcher = self._open.enter_context(Watcher(self._config))
        store = FileMemory(settings.state_dir)
        memory = PatientMemory(store)
        reconciler = Reconciler(self._nft, memory)
        sweeper = Sweeper(Conntrack, Nft)
        sweeper.start()
        self._open.callback(sweeper.stop)
        self._wake, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        for descriptor in (self._wake, waker):
            self._open.callback(os.close, descriptor)
        self._traffic = Traffic(Nft, carried)
        self._drops = Drops(lambda: PacketLog(LIVE_GROUP), lambda: _wake(waker))
        metrics = Metrics(sweeps=sweeper, traffic=self._traffic)
        self.guard = Guard(
            settings,
            reconciler,
            memory,
            self._links,
            sweeper,
            metrics,
            self._traffic,
            self._drops,
            Suspicion(settings.run_dir),
            Suspicion(settings.run_dir, "looking-through"),
        )
        self._configure(settings)
        self._open.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(waker))
        for number, action in (
            (signal.SIGTERM, self._on_stop),
            (signal.SIGINT, self._on_stop),
            (signal.SIGHUP, self._on_reload),
        ):
            self._open.callback(signal.signal, number, signal.signal(number, action))
        self._listen()
        self._serve()
        self.guard.begin()
        if store.trouble:
            log.warning("record-lost reason=%s", store.trouble)

    def _configure(self, settings: Settings) -> None:
        self.settings = self.guard.settings = settings
        configure(self.guard.reconciler, settings)
        self._traffic.per_rule = settings.metrics.rule_hits
        logging.getLogger().setLevel(settings.log_level)

    def close(self) -> None:
        """Let go of everything; the table stays in the kernel."""
        for serving in (self._control, self._endpoint):
            if serving is not None:
                serving.close()
        self._open.close()

    def _on_stop(self, *_: object) -> None:
        self._stop = True

    def _on_reload(self, *_: object) -> None:
        self._reload = True

    def _keep_lock(self) -> None:
        """Take the lock again if its file has gone, with the whole directory perhaps.

        Whoever has it by then is the host's daemon, and this one ends: two would fight.
        """
        if holds(self._lock, self.settings.run_dir):
            return
        try:
            make_directory(self.settings.run_dir)
            fresh = lock(self.settings.run_dir)
        except AlreadyRunning as error:
            log.critical("lock-lost error=%s", error)
            self._stop = True
        except SecgroupdError as error:
            log.warning("lock-not-taken-again error=%s", error)
        else:
            os.close(self._lock)
            self._lock = fresh

    def _listen(self) -> None:
        """Have a control socket; one that is gone or cannot be had is made at a full comparison."""
        if self._control is not None:
            if self._control.reachable():
                return
            self._control.close()
            self._control = None
        try:
            make_directory(self.settings.run_dir)
            answers = {"status": self._status, "rules": self._rules}
            feeds = {"drops": self._drops.follow}
            self._control = Control(self.settings.run_dir, answers, feeds)
            self._control_trouble = None
        except (OSError, SecgroupdError) as error:
            if str(error) != self._control_trouble:
                log.warning("control-not-served error=%s", error)
            self._control_trouble = str(error)

    def _status(self) -> Mapping[str, object]:
        """Return the guard's status, or that the loop is stuck; the control socket's thread asks."""
        busy = time.monotonic() - self._turned
        if busy < STUCK_SECONDS:
            return self.guard.status
        stuck = f"the agent has been busy with one turn for {busy:.0f} seconds"
        return {**self.guard.status, "healthy": False, "error": stuck}

    def _rules(self) -> Mapping[str, object]:
        """Return what each rule has decided; the control socket's thread asks."""
        return {"rules": [hits.as_json() for hits in self._traffic.hits()]}

    def _serve(self) -> None:
        """Serve metrics; what cannot be served is tried again at every full comparison."""
        if self._endpoint is not None or self.settings.metrics.listen is None:
            return
        try:
            self._endpoint = Endpoint(self.settings.metrics, self.guard.metrics.page)
        except Unservable as error:
            self._not_served(error)
        else:
            self._metrics_trouble = None

    def _serve_anew(self) -> None:
        """Serve by the newest settings, certificate and token; go on as before if they are bad."""
        try:
            check(self.settings.metrics)
        except Unservable as error:
            self._not_served(error)
            return
        if self._endpoint is not None:
            self._endpoint.close()
            self._endpoint = None
        self._serve()

    def _not_served(self, error: Unservable) -> None:
        if str(error) != self._metrics_trouble:
            log.warning("metrics-not-served error=%s", error)
        self._metrics_trouble = str(error)

    def run(self) -> None:
        """Guard the host until a signal ends it."""
        watchdog = float(os.environ.get("WATCHDOG_USEC", "0")) / 2e6
        due = Due(resync=time.monotonic() + self.settings.resync_interval)
        self.guard.read()
        began = time.monotonic()
        self._done(due, began, well=self.guard.enforce())
        self.guard.tell()
        give_back()
        log.info("started version=%s bridges=%s", __version__, self.guard.bridges)
        while not self._stop:
            wait = due.wait(time.monotonic())
            events = self.woken(min(wait, watchdog) if watchdog else wait)
            notify("WATCHDOG=1")
            self._turned = time.monotonic()
            if not self._stop:
                self.turn(due, events=events)
        notify("STOPPING=1\nSTATUS=stopped; the rules stay")
        log.info("stopped rules=stay")

    def woken(self, seconds: float) -> bool:
        """Wait for an event, and for those that belong to it.

        Returns:
            Whether there was one of the document, the settings or the links.
        """
        watched = [each.fileno() for each in (self._watcher, self._settings_watcher, self._links)]
        try:
            others = [self._wake, self._ruleset.fileno()]
            ready, _, _ = select.select([*others, *watched], [], [], seconds)
            happened = any(descriptor in ready for descriptor in watched)
            if self._links.fileno() in ready:
                time.sleep(SETTLE_SECONDS)
            elif happened:
                self._settle()
        except OSError as error:
            # Somebody has closed one of them under us: whoever reads it next opens another, but
            # nobody this one.
            os.fstat(self._wake)
            log.error("descriptor-lost error=%s", error)
            return True
        if self._wake in ready:
            os.read(self._wake, 4096)
        return happened

    def _settle(self) -> None:
        """Wait for the rest of what somebody writes: until no more events come, or not for ever."""
        watchers = (self._watcher, self._settings_watcher)
        until = time.monotonic() + SETTLE_SECONDS
        queued = None
        while queued != (queued := [each.queued() for each in watchers]):
            if time.monotonic() >= until:
                return
            time.sleep(QUIET_SECONDS)

    def turn(self, due: Due, *, events: bool) -> None:
        """Do what there is to do now.

        Args:
            due: what is due, and when; is brought up to date.
            events: whether ``woken`` has told of any.
        """
        now = time.monotonic()
        document = self._watcher.changed()
        links = self._links.changed()
        reload, self._reload = self._reload, False
        if self._settings_watcher.changed() or reload:
            reload = self._reload_settings(asked=reload)
        resync = now >= due.resync
        changes = self._ruleset.changes()
        self.guard.heard(changes)
        if changes or due.drift or now >= due.look:
            due.drift = self.guard.reconciler.disturbed()
        drift = due.drift and now >= due.repair
        retry = due.retry is not None and now >= due.retry
        if document or resync or reload:
            refused = self.guard.problems
            self.guard.read(anew=reload, trusting=not (resync or reload))
            if self.guard.problems != refused:
                self.guard.tell()
        logging = self._set_logging()
        if resync:
            self._keep_lock()
            if self._stop:
                return
            self._listen()
            self._serve()
            well = self.guard.resync()
            give_back()
        elif document or reload or links or drift or retry or events or logging:
            well = self.guard.enforce()
        else:
            self.guard.doubt()
            due.look = now + LOOK_SECONDS
            return
        self._done(due, now, well=well)

    def _set_logging(self) -> bool:
        """Have what is denied logged while somebody follows it; tell whether that is a change."""
        wanted = self.settings.logging
        if self._drops.wanted:
            wanted = wanted.and_live()
        reconciler = self.guard.reconciler
        changed, reconciler.logging = wanted != reconciler.logging, wanted
        return changed

    def _done(self, due: Due, began: float, *, well: bool) -> None:
        due.done(began, time.monotonic(), self.settings, well=well)
        # A refused document keeps nobody waiting; ports that are not guarded do.
        if not self._ready and self.guard.guarding:
            notify("READY=1")
            self._ready = True
        trouble = self._watcher.trouble or self._settings_watcher.trouble
        if trouble != self._watch_trouble:
            self._watch_trouble = trouble
            log.warning("changes-may-go-unseen reason=%s", self._watch_trouble)

    def _reload_settings(self, *, asked: bool) -> bool:
        """Take what of the settings can change while the daemon runs.

        Args:
            asked: somebody sent a signal, so that certificate and token are to be read again too.

        Returns:
            Whether the document must be read again because of it.
        """
        try:
            # By its name: a file that is missing for a moment must not bring the defaults back.
            fresh = load(self._config)
        except SettingsError as error:
            for problem in error.problems:
                log.error("settings-refused %s", problem)
            return asked
        fixed = ("source_directory", "state_dir", "run_dir")
        for name in fixed:
            if getattr(fresh, name) != getattr(self.settings, name):
                log.warning("setting-needs-restart name=%s", name)
        fresh = replace(fresh, **{name: getattr(self.settings, name) for name in fixed})
        served_otherwise = fresh.metrics != self.settings.metrics
        if fresh == self.settings and not asked:
            return False
        self._configure(fresh)
        self.guard.reconciler.forget_kernel()
        if served_otherwise or asked:
            self._serve_anew()
        log.info("settings-reloaded")
        return True


def _wake(waker: int) -> None:
    """Wake the loop from another thread, unless it is about to wake up anyway."""
    with suppress(BlockingIOError):
        os.write(waker, b"\0")


NAME = "secgroupd"
SUMMARY = "enforce cloud security groups on this host's instance interfaces"

EXIT_SIGNAL = 0
EXITS = {
    EXIT_SIGNAL: "after a signal",
    EXIT_ERROR: "it could not begin",
    EXIT_USAGE: "wrong usage",
}
"""What the daemon's exit codes mean."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon and return its exit code (``EXITS``)."""
    args = program(NAME, sentence(SUMMARY), options(NAME)).parse_args(argv)
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(message)s", level="INFO")
    try:
        daemon = Daemon(load(args.config), args.config)
    except DataplaneError as error:
        log.critical("cannot-start error=%s", error)
        return EXIT_ERROR
    except SecgroupdError as error:
        for line in str(error).splitlines():
            log.critical("cannot-start error=%s", line)
        return EXIT_ERROR
    try:
        daemon.run()
    finally:
        daemon.close()
    return EXIT_SIGNAL


if __name__ == "__main__":
    sys.exit(main())
