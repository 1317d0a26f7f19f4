"""Who may ask over the control socket, and what hostile clients get (F-52, F-56)."""

import json
import os
import select
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secgroupd.control import (
    MAX_CLIENTS,
    MAX_REQUEST_BYTES,
    NAME,
    Control,
    NoSocket,
    NotAllowed,
    Silent,
    ask,
)

STATUS = {"healthy": True, "ports": {"p": {"interface": 'tap"x'}}}
OWNERS, STRANGERS = 4711, 4712

ASK = """
import socket, sys
asking = socket.socket(socket.AF_UNIX)
try:
    asking.connect(sys.argv[1])
    asking.sendall(b'{"ask": "status"}\\n')
except PermissionError:
    sys.exit("EACCES")
except BrokenPipeError:
    pass
print(asking.makefile().readline())
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    """A run directory as the service has it, below directories that anybody may pass."""
    with TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        run_dir = Path(made, "run")
        run_dir.mkdir(mode=0o755)
        os.chown(run_dir, -1, OWNERS)
        yield run_dir


@pytest.fixture
def control(directory: Path) -> Iterator[Control]:
    with Control(directory, {"status": lambda: STATUS}) as serving:
        yield serving


def ask_as(directory: Path, group: int, further: Sequence[int] = ()) -> str:
    """Ask as a user without privileges, and return what is answered."""
    command = [sys.executable, "-c", ASK, str(directory / NAME)]
    asked = subprocess.run(
        command,
        check=False,
        user=STRANGERS,
        group=group,
        extra_groups=list(further),
        cwd="/",
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=30,
    )
    return asked.stdout.strip()


def send(directory: Path, data: bytes, *, end: bool = True) -> bytes:
    """Send something, say that it is all, and return the answer."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(30)
        asking.connect(str(directory / NAME))
        try:
            asking.sendall(data)
            if end:
                asking.shutdown(socket.SHUT_WR)
            return asking.makefile("rb").readline()
        except (BrokenPipeError, ConnectionResetError):
            return b""


def refusal(answer: bytes) -> str:
    found = json.loads(answer)
    assert found.keys() == {"refused"}
    return str(found["refused"])


@pytest.mark.usefixtures("control")
def test_the_owner_and_the_group_may_ask_and_nobody_else(directory: Path) -> None:
    made = (directory / NAME).lstat()
    assert stat.S_IMODE(made.st_mode) == 0o660
    assert made.st_gid == OWNERS
    assert ask(directory, "status") == STATUS
    assert json.loads(ask_as(directory, OWNERS)) == STATUS
    assert json.loads(ask_as(directory, STRANGERS, [4713, OWNERS])) == STATUS
    assert ask_as(directory, STRANGERS) == "EACCES"


@pytest.mark.usefixtures("control")
def test_a_mode_that_somebody_widened_lets_nobody_in(directory: Path) -> None:
    (directory / NAME).chmod(0o666)
    assert "only root and the members" in refusal(ask_as(directory, STRANGERS).encode())
    assert json.loads(ask_as(directory, STRANGERS, [OWNERS])) == STATUS


@pytest.mark.usefixtures("control")
@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (b"", "no line of JSON"),
        (b'{"ask": "sta', "no line of JSON"),
        (b"\0\xff\xfe\n", "no line of JSON"),
        (b"[" * 4000 + b"\n", "no line of JSON"),
        (b"[]\n", "unknown request"),
        (b"null\n", "unknown request"),
        (b'{"ask": ["status"]}\n', "unknown request"),
        (b'{"ask": "everything"}\n', 'known: {"ask": "status"}'),
        (b'{"ask": "status", "then": "stop"}\n', "unknown request"),
        (b"x" * (MAX_REQUEST_BYTES + 1), "over 4096 bytes"),
        (b" " * (1 << 20), "over 4096 bytes"),
    ],
    ids=repr,
)
def test_what_is_no_request_is_refused_with_the_reason(
    directory: Path, request_: bytes, reason: str
) -> None:
    answer = send(directory, request_)
    # Who still sends when the refusal comes may see the connection reset instead.
    assert reason in refusal(answer) if answer or len(request_) < 1 << 16 else True
    assert ask(directory, "status") == STATUS


