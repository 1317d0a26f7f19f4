"""The document that an import is making: every object once, and closed where an answer is not whole."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b

from secgroupd.core.model import Address, Family
from secgroupd.core.scalars import MAX_TEXT
from secgroupd.core.tree import CONTROL
from secgroupd.errors import ImportRefused
from secgroupd.importers.notes import Notes, Unsaid, Where, told

Rule = dict[str, object]
Document = dict[str, object]

CLOSED = "imported-closed"
"""Id of the group that denies everything, for ports whose groups an answer does not tell."""

_NOT_IN_NAMES = re.compile("[\"'`*;{}\\\\]")
_NOT_IN_DESCRIPTIONS = re.compile("[<>]")
_FAMILIES = tuple(family.value for family in Family)


@dataclass(slots=True)
class Group:
    """A security group; ``known`` tells whether its rules are in the answers."""

    where: Where
    fields: dict[str, object]
    rules: dict[str, tuple[Where, Rule]] = field(default_factory=dict)
    known: bool = True


@dataclass(slots=True)
class AddressGroup:
    """An address group; ``whole`` is False if an entry could not be read."""

    where: Where
    fields: dict[str, object]
    entries: tuple[str, ...]
    family: Family
    whole: bool = True

    def document(self) -> dict[str, object]:
        """Return what the document says of it."""
        entries = list(dict.fromkeys(self.entries))
        return {**self.fields, "ip_version": self.family.version, "ip_set": entries}


@dataclass(slots=True, kw_only=True)
class Port:
    """A port; ``groups_known`` is False if it may be in groups that the answer does not tell."""

    where: Where
    port_id: str
    instance_id: str
    vpc_id: str
    name: str = ""
    mac: str | None = None
    host_id: str | None = None
    addresses: tuple[Address, ...] = ()
    groups: tuple[str, ...] = ()
    pairs: tuple[dict[str, str], ...] = ()
    secured: bool = True
    groups_known: bool = True
    addresses_known: bool = True

    def document(self) -> dict[str, object]:
        """Return what the document says of it."""
        fields: dict[str, object] = {"id": self.port_id, "vpc_id": self.vpc_id}
        if self.host_id is not None:
            fields["host_id"] = self.host_id
        if self.mac is not None:
            fields["mac_address"] = self.mac
        fields["private_ips"] = [str(address) for address in self.addresses]
        fields["security_groups"] = list(self.groups)
        if self.pairs:
            fields["allowed_address_pairs"] = [dict(pair) for pair in self.pairs]
        if not self.secured:
            fields["port_security_enabled"] = False
        return fields


@dataclass(slots=True)
class Draft:
    """What has been read so far.

    Attributes:
        notes: takes what is not carried over as it is.
        denies: whether the cloud has deny rules, so that a group whose rules are not known may
            deny what a later one allows.
    """

    notes: Notes
    denies: bool = False
    vpcs: dict[str, str] = field(default_factory=dict)
    peerings: dict[str, tuple[str, str]] = field(default_factory=dict)
    address_groups: dict[str, AddressGroup] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    ports: dict[str, Port] = field(default_factory=dict)
    incomplete: set[str] = field(default_factory=set)
    """Groups of which a member is missing: what is denied to them must be denied to everybody."""
    members_unknown: bool = False
    """Whether that can be any group."""
    peerings_known: bool = True
    """Whether the peerings are all there, without which members in other VPCs are not seen."""
    _vpcs: dict[str, frozenset[str]] = field(default_factory=dict)
    """Where the members of each group are."""

    def text(self, where: Where, name: str, value: object) -> dict[str, object]:
        """Return a name or description as a field, with what a document refuses made a ``_``."""
        if value is None or value == "":
            return {}
        if not isinstance(value, str):
            self.notes.take(where, f"{name} left out", f"{told(value)} is no text")
            return {}
        refused = _NOT_IN_NAMES if name == "name" else _NOT_IN_DESCRIPTIONS
        fitting = refused.sub("_", CONTROL.sub("_", value))[:MAX_TEXT]
        if fitting != value:
            why = f"a {name} has up to {MAX_TEXT} characters, and not every one"
            self.notes.take(where, f"{name} changed to {told(fitting)}", why)
        return {name: fitting}

    def group(
        self,
        where: Where,
        group_id: str,
        name: object = None,
        description: object = None,
        *,
        known: bool = True,
    ) -> Group:
        """Enter a security group, or say more about one that has been entered."""
        fields = {**self.text(where, "name", name), **self.text(where, "description", description)}
        group = self.groups.get(group_id)
        if group is None:
            group = self.groups[group_id] = Group(where, {"id": group_id}, known=known)
        group.fields.update(fields)
        group.known = group.known or known
        return group

    def rule(self, where: Where, group: Group, rule_id: str | None, rule: Rule) -> None:
        """Enter a rule of a group.

        Raises:
            ImportRefused: the answers have two different rules with this id.
        """
        key = rule_id if rule_id is not None else _derived_id(rule)
        rule = {"id": key, **rule}
        first = group.rules.setdefault(key, (where, rule))
        if first[1] != rule:
            raise differs(where)

    def address_group(self, group: AddressGroup) -> None:
        """Enter an address group.

        Raises:
            ImportRefused: the answers have a different one with this id.
        """
        first = self.address_groups.setdefault(str(group.fields["id"]), group)
        if first.document() != group.document():
            raise differs(group.where)

    def port(self, port: Port) -> None:
        """Enter a port.

        Raises:
            ImportRefused: the answers have a different one with this id.
        """
        first = self.ports.setdefault(port.port_id, port)
        if (first.document(), first.instance_id) != (port.document(), port.instance_id):
            raise differs(port.where)

    def lost_member(self, groups: Iterable[str] | None) -> None:
        """Take down that a member of these groups is missing, or of any group."""
        if groups is None:
            self.members_unknown = True
        else:
            self.incomplete.update(groups)

    def finish(self) -> Document:
        """Return the document, after closing what is not known."""
        for port in sorted(self.ports.values(), key=lambda port: port.port_id):
            self._close_port(port)
        self._unbind_same_macs()
        self._claim_addresses()
        for port in self.ports.values():
            for group_id in port.groups:
                self._vpcs[group_id] = self._vpcs.get(group_id, frozenset()) | {port.vpc_id}
        for group_id in sorted(self.groups):
            self._finish_group(group_id, self.groups[group_id])
        return self._document()

    def _close_port(self, port: Port) -> None:
        if not port.groups:
            # A document's port without groups would be in the default group.
            port.groups = (CLOSED,)
            if port.secured:
                self.notes.take(port.where, f"put into {CLOSED}", "its answer lists no group")
        if port.mac is None and port.secured:
            why = "without its MAC address its source check would let any pass"
            self.unbind(port, why)
        for group_id in port.groups:
            if group_id not in self.groups and group_id != CLOSED:
                where = Where(port.where.file, f"security group {group_id}")
                self.group(where, group_id, known=False)
        if not port.groups_known:
            self.lost_member(None)
        elif not port.addresses_known:
            self.lost_member(port.groups)

    def unbind(self, port: Port, why: str) -> None:
        """Make a port one of no host, so that it only counts as a member."""
        self.notes.take(port.where, "only counts as a member, enforced nowhere", why)
        port.host_id = f"none:{port.port_id}"[:MAX_TEXT]

    def _unbind_same_macs(self) -> None:
        """Ports are found by MAC: where two on one host share theirs, nobody can tell them apart."""
        sharing: dict[str, list[Port]] = {}
        for port in self.ports.values():
            if port.mac is not None:
                sharing.setdefault(port.mac, []).append(port)
        for ports in sharing.values():
            hosts = [port.host_id for port in ports]
            for port in ports:
                if len(ports) > 1 and (None in hosts or hosts.count(port.host_id) > 1):
                    self.unbind(port, "another port has its MAC address: name its host")

    def _claim_addresses(self) -> None:
        owners: dict[tuple[str, Address], str] = {}
        for port in sorted(self.ports.values(), key=lambda port: port.port_id):
            kept = []
            for address in port.addresses:
                owner = owners.setdefault((port.vpc_id, address), port.port_id)
                if owner == port.port_id:
                    kept.append(address)
                    continue
                self.notes.take(port.where, f"{address} left out", f"port {owner} has it already")
                self.lost_member(port.groups)
            port.addresses = tuple(dict.fromkeys(kept))

    def _finish_group(self, group_id: str, group: Group) -> None:
        if not group.known:
            self._close_group(group)
        for key, (where, rule) in list(group.rules.items()):
            closed = self._closed(where, rule, own=group_id)
            if closed is None:
                del group.rules[key]
            else:
                group.rules[key] = (where, closed)

    def _close_group(self, group: Group) -> None:
        why = "its rules are not in the answers"
        if self.denies:
            self.notes.take(group.where, "denies everything", f"{why}, and they may deny")
            for rule in _deny_everything():
                self.rule(group.where, group, None, rule)
        else:
            self.notes.take(group.where, "has no rules" if not group.rules else "incomplete", why)

    def _closed(self, where: Where, rule: Rule, *, own: str) -> Rule | None:
        """Return a rule that is no wider than the answer's; None if there is none."""
        group_id, address_group_id = (
            rule.get("remote_group_id"),
            rule.get("remote_address_group_id"),
        )
        if group_id is not None:
            missing = group_id not in self.groups
            unsure = missing or not self._members_known(str(group_id), own)
            what = f"security group {group_id}"
        elif address_group_id is not None:
            found = self.address_groups.get(str(address_group_id))
            missing = found is None
            unsure = found is None or not found.whole
            what = f"address group {address_group_id}"
            if found is not None and found.family.value != rule["ethertype"]:
                return self._without_peer(where, rule, f"{what} is not of its ethertype")
        else:
            return rule
        if unsure and rule.get("action") == "deny":
            return self._without_peer(where, rule, f"the members of {what} are not all known")
        if missing:
            why = f"there is no {what} in the answers, so that it matches nothing"
            self.notes.take(where, f"kept, in group {own}", why)
        return rule

    def _members_known(self, group_id: str, own: str) -> bool:
        """Tell whether a group's members are all in the document, and seen by another group's ports."""
        if self.members_unknown or group_id in self.incomplete:
            return False
        if self.peerings_known:
            return True
        vpcs = self._vpcs.get(group_id, frozenset()) | self._vpcs.get(own, frozenset())
        return len(vpcs) < 2

    def _without_peer(self, where: Where, rule: Rule, why: str) -> Rule | None:
        if rule.get("action") != "deny":
            self.notes.take(where, "left out", why)
            return None
        self.notes.take(where, "denies every address", why)
        return {key: value for key, value in rule.items() if not key.startswith("remote_")}

    def _document(self) -> Document:
        for port in self.ports.values():
            self.vpcs.setdefault(port.vpc_id, "")
        document: Document = {"version": 1}
        document["vpcs"] = [_named(key, self.vpcs[key]) for key in sorted(self.vpcs)]
        if self.peerings:
            document["peerings"] = [
                {"id": key, "vpc_ids": list(self.peerings[key])} for key in sorted(self.peerings)
            ]
        document["address_groups"] = [
            self.address_groups[key].document() for key in sorted(self.address_groups)
        ]
        groups = {
            key: {**group.fields, "rules": [group.rules[rule][1] for rule in sorted(group.rules)]}
            for key, group in self.groups.items()
        }
        if any(CLOSED in port.groups for port in self.ports.values()):
            rules = [{"id": _derived_id(rule), **rule} for rule in _deny_everything()]
            groups[CLOSED] = {"id": CLOSED, "name": CLOSED, "rules": rules}
        document["security_groups"] = [groups[key] for key in sorted(groups)]
        document["instances"] = self._instances()
        return document

    def _instances(self) -> list[dict[str, object]]:
        instances: dict[str, list[Port]] = {}
        for port in sorted(self.ports.values(), key=lambda port: port.port_id):
            instances.setdefault(port.instance_id, []).append(port)
        return [
            {
                **_named(key, ports[0].name if ports[0].port_id == key else ""),
                "ports": [port.document() for port in ports],
            }
            for key, ports in sorted(instances.items())
        ]


