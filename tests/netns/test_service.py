"""What systemd and an operator do to the daemon: the guard before it, watchdog, settings, owners."""

import http.client
import json
import os
import pwd
import select
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.netns.agents import Agent, await_that, document
from tests.netns.test_writer_faults import Broken
from tests.unit.test_endpoint import certified

from secgroupd.memory import FileMemory

pytestmark = pytest.mark.netns

SERVER = "10.0.0.1"
WATCHDOG_SECONDS = 1.0


def guard(agent: Agent, *prefix: str) -> subprocess.CompletedProcess[str]:
    command = [
        *prefix,
        sys.executable,
        "-m",
        "secgroupd.cli",
        "--config",
        str(agent.config),
        "guard",
    ]
    return agent.lab.hv.run(command, check=False)


def table(agent: Agent) -> str:
    return agent.lab.hv.run(["nft", "list", "table", "inet", "secgroupd"], check=False).stdout


def reboot(agent: Agent) -> None:
    """Leave of the agent what a boot leaves: what is on disk."""
    agent.stop(signal.SIGKILL)
    agent.lab.hv.run(["nft", "flush", "ruleset"])


def test_the_guard_enforces_what_was_accepted_last_and_the_daemon_goes_on_from_there(
    agent: Agent,
) -> None:
    agent.give(document("1000"))
    agent.start()
    reboot(agent)
    agent.give("version: 1\nnonsense: true\n")
    done = guard(agent)
    assert (done.returncode, done.stderr) == (0, "") and "enforced: revision" in done.stdout
    assert (agent.passes(1000), agent.passes(1001)) == (True, False)
    record = FileMemory(agent.directory / "lib").load()
    assert record.accepted is not None and record.intended is None
    before = agent.generation()
    agent.start()
    assert agent.generation() == before, "the daemon found something to write"
    assert (agent.passes(1000), agent.passes(1001)) == (True, False)


def test_without_a_record_the_guard_closes_and_remembers_nothing(agent: Agent) -> None:
    agent.give(document("1000"))
    done = guard(agent)
    assert (done.returncode, done.stdout) == (0, "closed: tap*, vnet*\n")
    assert not agent.passes(1000)
    assert not list(agent.directory.glob("lib/*"))
    agent.start()
    assert (agent.passes(1000), agent.passes(1001)) == (True, False)


@pytest.mark.parametrize("content", ["", "torn", '{"format": 99, "checksum": ""}\nnull\n'])
def test_a_record_that_cannot_be_read_closes_and_is_set_aside(agent: Agent, content: str) -> None:
    (agent.directory / "lib").mkdir()
    (agent.directory / "lib" / "accepted.json").write_text(content)
    done = guard(agent)
    assert done.returncode == 0 and "set aside" in done.stderr
    assert not agent.passes(1000)


def test_the_guard_leaves_rules_alone_that_it_knows_nothing_better_than(agent: Agent) -> None:
    agent.give(document("1000"))
    agent.start()
    agent.stop()
    (agent.directory / "lib" / "accepted.json").unlink()
    before = table(agent)
    assert guard(agent).returncode == 0
    assert table(agent) == before and agent.passes(1000)


def test_tables_of_which_one_is_missing_are_not_taken_for_protection(agent: Agent) -> None:
    agent.give(document("1000"))
    agent.start()
    agent.stop()
    (agent.directory / "lib" / "accepted.json").unlink()
    agent.lab.hv.run(["nft", "delete", "table", "inet", "secgroupd"])
    assert agent.passes(1001)
    assert guard(agent).returncode == 0
    assert not agent.passes(1000) and not agent.passes(1001)


def test_refused_settings_close_by_the_defaults_and_are_no_success(agent: Agent) -> None:
    agent.give(document("1000"))
    agent.config.write_text("host_id: hv1\nmanaged_interfaces: wrong\n")
    done = guard(agent)
    assert done.returncode == 1 and f"{agent.config}:2:21: error:" in done.stderr
    assert not agent.passes(1000)


def test_a_guard_that_may_not_write_says_so_and_fails(agent: Agent) -> None:
    agent.give(document("1000"))
    agent.start()
    reboot(agent)
    done = guard(agent, "setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")
    assert done.returncode == 1 and "not enforced" in done.stderr
    assert not table(agent)


def test_the_guard_keeps_away_from_a_running_daemon(agent: Agent) -> None:
    agent.give(document("1000"))
    agent.start()
    before = agent.generation()
    done = guard(agent)
    assert (done.returncode, done.stdout) == (0, "a daemon runs: it guards\n")
    assert agent.generation() == before


