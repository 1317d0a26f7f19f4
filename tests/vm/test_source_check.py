"""The source check on a bridge: what is sent in another's name is dropped and counted."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address

import pytest
from tests.builders import both, group, state
from tests.enforcing import enforce
from tests.netns.conversations import Conversations, exchange
from tests.spoofs import NEIGHBOUR, PAIRS, PORT, WIDE, Maker, marked

from secgroupd.core.model import UDP, Port, State
from secgroupd.proving import frames
from secgroupd.proving.frames import arrived
from secgroupd.proving.namespaces import Lab, Wiring

pytestmark = pytest.mark.vm

PATIENCE = 2.0
"""Seconds without news after which what has not arrived counts as dropped (the guest is slow)."""

OUTSIDE, OUTSIDE6 = "203.0.113.9", "2001:db8::9"

FOR_ALL = next(pair.honest for pair in PAIRS if pair.name.startswith("gratuitous ARP"))
"""An honest frame that reaches everybody."""

NO_MAC = replace(PORT, mac_address=None)


def document(sender: Port) -> State:
    open_to_all = group("open", *both("egress"), *both())
    return state([open_to_all], [sender, NEIGHBOUR])


def lab_of(made: State) -> Lab:
    lab = Lab(wired=Wiring.SWITCHED)
    macs = {"tap-a": PORT.mac_address, "tap-b": NEIGHBOUR.mac_address}
    for instance in made.instances:
        for one in instance.ports:
            name = one.interface or ""
            lab.add_port(interface=name, addresses=one.private_ips, mac=macs[name])
    return lab


def heard(lab: Lab, makers: Mapping[str, Maker], last: str | None = None) -> frozenset[str]:
    """Send what the makers make, in order; return the names of what reached anybody."""
    found = arrived(
        lab.ports["tap-a"].namespace,
        {name: marked(maker) for name, maker in makers.items()},
        {"neighbour": lab.ports["tap-b"].namespace, "outside": lab.outside},
        patience=PATIENCE,
        last=last,
    )
    return frozenset().union(*found.values())


def learn(lab: Lab, whether: str) -> None:
    lab.hv.run(["bridge", "link", "set", "dev", "tap-a", "learning", whether])


COUNTING = {"spoofs": "spoofed", "denied_from": "deny_out", "denied_to": "deny_in"}
"""Sets that count by port what a chain drops, with the chain."""


def counted(lab: Lab) -> Mapping[str, int]:
    """Packets by the chain that dropped them; for the source check, those of the sender's port."""
    listing = json.loads(lab.hv.run(["nft", "-j", "list", "table", "bridge", "secgroupd"]).stdout)
    found: dict[str, int] = {}
    for item in listing["nftables"]:
        if rule := item.get("rule"):
            for part in rule["expr"]:
                # What is counted for a rule of a document has a name here, and no number.
                if isinstance(part, dict) and isinstance(part.get("counter"), dict):
                    packets = part["counter"]["packets"]
                    found[rule["chain"]] = found.get(rule["chain"], 0) + packets
        if (one := item.get("set")) and (chain := COUNTING.get(one["name"].rpartition("_")[0])):
            elements = {e["elem"]["val"]: e["elem"]["counter"]["packets"] for e in one["elem"]}
            found[chain] = found.get(chain, 0) + elements["tap-a"]
    return found


@pytest.mark.parametrize("sender", [PORT, WIDE], ids=["addresses", "networks"])
def test_spoofs_are_dropped_and_counted_and_their_twins_pass(sender: Port) -> None:
    pairs = [pair for pair in PAIRS if sender is WIDE or not pair.wide]
    made = document(sender)
    with lab_of(made) as lab:
        everything = {p.name: p.spoof for p in pairs} | {
            f"honest {p.name}": p.honest for p in pairs
        }
        # Without rules all of it arrives, as long as the bridge does not believe it: what is missing
        # afterwards was dropped by the rules.
        learn(lab, "off")
        assert everything.keys() - heard(lab, everything) == set()
        learn(lab, "on")
        enforce(lab, made)
        assert {p.name for p in pairs} - heard(lab, {p.name: p.honest for p in pairs}) == set()
        for pair in pairs:
            before = counted(lab)
            both_sent = {"spoof": pair.spoof, "for all": FOR_ALL}
            assert heard(lab, both_sent, last="for all") == {"for all"}, pair.name
            after = counted(lab)
            risen = {chain for chain in after if after[chain] > before.get(chain, 0)}
            assert risen == {pair.counted}, pair.name


def test_an_open_connection_of_a_neighbour_is_no_way_in_its_name() -> None:
    """What is established is accepted at once, but only after the sender has been checked."""
    made = document(PORT)
    with lab_of(made) as lab, Conversations() as talk:
        outside = lab.outside_address(OUTSIDE)
        enforce(lab, made)
        neighbour = lab.ports["tap-b"]
        for own, far in (("10.0.0.11", OUTSIDE), ("fd00::11", OUTSIDE6)):
            there = lab.outside_address(far)
            open_one = talk.open(UDP, (neighbour.namespace, own), (there, far), 5353)
            sport = open_one.client.socket.getsockname()[1]
            mark = frames.nonce()
            packet = frames.udp(ip_address(own), ip_address(far), sport, 5353, mark)
            kind = frames.IPV4 if ip_address(own).version == 4 else frames.IPV6
            gateway = lab.uplinks["uplink0"].mac
            sent = {
                "in its name": (mark, [frames.ethernet(neighbour.mac, gateway, kind, packet)]),
                "for all": marked(FOR_ALL),
            }
            sender = lab.ports["tap-a"].namespace
            seen = frames.arrived(
                sender, sent, {"outside": outside}, patience=PATIENCE, last="for all"
            )
            assert seen["outside"] == {"for all"}
            assert exchange([open_one], "client") == {open_one.name}


def test_without_a_known_mac_the_addresses_are_checked_all_the_same() -> None:
    made = document(NO_MAC)
    with lab_of(made) as lab:
        enforce(lab, made)
        by_mac = re.compile("MAC|announcement|VRRP|link-local|gateway|DHCP discovery")
        pairs = [p for p in PAIRS if not p.wide and not by_mac.search(p.name)]
        assert {p.name for p in pairs} - heard(lab, {p.name: p.honest for p in pairs}) == set()
        assert heard(lab, {p.name: p.spoof for p in pairs}) == {
            "multicast report from a neighbour"  # any link-local address may be its own
        }


@pytest.mark.parametrize("how", ["switched off", "port security off"])
def test_the_switch_lets_everything_out_that_the_rules_allow(how: str) -> None:
    off = how == "switched off"
    sender = (
        replace(PORT, source_check=False) if off else replace(PORT, port_security_enabled=False)
    )
    made = document(sender)
    with lab_of(made) as lab:
        enforce(lab, made)
        learn(lab, "off")
        found = heard(lab, {p.name: p.spoof for p in PAIRS})
        missing = {p.name for p in PAIRS} - found
        # What only a router may say, and frames that rules cannot judge, are no matter of senders.
        judged = {p.name for p in PAIRS if p.counted != "spoofed"}
        strange = {p.name for p in PAIRS if p.counted == "strange"} - {"VLAN tag before ARP"}
        assert missing == (judged if off else strange), "its neighbour takes nothing strange either"
