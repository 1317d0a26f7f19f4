"""What the ct mark of a port's connection says: who has judged it, and when, or who has brought it.

One word of 32 bits. Bit 31: the outbound rules of the originator's port have allowed it. Of the other
31, either bit 30 is clear and the rest is the *generation* in which the responder's inbound rules
last allowed it (0 for never), or bit 30 is set and the rest is the *way* that a load balancer has
brought it: then no inbound rule has judged it, and it passes only as long as that way leads there.
"""

from secgroupd.core.policy import Exemption
from secgroupd.core.ruleset import digest

JUDGED_OUT = 0x80000000
"""Bit of the ct mark: the outbound rules of the originator's port have allowed the connection."""
BALANCED = 0x40000000
"""Bit of the ct mark: a load balancer has brought the connection, which no inbound rule has judged."""
INBOUND = 0x7FFFFFFF
"""The bits of the ct mark that tell how the responder's side stands to the connection."""
LAST_GENERATION = 0x3FFFFFFF
"""The greatest generation. What is above it, of the inbound bits, is a way."""


def generation_of(mark: int) -> int:
    """Return the generation in which inbound rules last allowed a connection; 0 for never."""
    return 0 if mark & BALANCED else mark & LAST_GENERATION


def way(one: Exemption) -> int:
    """Return the inbound bits of what comes to a service the way that an exemption tells.

    Load balancers, protocols and ports that differ have ways that differ, but for a chance of one in
    a thousand million: it is made from them alone, so that it means the same after every change.
    """
    forwarder = one.forwarder
    through = f"{forwarder.interface} {forwarder.mac_address} {forwarder.fwmark}"
    number = int(digest(through, str(one.protocol), str(one.dport)), 16)
    return BALANCED | number & LAST_GENERATION