def test_a_read_only_state_directory_does_not_keep_the_guard_from_enforcing(agent: Agent) -> None:
    agent.give(document("1000"))
    agent.start()
    reboot(agent)
    agent.configure(clearing="strict")  # which is remembered, or would be
    library = str(agent.directory / "lib")
    subprocess.run(["mount", "--bind", library, library], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", library], check=True)
        done = guard(agent)
    finally:
        subprocess.run(["umount", library], check=True)
    assert done.returncode == 0 and "cannot keep the record" in done.stderr
    assert (agent.passes(1000), agent.passes(1001)) == (True, False)


class Notified:
    """The socket that systemd would listen on."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))

    def next(self, patience: float) -> str | None:
        ready, _, _ = select.select([self.socket], [], [], patience)
        return self.socket.recv(4096).decode() if ready else None

    def await_message(self, text: str) -> str:
        """Return the next message that has a text in it; those before are dropped."""
        found: list[str] = []

        def came() -> bool:
            found.append(self.next(0.1) or "")
            return text in found[-1]

        await_that(came)
        return found[-1]

    def drain(self) -> list[str]:
        """Return what has come."""
        return list(iter(lambda: self.next(0), None))


@pytest.fixture
def notified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Notified]:
    path = tmp_path / "notify"
    made = Notified(path)
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))
    monkeypatch.setenv("WATCHDOG_USEC", str(int(WATCHDOG_SECONDS * 1e6)))
    with made.socket:
        yield made


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(each) for each in text.split()]


def test_readiness_is_told_after_the_first_enforcement_and_stopping_at_the_end(
    agent: Agent, notified: Notified
) -> None:
    agent.give(document("1000"))
    agent.start()
    notified.await_message("READY=1")
    assert agent.passes(1000)
    notified.await_message("WATCHDOG=1")
    agent.stop()
    notified.await_message("STOPPING=1")


def test_a_refused_document_keeps_nobody_waiting_and_the_status_line_says_where_it_is_wrong(
    agent: Agent, notified: Notified
) -> None:
    refused = f"STATUS=document refused: {agent.directory}/state.d/cloud.yaml:2:1: error: "
    agent.give("version: 1\nnonsense: true\nmore: true\n")
    agent.start()
    line = notified.await_message(refused)
    assert " and 1 more; " in line and "managed interfaces are closed" in line
    notified.await_message("READY=1")
    assert not agent.passes(1000)
    agent.give(document("1000"))
    line = notified.await_message("STATUS=in force: ")
    in_force = str(agent.status()["revision"])
    assert in_force and line == f"STATUS=in force: revision {in_force}, 1 ports enforced"
    agent.give("version: 1\nnonsense: true\n")
    assert f"in force: revision {in_force}, 1 ports" in notified.await_message(refused)
    agent.stop()
    notified.await_message("STATUS=stopped; the rules stay")
    agent.start()
    assert f"in force: revision {in_force}, 1 ports" in notified.await_message(refused)
    notified.await_message("READY=1")


@pytest.mark.parametrize("text", [document("1000"), "version: 1\nnonsense: true\n"])
def test_without_guarded_ports_it_is_not_ready_and_the_status_line_says_why(
    agent: Agent, notified: Notified, text: str
) -> None:
    broken = Broken(agent)
    broken.by("fail 1000000")
    agent.give(text)
    agent.start()
    notified.await_message("; error: " if "nonsense" in text else "STATUS=error: ")
    await_that(lambda: agent.metric('apply_total{result="failed"}') > 1)
    assert not any("READY=1" in each for each in notified.drain())
    broken.heal()
    notified.await_message("READY=1")
    assert agent.passes(1000) is ("nonsense" not in text)


def test_the_watchdog_is_fed_by_the_loop_and_by_nothing_else(
    agent: Agent, notified: Notified
) -> None:
    agent.give(document("1000"))
    agent.start()
    notified.await_message("READY=1")
    assert agent.process
    (writer,) = children(agent.process.pid)
    intent = agent.directory / "lib" / "intended.json"
    os.kill(writer, signal.SIGSTOP)
    try:
        agent.give(document("1001"))
        await_that(intent.exists)  # from here on it commits
        notified.drain()
        # The loop hangs, and every other thread of the process is alive.
        deadline = time.monotonic() + 3 * WATCHDOG_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            assert notified.next(left) is None
            assert metrics(agent)
    finally:
        os.kill(writer, signal.SIGCONT)
    notified.await_message("WATCHDOG=1")
    await_that(lambda: agent.passes(1001))


def metrics(agent: Agent, token: str = "", trusting: Path | None = None) -> int:
    """Return the HTTP status of a scrape; 0 when there is no answer."""
    context = ssl.create_default_context(cafile=str(trusting)) if trusting else None
    with agent.lab.hv.enter():
        if context is None:
            connection = http.client.HTTPConnection("127.0.0.1", 9760, timeout=5)
        else:
            connection = http.client.HTTPSConnection("127.0.0.1", 9760, timeout=5, context=context)
        try:
            connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {token}"})
            with connection.getresponse() as answer:
                return answer.status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()


def test_changed_settings_are_taken_up_without_a_signal(agent: Agent) -> None:
    agent.give(document("1000"))
    agent.start()
    agent.configure(managed_interfaces=["tap*", "other*"])
    await_that(lambda: "other" in table(agent))
    agent.configure(managed_interfaces="wrong")
    await_that(lambda: "settings-refused" in agent.log.read_text())
    agent.config.unlink()
    await_that(lambda: agent.log.read_text().count("settings-refused") > 1)
    assert "other" in table(agent), "a missing file has brought the defaults back"
    agent.configure(managed_interfaces=["tap*", "third*"])
    await_that(lambda: "third" in table(agent))
    assert agent.passes(1000)


def test_settings_written_again_without_a_change_change_nothing(agent: Agent) -> None:
    agent.give(document("1000"))
    agent.start()
    before = agent.log.read_text().count("settings-reloaded")
    agent.configure()
    agent.configure(host_id="another")
    await_that(lambda: "settings-reloaded" in agent.log.read_text())
    assert agent.log.read_text().count("settings-reloaded") == before + 1


# Python's own SSLSocket leaks when the other end resets the connection before the handshake, as a
# server does that is being replaced.
@pytest.mark.filterwarnings("ignore:.*ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning")
def test_metrics_follow_the_settings_the_certificate_and_the_token(agent: Agent) -> None:
    agent.give(document("1000"))
    agent.start()
    assert metrics(agent) == 200
    serving = certified(agent.directory)
    token = agent.directory / "token"
    token.write_text("one\n")
    listen = {"listen": "127.0.0.1:9760", "token_file": str(token)}
    tls = {"cert_file": str(serving.cert_file), "key_file": str(serving.key_file)}
    agent.configure(metrics=listen | tls)
    await_that(lambda: metrics(agent, "one", serving.cert_file) == 200)
    assert metrics(agent, "two", serving.cert_file) == 401
    assert metrics(agent, "one") == 0, "it speaks without TLS"
    token.write_text("two\n")
    assert agent.process
    agent.process.send_signal(signal.SIGHUP)
    await_that(lambda: metrics(agent, "two", serving.cert_file) == 200)
    token.write_text("")
    agent.process.send_signal(signal.SIGHUP)
    await_that(lambda: "metrics-not-served" in agent.log.read_text())
    assert metrics(agent, "", serving.cert_file) == 401, "a lost token has opened the metrics"
    assert metrics(agent, "two", serving.cert_file) == 200
    agent.configure(metrics={"listen": ""})
    await_that(lambda: metrics(agent, "two", serving.cert_file) == 0)


def test_metrics_are_not_served_at_all_without_their_token(agent: Agent) -> None:
    agent.give(document("1000"))
    agent.configure(metrics={"token_file": str(agent.directory / "token")})
    agent.start()
    assert agent.passes(1000)
    assert metrics(agent) == 0
    assert "metrics-not-served" in agent.log.read_text()


def test_what_root_leaves_belongs_to_the_owner_of_the_directory(agent: Agent) -> None:
    """Else the daemon, which is not root, could read neither record nor lock."""
    nobody = pwd.getpwnam("nobody")
    for name in ("lib", "run"):
        (agent.directory / name).mkdir()
        os.chown(agent.directory / name, nobody.pw_uid, nobody.pw_gid)
    agent.give(document("1000"))
    command = [sys.executable, "-m", "secgroupd.cli", "--config", str(agent.config)]
    agent.lab.hv.run([*command, "apply", str(agent.directory / "state.d")])
    assert guard(agent).returncode == 0
    for file in ("lib/accepted.json", "run/lock"):
        found = (agent.directory / file).stat()
        assert (found.st_uid, found.st_gid) == (nobody.pw_uid, nobody.pw_gid), file


def test_a_lock_that_leads_elsewhere_is_refused_and_its_target_untouched(agent: Agent) -> None:
    (agent.directory / "run").mkdir()
    target = agent.directory / "target"
    target.write_text("kept")
    (agent.directory / "run" / "lock").symlink_to(target)
    done = guard(agent)
    assert "warning: cannot make" in done.stderr and done.returncode == 0
    assert target.read_text() == "kept"
    assert json.loads(agent.config.read_text())
