"""What the objects of a ruleset are called. Every name is made here and nowhere else.

Chains of a profile carry its digest ``P``: ``to_P`` judges what travels towards its ports,
``from_P`` what comes from them. Classes are named by their content, sets by their meaning.
"""

from secgroupd.core.marks import LAST_GENERATION
from secgroupd.core.model import Direction
from secgroupd.core.policy import Profile
from secgroupd.core.ruleset import digest, slug

FROM_PORT = "from_port"
TO_PORT = "to_port"
"""The two base chains."""

FORWARDED = "forwarded"
"""The base chain for what the host forwards, where it carries VPCs that do not see each other, or a
load balancer's interface or MAC must be known on the way to a port on a bridge."""

FROM_MANAGED = "from_managed"
TO_MANAGED = "to_managed"
"""Where packets are judged whose interface is managed or claimed by a port."""

KNOWN_FROM = "known_from"
KNOWN_TO = "known_to"
"""Where tracked connections' packets are compared with the newest generation."""

LIVE_FROM = "live_from"
LIVE_TO = "live_to"
"""Where they are compared with their own port's minimum. One chain for all profiles: before a commit of
rules the kernel walks every map that a chain refers to, once for each chain that does."""

RELATED_FROM = "related_from"
RELATED_TO = "related_to"
"""ICMP errors about tracked connections: they pass with their connection, or not at all."""

OK_IN = "ok_in"
OK_OUT = "ok_out"
"""The only places that stamp a connection."""

DENY_IN = "deny_in"
DENY_OUT = "deny_out"
APART = "apart"
CLOSED = "closed"
MIDSTREAM = "midstream"
LINK_IN = "link_in"
LINK_OUT = "link_out"

RAW_FROM = "raw_from"
RAW_OUT = "raw_out"
"""The base chains before connection tracking: source check, and zones."""

RAW_MANAGED = "raw_managed"
"""Where packets from managed interfaces begin the source check."""

CHECK = "check"
CHECK_IP4 = "check_ip4"
CHECK_IP6 = "check_ip6"
CHECK_ARP = "check_arp"
CHECK_RARP = "check_rarp"
CHECK_NEWCOMER = "check_newcomer"
ND_CHECK = "nd_check"
"""The source check, as far as ports share it."""

SPOOFED = "spoofed"
SPOOFS = "spoofs"
"""Where what a port may not send as ends, and the set that counts it by interface."""

DENIED_FROM = "denied_from"
DENIED_TO = "denied_to"
"""The sets that count by interface what the rules have denied, from a port and to one."""

UNTAGGED = "untagged"
UNCHECKED = "unchecked"
STRANGE = "strange"
"""On bridges: only frames that rules can judge come from a port or reach one."""

FRAGMENT = "fragment"
"""On bridges: fragments other than the first, of what the host has routed there."""

ELSEWHERE = "elsewhere"
STRAY = "stray"
HOME = "home"
"""On bridges: what becomes of unicast frames for a MAC that is not known to be the interface's; those
that are flooded to a port and meant for another one end in ``stray``."""

LOGGED = "logged"
"""Which interfaces have had how many denied packets logged lately."""

LEFT = "left"
"""Links that ports have left, by index: closed to what those had opened, too."""

ADOPTING = "adopting"
"""Interfaces whose ports may, for a while, continue TCP connections that nobody has tracked."""


def profile_digest(profile: Profile) -> str:
    """Return what the chains of a profile share in their names."""
    first = slug(profile.groups[0], 16) if profile.groups else "none"
    return f"{first}_{digest(profile.vpc_id, *profile.groups)}"


def towards(direction: Direction) -> str:
    """Return the prefix of chains at the hook where a direction's first packets are judged."""
    return "to" if direction is Direction.INGRESS else "from"


def generation(number: int) -> str:
    """Return the chain that lets connections pass that were judged in a generation or later."""
    return f"gen_{number}"


def brought(way: int) -> str:
    """Return the chain that marks what a load balancer brings one way, unjudged."""
    return f"brought_{way & LAST_GENERATION:08x}"


def counter(group_id: str, rule_id: str) -> str:
    """Return the counter of the packets that a rule has decided."""
    return f"r_{digest(group_id, rule_id)}"


PREFIX = "secgroupd "


def prefix(chain: str) -> str:
    """Return what packets that are logged in a chain are marked with."""
    return f"{PREFIX}{chain} "


def logged_in(prefix: str) -> str:
    """Return the chain that marks packets so.

    Raises:
        ValueError: none of ours does.
    """
    if not prefix.startswith(PREFIX):
        raise ValueError(prefix)
    return prefix.removeprefix(PREFIX).strip()


def zone(number: int) -> str:
    """Return the chain that puts packets into a conntrack zone."""
    return f"zone_{number}"
