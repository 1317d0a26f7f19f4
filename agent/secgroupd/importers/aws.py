"""What ``aws ec2 describe-...`` prints -> a document.

EC2's groups are unions of allows: every rule has the same priority. Its rules have ids only in
``describe-security-group-rules``; those of ``describe-security-groups`` are given some made of what
they match. Facts are from the EC2 API reference (IpPermission, SecurityGroupRule, NetworkInterface).
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

from secgroupd.core.model import ICMP, ICMPV6, TCP, UDP, Family, family_of
from secgroupd.errors import ImportRefused
from secgroupd.importers import fields
from secgroupd.importers.answers import Answer, Found, items, sort
from secgroupd.importers.draft import AddressGroup, Document, Draft, Group, Rule, differs
from secgroupd.importers.interfaces import interface, name_tag
from secgroupd.importers.notes import Item, Notes, Unsaid, Where, named, told

KINDS = {
    "SecurityGroups": "group",
    "SecurityGroupRules": "rule",
    "PrefixLists": "prefix_list",
    "Entries": "entries",
    "NetworkInterfaces": "interface",
    "Vpcs": "vpc",
    "VpcPeeringConnections": "peering",
}
"""What stands under the keys of an answer."""

_LIST_ID = re.compile(r"pl-[0-9a-f]+").search
_EVERYTHING = ("-1", -1)
_PEERS = {
    "IpRanges": "CidrIp",
    "Ipv6Ranges": "CidrIpv6",
    "PrefixListIds": "PrefixListId",
    "UserIdGroupPairs": "GroupId",
}
"""The lists of peers in a permission, and the field of each that matters."""

_DIRECTIONS = {"IpPermissions": "ingress", "IpPermissionsEgress": "egress"}


@dataclass(slots=True)
class _Import:
    draft: Draft
    families: dict[str, Family] = field(default_factory=dict)
    vpc_of: dict[str, str] = field(default_factory=dict)
    written: dict[str, set[str]] = field(default_factory=dict)
    """The rules of each group that has been read, to see one that is given twice."""
    separate: set[str] = field(default_factory=set)
    """The groups whose rules are listed with their own ids."""


def convert(answers: Iterable[Answer], notes: Notes) -> Document:
    """Return the document that the answers amount to.

    Raises:
        ImportRefused: something is none of these answers, or entries of an unknown prefix list.
    """
    run = _Import(Draft(notes))
    found = sort(map(_with_list_id, answers), KINDS, notes)
    for where, item in _mappings(found["vpc"], "VPC", "VpcId", run):
        _vpc(where, item, run)
    for where, item in _mappings(found["peering"], "peering", "VpcPeeringConnectionId", run):
        _peering(where, item, run)
    _prefix_lists([*found["prefix_list"], *found["entries"]], run)
    separate = [each.value.get("GroupId") for each in found["rule"] if isinstance(each.value, dict)]
    run.separate = {group_id for group_id in separate if isinstance(group_id, str)}
    groups = list(_mappings(found["group"], "security group", "GroupId", run))
    for where, item in groups:
        _group(where, item, run)
    for where, item in groups:
        _permissions(where, item, run)
    for where, item in _mappings(found["rule"], "security group rule", "SecurityGroupRuleId", run):
        _separate_rule(where, item, run)
    for where, item in _mappings(found["interface"], "port", "NetworkInterfaceId", run):
        interface(where, item, run.draft)
    return run.draft.finish()


def _with_list_id(answer: Answer) -> Answer:
    """Return an answer whose entries name their prefix list, which EC2's own does not."""
    value = answer.value
    if not isinstance(value, dict) or "Entries" not in value:
        return answer
    list_id = value.get("PrefixListId")
    if list_id is None:
        match = _LIST_ID(answer.file.rpartition("/")[2])
        if match is None:
            raise ImportRefused(
                f"{answer.file}: entries do not tell which prefix list is theirs: name the file "
                "after it, as in pl-0123456789abcdef0.json"
            )
        list_id = match[0]
    entries = {"PrefixListId": list_id, "Entries": value["Entries"]}
    return Answer(answer.file, {**value, "Entries": [entries]})


