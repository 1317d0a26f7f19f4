"""Frozen values <-> JSON, exactly: what is decoded equals what was encoded.

Works from the classes' own annotations, so that a field added to the model needs nothing here.
Dataclasses are objects by field name, enums their values, addresses and networks their text, tuples
lists; where an annotation leaves several dataclasses open, the object stands under its class's name.
Fields that do not count in a comparison are not kept.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from enum import Enum
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")

Convert = Callable[[Any], Any]

_INTERNET = (IPv4Address, IPv6Address, IPv4Network, IPv6Network)
_PLAIN = (str, int, bool, float, NoneType)


class CodecError(ValueError):
    """Text does not say a value of the class that was asked for."""


def encode(kind: Any, value: object) -> str:
    """Return a value as JSON text in one line.

    Args:
        kind: the class (or other annotation) that ``decode`` will be given.
        value: an instance of it.
    """
    plain = _encoder(kind)(value)
    return json.dumps(plain, separators=(",", ":"), check_circular=False)


Texts = Mapping[int, tuple[object, str]]
"""Objects and what they were encoded as, by the identity of each."""


def encode_known(kind: Any, value: object, known: Texts) -> tuple[str, Texts]:
    """Return what ``decode`` makes the same value of as of ``encode``'s, in less time.

    Args:
        kind: a dataclass, whose fields that are tuples of dataclasses may be long.
        value: an instance of it.
        known: what came of this before.

    Returns:
        The text, and what of it may be known the next time.
    """
    found: dict[int, tuple[object, str]] = {}
    parts = []
    for name, annotation, _ in _kept(kind):
        content, item = getattr(value, name), _item(annotation)
        if item is not None:
            for each in content:
                if id(each) not in found:
                    found[id(each)] = known.get(id(each)) or (each, encode(item, each))
            text = ",".join([found[id(each)][1] for each in content])
            parts.append(f"{json.dumps(name)}:[{text}]")
        else:
            parts.append(f"{json.dumps(name)}:{encode(annotation, content)}")
    return f"{{{','.join(parts)}}}", found


def encode_since(kind: Any, value: T, base: T) -> str:
    """Return what ``decode_since`` makes the same value of, given what it was before.

    Args:
        kind: a dataclass, whose fields that are tuples of dataclasses may be long.
        value: an instance of it.
        base: another one; what both hold the identical objects of is not said again.
    """
    parts = []
    for name, annotation, _ in _kept(kind):
        content, item = getattr(value, name), _item(annotation)
        if item is None:
            text = encode(annotation, content)
        else:
            text = f"[{','.join(_pieces(item, content, getattr(base, name)))}]"
        parts.append(f"{json.dumps(name)}:{text}")
    return f"{{{','.join(parts)}}}"


def _item(annotation: Any) -> Any:
    """Return the class of a tuple's objects; None of what is no such tuple."""
    item = get_args(annotation)[0] if get_origin(annotation) is tuple else None
    return item if item is not None and is_dataclass(item) else None


def _pieces(item: Any, content: tuple[object, ...], base: tuple[object, ...]) -> list[str]:
    """Return a tuple as objects, and as pairs of places in between which it is the same as before."""
    places = {id(each): at for at, each in enumerate(base)}
    found: list[str] = []
    first = last = 0
    for each in (*content, None):
        at = places.get(id(each))
        if at is not None and at == last:
            last += 1
            continue
        if first < last:
            found.append(f"[{first},{last}]")
        first, last = (0, 0) if at is None else (at, at + 1)
        if at is None and each is not None:
            found.append(encode(item, each))
    return found


def decode_since(kind: type[T], text: str | bytes, base: T) -> T:
    """Return the value that was encoded as its difference from another.

    Args:
        kind: what was given to ``encode_since``.
        text: what it returned.
        base: a value equal to the one that it was given.

    Raises:
        CodecError: the text is something else.
    """
    hints = get_type_hints(kind)
    try:
        said = json.loads(text)
        items = {name: item for name in said if (item := _item(hints.get(name))) is not None}
        whole = {
            name: _joined(said[name], getattr(base, name), _decoder(item))
            for name, item in items.items()
        }
        rest = _decoder(cast("Any", kind))({**said, **{name: [] for name in items}})
        return cast("T", replace(rest, **whole))
    except CodecError:
        raise
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise CodecError(f"this is no difference of a {kind.__name__}: {error}") from error


def _joined(pieces: Any, base: tuple[object, ...], item: Convert) -> tuple[object, ...]:
    found: list[object] = []
    for piece in _list(pieces):
        if piece.__class__ is list:
            first, last = piece
            found += base[first:last]
        else:
            found.append(item(piece))
    return tuple(found)


def decode(kind: type[T], text: str | bytes) -> T:
    """Return the value that was encoded.

    Args:
        kind: what was given to ``encode``.
        text: what ``encode`` returned.

    Raises:
        CodecError: the text is something else.
    """
    try:
        return cast("T", _decoder(cast("Any", kind))(json.loads(text)))
    except CodecError:
        raise
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise CodecError(f"this is no {getattr(kind, '__name__', kind)}: {error}") from error


def _same(value: Any) -> Any:
    return value


def _value_of(value: Any) -> Any:
    return value.value


def _members(kind: Any) -> tuple[Any, ...] | None:
    return get_args(kind) if get_origin(kind) in {Union, UnionType} else None