@dataclass(slots=True)
class Partial:
    """A rule that is being read: the fields so far, and why others cannot be had.

    A field that is missing widens a rule. So an allow with ``doubts`` is left out, and a deny is
    taken as it is, which denies more.
    """

    fields: Rule = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)

    def take(self, read: Callable[[], Rule]) -> None:
        """Add the fields that a reader returns, or why it cannot."""
        try:
            self.fields |= read()
        except Unsaid as why:
            self.doubts.append(str(why))


def _named(object_id: str, name: str) -> dict[str, object]:
    return {"id": object_id, "name": name} if name else {"id": object_id}


def _deny_everything() -> list[Rule]:
    return [
        {"direction": direction, "action": "deny", "priority": 1, "ethertype": ethertype}
        for direction in ("ingress", "egress")
        for ethertype in _FAMILIES
    ]


def _derived_id(rule: Mapping[str, object]) -> str:
    """Return an id for a rule that has none: the same one in every run."""
    told_apart = {k: v for k, v in rule.items() if k not in {"description", "enabled"}}
    content = json.dumps(told_apart, sort_keys=True).encode()
    return f"imported-{blake2b(content, digest_size=6).hexdigest()}"


def differs(where: Where) -> ImportRefused:
    """Return what is raised for an object that answers do not agree on."""
    return ImportRefused(
        f"{where.file}: {where.thing} is given twice, and differently: "
        "give answers that were fetched at one time"
    )
