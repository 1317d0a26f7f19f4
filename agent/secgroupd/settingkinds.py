"""Single values of the settings; a schema's ``title`` says in a word what one is."""

import re
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path

from secgroupd.core.reading import Kind, Refusal, scalar_kind, shown
from secgroupd.core.ruleset import quotable
from secgroupd.core.scalars import Plain, interface_name, number_between, one_of

LONGEST_WAIT = 86400
"""Upper bound of settings that are times, in seconds: a day."""

_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?").fullmatch
_LISTEN = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([0-9.]+|localhost)):([0-9]{1,5})").fullmatch


def _path(value: Plain) -> Path:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise Refusal("path", f"{shown(value)} is not a whole path: write one that begins with /")
    return Path(value)


def _pattern(value: Plain) -> str:
    name = interface_name(value)
    stem = name.removesuffix("*")
    if not stem:
        message = "* would close every interface, the host's own too: write a prefix before it"
        raise Refusal("interface-pattern", message)
    if not quotable(name) or "*" in stem:
        message = (
            f"{shown(name)} cannot be a pattern: write a name without quotes, backslashes and "
            "unprintable characters, with * only at its end"
        )
        raise Refusal("interface-pattern", message)
    return name


def _listen(value: Plain) -> tuple[str, int] | None:
    if value == "":
        return None
    match = _LISTEN(value) if isinstance(value, str) else None
    message = f"{shown(value)} is no place to listen: write ADDRESS:PORT, or [ADDRESS]:PORT"
    if match is None or not 1 <= int(match[3]) <= 65535:
        raise Refusal("listen", message)
    host: str = match[1] or match[2]
    if host == "localhost":
        return "127.0.0.1", int(match[3])
    try:
        address = ip_address(host)
    except ValueError:
        raise Refusal("listen", message) from None
    return str(address), int(match[3])


def seconds(low: float) -> Kind:
    """Return the kind of a time, from ``low`` to ``LONGEST_WAIT`` seconds."""

    def parse_seconds(value: Plain) -> float:
        text = "" if isinstance(value, bool) else str(value)
        if not _NUMBER(text) or not low <= float(text) <= LONGEST_WAIT:
            message = f"{shown(value)} is not a time: write seconds, from {low:g} to {LONGEST_WAIT}"
            raise Refusal("seconds", message)
        return float(text)

    return scalar_kind(
        parse_seconds, title="seconds", type="number", minimum=low, maximum=LONGEST_WAIT
    )


def word(words: Mapping[str, object], code: str) -> Kind:
    """Return the kind of one word out of several."""
    return scalar_kind(one_of(words, code), enum=[*words])


def listening(place: tuple[str, int] | None) -> str:
    """Return a place to listen as it is written."""
    if place is None:
        return ""
    host, port = place
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


PATH = scalar_kind(_path, title="path", type="string")
PATTERN = scalar_kind(_pattern, title="patterns", type="string")
LISTEN = scalar_kind(_listen, title="`ADDRESS:PORT`", type="string")
NFLOG_GROUP = scalar_kind(
    number_between(0, 65535, "nflog-group"), type="integer", minimum=0, maximum=65535
)
