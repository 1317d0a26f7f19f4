"""Connection tracking of a lab: the one request to forget every connection."""

import os
import socket
import struct

from secgroupd.errors import DataplaneError
from secgroupd.proving.netns import Namespace

_NETLINK_NETFILTER = 12
_CONNTRACK_DELETE = 1 << 8 | 2
_REQUEST, _ACK = 0x01, 0x04
_ERROR = 2


def forget_connections(namespace: Namespace) -> None:
    """Delete every conntrack entry of a namespace, of both families, in one request.

    Raises:
        DataplaneError: The kernel refused; it may lack the conntrack netlink interface.
    """
    body = struct.pack("=BBH", socket.AF_UNSPEC, 0, 0)
    header = struct.pack("=IHHII", 16 + len(body), _CONNTRACK_DELETE, _REQUEST | _ACK, 1, 0)
    with namespace.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as netlink:
        netlink.settimeout(None)
        netlink.sendto(header + body, (0, 0))
        answer = netlink.recv(4096)
    (kind,) = struct.unpack_from("=H", answer, 4)
    (code,) = struct.unpack_from("=i", answer, 16)
    if kind != _ERROR or code != 0:
        raise DataplaneError(f"conntrack entries were not deleted: {os.strerror(-code)}")