def _mappings(
    found: Iterable[Found], kind: str, id_key: str, run: _Import
) -> Iterator[tuple[Where, Item]]:
    for each in found:
        if isinstance(each.value, dict):
            yield Where(each.file, named(kind, each.value.get(id_key))), each.value
        else:
            run.draft.notes.take(
                Where(each.file, kind), "left out", f"{told(each.value)} stands there"
            )


def _vpc(where: Where, item: Item, run: _Import) -> None:
    vpc_id = _id(where, item, "VpcId", run)
    if vpc_id is not None:
        run.draft.vpcs[vpc_id] = str(
            run.draft.text(where, "name", name_tag(item, "Tags")).get("name", "")
        )


def _id(where: Where, item: Item, key: str, run: _Import) -> str | None:
    return run.draft.notes.tried(where, "left out", lambda: fields.identifier(item.get(key)))


def _peering(where: Where, item: Item, run: _Import) -> None:
    peering_id = _id(where, item, "VpcPeeringConnectionId", run)
    ends = run.draft.notes.tried(where, "left out", lambda: _ends(item))
    if peering_id is None or ends is None:
        return
    for vpc_id in ends:
        run.draft.vpcs.setdefault(vpc_id, "")
    run.draft.peerings[peering_id] = ends


def _ends(item: Item) -> tuple[str, str]:
    """Return the two VPCs of an active peering, sorted."""
    status = item.get("Status")
    if not isinstance(status, dict) or status.get("Code") != "active":
        raise Unsaid("it is not active")
    infos = (item.get("RequesterVpcInfo"), item.get("AccepterVpcInfo"))
    one, other = (
        fields.identifier(info.get("VpcId") if isinstance(info, dict) else None) for info in infos
    )
    if one == other:
        raise Unsaid("its two ends are one VPC")
    return min(one, other), max(one, other)


def _prefix_lists(found: Iterable[Found], run: _Import) -> None:
    lists: dict[str, AddressGroup] = {}
    listed: set[str] = set()
    for where, item in _mappings(found, "prefix list", "PrefixListId", run):
        list_id = _id(where, item, "PrefixListId", run)
        if list_id is None:
            continue
        names = run.draft.text(where, "name", item.get("PrefixListName"))
        made = lists.setdefault(list_id, AddressGroup(where, {"id": list_id}, (), Family.IPV4))
        made.fields.update(names)
        if item.get("AddressFamily") == Family.IPV6.value:
            made.family = Family.IPV6
        if "Entries" in item or "Cidrs" in item:
            listed.add(list_id)
            _entries(where, item, made, run)
    for list_id, made in lists.items():
        if list_id not in listed:
            source = "they are in get-managed-prefix-list-entries"
            run.draft.notes.take(made.where, "its entries left out", source)
        run.families[list_id] = made.family
        run.draft.address_group(made)


def _entries(where: Where, item: Item, made: AddressGroup, run: _Import) -> None:
    for entry in (*items(item.get("Entries")), *items(item.get("Cidrs"))):
        read = run.draft.notes.tried(where, "an entry left out", partial(_entry, entry, made))
        if read is not None:
            made.family, text = read
            made.entries = (*made.entries, text)


def _entry(entry: object, made: AddressGroup) -> tuple[Family, str]:
    family, text = fields.entry(entry.get("Cidr") if isinstance(entry, dict) else entry)
    if made.entries and family is not made.family:
        raise Unsaid(f"{text} is not of the list's address family")
    return family, text


