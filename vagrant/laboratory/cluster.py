"""The lab's machines as one: provisioned, pushed to, and asked all at once."""

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from laboratory.shell import LabError, Ssh
from laboratory.tables import CHECKOUT, HERE, Host

CONTROL_PORT = 9100
FILES = ("hosts", "instances", "packages", "provision", "guest")

T = TypeVar("T")


def at_once(work: Callable[[Host], T], hosts: Iterable[Host]) -> dict[str, T]:
    """Do something for each host at the same time; return the results by name."""
    chosen = list(hosts)
    with ThreadPoolExecutor(len(chosen)) as pool:
        return dict(zip([host.name for host in chosen], pool.map(work, chosen), strict=True))


class Line:
    """A standing connection to a host's lab-instances."""

    def __init__(self, way: Ssh) -> None:
        self._process = way.connect(CONTROL_PORT)
        self._name = way.name

    def ask(self, what: str, **rest: object) -> Any:
        """Have something done; return what comes of it.

        Raises:
            LabError: it failed there, or the connection is gone.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": what, **rest}).encode() + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError as error:
            raise LabError(f"{self._name}: lab-instances is gone: {error}") from error
        if not line:
            raise LabError(f"{self._name}: lab-instances does not answer")
        reply = json.loads(line)
        if "error" in reply:
            raise LabError(f"{self._name}: {what}: {reply['error']}")
        return reply["ok"]

    def close(self) -> None:
        """Close it."""
        self._process.kill()
        self._process.communicate()


class Cluster:
    """Some machines of the lab."""

    def __init__(self, hosts: dict[str, Host], ssh: Callable[[str], Ssh]) -> None:
        self.hosts = hosts
        self.ssh = ssh
        self._lines: dict[str, Line] = {}

    @property
    def hypervisors(self) -> list[Host]:
        """Those that have instances."""
        return [host for host in self.hosts.values() if host.role == "hypervisor"]

    def provision(self) -> None:
        """Run the provisioning scripts on every machine, as Vagrant does."""
        deb = newest_package()
        files = _archive(
            {
                **{name: HERE / name for name in FILES},
                "monitoring": CHECKOUT / "monitoring",
                "secgroupd.deb": deb,
            }
        )

        def provision(host: Host) -> None:
            way = self.ssh(host.name)
            unpack = "rm -rf /tmp/lab; mkdir /tmp/lab; tar -x --no-same-owner -C /tmp/lab"
            way.run(unpack, given=files)
            way.run(f"sh /tmp/lab/provision/{host.role}.sh")

        at_once(provision, self.hosts.values())

    def push(self, directory: Path, hosts: Iterable[Host] | None = None) -> str:
        """Give a policy's files to every hypervisor; return the revision that all have in force.

        Raises:
            LabError: an agent refuses it, or does not come to enforce it.
        """
        files = {
            file.name: file
            for file in sorted(directory.iterdir())
            if file.suffix in {".yaml", ".yml", ".json"}
        }
        return self.push_files(_archive(files), hosts)

    def push_text(self, text: str, hosts: Iterable[Host] | None = None) -> str:
        """Push a policy that is one text."""
        return self.push_files(_archive({"lab.yaml": text.encode()}), hosts)

    def push_files(self, archive: bytes, hosts: Iterable[Host] | None = None) -> str:
        """Push an archive."""
        revisions = at_once(
            lambda host: self.ssh(host.name).run("lab-take", given=archive).strip(),
            self.hypervisors if hosts is None else hosts,
        )
        if len(set(revisions.values())) != 1:
            raise LabError(f"the hosts do not enforce the same revision: {revisions}")
        return next(iter(revisions.values()))

    def ask(self, name: str, what: str, **rest: object) -> Any:
        """Have the instances of a host do something."""
        if name not in self._lines:
            self._lines[name] = Line(self.ssh(name))
        return self._lines[name].ask(what, **rest)

    def ask_all(self, what: str, **rest: object) -> dict[str, Any]:
        """Have every host's instances do the same."""
        return at_once(lambda host: self.ask(host.name, what, **rest), self.hosts.values())

    def hang_up(self, name: str) -> None:
        """Drop the connection to a host's instances."""
        if line := self._lines.pop(name, None):
            line.close()

    def close(self) -> None:
        """Drop all connections."""
        for name in list(self._lines):
            self.hang_up(name)


def newest_package() -> Path:
    """Return the agent's Debian package that was built last.

    Raises:
        LabError: there is none.
    """
    found = sorted((CHECKOUT / "dist").glob("secgroupd_*_all.deb"), key=lambda f: f.stat().st_mtime)
    if not found:
        raise LabError("there is no package in dist: make deb")
    return found[-1]


def _archive(files: Mapping[str, Path | bytes]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for name, file in files.items():
            if isinstance(file, Path):
                tar.add(file, name, filter=_plain)
            else:
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(file), 0o644
                tar.addfile(entry, io.BytesIO(file))
    return content.getvalue()


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "__pycache__" in entry.name else entry


def hosts_that_are_asked(names: list[str], table: dict[str, Host]) -> dict[str, Host]:
    """Return the hosts with these names, or all of them for none.

    Raises:
        LabError: there is no such host.
    """
    if unknown := [name for name in names if name not in table]:
        raise LabError(f"no such host: {', '.join(unknown)}; there are {', '.join(table)}")
    return {name: table[name] for name in names or table}
