import json

import pytest

from secgroupd.errors import ImportRefused
from secgroupd.importers.answers import read, sort
from secgroupd.importers.notes import Notes

KINDS = {"things": "thing", "thing": "thing"}


def test_a_file_may_have_several_values_and_a_mark_of_its_encoding() -> None:
    values = [each.value for each in read("f", b'\xef\xbb\xbf {"a": 1}\n[2]\n\n')]
    assert values == [{"a": 1}, [2]]
    assert [each.value for each in read("f", '{"ä": "☃"}'.encode("utf-16"))] == [{"ä": "☃"}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "f: it is empty"),
        (b" \n", "f: it is empty"),
        (b"<html>", "f:1:1: this is not JSON"),
        (b'{"a": 1}\n{"b": }', "f:2:7: this is not JSON"),
        (b'{"a": NaN}', "f: this is not JSON"),
        (b'{"a": 1, "a": 2}', "f: this is not JSON .an object has a key twice"),
        (b"[" * 100_000, "f: its lists are nested too deeply"),
        (b'{"a": "\xff"}', "f: it is not UTF-8"),
        (b"9" * 5000, "f: this is not JSON"),
    ],
)
def test_what_is_no_json_is_refused_with_its_place(content: bytes, message: str) -> None:
    with pytest.raises(ImportRefused, match=message):
        read("f", content)


def test_objects_are_found_under_their_keys_alone_or_in_lists() -> None:
    answers = read(
        "f", json.dumps({"things": [{"id": 1}, {"id": 2}]}).encode() + b'{"thing": {"id": 3}}'
    )
    found = sort(answers, KINDS, Notes())
    assert [each.value for each in found["thing"]] == [{"id": 1}, {"id": 2}, {"id": 3}]


@pytest.mark.parametrize(
    "value", [{"others": []}, {"error": {"code": 401}}, 7, "text", None, [7], {"things": 7}]
)
def test_what_is_no_such_answer_is_refused(value: object) -> None:
    with pytest.raises(ImportRefused, match=r"^f: "):
        sort(read("f", json.dumps(value).encode()), KINDS, Notes())


def test_other_lists_and_further_pages_are_noted() -> None:
    value = {
        "things": [],
        "others": [1],
        "none": [],
        "request_id": "x",
        "things_links": [{"rel": "next", "href": "..."}],
    }
    notes = Notes()
    sort(read("f", json.dumps(value).encode()), KINDS, notes)
    sort(read("g", b'{"things": [], "page_info": {"next_marker": "x"}}'), KINDS, notes)
    assert [str(note).split(":")[:2] for note in notes.taken] == [
        ["f", " others"],
        ["f", " the answer"],
        ["g", " the answer"],
    ]
