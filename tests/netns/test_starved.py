"""The daemon is short of descriptors, of its directories, or has a document that is far too large."""

import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.netns.agents import PATIENCE, Agent, await_that, document

from secgroupd.control import ask
from secgroupd.core.document import MAX_BYTES

pytestmark = pytest.mark.netns

MIB = 1 << 20
UNPRIVILEGED = Path(__file__).parent.parent / "faults" / "unprivileged"


def memory(agent: Agent, what: str) -> int:
    """Return a number of the daemon's ``/proc/PID/status``, in bytes."""
    assert agent.process
    lines = Path(f"/proc/{agent.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(what))


@pytest.mark.parametrize("files", [1, 5])
def test_200_mb_are_refused_in_bounded_memory_and_the_rules_stay(agent: Agent, files: int) -> None:
    agent.give(document())
    agent.start()
    before = memory(agent, "VmRSS")
    size = 200 * MIB // files
    for at in range(files):
        huge = agent.directory / "state.d" / f".huge{at}"
        with huge.open("wb") as file:
            file.write(b"version: 1\n# ")
            file.truncate(size)
        huge.rename(huge.with_name(f"huge{at}.yaml"))
    await_that(lambda: agent.status()["problems"], 60)
    assert f"{MAX_BYTES >> 20} MiB" in str(agent.status()["problems"])
    assert ask(agent.directory / "run", "status")["healthy"] is False
    assert memory(agent, "VmHWM") - before < 2.5 * MAX_BYTES
    assert (agent.passes(1000), agent.passes(1001)) == (True, False)
    for huge in (agent.directory / "state.d").glob("huge*"):
        huge.unlink()
    agent.give(document("1001"))
    await_that(lambda: agent.passes(1001), 60)


@pytest.mark.parametrize("opening", ["[", '{"a": ', "- ", "a: {"])
def test_what_nests_without_end_is_refused_and_the_rules_stay(agent: Agent, opening: str) -> None:
    agent.give(document())
    agent.start()
    agent.give(opening * 100_000)
    await_that(lambda: agent.status()["problems"], 60)
    assert agent.passes(1000) and not agent.ended()
    agent.give(document("1001"))
    await_that(lambda: agent.passes(1001))


def test_without_descriptors_nothing_opens_and_it_goes_on_when_there_are_some(agent: Agent) -> None:
    agent.give(document())
    agent.start()
    assert agent.process
    pid = agent.process.pid
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used - 1, hard))
    agent.give(document("1001"))
    agent.lab.hv.run(["nft", "flush", "chain", "inet", "secgroupd", "deny_in"])
    await_that(lambda: "Too many open files" in agent.log.read_text())
    assert not agent.ended() and not (agent.passes(1000) and agent.passes(1001))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    await_that(lambda: agent.passes(1001), 60)
    assert not agent.passes(1000) and not agent.ended()


def test_without_proc_the_rules_stay_and_it_goes_on_when_it_is_back(agent: Agent) -> None:
    agent.program = ["unshare", "--mount", *agent.program]
    agent.give(document())
    agent.start()
    assert agent.process
    there = ["nsenter", "--mount", f"--target={agent.process.pid}"]

    def inside(*command: str) -> None:
        subprocess.run([*there, *command], check=True)

    inside("mount", "-t", "tmpfs", "none", "/proc")
    agent.give(document("1001"))
    await_that(lambda: agent.status().get("error"))
    assert (agent.passes(1000), agent.passes(1001)) == (True, False)
    assert not agent.ended()
    inside("umount", "/proc")
    await_that(lambda: agent.passes(1001), 60)
    assert not agent.passes(1000) and agent.status()["healthy"]


def test_it_does_not_start_without_proc_and_says_why(agent: Agent) -> None:
    agent.give(document())
    agent.start()
    agent.stop()
    hide = 'mount -t tmpfs none /proc && exec "$@"'
    agent.program = ["unshare", "--mount", "sh", "-c", hide, "sh", *agent.program]
    agent.start()
    assert agent.process and agent.process.wait(PATIENCE) == 1
    (line,) = [x for x in agent.log.read_text().splitlines() if "cannot-start" in x]
    assert "/proc" in line and "Traceback" not in agent.log.read_text()
    assert (agent.passes(1000), agent.passes(1001)) == (True, False)


def test_without_its_capability_the_rules_stay_and_it_says_so(agent: Agent) -> None:
    path = os.pathsep.join(filter(None, (str(UNPRIVILEGED), os.environ.get("PYTHONPATH", ""))))
    agent.environment = {"PYTHONPATH": path}
    agent.give(document())
    agent.start()
    assert agent.process
    agent.process.send_signal(signal.SIGUSR1)
    agent.give(document("1001"))
    await_that(lambda: "not permitted" in str(agent.status().get("error")))
    assert agent.ask("status") == 3
    assert (agent.passes(1000), agent.passes(1001)) == (True, False)
    assert not agent.ended()
    agent.stop()
    agent.environment = {}
    agent.start()
    await_that(lambda: agent.passes(1001))
    assert not agent.passes(1000)


def test_a_run_directory_that_is_wiped_comes_back(agent: Agent) -> None:
    agent.give(document())
    agent.start()
    # All at once: the agent still takes its own files away.
    (agent.directory / "run").rename(agent.directory / "wiped")
    assert agent.passes(1000)
    await_that(lambda: agent.ask("status") == 0)
    second = [sys.executable, "-m", "secgroupd.daemon", "--config", str(agent.config)]
    assert agent.lab.hv.run(second, check=False).returncode == 1, "the lock was taken again"
    agent.give(document("1001"))
    await_that(lambda: agent.passes(1001))


def test_of_two_daemons_the_one_that_has_lost_its_lock_ends(agent: Agent) -> None:
    agent.give(document())
    agent.start()
    first = agent.process
    assert first
    lock = agent.directory / "run" / "lock"
    # It would take it again if it came first.
    first.send_signal(signal.SIGSTOP)
    lock.unlink()
    agent.launch()
    second = agent.process
    assert second
    try:
        await_that(lambda: lock.exists() and lock.read_text() == f"{second.pid}\n")
        first.send_signal(signal.SIGCONT)
        assert first.wait(PATIENCE) == 0
        assert "lock-lost" in agent.log.read_text()
        await_that(lambda: agent.ask("status") == 0)
        assert (agent.passes(1000), agent.passes(1001)) == (True, False)
        assert not agent.ended()
    finally:
        if first.poll() is None:
            first.kill()
            first.wait()


def test_state_that_is_wiped_comes_back_with_the_next_change(agent: Agent) -> None:
    agent.give(document())
    agent.start()
    shutil.rmtree(agent.directory / "lib")
    agent.give(document("1001"))
    await_that(lambda: agent.passes(1001))
    assert not agent.passes(1000)
    await_that(lambda: agent.status()["record_trouble"])
    (agent.directory / "lib").mkdir()
    await_that(lambda: agent.status()["record_trouble"] is None)
    agent.stop(signal.SIGKILL)
    before = agent.generation()
    agent.start()
    assert agent.generation() == before
