"""The source check on a bridge: what is sent in another's name is dropped and counted."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace

import pytest
from tests.builders import both, group, state
from tests.enforcing import enforce
from tests.spoofs import NEIGHBOUR, PAIRS, PORT, WIDE, Maker, marked

from secgroupd.core.model import Port, State
from secgroupd.proving.frames import arrived
from secgroupd.proving.namespaces import Lab, Wiring

PATIENCE = 2.0
"""Seconds without news after which what has not arrived counts as dropped (the guest is slow)."""

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
    """Send what the makers make, in order; return the names of what reached the neighbour."""
    return arrived(
        lab.ports["tap-a"].namespace,
        {name: marked(maker) for name, maker in makers.items()},
        {"neighbour": lab.ports["tap-b"].namespace},
        patience=PATIENCE,
        last=last,
    )["neighbour"]


def learn(lab: Lab, whether: str) -> None:
    lab.hv.run(["bridge", "link", "set", "dev", "tap-a", "learning", whether])


def counted(lab: Lab) -> Mapping[str, int]:
    """Packets by the chain that dropped them; for the source check, those of the sender's port."""
    listing = json.loads(lab.hv.run(["nft", "-j", "list", "table", "bridge", "secgroupd"]).stdout)
    found: dict[str, int] = {}
    for item in listing["nftables"]:
        if rule := item.get("rule"):
            for part in rule["expr"]:
                if isinstance(part, dict) and "counter" in part:
                    packets = part["counter"]["packets"]
                    found[rule["chain"]] = found.get(rule["chain"], 0) + packets
        if (one := item.get("set")) and one["name"].startswith("spoofs_"):
            elements = {e["elem"]["val"]: e["elem"]["counter"]["packets"] for e in one["elem"]}
            found["spoofed"] = found.get("spoofed", 0) + elements["tap-a"]
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
            both_sent = {"spoof": pair.spoof, "honest": PAIRS[0].honest}
            assert heard(lab, both_sent, last="honest") == {"honest"}, pair.name
            after = counted(lab)
            risen = {chain for chain in after if after[chain] > before.get(chain, 0)}
            assert risen == {pair.counted}, pair.name


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
        found = heard(lab, {p.name: p.spoof for p in PAIRS})
        judged = {p.name for p in PAIRS if p.counted != "spoofed"}
        missing = {p.name for p in PAIRS} - found
        # What only a router may say, and frames that rules cannot judge, are no matter of senders.
        assert missing == (judged if off else set())
