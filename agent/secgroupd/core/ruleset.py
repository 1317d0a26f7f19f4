"""nftables objects as values, their names, and their nft text.

A ``Ruleset`` is one table. Chains hold rules as nft text; sets and maps hold typed elements whose
key is the kernel's own bytes, so that what was read back is compared with what was meant, and
nothing depends on how a version of nft prints it. Every value carries the object of the document
that it comes from (its *origin*), so that a refused line can be named.
"""

import hashlib
import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property, lru_cache

TABLE = "secgroupd"
"""Name of the one table in each family."""

NAME_LENGTH = 15
"""Longest interface name the kernel takes, in bytes (IFNAMSIZ less the closing NUL)."""


class Part(Enum):
    """One field of a key: how nft calls its type (or expression), and its length in bytes."""

    NAME = ("ifname", 16)
    INDEX = ("iface_index", 4)
    MARK = ("mark", 4)
    MAC = ("ether_addr", 6)
    IPV4 = ("ipv4_addr", 4)
    IPV6 = ("ipv6_addr", 16)
    SERVICE = ("inet_service", 2)
    PROTOCOL = ("inet_proto", 1)
    ICMP_TYPE = ("icmp_type", 1)
    ICMP_CODE = ("icmp_code", 1)
    ICMPV6_TYPE = ("icmpv6_type", 1)
    ICMPV6_CODE = ("icmpv6_code", 1)
    ND_TARGET = ("@th,64,128", 16)
    """The target of a neighbour solicitation or advertisement, for which nft 1.0.6 has no name."""


@dataclass(frozen=True)
class KeyShape:
    """A key's fields, and whether elements are intervals."""

    parts: tuple[Part, ...]
    interval: bool = False

    @cached_property
    def fields(self) -> tuple[int, ...]:
        """The bytes of each field."""
        return tuple(part.value[1] for part in self.parts)

    @property
    def declaration(self) -> str:
        """The key in a set's declaration."""
        words = [part.value[0] for part in self.parts]
        if Part.ND_TARGET in self.parts:
            words = ["iifname" if word == "ifname" else word for word in words]
            return f"typeof {' . '.join(words)}"
        return f"type {' . '.join(words)}"


class Key(Enum):
    """What a set's or map's key is.

    Intervals are always concatenated: libnftables reads every plain interval set of the host
    back whenever it touches an element of anything. The field that tells most elements apart
    comes first: a look-up visits every element that matches the fields before the last.
    """

    INTERFACE = KeyShape((Part.NAME,))
    INDEX = KeyShape((Part.INDEX,))
    IPV4 = KeyShape((Part.IPV4,))
    IPV6 = KeyShape((Part.IPV6,))
    STATION = KeyShape((Part.NAME, Part.MAC))
    SENDER4 = KeyShape((Part.NAME, Part.MAC, Part.IPV4))
    SENDER6 = KeyShape((Part.NAME, Part.MAC, Part.IPV6))
    TARGET = KeyShape((Part.NAME, Part.ND_TARGET))
    EXEMPT = KeyShape((Part.NAME, Part.MARK))
    THROUGH_INTERFACE = KeyShape((Part.NAME, Part.NAME, Part.PROTOCOL, Part.SERVICE))
    THROUGH_MARK = KeyShape((Part.MARK, Part.NAME, Part.PROTOCOL, Part.SERVICE))
    THROUGH_MAC = KeyShape((Part.MAC, Part.NAME, Part.PROTOCOL, Part.SERVICE))
    INTERFACE_TO4 = KeyShape((Part.NAME, Part.IPV4, Part.PROTOCOL, Part.SERVICE))
    INTERFACE_TO6 = KeyShape((Part.NAME, Part.IPV6, Part.PROTOCOL, Part.SERVICE))
    MAC_TO4 = KeyShape((Part.MAC, Part.IPV4, Part.PROTOCOL, Part.SERVICE))
    MAC_TO6 = KeyShape((Part.MAC, Part.IPV6, Part.PROTOCOL, Part.SERVICE))
    SERVICE = KeyShape((Part.SERVICE, Part.PROTOCOL), interval=True)
    ICMP = KeyShape((Part.ICMP_TYPE, Part.ICMP_CODE), interval=True)
    ICMPV6 = KeyShape((Part.ICMPV6_TYPE, Part.ICMPV6_CODE), interval=True)
    NETWORK4 = KeyShape((Part.IPV4, Part.PROTOCOL), interval=True)
    NETWORK6 = KeyShape((Part.IPV6, Part.PROTOCOL), interval=True)