def _group(where: Where, item: Item, run: _Import) -> None:
    group_id = run.draft.notes.tried(
        where, "left out", lambda: fields.group_id(item.get("GroupId"))
    )
    if group_id is None:
        return
    # What others call a group's description, EC2 calls so too; its name is GroupName, not a tag.
    run.draft.group(where, group_id, item.get("GroupName"), item.get("Description"))
    vpc_id = run.draft.notes.tried(
        where, "its VPC left out", lambda: fields.identifier(item.get("VpcId"))
    )
    if vpc_id is not None:
        run.vpc_of[group_id] = vpc_id
        run.draft.vpcs.setdefault(vpc_id, "")


def _permissions(where: Where, item: Item, run: _Import) -> None:
    group_id = item.get("GroupId")
    group = run.draft.groups.get(group_id) if isinstance(group_id, str) else None
    if group is None or group_id in run.separate:
        return
    before = run.written.get(str(group_id))
    made: set[str] = set()
    for key, direction in _DIRECTIONS.items():
        if key not in item:
            run.draft.notes.take(where, f"no {direction} rules", f"the answer has no field {key}")
        for permission in items(item.get(key)):
            if not isinstance(permission, dict):
                run.draft.notes.take(where, "a rule left out", f"{told(permission)} stands there")
                continue
            for peer in _PEERS:
                for entry in items(permission.get(peer)):
                    made |= _allow(where, group, direction, permission, peer, entry, run)
    if before is not None and before != made:
        raise differs(where)
    run.written[str(group_id)] = made


def _allow(
    where: Where,
    group: Group,
    direction: str,
    permission: Item,
    peer: str,
    entry: object,
    run: _Import,
) -> set[str]:
    """Enter the rules for one peer of a permission, and return their ids."""
    made: set[str] = set()
    what = f"an {direction} rule for protocol {told(permission.get('IpProtocol'))} left out"
    rules = run.draft.notes.tried(
        where, what, lambda: _permitted(where, group, direction, permission, peer, entry, run)
    )
    for rule in rules or ():
        rule_id = _made_id(rule)
        made.add(rule_id)
        if rule_id not in group.rules:
            description = entry.get("Description") if isinstance(entry, dict) else None
            text = run.draft.text(where, "description", description)
            named_rule = Where(where.file, f"security group rule {told(rule_id)}")
            run.draft.rule(named_rule, group, rule_id, rule | text)
    return made


def _permitted(
    where: Where,
    group: Group,
    direction: str,
    permission: Item,
    peer: str,
    entry: object,
    run: _Import,
) -> list[Rule]:
    if not isinstance(entry, dict):
        raise Unsaid(f"{told(entry)} stands among its {peer}")
    rules = _rules(direction, permission, {_PEERS[peer]: entry.get(_PEERS[peer])}, run)
    if peer == "UserIdGroupPairs":
        _check_reach(where, group, entry, run)
    return rules


def _separate_rule(where: Where, item: Item, run: _Import) -> None:
    draft = run.draft
    rule_id = _id(where, item, "SecurityGroupRuleId", run)
    group_id = draft.notes.tried(where, "left out", lambda: fields.group_id(item.get("GroupId")))
    rules = draft.notes.tried(where, "left out", lambda: _separate(item, run))
    if rule_id is None or group_id is None or rules is None:
        return
    group = draft.groups.get(group_id)
    if group is None:
        group = draft.group(Where(where.file, f"security group {group_id}"), group_id)
    reference = item.get("ReferencedGroupInfo")
    if isinstance(reference, dict):
        reach = partial(_check_reach, where, group, reference, run)
        if draft.notes.tried(where, "left out", reach) is None:
            return
    text = draft.text(where, "description", item.get("Description"))
    for rule, suffix in zip(rules, ("", "-ipv6"), strict=False):
        draft.rule(where, group, rule_id + suffix, rule | text)


