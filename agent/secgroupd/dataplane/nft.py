"""The nft adapter: commit a plan, read the table back.

Writing goes through a process of its own that holds libnftables, but for what is small and of few forms;
that, and reading, is done here, by netlink.
Everything happens in the network namespace of the thread that made the adapter.
"""

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

from secgroupd.closing import Closing
from secgroupd.core.counts import Count, Counts, Place
from secgroupd.core.host import Abilities, Bridging
from secgroupd.core.names import ADOPTING, DENIED_FROM, DENIED_TO, SPOOFS
from secgroupd.core.plan import OWNED, Line, Observed, Plan, combined, removal
from secgroupd.dataplane import nft_read, nft_write
from secgroupd.dataplane.netlink import Netlink, reading
from secgroupd.dataplane.nft_worker import LENGTH
from secgroupd.errors import DataplaneError, NotCommitted, OutcomeUnknown, TransactionRefused

COMMIT_SECONDS = 120.0
"""How long the largest transaction may take before its outcome counts as unknown."""

SHORT_SECONDS, BYTES_A_SECOND = 15.0, 100_000
"""How long the smallest may take, and how much longer one of so many bytes."""

LARGEST_ANSWER = 1 << 24

LARGE_TRANSACTION = 1 << 20
"""Bytes of a plan's text from which the writer is ended afterwards, since libnftables keeps its memory."""

HEARD_TRANSACTION = 1 << 16
"""Bytes of text up to which events of a transaction are few enough to be listened to."""

PROBE = "secgroupd_probe"
"""A table that never comes to be."""

ERROR_LINE = re.compile(r"^[^\n]*?:(\d+):(\d+)(?:-\d+)?: Error: (.*)$", re.MULTILINE)


