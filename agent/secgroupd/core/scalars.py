"""Single values of the document that are not addresses: ids, names, numbers, interfaces, MACs."""

import re
from collections.abc import Callable, Mapping

from secgroupd.core.reading import Refusal, scalar_kind, shown
from secgroupd.core.tree import CONTROL, control_message

Plain = str | int | bool

MAX_TEXT = 255
"""Characters of an id, a name or a description (the cloud's limit for descriptions)."""

_TEXT_PATTERN = "^[^\\u0000-\\u001f\\u007f-\\u009f\\u2028\\u2029]*$"
_NAME_REFUSED = re.compile("[\"'`*;{}\\\\]")
_DESCRIPTION_REFUSED = re.compile("[<>]")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}").fullmatch
_MAC = re.compile(r"[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){5}").fullmatch

INTERFACE_BYTES = 15
"""Longest interface name (the kernel's IFNAMSIZ less its NUL)."""

_NOT_IN_INTERFACE = frozenset(b"\x00\t\n\v\f\r \xa0/:%")
# The kernel's dev_valid_name() refuses white space, and its isspace() counts the byte 0xa0, which
# stands inside some UTF-8 letters; it expands % and so never has it in a name.


def _text(value: Plain, code: str) -> str:
    if not isinstance(value, str):
        raise Refusal(code, f"{shown(value)} is not text: put it in quotes")
    if len(value) > MAX_TEXT:
        message = f"{shown(value)} has {len(value)} characters: shorten it to at most {MAX_TEXT}"
        raise Refusal(code, message)
    if (bad := CONTROL.search(value)) is not None:
        raise Refusal("control-character", control_message(bad.group()))
    return value


def identifier(value: Plain) -> str:
    """Return an id: 1..255 characters, none of them a control character."""
    text = _text(value, "id")
    if not text:
        raise Refusal("id", "an id cannot be empty: write at least one character")
    return text


def name(value: Plain) -> str:
    """Return a name: up to 255 characters, none of which has a meaning to a shell or to nft."""
    text = _text(value, "name")
    if (bad := _NAME_REFUSED.search(text)) is not None:
        raise Refusal("name", f"a name cannot have {bad.group()} in it: remove it")
    return text


def description(value: Plain) -> str:
    """Return a description: up to 255 characters without ``<`` and ``>``."""
    text = _text(value, "description")
    if (bad := _DESCRIPTION_REFUSED.search(text)) is not None:
        raise Refusal("description", f"a description cannot have {bad.group()} in it: remove it")
    return text


def boolean(value: Plain) -> bool:
    """Return true or false."""
    if not isinstance(value, bool):
        raise Refusal("boolean", f"{shown(value)} is not a boolean: write true or false")
    return value


def number_between(low: int, high: int, code: str) -> Callable[[Plain], int]:
    """Return a parser of whole numbers, also as decimal text, in a range with both ends in."""

    def parse(value: Plain) -> int:
        number = whole_number(value)
        if number is None or not low <= number <= high:
            message = (
                f"{shown(value)} is not from {low} to {high}: write a whole number in that range"
            )
            raise Refusal(code, message)
        return number

    return parse


def whole_number(value: Plain) -> int | None:
    """Return a whole number, also from decimal text without leading zeros, or None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    return int(value) if _NUMBER(value) else None


def one_of(words: Mapping[str, object], code: str) -> Callable[[Plain], object]:
    """Return a parser of one word out of several; it returns what the word stands for."""
    choices = " or ".join(words)

    def parse(value: Plain) -> object:
        if isinstance(value, str) and value in words:
            return words[value]
        raise Refusal(code, f"{shown(value)} is not known here: write {choices}")

    return parse


def interface_name(value: Plain) -> str:
    """Return a name that the kernel accepts for an interface, and no other."""
    if not isinstance(value, str):
        raise Refusal("interface", f"{shown(value)} is not text: put it in quotes")
    try:
        encoded = value.encode()
    except UnicodeEncodeError:
        raise Refusal("interface", f"{shown(value)} is not UTF-8: correct the name") from None
    if not 1 <= len(encoded) <= INTERFACE_BYTES:
        message = f"{shown(value)} has {len(encoded)} bytes: write a name of 1 to {INTERFACE_BYTES}"
        raise Refusal("interface", message)
    if value in {".", ".."} or not _NOT_IN_INTERFACE.isdisjoint(encoded):
        message = (
            f"the kernel has no interface named {shown(value)}: "
            "write a name without white space, /, : and %"
        )
        raise Refusal("interface", message)
    return value


def mac_address(value: Plain) -> str:
    """Return the MAC address of one station, in lower case."""
    if not isinstance(value, str) or not _MAC(value):
        message = f"{shown(value)} is not a MAC address: write one such as fa:16:3e:00:00:01"
        raise Refusal("mac", message)
    if int(value[:2], 16) & 1 or not value.strip("0:"):
        message = f"{shown(value)} is no single station's address: write the port's own MAC address"
        raise Refusal("mac", message)
    return value.lower()


ID = scalar_kind(identifier, type="string", minLength=1, maxLength=MAX_TEXT, pattern=_TEXT_PATTERN)
NAME = scalar_kind(
    name,
    type="string",
    maxLength=MAX_TEXT,
    pattern="^[^\\u0000-\\u001f\\u007f-\\u009f\\u2028\\u2029\"'`*;{}\\\\]*$",
)
DESCRIPTION = scalar_kind(
    description,
    type="string",
    maxLength=MAX_TEXT,
    pattern="^[^\\u0000-\\u001f\\u007f-\\u009f\\u2028\\u2029<>]*$",
)
BOOLEAN = scalar_kind(boolean, type="boolean")
INTERFACE = scalar_kind(
    interface_name,
    type="string",
    minLength=1,
    maxLength=INTERFACE_BYTES,
    pattern="^[^\\u0000\\t-\\r \\u00a0/:%]+$",
)
MAC = scalar_kind(mac_address, type="string", pattern="^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$")