def _kept(kind: Any) -> list[tuple[str, Any, bool]]:
    """Return name, annotation and whether it must be there, of the fields that are kept."""
    hints = get_type_hints(kind)
    return [
        (each.name, hints[each.name], each.default is MISSING and each.default_factory is MISSING)
        for each in fields(kind)
        if each.compare
    ]


@cache
def _encoder(kind: Any) -> Convert:
    if (members := _members(kind)) is not None:
        return _union_encoder(members)
    origin = get_origin(kind)
    if origin is tuple:
        return _tuple_encoder(get_args(kind))
    if origin is Mapping:
        item = _encoder(get_args(kind)[1])
        return lambda value: {key: item(each) for key, each in value.items()}
    if is_dataclass(kind):
        return _object_encoder(kind)
    return _scalar_encoder(kind)


def _scalar_encoder(kind: Any) -> Convert:
    if kind in _PLAIN:
        return _same
    if kind in _INTERNET:
        return str
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _value_of
    raise TypeError(f"{kind} has no form in JSON: teach the codec about it")


def _tuple_encoder(args: tuple[Any, ...]) -> Convert:
    if args[-1] is Ellipsis:
        item = _encoder(args[0])
        return lambda value: [item(each) for each in value]
    items = [_encoder(each) for each in args]
    return lambda value: [item(each) for item, each in zip(items, value, strict=True)]


def _object_encoder(kind: Any) -> Convert:
    parts = [(name, _encoder(annotation)) for name, annotation, _ in _kept(kind)]
    same = tuple(name for name, convert in parts if convert is _same)
    converted = tuple((name, convert) for name, convert in parts if convert is not _same)

    def encode_object(value: Any) -> dict[str, Any]:
        found = {name: getattr(value, name) for name in same}
        for name, convert in converted:
            found[name] = convert(getattr(value, name))
        return found

    return encode_object


def _union_encoder(members: tuple[Any, ...]) -> Convert:
    if all(each in _PLAIN for each in members):
        return _same
    rest = [each for each in members if each is not NoneType]
    if len(rest) == 1:
        only = _encoder(rest[0])
        return lambda value: None if value is None else only(value)
    if all(each in _INTERNET for each in rest):
        return lambda value: None if value is None else str(value)
    converts = {each: _encoder(each) for each in rest}

    def encode_tagged(value: Any) -> Any:
        if value is None:
            return None
        kind = value.__class__
        return {kind.__name__: converts[kind](value)}

    return encode_tagged


@cache
def _decoder(kind: Any) -> Convert:
    if (members := _members(kind)) is not None:
        return _union_decoder(members)
    origin = get_origin(kind)
    if origin is tuple:
        return _tuple_decoder(get_args(kind))
    if origin is Mapping:
        item = _decoder(get_args(kind)[1])
        return lambda value: {key: item(each) for key, each in value.items()}
    if is_dataclass(kind):
        return _object_decoder(kind)
    return _plain_decoder((kind,)) if kind in _PLAIN else _named(kind)


def _plain_decoder(kinds: tuple[Any, ...]) -> Convert:
    # By identity of the class, since True is an int.
    accepted = frozenset(kinds)

    def decode_plain(value: Any) -> Any:
        if value.__class__ in accepted:
            return value
        raise CodecError(f"{str(value)[:60]!r} is a {type(value).__name__}")

    return decode_plain


def _named(*kinds: Any) -> Convert:
    def decode_named(text: Any) -> Any:
        if text.__class__ is not str:
            raise CodecError(f"a {type(text).__name__} stands for text")
        for kind in kinds:
            try:
                return kind(text)
            except ValueError:
                continue
        raise CodecError(f"{text[:60]!r} is none of {', '.join(each.__name__ for each in kinds)}")

    return decode_named


def _tuple_decoder(args: tuple[Any, ...]) -> Convert:
    if args[-1] is Ellipsis:
        item = _decoder(args[0])
        return lambda value: tuple([item(each) for each in _list(value)])
    items = [_decoder(each) for each in args]
    return lambda value: tuple(item(each) for item, each in zip(items, _list(value), strict=True))


def _list(value: Any) -> list[Any]:
    if value.__class__ is list and isinstance(value, list):
        return value
    raise CodecError(f"a {type(value).__name__} stands for a list")


def _object_decoder(kind: Any) -> Convert:
    converts: dict[str, Convert] = {}
    required = set()
    for name, annotation, must in _kept(kind):
        converts[name] = _decoder(annotation)
        if must:
            required.add(name)

    def decode_object(value: Any) -> Any:
        unknown = value.keys() - converts.keys()
        missing = required - value.keys()
        if unknown or missing:
            names = ", ".join(sorted(unknown or missing))
            what = "unknown" if unknown else "missing"
            raise CodecError(f"{what} fields of a {kind.__name__}: {names[:120]}")
        return kind(**{name: converts[name](each) for name, each in value.items()})

    return decode_object


def _union_decoder(members: tuple[Any, ...]) -> Convert:
    if all(each in _PLAIN for each in members):
        return _plain_decoder(members)
    rest = [each for each in members if each is not NoneType]
    optional = len(rest) < len(members)
    if len(rest) == 1:
        convert = _decoder(rest[0])
    elif all(each in _INTERNET for each in rest):
        convert = _named(*rest)
    else:
        convert = _tagged({each.__name__: _decoder(each) for each in rest})

    def decode_optional(value: Any) -> Any:
        return None if value is None else convert(value)

    return decode_optional if optional else convert


def _tagged(converts: Mapping[str, Convert]) -> Convert:
    def decode_tagged(value: Any) -> Any:
        ((name, content),) = value.items()
        return converts[name](content)

    return decode_tagged
