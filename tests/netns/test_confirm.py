"""``apply --confirm``: who lost the way to the host, or the terminal, has the rules from before."""

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.netns.agents import PATIENCE, Agent, await_that, document

from secgroupd.memory import FileMemory

pytestmark = pytest.mark.netns

BEFORE, TRIED = "1000", "1001"
LONG, SHORT = "600", "0.5"


@pytest.fixture
def applied(agent: Agent) -> Agent:
    """A host where something is in force, and something else is to be tried."""
    agent.give(document(BEFORE))
    assert agent.lab.hv.run(command(agent)).returncode == 0
    agent.give(document(TRIED))
    return agent


def command(agent: Agent, *arguments: str) -> list[str]:
    program = [sys.executable, "-m", "secgroupd.cli", "--config", str(agent.config), "apply"]
    return [*program, *arguments, str(agent.directory / "state.d")]


def in_force(agent: Agent) -> tuple[bool, bool]:
    return agent.passes(int(BEFORE)), agent.passes(int(TRIED))


@contextmanager
def asking(agent: Agent, seconds: str) -> Iterator[subprocess.Popen[bytes]]:
    """The command, with somebody at its standard input; killed in the end if it runs."""
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL}
    with agent.lab.hv.popen(command(agent, "--confirm", seconds), **options) as made:
        try:
            yield made
        finally:
            made.kill()


def test_it_is_taken_back_when_the_terminal_goes(applied: Agent) -> None:
    with applied.lab.hv.enter():
        pid, terminal = pty.fork()
        if pid == 0:
            os.execv(sys.executable, command(applied, "--confirm", LONG))
    said = b""
    while b"Type yes" not in said:
        said += os.read(terminal, 4096)
    assert in_force(applied) == (False, True)
    os.close(terminal)
    os.waitpid(pid, 0)
    assert in_force(applied) == (True, False)
    record = FileMemory(applied.directory / "lib").load()
    assert record.accepted is not None and record.intended is None


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_it_is_taken_back_when_the_signal_comes_before_the_question(
    applied: Agent, number: signal.Signals
) -> None:
    before = applied.generation()
    with asking(applied, LONG) as process:
        await_that(lambda: applied.generation() != before)
        process.send_signal(number)
        assert process.wait(PATIENCE) == 1
    assert in_force(applied) == (True, False)


def test_half_an_answer_keeps_nobody_waiting(applied: Agent) -> None:
    with asking(applied, SHORT) as process:
        assert process.stdin
        process.stdin.write(b"yes")
        process.stdin.flush()
        assert process.wait(PATIENCE) == 1
    assert in_force(applied) == (True, False)


def test_a_first_one_that_is_taken_back_leaves_no_generation_to_be_given_again(
    agent: Agent,
) -> None:
    agent.give(document(BEFORE))
    done = agent.lab.hv.run(command(agent, "--confirm", LONG), stdin="no\n", check=False)
    assert done.returncode == 1
    record = FileMemory(agent.directory / "lib").load()
    assert record.accepted is None and record.generations.current > 0


def test_apply_does_not_fight_with_a_daemon(agent: Agent) -> None:
    agent.give(document(BEFORE))
    agent.start()
    await_that(lambda: agent.status().get("healthy"))
    other = agent.directory / "other.yaml"
    other.write_text(document(TRIED))
    before = agent.generation()
    done = agent.lab.hv.run([*command(agent)[:-1], str(other)], check=False)
    assert done.returncode == 1 and "a daemon runs" in done.stderr
    assert agent.generation() == before
    agent.stop()
    assert agent.lab.hv.run([*command(agent)[:-1], str(other)]).returncode == 0
    assert in_force(agent) == (False, True)
