"""JSON text -> the objects in it, by kind, whichever page or command they came from."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from secgroupd.core.document import MAX_BYTES
from secgroupd.errors import ImportRefused
from secgroupd.importers.notes import Item, Notes, Where

_BLANK = " \t\r\n"
_PAGE_KEYS = ("NextToken", "Marker")
_LINKS = "_links"
_SHOWN_KEYS = 6


@dataclass(frozen=True, slots=True)
class Answer:
    """One JSON value of a file: what a command printed, or an API sent."""

    file: str
    value: object


@dataclass(frozen=True, slots=True)
class Found:
    """One entry of a list in an answer; ``value`` is a mapping if nothing is wrong with it."""

    file: str
    value: object
    kind: str = ""


Sorter = Callable[[Item], str | None]
"""Tells the kind of an object that stands in no list with a name; None if it is of no known kind."""


def read(file: str, content: bytes) -> list[Answer]:
    """Parse a file: JSON values one after the other, as a loop of commands writes them.

    Raises:
        ImportRefused: it is not JSON, is empty or is too large.
    """
    if len(content) > MAX_BYTES:
        raise ImportRefused(f"{file}: it is over {MAX_BYTES >> 20} MiB: give the answers in parts")
    try:
        text = content.decode(json.detect_encoding(content))
    except UnicodeDecodeError:
        raise ImportRefused(f"{file}: it is not UTF-8 text: {_REMEDY}") from None
    text = text.removeprefix("\ufeff")
    decoder = json.JSONDecoder(parse_constant=_refuse, object_pairs_hook=_mapping)
    answers = []
    position = len(text) - len(text.lstrip(_BLANK))
    while position < len(text):
        try:
            value, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            place = f"{file}:{error.lineno}:{error.colno}"
            raise ImportRefused(f"{place}: this is not JSON ({error.msg}): {_REMEDY}") from None
        except ValueError as error:
            raise ImportRefused(f"{file}: this is not JSON ({error}): {_REMEDY}") from None
        except RecursionError:
            raise ImportRefused(f"{file}: its lists are nested too deeply: {_REMEDY}") from None
        answers.append(Answer(file, value))
        position += len(text) - position - len(text[position:].lstrip(_BLANK))
    if not answers:
        message = "it is empty: see why the command that was to write it has not"
        raise ImportRefused(f"{file}: {message}")
    return answers


_REMEDY = "give what the cloud's API or command line wrote, with JSON as its output format"


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        # Which of the two counts is anybody's guess, and one of them may be wider.
        raise ValueError("an object has a key twice")
    return result


def sort(
    answers: Iterable[Answer],
    kinds: Mapping[str, str],
    notes: Notes,
    sorter: Sorter = lambda _: None,
) -> dict[str, list[Found]]:
    """Return the objects of all answers by kind.

    Args:
        answers: what was read.
        kinds: the kind of each key that a list of objects, or a single one, may stand under.
        notes: takes what is in the answers besides.
        sorter: tells the kind of objects that stand under no key.

    Raises:
        ImportRefused: an answer has none of the keys, or no list where one belongs.
    """
    sorted_: dict[str, list[Found]] = {kind: [] for kind in kinds.values()}
    for answer in answers:
        if isinstance(answer.value, list):
            for entry in answer.value:
                kind = sorter(entry) if isinstance(entry, Mapping) else None
                if kind is None:
                    raise ImportRefused(_strange(answer.file, entry, kinds))
                sorted_[kind].append(Found(answer.file, entry, "row"))
        elif not isinstance(answer.value, Mapping):
            raise ImportRefused(_strange(answer.file, answer.value, kinds))
        elif not kinds.keys().isdisjoint(answer.value):
            _take(answer.file, answer.value, kinds, sorted_)
            _note_rest(answer.file, answer.value, kinds, notes)
        elif (kind := sorter(answer.value)) is not None:
            sorted_[kind].append(Found(answer.file, answer.value, "show"))
        else:
            raise ImportRefused(_strange(answer.file, answer.value, kinds))
    return sorted_


def _take(
    file: str, value: Item, kinds: Mapping[str, str], sorted_: dict[str, list[Found]]
) -> None:
    for key in kinds.keys() & value.keys():
        entries = value[key]
        if isinstance(entries, Mapping):
            entries = [entries]
        if not isinstance(entries, list):
            raise ImportRefused(f"{file}: {key} is no list: {_REMEDY}")
        sorted_[kinds[key]] += (Found(file, entry) for entry in entries)


def _note_rest(file: str, value: Item, kinds: Mapping[str, str], notes: Notes) -> None:
    for key, entries in value.items():
        if isinstance(entries, list) and entries and key not in kinds and not key.endswith(_LINKS):
            notes.take(Where(file, key), "left out", "this list is not imported")
    if _goes_on(value):
        why = "it says that a page follows: give that one too, if it is not among the files"
        notes.take(Where(file, "the answer"), "perhaps not all of it", why)


def _goes_on(value: Item) -> bool:
    """Tell whether an answer says that a page follows."""
    pages = value.get("page_info")
    marks = [value.get(key) for key in _PAGE_KEYS]
    if isinstance(pages, Mapping):
        marks.append(pages.get("next_marker"))
    links = [link for key, links in value.items() if key.endswith(_LINKS) for link in items(links)]
    return any(marks) or any(
        isinstance(each, Mapping) and each.get("rel") == "next" for each in links
    )


def ends(answers: Iterable[Answer], key: str) -> bool:
    """Tell whether a list is there to its last page, as far as answers tell."""
    return any(
        isinstance(answer.value, Mapping)
        and isinstance(answer.value.get(key), list)
        and not _goes_on(answer.value)
        for answer in answers
    )


def _strange(file: str, value: object, kinds: Mapping[str, str]) -> str:
    keys = sorted(map(str, value))[:_SHOWN_KEYS] if isinstance(value, Mapping) else []
    found = f"only {', '.join(keys)}" if keys else "something else"
    wanted = ", ".join(dict.fromkeys(kinds))
    return f"{file}: this is no answer that can be imported: it has {found}, and none of {wanted}"


def items(found: object) -> list[object]:
    """Return a list that an object may lack or have as null; whatever is no list is its only entry."""
    if found is None:
        return []
    return found if isinstance(found, list) else [found]