@pytest.mark.usefixtures("control")
@given(st.binary(max_size=2 * MAX_REQUEST_BYTES) | st.from_regex(rb'\{"ask": .{0,30}\}\n'))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_bytes_get_a_line_of_json_and_the_next_client_its_answer(
    directory: Path, request_: bytes
) -> None:
    answer = json.loads(send(directory, request_))
    assert answer == STATUS or answer.keys() == {"refused"}
    assert ask(directory, "status") == STATUS


@pytest.mark.usefixtures("control")
def test_a_thousand_requests_at_once_are_all_answered_or_told_to_come_again(
    directory: Path,
) -> None:
    def one(_: int) -> bytes:
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(60)
            asking.connect(str(directory / NAME))
            # Who is refused at once may find nobody who reads.
            with suppress(BrokenPipeError):
                asking.sendall(b'{"ask": "status"}\n')
            return asking.makefile("rb").readline()

    with ThreadPoolExecutor(200) as clients:
        answers = [json.loads(answer) for answer in clients.map(one, range(1000))]
    full = {"refused": f"{MAX_CLIENTS} clients are being served: ask again"}
    assert all(answer in (STATUS, full) for answer in answers)
    assert STATUS in answers
    assert ask(directory, "status") == STATUS


@pytest.mark.usefixtures("control")
def test_clients_that_say_nothing_hold_up_nobody_for_long(directory: Path) -> None:
    with ExitStack() as held:
        clients = [held.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(MAX_CLIENTS)]
        for dawdling in clients:
            dawdling.settimeout(30)
            dawdling.connect(str(directory / NAME))
        with pytest.raises(NotAllowed, match="32 clients are being served"):
            ask(directory, "status")
        # They are hung up on when their time is over: that is what is awaited here.
        assert [dawdling.recv(1) for dawdling in clients] == [b""] * MAX_CLIENTS
        assert ask(directory, "status") == STATUS


def test_an_answer_that_nobody_reads_is_given_up(directory: Path) -> None:
    large = {"padding": "x" * (8 << 20)}
    with (
        Control(directory, {"status": lambda: large}),
        socket.socket(socket.AF_UNIX) as dawdling,
    ):
        dawdling.connect(str(directory / NAME))
        dawdling.sendall(b'{"ask": "status"}\n')
        assert ask(directory, "status") == large
        hung_up = select.poll()
        hung_up.register(dawdling, select.POLLHUP)
        assert hung_up.poll(30_000)
        assert len(dawdling.makefile("rb").read()) < 8 << 20


@pytest.mark.parametrize("kind", ["file", "symlink", "dangling", "socket"])
def test_what_has_the_sockets_name_is_replaced_and_what_it_leads_to_is_not_touched(
    directory: Path, kind: str
) -> None:
    target, path = directory / "other", directory / NAME
    target.write_text("precious")
    if kind == "file":
        path.write_text("left over")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
    else:
        path.symlink_to(target if kind == "symlink" else directory / "nowhere")
    with Control(directory, {"status": lambda: STATUS}):
        assert ask(directory, "status") == STATUS
    assert target.read_text() == "precious"
    assert not os.path.lexists(path)


def test_a_directory_of_its_name_is_an_error_and_stays(directory: Path) -> None:
    (directory / NAME / "precious").mkdir(parents=True)
    with pytest.raises(IsADirectoryError, match="control is a directory"):
        Control(directory, {})
    assert (directory / NAME / "precious").is_dir()


def test_closing_leaves_another_ones_socket_alone(directory: Path) -> None:
    first = Control(directory, {"status": lambda: STATUS})
    with Control(directory, {"status": lambda: {"second": True}}):
        assert not first.reachable()
        first.close()
        assert ask(directory, "status") == {"second": True}


def test_with_nobody_there_asking_says_so(directory: Path) -> None:
    with pytest.raises(NoSocket, match="nobody listens on"):
        ask(directory, "status")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(directory / NAME))
    with pytest.raises(NoSocket, match="nobody listens on"):
        ask(directory, "status")


@pytest.mark.parametrize("answer", [b"", b'{"hea', b"[]\n", b"\xff\n"])
def test_an_answer_that_is_none_counts_as_silence(directory: Path, answer: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(directory / NAME))
        listening.listen()

        def serve() -> None:
            client, _ = listening.accept()
            with client:
                client.recv(4096)
                client.sendall(answer)

        serving = threading.Thread(target=serve)
        serving.start()
        with pytest.raises(Silent, match=r"control gave no"):
            ask(directory, "status")
        serving.join()
