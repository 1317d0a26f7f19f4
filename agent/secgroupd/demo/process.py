"""The real daemon, started in a namespace with directories of its own."""

import http.client
import json
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from secgroupd.errors import DataplaneError
from secgroupd.proving.netns import Namespace

SECONDS = 20.0
"""How long the daemon may take for anything."""

METRICS = ("127.0.0.1", 9760)
"""Where it serves its metrics, inside the namespace."""

_LOOK_AGAIN = 0.005
_LOG_LINES = 20


class DaemonProcess:
    """The daemon, from entering the context to leaving it.

    Args:
        namespace: the network namespace whose interfaces it guards.
        directory: an empty directory for its settings, its document and whatever it writes.
    """

    def __init__(self, namespace: Namespace, directory: Path) -> None:
        self._namespace = namespace
        self._source = directory / "state.d"
        self._status = directory / "run" / "status.json"
        self._log = directory / "log"
        for name in ("state.d", "run", "lib"):
            (directory / name).mkdir()
        settings = {
            "source": {"directory": str(self._source)},
            "state_dir": str(directory / "lib"),
            "run_dir": str(directory / "run"),
            "metrics": {"listen": f"{METRICS[0]}:{METRICS[1]}"},
        }
        self._config = directory / "secgroupd.yaml"
        self._config.write_text(json.dumps(settings), encoding="utf-8")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = self._namespace.popen(
                [sys.executable, "-m", "secgroupd.daemon", "--config", str(self._config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # An interrupt from the terminal is for the demonstration, which stops the daemon.
                process_group=0,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def give(self, name: str, text: str) -> None:
        """Put a file of the state document in place, whole, as a deployment tool does."""
        fresh = self._source / f".{name}.new"
        fresh.write_text(text, encoding="utf-8")
        fresh.rename(self._source / name)

    def await_revision(self, revision: str) -> float:
        """Wait until a revision is in force; return the seconds that it took.

        Raises:
            DataplaneError: the daemon ended, or took too long; the message has the end of its log.
        """
        assert self._process
        began = time.monotonic()
        while (took := time.monotonic() - began) < SECONDS:
            if self._enforces(revision):
                return took
            try:
                self._process.wait(_LOOK_AGAIN)
            except subprocess.TimeoutExpired:
                continue
            raise DataplaneError(f"the daemon has ended:\n{self._end_of_log()}")
        raise DataplaneError(f"the daemon did not enforce {revision}:\n{self._end_of_log()}")

    def _enforces(self, revision: str) -> bool:
        try:
            status = json.loads(self._status.read_bytes())
        except (FileNotFoundError, ValueError):
            return False
        return bool(status.get("revision") == revision)

    def _end_of_log(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-_LOG_LINES:])

    def metrics(self) -> list[str]:
        """Fetch the lines of the metrics page that carry values."""
        with self._namespace.enter():
            connection = http.client.HTTPConnection(*METRICS, timeout=SECONDS)
            try:
                connection.request("GET", "/metrics")
                text = connection.getresponse().read().decode()
            except OSError as error:
                raise DataplaneError(f"the daemon serves no metrics: {error}") from error
            finally:
                connection.close()
        return [line for line in text.splitlines() if line and not line.startswith("#")]