class Nft(Closing):
    """The kernel's nftables, seen from one network namespace.

    Args:
        unheard: what keeps this process from listening to the ruleset while a block runs; large
            transactions are committed in such a block.

    Raises:
        DataplaneError: the kernel gives no socket, or ``/proc`` is not there.
    """

    def __init__(self, unheard: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        self._unheard = unheard
        with reading("the network namespace"):
            self._namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            with reading("nftables"):
                self._netlink = Netlink()
        except DataplaneError:
            os.close(self._namespace)
            raise
        self._worker: subprocess.Popen[bytes] | None = None
        self._owner = False
        """Whether the writer that runs owns tables: the kernel lets no other socket change them."""

    def close(self) -> None:
        """Stop the writer and close the sockets; the table stays as it is."""
        self._stop()
        self._netlink.close()
        os.close(self._namespace)

    def observe(self, family: str = "inet", before: Observed | None = None) -> Observed | None:
        """Return the table as the kernel has it, or None when there is none.

        ``before`` is the table as it was known before, or should be; it spares work and memory where
        they are the same.

        Raises:
            DataplaneError: it could not be read whole.
        """
        with reading("the table"):
            return nft_read.observe(self._netlink, family, before)

    def adopting(self) -> frozenset[str]:
        """Return the interfaces of ports that are in their time of grace.

        Raises:
            DataplaneError: the set could not be read.
        """
        with reading(f"the set {ADOPTING}"):
            return frozenset(
                os.fsdecode(key.rstrip(b"\0"))
                for family in ("inet", "bridge")
                for key in nft_read.elements(self._netlink, family, ADOPTING)
            )

    def counts(self) -> Counts:
        """Return what the tables have counted.

        Interfaces whose names no rule can say are not counted by themselves, and not in it.

        Raises:
            DataplaneError: the counters could not be read.
        """
        purposes = (SPOOFS, DENIED_FROM, DENIED_TO)
        with reading("the counters"):
            rules = {f: nft_read.counters(self._netlink, f) for f in nft_read.FAMILIES}
            sets = {f: nft_read.counted(self._netlink, f, purposes) for f in nft_read.FAMILIES}

        def by_interface(purpose: str) -> Mapping[Place, Count]:
            return {
                (family, os.fsdecode(key.rstrip(b"\0"))): Count(*count)
                for family, found in sets.items()
                for key, count in found.get(purpose, {}).items()
            }

        return Counts(
            {
                (f, name): Count(*count)
                for f, found in rules.items()
                for name, count in found.items()
            },
            by_interface(SPOOFS),
            by_interface(DENIED_FROM),
            by_interface(DENIED_TO),
        )

    def abilities(self) -> Abilities:
        """Find out what the kernel can do.

        It is asked by a transaction whose last command is always refused, so that nothing of it
        ever is there; what else is refused tells what the kernel lacks.

        Raises:
            OutcomeUnknown: the writer died or went silent.
        """
        tracking = "probe ct state established ct zone set 1"
        refused = self._refused(
            f"add table bridge {PROBE}",
            f"add chain bridge {PROBE} probe",
            f"add rule bridge {PROBE} {tracking}",
            f"add table inet {PROBE}",
            f"add chain inet {PROBE} probe",
            f"add rule inet {PROBE} {tracking}",
            f"add rule inet {PROBE} probe goto nowhere",
        )
        bridging = Bridging.CLOSED if 3 in refused else Bridging.FULL
        if refused & {1, 2}:
            bridging = Bridging.NONE
        return Abilities(bridging, tracking=6 not in refused)

    def handles(self) -> Mapping[tuple[str, str, int], str]:
        """Return the digests of the rules by family, chain and the kernel's number of each.

        Raises:
            DataplaneError: they could not be read.
        """
        with reading("the rules"):
            return {
                (family, *place): digest
                for family in nft_read.FAMILIES
                for place, digest in nft_read.handles(self._netlink, family).items()
            }

    def owning(self) -> bool:
        """Find out whether this writer can own tables that outlive it.

        It takes Linux 6.9 and nft 1.1.0; it is asked as in ``abilities``.

        Raises:
            OutcomeUnknown: the writer died or went silent.
        """
        refused = self._refused(
            f"add table inet {PROBE}{OWNED}", f"add rule inet {PROBE} nowhere accept"
        )
        return 1 not in refused

    def reobserve(self, known: Observed, plan: Plan, family: str = "inet") -> Observed:
        """Return the table, of which only what a plan touches has changed since it was known.

        Raises:
            DataplaneError: it could not be read.
        """
        with reading("the table"):
            names = sorted(name for where, name in plan.touched if where == family)
            return nft_read.reobserve(self._netlink, family, known, names)

    def _refused(self, *commands: str) -> frozenset[int]:
        """Return which of some commands are refused, counted from 1; nothing of them is done.

        The last one must be one that no kernel takes. Where nft itself does not understand an
        earlier one, it does not ask the kernel for any.
        """
        _, error = self._ask("".join(f"{command}\n" for command in commands).encode())
        refused = frozenset(int(match[1]) for match in ERROR_LINE.finditer(error))
        if len(commands) not in refused and "syntax error" not in error:
            raise OutcomeUnknown(
                f"the nft writer cannot tell what the kernel can do: {error[:200]}"
            )
        return refused

    def generation(self) -> int:
        """Return the kernel's generation number, which every transaction of anyone raises."""
        with reading("the ruleset's generation"):
            return nft_read.generation(self._netlink)

    def commit(self, plan: Plan) -> None:
        """Make a plan true: its preparation, which no packet notices, then its transaction.

        Raises:
            TransactionRefused: the kernel refused it; what packets meet is unchanged.
            OutcomeUnknown: the writer died or went silent.
        """
        asked = made = 0
        try:
            for lines in plan.transactions:
                # What is refused all the same waits for every CPU, 16 ms here.
                if self._owner or not nft_write.written(self._netlink, lines):
                    text = "".join(f"{line.text}\n" for line in lines).encode()
                    asked += len(text)
                    with self._unheard() if len(text) > HEARD_TRANSACTION else nullcontext():
                        code, error = self._ask(text)
                    if code != 0:
                        raise _refusal(lines, error)
                    self._owner |= any(line.text.endswith(OWNED) for line in lines)
                made += 1
        except NotCommitted as failure:
            failure.made = made
            raise
        finally:
            if asked > LARGE_TRANSACTION:
                self._stop()

    def remove(self) -> Sequence[str]:
        """Remove the agent's tables, in one transaction; return the families that had one.

        Raises:
            TransactionRefused: the kernel refused.
        """
        there = [family for family in nft_read.FAMILIES if self.observe(family) is not None]
        if there:
            self.commit(combined(removal(family) for family in there))
        return there

    def _ask(self, text: bytes) -> tuple[int, str]:
        """Have the writer run a transaction; return its exit code, and what it says of errors."""
        if self._worker is None or self._worker.poll() is not None:
            self._start()
        worker = self._worker
        assert worker is not None and worker.stdin and worker.stdout
        try:
            seconds = min(COMMIT_SECONDS, SHORT_SECONDS + len(text) / BYTES_A_SECOND)
            deadline = time.monotonic() + seconds
            self._write(worker, LENGTH.pack(len(text)) + text, deadline)
            (length,) = LENGTH.unpack(self._read(worker, LENGTH.size, deadline))
            return _answer(self._read(worker, min(length, LARGEST_ANSWER), deadline))
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            self._stop()
            code = worker.returncode
            message = f"the nft writer gave no answer ({error}; exit {code})"
            raise OutcomeUnknown(message + self._cause(code)) from error

    def _cause(self, code: int) -> str:
        """Return what may have killed the writer, if it was killed by itself.

        nft 1.0.6 dies of sets that 1.1.2 or newer has written, in any table
        (https://github.com/kubernetes/kubernetes/issues/136786).
        """
        if code != -signal.SIGSEGV:
            return ""
        try:
            with reading("the tables of others"):
                others = nft_read.tables_with_sets(self._netlink)
        except DataplaneError:
            return ""
        if not others:
            return ""
        return (
            f"; nftables before 1.1.1 dies of sets that a newer version has written, which may be in: "
            f"{', '.join(others)}; it takes a newer nftables here, or an older one there"
        )

    @staticmethod
    def _write(worker: subprocess.Popen[bytes], text: bytes, deadline: float) -> None:
        """Hand the writer a transaction, until a time of the monotonic clock."""
        assert worker.stdin
        left = memoryview(text)
        while left:
            seconds = max(0.0, deadline - time.monotonic())
            if not select.select([], [worker.stdin], [], seconds)[1]:
                raise TimeoutError("it has not taken the transaction")
            # No more than a pipe that is ready takes without waiting.
            left = left[os.write(worker.stdin.fileno(), left[: select.PIPE_BUF]) :]

    @staticmethod
    def _read(worker: subprocess.Popen[bytes], count: int, deadline: float) -> bytes:
        """Return so many bytes of what the writer says, until a time of the monotonic clock."""
        assert worker.stdout
        parts = b""
        while len(parts) < count:
            ready, _, _ = select.select(
                [worker.stdout], [], [], max(0.0, deadline - time.monotonic())
            )
            if not ready:
                raise TimeoutError("it was silent for too long")
            part = os.read(worker.stdout.fileno(), count - len(parts))
            if not part:
                raise EOFError("it closed its output")
            parts += part
        return parts

    def _start(self) -> None:
        self._stop()
        try:
            self._worker = subprocess.Popen(
                # -P: what lies in the directory that somebody happens to be in is none of ours.
                [
                    *(sys.executable, "-P", "-m", "secgroupd.dataplane.nft_worker"),
                    str(self._namespace),
                ],
                pass_fds=[self._namespace],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        except OSError as error:
            raise DataplaneError(f"cannot start the nft writer: {error}") from error

    def _stop(self) -> None:
        worker, self._worker, self._owner = self._worker, None, False
        if worker is None:
            return
        for stream in (worker.stdin, worker.stdout):
            if stream:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue
        try:
            worker.wait(timeout=1)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


def _answer(text: bytes) -> tuple[int, str]:
    """Return code and error of a writer's answer.

    Raises:
        ValueError: it is none.
    """
    try:
        found = json.loads(text)
        return int(found["code"]), str(found["error"])
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError("it talks nonsense") from error


def _refusal(lines: Sequence[Line], error: str) -> TransactionRefused:
    """Name the objects of the document whose lines the kernel refused."""
    origins: list[str] = []
    details: list[str] = []
    for match in ERROR_LINE.finditer(error):
        number = int(match[1]) - 1
        if number < len(lines):
            line = lines[number]
            origins += [line.origin] if line.origin and line.origin not in origins else []
            details.append(f"{match[3]}: {line.text[:200]}")
    return TransactionRefused("; ".join(details[:3]) or error.strip()[:500], tuple(origins))
