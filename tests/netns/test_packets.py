import random
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address

import pytest
from tests.tables import chain, family, load, needs

from secgroupd.core.model import DCCP, GRE, SCTP, TCP, UDP, UDPLITE, Address
from secgroupd.errors import DataplaneError
from secgroupd.proving.namespaces import Attachment, Kind, Lab
from secgroupd.proving.netns import Namespace
from secgroupd.proving.packets import Method, Observation, Probe, probe, run_probes
from secgroupd.proving.wire import crc32c, internet_checksum
from secgroupd.proving.wiring import GATEWAYS, own_addresses

pytestmark = pytest.mark.netns

ESP, EXPERIMENT = 50, 253
NATIVE_ICMP = {4: 1, 6: 58}
ECHO = {4: 8, 6: 128}
TIMESTAMP_OR_NODE_QUERY = {4: 13, 6: 139}
# UDP-Lite is not among them: conntrack checks its checksum as if it were UDP's, and so calls every
# such packet invalid, those of the kernel's own sockets too (seen on Linux 6.18).
TRACKED = (TCP, UDP, SCTP, DCCP, GRE, ESP, EXPERIMENT)
TRACKING = "ct state established accept"
PORTED = {TCP, UDP, SCTP, DCCP, UDPLITE}


class Bench:
    """Two instances, named so that no rule could be written without quoting."""

    def __init__(self, lab: Lab, kind: Kind) -> None:
        self.lab = lab
        self.left = lab.add_port(
            interface='l"*;}', addresses=["10.0.0.1", "2001:db8::1"], kind=kind
        )
        self.right = lab.add_port(
            interface="r'*;}", addresses=["10.0.0.2", "2001:db8::2"], kind=kind
        )

    def probe(
        self,
        version: int,
        protocol: int,
        *,
        back: bool = False,
        dport: int | None = None,
        icmp_type: int | None = None,
        icmp_code: int | None = None,
        spoofed: str | None = None,
    ) -> Probe:
        source, destination = (self.right, self.left) if back else (self.left, self.right)
        at = 0 if version == 4 else 1
        if protocol in PORTED and dport is None:
            dport = 4242
        return Probe(
            source=source.namespace,
            source_address=ip_address(spoofed) if spoofed else source.addresses[at],
            destination=destination.namespace,
            destination_address=destination.addresses[at],
            protocol=protocol,
            dport=dport,
            icmp_type=icmp_type,
            icmp_code=icmp_code,
        )

    def every_kind(self, version: int) -> list[Probe]:
        """Everything that a rule can name, with distinct ways of being sent."""
        icmp = NATIVE_ICMP[version]
        query = TIMESTAMP_OR_NODE_QUERY[version]
        return [
            *(self.probe(version, protocol) for protocol in (*TRACKED, UDPLITE)),
            self.probe(version, icmp),
            self.probe(version, icmp, icmp_type=ECHO[version], icmp_code=7),
            self.probe(version, icmp, icmp_type=query, icmp_code=0),
            *(self.probe(version, icmp, icmp_type=number) for number in (1, 2, 3, 4, 11, 255)),
        ]

    @contextmanager
    def ruleset(self, text: str) -> Iterator[None]:
        """Keep a table in force; ``LEFT`` and ``RIGHT`` become the indexes of the interfaces."""
        text = text.replace("LEFT", str(self.left.index)).replace("RIGHT", str(self.right.index))
        load(self.lab, text)
        try:
            yield
        finally:
            self.lab.hv.run(["nft", "flush", "ruleset"])
            self.lab.forget()


