"""An interface that is managed and that no port claims takes no part in the connections of ports either."""

import socket
from dataclasses import replace
from ipaddress import ip_address

import pytest
from tests.awaiting import PATIENCE
from tests.builders import both, group, port, state
from tests.enforcing import enforce
from tests.spoofs import MAC

from secgroupd.core.model import Family
from secgroupd.proving import frames
from secgroupd.proving.attachment import Attachment
from secgroupd.proving.namespaces import Lab, Wiring

pytestmark = pytest.mark.netns

OWN = {4: "10.0.0.10", 6: "fd00::10"}
FAR = {4: "203.0.113.9", 6: "2001:db8::9"}
CLOSED_MAC = "fa:16:3e:00:00:77"


@pytest.mark.parametrize("checked", [True, False], ids=["checked", "unchecked"])
@pytest.mark.parametrize("family", Family)
def test_nobody_speaks_in_a_ports_connection_from_there(family: Family, checked: bool) -> None:
    near, far = OWN[family.version], FAR[family.version]
    made = state(
        [group("open", *both("egress"), *both())],
        [replace(port("a", ["open"], OWN.values(), mac=MAC), source_check=checked)],
    )
    with Lab() as lab:
        own = lab.add_port(interface="tap-a", addresses=OWN.values(), mac=MAC)
        enforce(lab, made)
        closed = lab.add_port(interface="tap-x", addresses=["10.0.0.77"], mac=CLOSED_MAC)
        outside = lab.outside_address(far)

        def heard(sender: Attachment, mac: str) -> bool:
            mark = frames.nonce()
            switched = lab.wiring is Wiring.SWITCHED
            gateway = lab.uplinks["uplink0"].mac if switched else sender.host_mac
            kind = frames.IPV4 if family.version == 4 else frames.IPV6
            packet = frames.udp(ip_address(near), ip_address(far), 4000, 4000, mark)
            sent = {"x": (mark, [frames.ethernet(mac, gateway, kind, packet)])}
            listeners = {"far": outside}
            return (
                "x"
                in frames.arrived(sender.namespace, sent, listeners, patience=1.0, last="x")["far"]
            )

        assert heard(own, MAC)
        assert not heard(closed, CLOSED_MAC), "a connection that nobody has answered"
        form = socket.AF_INET if family.version == 4 else socket.AF_INET6
        with (
            own.namespace.socket(form, socket.SOCK_DGRAM) as asking,
            outside.socket(form, socket.SOCK_DGRAM) as answering,
        ):
            for one, address in ((asking, near), (answering, far)):
                one.settimeout(PATIENCE)
                one.bind((address, 4000))
            asking.sendto(b"?", (far, 4000))
            answering.sendto(b"!", answering.recvfrom(16)[1])
            assert asking.recv(16) == b"!"
            assert heard(own, MAC)
            assert not heard(closed, CLOSED_MAC)
            assert not heard(closed, MAC)
