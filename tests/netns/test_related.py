"""What a connection helper of somebody else's calls related is judged like any new connection."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address

import pytest
from tests.builders import group, port, rule, state
from tests.enforcing import bindings, enforcer

from secgroupd.core.model import TCP, Family, Rule
from secgroupd.proving.namespaces import Lab
from secgroupd.proving.packets import Probe, probe

pytestmark = pytest.mark.netns

SERVER = {4: "10.0.0.1", 6: "fd00::1"}
CLIENT = {4: "203.0.113.9", 6: "2001:db8::9"}
DATA = 50000

HELPED = f"""
table inet theirs {{
    ct helper ftp4 {{ type "ftp" protocol tcp; l3proto ip; }}
    ct helper ftp6 {{ type "ftp" protocol tcp; l3proto ip6; }}
    chain helping {{
        type filter hook prerouting priority -160;
        tcp dport 21 meta nfproto ipv4 ct helper set "ftp4"
        tcp dport 21 meta nfproto ipv6 ct helper set "ftp6"
        tcp dport {DATA} ct state related counter
    }}
}}
"""

PASSIVE = {4: "227 Entering Passive Mode (10,0,0,1,195,80)", 6: f"229 Extended (|||{DATA}|)"}
ACTIVE = {4: "PORT 203,0,113,9,195,80", 6: f"EPRT |2|2001:db8::9|{DATA}|"}


@contextmanager
def logged_in(lab: Lab, version: int) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A control connection on which either side has said a line; the server's end and the client's."""
    own = SERVER[version]
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with ExitStack() as opened:
        with lab.ports["tap1"].namespace.enter():
            listening = opened.enter_context(socket.create_server((own, 21), family=family))
        with lab.outside_address(CLIENT[version]).enter():
            client = opened.enter_context(
                socket.create_connection((own, 21), 10, source_address=(CLIENT[version], 0))
            )
        server = opened.enter_context(listening.accept()[0])
        server.settimeout(10)
        server.sendall(b"220 Ready\r\n")
        assert client.recv(100) == b"220 Ready\r\n"
        client.sendall(b"USER x\r\n")
        assert server.recv(100) == b"USER x\r\n"
        yield server, client


def related(lab: Lab) -> int:
    """Packets to the data port that the kernel has called related."""
    listed = lab.hv.run(["nft", "list", "chain", "inet", "theirs", "helping"]).stdout
    return int(listed.split("counter packets ")[1].split()[0])


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("mode", ["passive", "active"])
@pytest.mark.parametrize("allowed", [False, True], ids=["no rule", "a rule"])
def test_a_related_data_connection_needs_a_rule_of_its_own(
    version: int, mode: str, allowed: bool
) -> None:
    family = Family.IPV4 if version == 4 else Family.IPV6
    direction = "ingress" if mode == "passive" else "egress"
    rules: list[Rule] = [rule("ingress", TCP, "21", family=family, rule_id="control")]
    if allowed:
        rules.append(rule(direction, TCP, str(DATA), family=family, rule_id="data"))
    document = state([group("g", *rules)], [port("p", ["g"], SERVER.values(), interface="tap1")])
    with Lab() as lab:
        lab.add_port(interface="tap1", addresses=list(SERVER.values()))
        lab.hv.run(["nft", "-f", "-"], stdin=HELPED)
        inside, outside = lab.ports["tap1"].namespace, lab.outside_address(CLIENT[version])
        with enforcer(lab) as reconciler:
            reconciler.apply(document, bindings(lab, document))
            with logged_in(lab, version) as (server, client):
                announcing, hearing = (server, client) if mode == "passive" else (client, server)
                announced = (PASSIVE if mode == "passive" else ACTIVE)[version].encode() + b"\r\n"
                announcing.sendall(announced)
                assert hearing.recv(100) == announced
                ends = [(outside, CLIENT[version]), (inside, SERVER[version])]
                (source, own), (destination, far) = ends if mode == "passive" else ends[::-1]
                data = Probe(
                    source=source,
                    source_address=ip_address(own),
                    destination=destination,
                    destination_address=ip_address(far),
                    protocol=TCP,
                    dport=DATA,
                )
                seen = probe(data)
        assert related(lab) > 0
        assert seen.connected is allowed
