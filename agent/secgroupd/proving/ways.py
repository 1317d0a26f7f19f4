"""Who reaches which address over which interface at whose MAC, as a lab's wiring asks for."""

from collections.abc import Iterable, Mapping, Sequence

from secgroupd.core.model import Address
from secgroupd.proving.attachment import Attachment
from secgroupd.proving.netns import Namespace
from secgroupd.proving.wiring import Way, change_ways

Table = Mapping[Address, Way]
"""What one namespace knows; all the rest is behind the gateway."""


def check_apart(attachments: Sequence[Attachment]) -> None:
    """Check that no packet and no frame could mean two of them.

    Raises:
        ValueError: Two that the host routes to, or two on one bridge, have the same address; or two
            on one bridge have the same MAC.
    """
    owners: dict[tuple[str | None, Address | str], Attachment] = {}
    for one in attachments:
        claims: list[tuple[str | None, Address | str]] = [(one.island, a) for a in one.addresses]
        claims += [(one.bridge, one.mac)] if one.bridge else []
        for claim in claims:
            if owners.setdefault(claim, one) is not one:
                raise ValueError(f"another namespace of the lab has {claim[1]}")


def tables(
    host: Namespace, attachments: Iterable[Attachment], bridges: Mapping[str, int]
) -> dict[Namespace, Table]:
    """Return what each namespace must know.

    Those on one bridge know each other. The host knows all but the islands.

    Args:
        host: The namespace of the host's ends.
        attachments: All of them, told apart.
        bridges: The index of each bridge.
    """
    every = tuple(attachments)
    found: dict[Namespace, Table] = {
        one.namespace: {
            address: Way(one.guest_index, other.mac)
            for other in every
            if one.bridge is not None and other.bridge == one.bridge and other is not one
            for address in other.addresses
        }
        for one in every
    }
    found[host] = {
        address: Way(bridges[one.bridge] if one.bridge else one.index, one.mac)
        for one in every
        if one.island is None
        for address in one.addresses
    }
    return found


class Ways:
    """The routes and neighbours that namespaces have been given; only differences are written."""

    def __init__(self) -> None:
        self._known: dict[Namespace, Table] = {}

    def write(self, wanted: Mapping[Namespace, Table]) -> None:
        """Bring every namespace to what it must know; those not named are forgotten.

        Raises:
            DataplaneError: The kernel refused a route or neighbour.
        """
        for namespace, table in wanted.items():
            known = self._known.get(namespace, {})
            gained = {a: way for a, way in table.items() if known.get(a) != way}
            lost = {
                a: way for a, way in known.items() if a not in table or table[a].index != way.index
            }
            if gained or lost:
                # Known before it is written: what fails halfway is taken back by the next call.
                self._known[namespace] = {**known, **table}
                change_ways(namespace, gained, lost)
            self._known[namespace] = table
        for namespace in self._known.keys() - wanted.keys():
            del self._known[namespace]