def padded(length: int) -> int:
    """Return a field's length in a concatenated key: the kernel works in registers of 4 bytes."""
    return (length + 3) // 4 * 4


def pack(key: Key, values: Iterable[int]) -> bytes:
    """Return the kernel's bytes of one corner of an element, one integer a field."""
    return b"".join(
        [
            value.to_bytes(length, "big").ljust(padded(length), b"\0")
            for value, length in zip(values, key.value.fields, strict=True)
        ]
    )


def box(key: Key, first: tuple[int, ...], last: tuple[int, ...]) -> bytes:
    """Return the key of an interval element: its first corner, then its last."""
    return pack(key, first) + pack(key, last)


def interface_key(name: str) -> bytes:
    """Return the key of an interface name."""
    return name.encode().ljust(16, b"\0")


def joined_key(*fields: bytes) -> bytes:
    """Return the key of several fields, such as an interface's name and a MAC address."""
    return b"".join(each.ljust(padded(len(each)), b"\0") for each in fields)


def index_key(index: int) -> bytes:
    """Return the key of an interface index (the kernel keeps it in host byte order)."""
    return index.to_bytes(4, "little" if socket.htons(1) != 1 else "big")


def quotable(interface: str) -> bool:
    r"""Tell whether nft text can say an interface name literally.

    A quoted string of nft has no escape but ``\*`` for a closing asterisk, so names with a quote
    or a backslash cannot be written; such ports are matched by their interface index.
    """
    return '"' not in interface and "\\" not in interface and interface.isprintable()


def quoted(interface: str) -> str:
    """Return an interface name as nft text that means this very name and no wildcard."""
    if not quotable(interface):
        raise ValueError(interface)
    return f'"{interface[:-1]}\\*"' if interface.endswith("*") else f'"{interface}"'


def _part_text(part: Part, raw: bytes) -> str:
    match part:
        case Part.NAME:
            text = quoted(raw.rstrip(b"\0").decode())
        case Part.INDEX | Part.MARK:
            text = str(int.from_bytes(raw, "little" if socket.htons(1) != 1 else "big"))
        case Part.MAC:
            text = raw.hex(":")
        case Part.IPV4 | Part.IPV6:
            text = socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw)
        case Part.ND_TARGET:
            text = f"0x{raw.hex()}"
        case _:
            text = str(int.from_bytes(raw, "big"))
    return text


def _range_text(part: Part, first: bytes, last: bytes) -> str:
    one, other = _part_text(part, first), _part_text(part, last)
    return one if one == other else f"{one}-{other}"


def key_text(key: Key, raw: bytes) -> str:
    """Return an element's key as nft text."""
    shape = key.value
    if len(shape.parts) == 1:
        return _part_text(shape.parts[0], raw)
    half = len(raw) // 2
    texts = []
    offset = 0
    for part in shape.parts:
        length = part.value[1]
        first = raw[offset : offset + length]
        if shape.interval:
            last = raw[half + offset : half + offset + length]
            texts.append(_range_text(part, first, last))
        else:
            texts.append(_part_text(part, first))
        offset += padded(length)
    return " . ".join(texts)


@dataclass(frozen=True, slots=True)
class NftRule:
    """One rule of a chain: nft text without comment, and what it comes from."""

    text: str
    origin: str = ""

    @property
    def digest(self) -> str:
        """What identifies the rule in the kernel: it is stored as the rule's comment."""
        return _rule_digest(self.text)


@lru_cache(maxsize=16)
def _rule_digest(text: str) -> str:
    """Return the digest of a rule; half of all rules are a few, whose digests are the same objects."""
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


@dataclass(frozen=True, slots=True)
class Hook:
    """Where a base chain is called."""

    name: str
    priority: int

    @property
    def text(self) -> str:
        """The base chain's declaration."""
        return f"type filter hook {self.name} priority {self.priority}; policy accept;"


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain and its rules in order.

    ``digests`` are the rules', in order, which is how a chain is compared with the kernel's.
    """

    name: str
    rules: tuple[NftRule, ...]
    hook: Hook | None = None
    passable: bool = False
    """Whether a packet may as well find it without rules, because it is judged behind the jump to it."""

    digests: tuple[str, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Make the digests, once and for all."""
        object.__setattr__(self, "digests", tuple([rule.digest for rule in self.rules]))


class Data(Enum):
    """What the elements of a set lead to, in nft's words."""

    NOTHING = ""
    VERDICT = "verdict"
    COUNTER = "counter"
    """The name of a counter, which a rule that looks it up raises; a miss ends the rule."""