@pytest.fixture(scope="module", params=["veth", "tap"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with Lab() as lab:
        yield Bench(lab, request.param)


both_versions = pytest.mark.parametrize("version", [4, 6])


@both_versions
def test_without_rules_every_kind_is_delivered_and_answered(bench: Bench, version: int) -> None:
    for back in (False, True):
        probes = bench.every_kind(version) if not back else [bench.probe(version, TCP, back=True)]
        for sent, seen in zip(probes, run_probes(probes), strict=True):
            one_way = sent.method is Method.ONE_WAY
            assert seen == Observation(sent.method, True, None if one_way else True), sent


@both_versions
@pytest.mark.parametrize(
    "rule",
    [("prerouting", "iif LEFT drop"), ("forward", "drop"), ("postrouting", "oif RIGHT drop")],
    ids=lambda rule: rule[0],
)
def test_nothing_is_delivered_through_a_drop(
    bench: Bench, version: int, rule: tuple[str, str]
) -> None:
    probes = bench.every_kind(version)
    with bench.ruleset(chain(*rule)):
        for sent, seen in zip(probes, run_probes(probes), strict=True):
            one_way = sent.method is Method.ONE_WAY
            assert seen == Observation(sent.method, False, None if one_way else False), sent
            assert not seen.connected


@both_versions
def test_each_protocol_is_told_from_the_others(bench: Bench, version: int) -> None:
    probes = bench.every_kind(version)
    protocols = sorted({sent.protocol for sent in probes})
    for protocol in protocols:
        with bench.ruleset(chain("forward", f"meta l4proto {protocol} drop")):
            for sent, seen in zip(probes, run_probes(probes), strict=True):
                assert seen.delivered == (sent.protocol != protocol), (protocol, sent)


@both_versions
def test_icmp_types_and_codes_are_the_ones_asked_for(bench: Bench, version: int) -> None:
    icmp, name = NATIVE_ICMP[version], {4: "icmp", 6: "icmpv6"}[version]
    probes = [
        bench.probe(version, icmp, icmp_type=number, icmp_code=code)
        for number in range(256)
        for code in (0, 3)
    ]
    accept = f"{name} type 3 {name} code 3 accept"
    echo = f"{name} type {ECHO[version]} {name} code 0 accept"
    with bench.ruleset(chain("prerouting", "iif != LEFT accept", accept, echo, "drop")):
        seen = run_probes(probes)
    delivered = {
        (sent.icmp_type, sent.icmp_code)
        for sent, one in zip(probes, seen, strict=True)
        if one.delivered
    }
    assert delivered == {(3, 3), (ECHO[version], 0)}


@both_versions
@pytest.mark.parametrize("protocol", sorted(PORTED))
def test_destination_ports_are_the_ones_asked_for(
    bench: Bench, version: int, protocol: int
) -> None:
    ports = (1, 22, 80, 4242, 9999, 10000, 65535)
    probes = [bench.probe(version, protocol, dport=port) for port in ports]
    rule = f"iif LEFT meta l4proto {protocol} th dport != {{ 80, 10000 }} drop"
    with bench.ruleset(chain("forward", rule)):
        seen = run_probes(probes)
    assert [one.delivered for one in seen] == [port in {80, 10000} for port in ports]


@both_versions
def test_delivered_but_not_answered(bench: Bench, version: int) -> None:
    probes = [bench.probe(version, protocol) for protocol in (TCP, UDP, NATIVE_ICMP[version])]
    with bench.ruleset(chain("forward", "iif RIGHT drop")):
        for seen in run_probes(probes):
            assert (seen.delivered, seen.answered, seen.connected) == (True, False, False)


@both_versions
def test_a_handshake_needs_its_third_packet(bench: Bench, version: int) -> None:
    rule = "iif LEFT tcp flags & (syn | ack) == ack drop"
    with bench.ruleset(chain("forward", rule)):
        seen = probe(bench.probe(version, TCP))
    assert (seen.delivered, seen.answered) == (True, False)


@both_versions
def test_a_refusal_is_seen_at_once(bench: Bench, version: int) -> None:
    hook = "forward" if family(bench.lab) == "inet" else "prerouting"
    needs(bench.lab, hook, "reject")
    rules = ("iif LEFT tcp dport 80 reject with tcp reset", "iif LEFT reject")
    probes = [bench.probe(version, TCP, dport=80), bench.probe(version, UDP)]
    with bench.ruleset(chain(hook, *rules)):
        begun = time.monotonic()
        seen = run_probes(probes, timeout=30.0)
        assert time.monotonic() - begun < 15.0
    assert [(one.delivered, one.answered, one.refused) for one in seen] == [
        (False, False, True),
        (False, False, True),
    ]


@both_versions
def test_delivered_probes_do_not_wait(bench: Bench, version: int) -> None:
    begun = time.monotonic()
    seen = run_probes(bench.every_kind(version), timeout=30.0)
    assert time.monotonic() - begun < 15.0
    assert all(one.connected for one in seen)


@both_versions
def test_a_spoofed_probe_is_delivered_and_its_answer_goes_elsewhere(
    bench: Bench, version: int
) -> None:
    foreign = {4: "192.0.2.77", 6: "2001:db8:77::77"}[version]
    kinds = (TCP, UDP, NATIVE_ICMP[version], SCTP, EXPERIMENT)
    probes = [bench.probe(version, protocol, spoofed=foreign) for protocol in kinds]
    assert [one.delivered for one in run_probes(probes)] == [True] * len(probes)
    family = {4: "ip", 6: "ip6"}[version]
    with bench.ruleset(chain("prerouting", f"iif LEFT {family} saddr {foreign} drop")):
        assert [one.delivered for one in run_probes(probes)] == [False] * len(probes)


@both_versions
def test_an_address_that_the_destination_lacks_is_delivered_but_not_answered(
    bench: Bench, version: int
) -> None:
    virtual: Address = ip_address({4: "10.0.0.99", 6: "2001:db8::99"}[version])
    if virtual not in bench.lab.ports[bench.right.interface].addresses:
        bench.lab.lead(virtual, bench.right.interface)
    probes = [
        Probe(
            source=bench.left.namespace,
            source_address=bench.left.addresses[0 if version == 4 else 1],
            destination=bench.right.namespace,
            destination_address=virtual,
            protocol=protocol,
            dport=80 if protocol in PORTED else None,
        )
        for protocol in (TCP, UDP, NATIVE_ICMP[version], GRE)
    ]
    seen = run_probes(probes)
    assert [one.delivered for one in seen] == [True] * 4
    assert [one.answered for one in seen] == [False, False, False, None]


def host_probes(port: Attachment, host: Namespace, *, outward: bool) -> list[Probe]:
    kinds = (TCP, UDP, NATIVE_ICMP[4], SCTP, GRE, EXPERIMENT)
    ends = [(port.namespace, port.addresses[0]), (host, GATEWAYS[0])]
    (source, source_address), (destination, destination_address) = ends[:: -1 if outward else 1]
    return [
        Probe(
            source=source,
            source_address=source_address,
            destination=destination,
            destination_address=destination_address,
            protocol=protocol,
            dport=4242 if protocol in PORTED else None,
        )
        for protocol in kinds
    ]


@pytest.mark.parametrize("outward", [False, True], ids=["to the host", "from the host"])
def test_the_host_is_an_end_like_any_other(bench: Bench, outward: bool) -> None:
    probes = host_probes(bench.left, bench.lab.hv, outward=outward)
    assert all(one.connected for one in run_probes(probes))
    # What the host's own interface receives is not delivered yet: the ruleset comes after it.
    for hook, rule in (
        ("prerouting", "iif LEFT drop"),
        ("input", "iif LEFT drop"),
        ("output", "oif LEFT drop"),
        ("postrouting", "oif LEFT drop"),
    ):
        with bench.ruleset(chain(hook, rule)):
            seen = run_probes(probes)
        towards = hook in {"prerouting", "input"}
        assert [one.delivered for one in seen] == [towards == outward] * len(probes), hook
        assert not any(one.answered for one in seen), hook


@pytest.mark.parametrize("outward", [False, True], ids=["to the host", "from the host"])
def test_the_host_in_ipv6(bench: Bench, outward: bool) -> None:
    host_address = ip_address("2001:db8:1::1")
    own_addresses(bench.lab.hv, 1, (host_address,))
    ends = [
        (bench.left.namespace, bench.left.addresses[1]),
        (bench.lab.hv, host_address),
    ]
    (source, source_address), (destination, destination_address) = ends[:: -1 if outward else 1]
    probes = [
        Probe(
            source=source,
            source_address=source_address,
            destination=destination,
            destination_address=destination_address,
            protocol=protocol,
            dport=4242 if protocol in PORTED else None,
        )
        for protocol in (TCP, UDP, NATIVE_ICMP[6], SCTP, EXPERIMENT)
    ]
    assert all(one.connected for one in run_probes(probes))
    hook = "postrouting" if outward else "input"
    with bench.ruleset(chain(hook, "meta protocol ip6 drop")):
        assert not any(one.delivered for one in run_probes(probes))


@both_versions
def test_conntrack_takes_every_first_packet_as_new(bench: Bench, version: int) -> None:
    needs(bench.lab, "forward", TRACKING)
    icmp, query = NATIVE_ICMP[version], TIMESTAMP_OR_NODE_QUERY[version]
    probes = [
        *(bench.probe(version, protocol) for protocol in TRACKED),
        bench.probe(version, icmp),
        bench.probe(version, icmp, icmp_type=query),
    ]
    with bench.ruleset(chain("forward", "ct state { new, established } accept", "drop")):
        assert all(one.connected for one in run_probes(probes))


@both_versions
def test_no_probe_rides_on_the_connection_of_another(bench: Bench, version: int) -> None:
    needs(bench.lab, "forward", TRACKING)
    kinds = (TCP, UDP, SCTP, NATIVE_ICMP[version])
    probes = [bench.probe(version, protocol) for protocol in kinds for _ in range(50)]
    with bench.ruleset(chain("forward", TRACKING)):
        assert all(one.connected for one in run_probes(probes))
        drop_new = chain("forward", TRACKING, "drop").replace("chain c", "chain d")
        load(bench.lab, drop_new)
        assert not any(one.delivered for one in run_probes(probes))


@both_versions
@pytest.mark.parametrize("protocol", [GRE, ESP, EXPERIMENT])
def test_protocols_without_identity_need_forget(bench: Bench, version: int, protocol: int) -> None:
    needs(bench.lab, "forward", TRACKING)
    rules = (TRACKING, "iif RIGHT drop")
    with bench.ruleset(chain("forward", *rules)):
        assert probe(bench.probe(version, protocol)).delivered
        assert probe(bench.probe(version, protocol, back=True)).delivered, "it looks like a reply"
        bench.lab.forget()
        assert not probe(bench.probe(version, protocol, back=True)).delivered


def random_probes(bench: Bench, number: int) -> list[Probe]:
    draw = random.Random(20240229)
    probes = []
    for _ in range(number):
        version = draw.choice((4, 6))
        protocol = draw.choice((TCP, UDP, SCTP, NATIVE_ICMP[version]))
        dport = draw.randrange(1, 65536) if protocol in PORTED else None
        probes.append(bench.probe(version, protocol, dport=dport, back=draw.random() < 0.5))
    return probes


def test_thousands_of_probes_are_judged_one_by_one(bench: Bench) -> None:
    needs(bench.lab, "postrouting", TRACKING)
    probes = random_probes(bench, 2500)
    rules = (
        TRACKING,
        "icmp type echo-request drop",
        "meta l4proto { tcp, udp, sctp } th dport < 32768 drop",
    )
    with bench.ruleset(chain("postrouting", *rules)):
        begun = time.monotonic()
        seen = run_probes(probes)
        assert time.monotonic() - begun < 30.0
    for sent, one in zip(probes, seen, strict=True):
        allowed = sent.protocol == NATIVE_ICMP[6] if sent.dport is None else sent.dport >= 32768
        assert (one.delivered, one.connected) == (allowed, allowed), sent


def test_few_descriptors_make_small_batches(bench: Bench) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        seen = run_probes(random_probes(bench, 400))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert len(seen) == 400
    assert all(one.connected for one in seen)


def test_no_probes_no_observations() -> None:
    assert run_probes([]) == []


def test_a_probe_that_cannot_be_sent_is_an_error(bench: Bench) -> None:
    nowhere = Namespace("nowhere")
    try:
        for protocol in (TCP, UDP, GRE):
            lost = Probe(
                source=nowhere,
                source_address=bench.left.addresses[0],
                destination=bench.right.namespace,
                destination_address=bench.right.addresses[0],
                protocol=protocol,
                dport=80 if protocol in PORTED else None,
            )
            with pytest.raises(DataplaneError, match="nothing can be sent"):
                probe(lost)
    finally:
        nowhere.close()


def test_a_port_that_somebody_else_holds_is_an_error(bench: Bench) -> None:
    holder = bench.right.namespace.socket(2, 2)
    try:
        holder.bind(("10.0.0.2", 4242))
        with pytest.raises(DataplaneError, match=r"cannot serve 10\.0\.0\.2 port 4242"):
            probe(bench.probe(4, UDP))
    finally:
        holder.close()


@pytest.mark.parametrize(
    ("version", "fields", "message"),
    [
        (4, {"protocol": TCP}, "needs a destination port"),
        (4, {"protocol": TCP, "dport": 0}, "needs a destination port"),
        (4, {"protocol": GRE, "dport": 80}, "has no ports"),
        (4, {"protocol": 256}, "no IP protocol"),
        (6, {"protocol": 44}, "extension header"),
        (4, {"protocol": TCP, "dport": 80, "icmp_type": 8}, "only ICMP"),
        (4, {"protocol": 1, "icmp_code": 0}, "needs a type"),
        (4, {"protocol": 1, "icmp_type": 256}, "0 to 255"),
    ],
)
def test_fields_that_do_not_go_together(
    bench: Bench, version: int, fields: dict[str, int], message: str
) -> None:
    at = 0 if version == 4 else 1
    with pytest.raises(ValueError, match=message):
        Probe(
            source=bench.left.namespace,
            source_address=bench.left.addresses[at],
            destination=bench.right.namespace,
            destination_address=bench.right.addresses[at],
            **fields,
        )


def test_ends_that_do_not_go_together(bench: Bench) -> None:
    left, right = bench.left, bench.right
    with pytest.raises(ValueError, match="different families"):
        Probe(
            source=left.namespace,
            source_address=left.addresses[0],
            destination=right.namespace,
            destination_address=right.addresses[1],
            protocol=GRE,
        )
    with pytest.raises(ValueError, match="stays in one namespace"):
        Probe(
            source=left.namespace,
            source_address=left.addresses[0],
            destination=left.namespace,
            destination_address=right.addresses[0],
            protocol=GRE,
        )


def test_checksums_against_published_values() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert internet_checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0x220D
