"""Changes of the lab's policy, as edits of its text, and what each row of the clearing table is to do."""

from dataclasses import dataclass

from laboratory.shell import LabError

Edit = tuple[str, str, str]
"""Where to begin looking; what is there; what is to be there instead."""


def edited(text: str, *edits: Edit) -> str:
    """Return the policy with some edits.

    Raises:
        LabError: the policy has not what is to be edited.
    """
    for anchor, old, new in edits:
        start = text.find(anchor)
        place = text.find(old, start)
        if start < 0 or place < 0:
            raise LabError(f"the policy has no {old!r} after {anchor!r}")
        text = text[:place] + new + text[place + len(old) :]
    return text


def twice(rule: str, old: str, new: str) -> list[Edit]:
    """Change the rule of each family that has this id, and -6 in IPv6."""
    return [(f"id: {name},", old, new) for name in (rule, f"{rule}-6")]


def added(group: str, rule: str, rest: str) -> list[Edit]:
    """Add a rule of each family to a group, before its others."""
    rules = f"{{id: {rule}, {rest}}}", f"{{id: {rule}-6, ethertype: IPv6, {rest}}}"
    lines = "".join(f"      - {each}\n" for each in rules)
    return [(f"id: {group}\n", "rules:\n", f"rules:\n{lines}")]


def groups(ports: str, old: str, new: str) -> list[Edit]:
    """Give a port of vpc-blue, and the same one of vpc-green, other groups."""
    return [(f"id: p-{vpc}-{ports},", f"[{old}]", f"[{new}]") for vpc in "bg"]


PEERED: list[Edit] = [
    ("peerings:", "[]", "[{id: blue-green, vpc_ids: [vpc-blue, vpc-green]}]"),
]
"""Connect the VPCs that the hosts route between."""


@dataclass(frozen=True)
class Row:
    """A row of the clearing table.

    Attributes:
        change: What changes.
        edits: How the text changes.
        cut: The conversations that end, of those in :data:`CONVERSATIONS`.
    """

    change: str
    edits: list[Edit]
    cut: frozenset[str]


CONVERSATIONS = [("app-1", "web-2", port) for port in (80, 8080, 9090)] + [
    ("app-2", "web-1", port) for port in (80, 8080, 9090)
]
"""Which run, in vpc-blue and vpc-green and both families, each from one host to the other, while the policy changes."""


def label(client: str, server: str, port: int) -> str:
    """Return how a conversation is called in a report."""
    return f"{client}>{server}:{port}"


def _cut(*parts: str) -> frozenset[str]:
    """Return the conversations whose label has one of these parts."""
    labels = [label(*each) for each in CONVERSATIONS]
    return frozenset(each for each in labels if any(part in each + " " for part in parts))


ROWS = [
    Row(
        "instances added to a group that an inbound deny names",
        groups("app-1", "sg-app", "sg-app, sg-quarantine"),
        _cut("app-1>"),
    ),
    Row(
        "instances removed from a group that inbound allows name",
        groups("app-1", "sg-app", "sg-out"),
        _cut("app-1>web-2:80 ", "app-1>web-2:9090"),
    ),
    Row(
        "an inbound deny added",
        added("sg-web", "no-80", "direction: ingress, action: deny, protocol: tcp, multiport: 80"),
        _cut(":80 "),
    ),
    Row(
        "an outbound deny added (to the group of those who opened the connections)",
        added("sg-app", "no-80", "direction: egress, action: deny, protocol: tcp, multiport: 80"),
        _cut(),
    ),
    Row(
        "an inbound allow deleted",
        twice(
            "from-app",
            "direction: ingress, priority: 2, protocol: tcp, multiport: 80",
            "direction: egress, protocol: tcp, multiport: 81",
        ),
        _cut(":80 "),
    ),
    Row(
        "an inbound rule modified (its port)",
        twice("from-app", "multiport: 80", "multiport: 81"),
        _cut(":80 "),
    ),
    Row(
        "entries removed from an address group",
        [
            *(("id: listed,", f"10.{net}.0.21, ", "") for net in (10, 20)),
            *(("id: listed-6,", f'"2001:db8:{net}::21", ', "") for net in (10, 20)),
        ],
        _cut("app-1>web-2:8080"),
    ),
    Row(
        "a deny enabled",
        twice("shut-8080", "enabled: false", "enabled: true"),
        _cut(":8080"),
    ),
    Row(
        "an allow disabled",
        twice("from-app", "enabled: true", "enabled: false"),
        _cut(":80 "),
    ),
    Row(
        "the order of a port's groups changed",
        groups("web-2", "sg-web, sg-late", "sg-late, sg-web"),
        _cut("app-1>web-2:9090"),
    ),
    Row(
        "an outbound allow deleted",
        [
            (
                "id: sg-app",
                f"- {{id: out-backstage{rest}, direction: egress, protocol: tcp, multiport: 9090}}",
                "",
            )
            for rest in ("", "-6, ethertype: IPv6")
        ],
        _cut(),
    ),
    Row(
        "an inbound deny deleted",
        [
            (
                "id: sg-late",
                f"- {{id: no-backstage{rest}, direction: ingress, action: deny, protocol: tcp, multiport: 9090}}",
                left,
            )
            for rest, left in (("", ""), ("-6, ethertype: IPv6", "[]"))
        ],
        _cut(),
    ),
    Row(
        "an inbound allow added",
        added("sg-app", "new", "direction: ingress, protocol: tcp, multiport: 7"),
        _cut(),
    ),
    Row(
        "a description changed",
        [("id: sg-app", "to the web servers", "to all web servers")],
        _cut(),
    ),
]
