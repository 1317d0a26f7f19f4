"""What lines of a ruleset come from, in the words in which people are told, and ports are held back.

An origin is one object, or several separated by ``SEPARATOR``.
"""

from collections.abc import Iterable

SEPARATOR = ", "
_PROFILE = "security groups "


def port(port_id: str) -> str:
    """Return the origin of a port's own lines."""
    return f"port {port_id}"


def profile(groups: Iterable[str]) -> str:
    """Return the origin of the lines for all ports with an ordered list of groups."""
    return _PROFILE + SEPARATOR.join(groups)


def group(group_id: str) -> str:
    """Return the origin of what a security group's members bring, as a peer."""
    return f"security group {group_id}"


def address_group(group_id: str) -> str:
    """Return the origin of what an address group's entries bring, as a peer."""
    return f"address group {group_id}"


def parts(origin: str) -> list[str]:
    """Return the objects that an origin lists; an ordered list of groups is one thing."""
    return [origin] if origin.startswith(_PROFILE) else origin.split(SEPARATOR)
