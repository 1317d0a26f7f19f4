"""The lab's two tables: its machines and its instances."""

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
CHECKOUT = HERE.parent
WORK = CHECKOUT / "build" / "lab"
"""Everything that the lab makes: images, keys, disks, logs."""
FAMILIES = ("IPv4", "IPv6")


@dataclass(frozen=True, slots=True)
class Host:
    """A machine of the lab."""

    name: str
    role: str
    suite: str
    address: str
    address6: str

    def at(self, family: str) -> str:
        """Its address of a family."""
        return self.address6 if family == "IPv6" else self.address

    @property
    def number(self) -> int:
        """The last number of its address."""
        return int(self.address.rpartition(".")[2])


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance, with the host on which it begins."""

    name: str
    host: str
    wiring: str
    kind: str
    interface: str
    address: str
    address6: str
    mac: str

    def at(self, family: str) -> str:
        """Its address of a family."""
        return self.address6 if family == "IPv6" else self.address


def rows(file: Path) -> list[list[str]]:
    """Return a table's lines as words; ``#`` begins a comment."""
    lines = (line.partition("#")[0].split() for line in file.read_text().splitlines())
    return [line for line in lines if line]


def hosts() -> dict[str, Host]:
    """Return the machines by name, in the order of the table."""
    return {row[0]: Host(*row) for row in rows(HERE / "hosts")}


def instances() -> dict[str, Instance]:
    """Return the instances by name, in the order of the table."""
    return {row[0]: Instance(*row) for row in rows(HERE / "instances")}


def packages(role: str) -> list[str]:
    """Return the Debian packages that a role needs."""
    return [word for row in rows(HERE / "packages" / role) for word in row]
