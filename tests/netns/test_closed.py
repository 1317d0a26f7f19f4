"""An interface that is managed and that no port claims takes no part in the connections of ports either."""

from dataclasses import replace
from ipaddress import ip_address

import pytest
from tests.builders import both, group, port, state
from tests.enforcing import enforce
from tests.spoofs import MAC

from secgroupd.core.model import Family
from secgroupd.proving import frames
from secgroupd.proving.namespaces import Lab, Wiring

pytestmark = pytest.mark.netns

OWN = {4: "10.0.0.10", 6: "fd00::10"}
FAR = {4: "203.0.113.9", 6: "2001:db8::9"}
CLOSED_MAC = "fa:16:3e:00:00:77"


@pytest.mark.parametrize("checked", [True, False], ids=["checked", "unchecked"])
@pytest.mark.parametrize("family", Family)
def test_nobody_speaks_in_a_ports_connection_from_there(family: Family, checked: bool) -> None:
    version = family.version
    made = state(
        [group("open", *both("egress"), *both())],
        [replace(port("a", ["open"], OWN.values(), mac=MAC), source_check=checked)],
    )
    with Lab() as lab:
        own = lab.add_port(interface="tap-a", addresses=OWN.values(), mac=MAC)
        enforce(lab, made)
        closed = lab.add_port(interface="tap-x", addresses=["10.0.0.77"], mac=CLOSED_MAC)
        outside = lab.outside_address(FAR[version])
        near, far = ip_address(OWN[version]), ip_address(FAR[version])
        kind = frames.IPV4 if version == 4 else frames.IPV6
        bridged = lab.wiring is Wiring.SWITCHED

        def heard(sender, mac: str) -> bool:  # type: ignore[no-untyped-def]
            mark = frames.nonce()
            gateway = lab.uplinks["uplink0"].mac if bridged else f"fe{mac[2:]}"
            packet = frames.udp(near, far, 4000, 4000, mark)
            sent = {"x": (mark, [frames.ethernet(mac, gateway, kind, packet)])}
            return bool(
                frames.arrived(sender, sent, {"far": outside}, patience=1.0, last="x")["far"]
            )

        assert heard(own.namespace, MAC)
        assert heard(own.namespace, MAC)
        assert not heard(closed.namespace, CLOSED_MAC)
        assert not heard(closed.namespace, MAC)