def _separate(item: Item, run: _Import) -> list[Rule]:
    egress = item.get("IsEgress")
    if not isinstance(egress, bool):
        raise Unsaid(f"IsEgress is {told(egress)}")
    reference = item.get("ReferencedGroupInfo")
    peers = {
        "CidrIp": item.get("CidrIpv4"),
        "CidrIpv6": item.get("CidrIpv6"),
        "PrefixListId": item.get("PrefixListId"),
        "GroupId": reference.get("GroupId") if isinstance(reference, dict) else reference,
    }
    given = {key: value for key, value in peers.items() if value is not None}
    if len(given) != 1:
        raise Unsaid(f"it has {len(given)} peers")
    return _rules("egress" if egress else "ingress", item, given, run)


def _rules(direction: str, traffic: Item, peer: Item, run: _Import) -> list[Rule]:
    """Return a rule for each IP version that a peer stands for."""
    ((kind, value),) = peer.items()
    families = [*Family]
    if kind == "GroupId":
        remote: Rule = {"remote_group_id": fields.group_id(value)}
        only = {"icmp": Family.IPV4, "1": Family.IPV4, "icmpv6": Family.IPV6, "58": Family.IPV6}
        number = str(traffic.get("IpProtocol")).lower()
        families = [only[number]] if number in only else families
    elif kind == "PrefixListId":
        remote = {"remote_address_group_id": fields.identifier(value)}
        families = [run.families.get(str(value), Family.IPV4)]
    else:
        block = fields.network(value)
        families = [family_of(block)]
        if (kind == "CidrIpv6") is not (families[0] is Family.IPV6):
            raise Unsaid(f"{told(value)} is of the other IP version")
        remote = {"remote_ip_prefix": str(block)}
    return [
        {"direction": direction, "ethertype": f.value, **_traffic(traffic, f), **remote}
        for f in families
    ]


def _traffic(item: Item, family: Family) -> Rule:
    """Return protocol and ports; only those of TCP and UDP count, and ICMP's as type and code."""
    written = fields.needed(item, "IpProtocol")
    if not isinstance(written, bool) and written in _EVERYTHING:
        return {}
    number = fields.protocol(written)
    rule = fields.protocol_field(number, family)
    if number in {TCP, UDP}:
        first, last = (fields.whole(fields.needed(item, key)) for key in ("FromPort", "ToPort"))
        return rule | fields.port_fields(first, last)
    if number in {ICMP, ICMPV6}:
        kind, code = (fields.whole(fields.needed(item, key)) for key in ("FromPort", "ToPort"))
        return rule | fields.icmp_fields(None if kind == -1 else kind, None if code == -1 else code)
    return rule


def _check_reach(where: Where, group: Group, reference: Item, run: _Import) -> bool:
    """Note a group of another VPC whose members are seen only with a peering. Returns True.

    Raises:
        Unsaid: the peering by which it was seen is not there any more.
    """
    status, other = reference.get("PeeringStatus"), reference.get("VpcId")
    if status not in (None, "active"):
        raise Unsaid(f"its peering is {told(status)}")
    own = run.vpc_of.get(str(group.fields["id"]))
    if not isinstance(other, str) or own is None or own == other:
        return True
    if (min(own, other), max(own, other)) not in run.draft.peerings.values():
        why = "give describe-vpc-peering-connections too"
        what = f"members of {told(reference.get('GroupId'))} in VPC {told(other)} are not seen"
        run.draft.notes.take(where, what, why)
    return True


def _made_id(rule: Rule) -> str:
    """Return an id that says what a rule matches: EC2 has no two rules of a group that match alike."""
    words = [str(rule["direction"]), str(rule.get("protocol", "all"))]
    for key in ("multiport", "icmp_type", "icmp_code"):
        words += [str(rule[key])] if key in rule else []
    words += [str(rule[key]) for key in fields.PEERS if key in rule]
    grouped = "remote_group_id" in rule and rule["ethertype"] == Family.IPV6.value
    return "-".join([*words, "ipv6"] if grouped else words)
