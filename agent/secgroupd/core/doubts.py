"""What can be doubtful in a valid state: the codes, each of which docs/warnings.md explains."""

from enum import StrEnum
from typing import NamedTuple

from secgroupd.core.reading import shown

_NAMED = 3
"""Ids that a message lists before it only counts the rest."""


class Doubt(StrEnum):
    """The codes of warnings: stable, and the headings of docs/warnings.md."""

    SHADOWED_RULE = "shadowed-rule"
    CONTRADICTORY_RULE = "contradictory-rule"
    REDUNDANT_RULE = "redundant-rule"
    OVERRULED_RULE = "overruled-rule"
    OPEN_MANAGEMENT_PORT = "open-management-port"
    NEVER_MATCHING_PEER = "never-matching-peer"
    NEVER_MATCHING_PROTOCOL = "never-matching-protocol"
    DANGLING_SECURITY_GROUP = "dangling-security-group"
    DANGLING_ADDRESS_GROUP = "dangling-address-group"
    EMPTY_SECURITY_GROUP = "empty-security-group"
    EMPTY_ADDRESS_GROUP = "empty-address-group"
    UNUSED_SECURITY_GROUP = "unused-security-group"
    SHARED_ADDRESS = "shared-address"
    VOID_EXEMPTION = "void-exemption"
    IDLE_LOAD_BALANCER = "idle-load-balancer"
    OVER_LIMIT = "over-limit"


class Finding(NamedTuple):
    """A doubt about the object that a key of ``State.places`` names, and what to do about it."""

    key: str
    code: Doubt
    message: str


def listed(ids: list[str]) -> str:
    """Return quoted ids as words: the first few of many."""
    named = [shown(each) for each in ids]
    if len(named) > _NAMED:
        named[_NAMED:] = [f"{len(named) - _NAMED} more"]
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"