@dataclass(frozen=True, slots=True)
class Set:
    """A set, or a map to verdicts or counters.

    ``elements`` maps keys to verdicts as nft writes them (``goto c_1``) or to names of counters; in a
    set every value is empty. ``size`` is the capacity of a hash set. Elements of a set with
    ``timeout`` come and go by themselves and are never compared. With ``counted``, each element
    counts its matches.
    """

    name: str
    key: Key
    elements: Mapping[bytes, str]
    data: Data = Data.NOTHING
    size: int | None = None
    timeout: bool = False
    origin: str = ""
    counted: bool = False
    metered: bool = False
    """Whether rules add its elements, each with a limit of its own."""

    @property
    def declaration(self) -> str:
        """The body of the declaration, without elements."""
        data = f" : {self.data.value}" if self.data.value else ""
        parts = [f"{self.key.value.declaration}{data};"]
        if self.key.value.interval:
            parts.append("flags interval;")
        if self.metered:
            parts.append("flags dynamic,timeout; timeout 1m;")
        elif self.timeout:
            parts.append("flags timeout;")
        if self.size is not None:
            parts.append(f"size {self.size};")
        if self.counted:
            parts.append("counter;")
        return " ".join(parts)

    @property
    def kind(self) -> str:
        """The keyword that nft uses for it."""
        return "set" if self.data is Data.NOTHING else "map"

    def text(self, raw: bytes) -> str:
        """Return one of its elements as nft text."""
        key, value = key_text(self.key, raw), self.elements[raw]
        if self.data is Data.NOTHING:
            return key
        return f"{key} : {value}" if self.data is Data.VERDICT else f'{key} : "{value}"'


@dataclass(frozen=True, slots=True)
class Ruleset:
    """One table's complete content."""

    family: str
    chains: Mapping[str, Chain]
    sets: Mapping[str, Set]
    timeouts: Mapping[str, str] = field(default_factory=dict)
    """Connection tracking timeouts by name: the bodies of their declarations."""
    counters: frozenset[str] = frozenset()
    """Names of counters that rules and elements raise; they outlive both."""

    def text(self) -> str:
        """Return the table as nft text that ``nft -f`` loads, the same bytes for the same content."""
        lines = [f"table {self.family} {TABLE} {{"]
        for name in sorted(self.timeouts):
            lines.append(f"\tct timeout {name} {{")
            lines.extend(f"\t\t{part.strip()};" for part in self.timeouts[name].split(";")[:-1])
            lines.append("\t}\n")
        lines += [f"\tcounter {name} {{\n\t}}\n" for name in sorted(self.counters)]
        for one in sorted(self.sets.values(), key=lambda s: s.name):
            lines.append(f"\t{one.kind} {one.name} {{")
            lines.extend(
                f"\t\t{part.strip()}" for part in one.declaration.split(";") if part.strip()
            )
            if one.elements:
                texts = [one.text(raw) for raw in sorted(one.elements)]
                lines.append("\t\telements = { " + ",\n\t\t             ".join(texts) + " }")
            lines.append("\t}\n")
        for chain in sorted(self.chains.values(), key=lambda c: (c.hook is not None, c.name)):
            lines.append(f"\tchain {chain.name} {{")
            if chain.hook:
                lines.append(f"\t\t{chain.hook.text}")
            lines.extend(f'\t\t{rule.text} comment "{rule.digest}"' for rule in chain.rules)
            lines.append("\t}\n")
        lines.append("}")
        return "\n".join(lines) + "\n"


def slug(text: str, length: int = 24) -> str:
    """Return the part of an id that may stand in an nft identifier, for people who read listings."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text)[:length]


def digest(*parts: str) -> str:
    """Return a short name for the given parts, unambiguous whatever characters they contain."""
    content = "".join([f"{len(part.encode())}:{part}" for part in parts])
    return hashlib.blake2b(content.encode(), digest_size=6).hexdigest()


def content_digest(elements: Mapping[bytes, str]) -> str:
    """Return a short name for the elements of a set that never changes."""
    content = hashlib.blake2b(digest_size=6)
    for raw in sorted(elements):
        content.update(raw)
        content.update(f"{elements[raw]};".encode())
    return content.hexdigest()


def capacity(count: int) -> int:
    """Return the declared size of a hash set of that many elements.

    A hash set's size is fixed when it is made and is a hard limit, so sizes come in steps of four,
    with room to grow; a set that outgrows its step is made anew under the step's name.
    """
    size = 64
    while size < count * 5 // 4:
        size *= 4
    return size
