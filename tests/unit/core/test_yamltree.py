"""Trees from YAML and JSON: places, YAML's traps, and what is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secgroupd.core.tree import (
    MAX_DEPTH,
    Budget,
    ListNode,
    MapNode,
    Node,
    ScalarNode,
    TooLarge,
)
from secgroupd.core.yamltree import parse_tree


def content(node: Node | None) -> object:
    match node:
        case ScalarNode():
            return node.value
        case ListNode():
            return [content(item) for item in node.items]
        case MapNode():
            return {key: content(value) for key, value in node.entries.items()}
        case None:
            return None


def parsed(text: str | bytes, file: str = "f.yaml") -> object:
    root, problems = parse_tree(file, text)
    assert problems == []
    return content(root)


def refused(text: str | bytes, file: str = "f.yaml") -> tuple[int, int, str]:
    _, problems = parse_tree(file, text)
    assert len(problems) == 1, problems
    assert problems[0].file == file
    return problems[0].line, problems[0].column, problems[0].code


@pytest.mark.parametrize(
    "text",
    ["52:54:00:12:34:56", "22:22", "10.10", "no", "yes", "on", "Off", "010", "0x10", "1_000", "1e3",
     "2024-01-01", "True", "NULL", "+1", ".inf", "=", "9999999999999999999", "1.1.1.1/0"],
)  # fmt: skip
def test_what_yaml_would_guess_at_stays_text(text: str) -> None:
    assert parsed(f"a: {text}") == {"a": text}


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("false", False), ("null", None), ("~", None), ("", None), ("0", 0),
     ("80", 80), ("-1", -1), ("999999999999999999", 999999999999999999)],
)  # fmt: skip
def test_the_short_list_of_values_that_are_not_text(text: str, value: object) -> None:
    assert parsed(f"a: {text}") == {"a": value}


@pytest.mark.parametrize("text", ['"true"', "'80'", '""', '"null"', "|-\n  80"])
def test_quoted_is_text(text: str) -> None:
    assert isinstance(parsed(f"a: {text}"), dict)
    assert parsed(f"[{text}]" if "\n" not in text else f"- {text}") == [
        text.strip("\"'").removeprefix("|-\n  ")
    ]


@pytest.mark.parametrize("file", ["f.yaml", "f.json"])
def test_places_are_those_of_an_editor(file: str) -> None:
    text = '{\n  "ä": ["x",\n\t"y"], "b": {"c": 1}\n}'
    root, problems = parse_tree(file, text)
    assert problems == []
    assert isinstance(root, MapNode)
    first, second = root.entries["ä"], root.entries["b"]
    assert isinstance(first, ListNode)
    assert isinstance(second, MapNode)
    assert (root.line, root.column) == (1, 1)
    assert (first.line, first.column) == (2, 8)
    assert [(item.line, item.column) for item in first.items] == [(2, 9), (3, 2)]
    assert root.key_place("b") == (3, 8)
    assert second.key_place("c") == (3, 14)
    assert (second.entries["c"].line, second.entries["c"].column) == (3, 19)


@pytest.mark.parametrize("file", ["f.yaml", "f.json"])
@pytest.mark.parametrize("text", ["", " \n\n", "\ufeff", b"\xef\xbb\xbf"])
def test_an_empty_file_is_nothing(file: str, text: str | bytes) -> None:
    assert parsed(text, file) is None


def test_a_file_of_comments_is_nothing() -> None:
    assert parsed("# nothing yet\n---\n") is None


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a: 1\nb: 2\na: 3\n", (3, 1, "duplicate-key")),
        ("x:\n  - {a: 1, 'a': 2}\n", (2, 12, "duplicate-key")),
        ("a: &x 1\n", (1, 4, "alias")),
        ("a: &x [1]\n", (1, 4, "alias")),
        ("a: &x {}\n", (1, 4, "alias")),
        ("a: !!str 1\n", (1, 4, "tag")),
        ("a: !!python/object:os.system {}\n", (1, 4, "tag")),
        ("a: !mine [1]\n", (1, 4, "tag")),
        ("a:\n  <<: {b: 1}\n", (2, 3, "merge-key")),
        ("1: x\n", (1, 1, "key-not-text")),
        ("a:\n  true: x\n", (2, 3, "key-not-text")),
        ("~: x\n", (1, 1, "key-not-text")),
        ("[a]: x\n", (1, 1, "key-not-text")),
        ("{a: 1}: x\n", (1, 1, "key-not-text")),
        ("a: 1\n---\nb: 2\n", (2, 1, "second-document")),
        ("a: [1\nb: 2\n", (2, 2, "yaml-syntax")),
        ("a: 'x\n", (2, 1, "yaml-syntax")),
        ("a:\n\t- b\n", (2, 1, "yaml-syntax")),
        ("a: b: c\n", (1, 5, "yaml-syntax")),
        ("a: x\x00y\n", (1, 5, "control-character")),
        ("a: 1\nb: \x1b[0m\n", (2, 4, "control-character")),
        ("a: x\x85y\n", (1, 5, "control-character")),
        ("a: x\u2028y\n", (1, 5, "control-character")),
        ("a: \ud800\n", (1, 4, "control-character")),
        (b"a: 1\nb: \xff\n", (2, 4, "not-utf8")),
        (b"\xff\xfea\x00", (1, 1, "not-utf8")),
        ("[" * 1000, (1, MAX_DEPTH + 1, "too-deep")),
        ("- " * 1000, (1, 2 * MAX_DEPTH + 1, "too-deep")),
        ("? " * 1000, (1, 3, "key-not-text")),
    ],
)
def test_what_yaml_refuses(text: str | bytes, place: tuple[int, int, str]) -> None:
    assert refused(text) == place


def test_laughs_do_not_multiply() -> None:
    text = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"
    _, problems = parse_tree("f.yaml", text)
    assert {problem.code for problem in problems} == {"alias"}
    assert [problem.line for problem in problems] == [1, 2, 2, 2, 3, 3]


def test_all_duplicate_keys_are_reported_with_both_places() -> None:
    root, problems = parse_tree("f.yaml", "a: 1\nb: 1\nb: 2\na: 2\n")
    assert [(p.line, p.message) for p in problems] == [
        (3, "'b' is already given at 2:1: keep one of the two"),
        (4, "'a' is already given at 1:1: keep one of the two"),
    ]
    assert isinstance(root, MapNode)
    assert root.key_place("b") == (2, 1)


def test_a_file_full_of_duplicates_is_given_up() -> None:
    _, problems = parse_tree("f.yaml", "a: 1\n" * 1_000)
    assert len(problems) == 101
    assert problems[-1].code == "too-many-problems"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("{", (1, 2, "json-syntax")),
        ("[1,]", (1, 4, "json-syntax")),
        ("[1 2]", (1, 4, "json-syntax")),
        ("[,]", (1, 2, "json-syntax")),
        ("[1}", (1, 3, "json-syntax")),
        ("{]", (1, 2, "json-syntax")),
        ('{"a" 1}', (1, 2, "json-syntax")),
        ('{"a": "b": 1}', (1, 10, "json-syntax")),
        ('{"a": 1,}', (1, 9, "json-syntax")),
        ('{"a":\n}', (2, 1, "json-syntax")),
        ('{"a": , "b": 1}', (1, 7, "json-syntax")),
        ("{1: 2}", (1, 2, "json-syntax")),
        ('["a": 1]', (1, 5, "json-syntax")),
        ('"a": 1', (1, 4, "json-syntax")),
        ("1,", (1, 2, "json-syntax")),
        ("[1]]", (1, 4, "json-syntax")),
        ("[1] [2]", (1, 5, "json-syntax")),
        ("[01]", (1, 3, "json-syntax")),
        ("[.5]", (1, 2, "json-syntax")),
        ("[NaN]", (1, 2, "json-syntax")),
        ("[True]", (1, 2, "json-syntax")),
        ("{a: 1}", (1, 2, "json-syntax")),
        ("[1] # no", (1, 5, "json-syntax")),
        ('["a\nb"]', (1, 2, "json-syntax")),
        ('["\\x"]', (1, 2, "json-syntax")),
        ('["\\u12"]', (1, 2, "json-syntax")),
        ('["a]', (1, 2, "json-syntax")),
        ('{"a": 1,\n "a": 2}', (2, 2, "duplicate-key")),
        ("[" * 1000, (1, MAX_DEPTH + 1, "too-deep")),
        (b'["\xff"]', (1, 3, "not-utf8")),
    ],
)
def test_what_json_refuses(text: str | bytes, place: tuple[int, int, str]) -> None:
    assert refused(text, "f.json") == place


def test_json_escapes_and_surrogate_pairs() -> None:
    value = {"a\n": ['"\\/\b\x7f'.replace("\x7f", ""), "\U0001f600", "ä"]}
    assert parsed(json.dumps(value), "f.json") == value
    assert parsed(json.dumps(value, ensure_ascii=False), "f.json") == value


def test_json_numbers_that_are_not_whole_stay_text() -> None:
    assert parsed("[1.0, 1e3, -0.5]", "f.json") == ["1.0", "1e3", "-0.5"]


def test_every_problem_ends_with_a_remedy() -> None:
    for text in ("a: 1\na: 1\n", "a: !x 1", "a: &x 1", "<<: 1", "1: 1", "[", "---\n---\n", "\x00"):
        _, problems = parse_tree("f.yaml", text)
        assert all(": " in problem.message for problem in problems) and problems


@pytest.mark.parametrize("file", ["f.yaml", "f.json"])
def test_the_budget_is_shared_by_files(file: str) -> None:
    budget = Budget(nodes=5)
    parse_tree(file, '["a", "b"]', budget)
    assert budget.nodes == 2
    with pytest.raises(TooLarge) as refusal:
        parse_tree(file, '["a",\n "b"]', budget)
    assert (refusal.value.line, refusal.value.column) == (2, 2)
    assert refusal.value.code == "document-too-large"


@pytest.mark.parametrize("file", ["f.yaml", "f.json"])
def test_rules_are_counted_while_reading(file: str) -> None:
    text = '{"rules": [{}, {}, [{}], {"rules": 1}], "others": [{}]}'
    parse_tree(file, text, Budget(rules=3))
    with pytest.raises(TooLarge) as refusal:
        parse_tree(file, text, Budget(rules=2))
    assert (refusal.value.column, refusal.value.code) == (26, "too-many-rules")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**17), 10**17)
    | st.text(st.characters(exclude_categories=["Cc", "Cs"],
                            exclude_characters="\u2028\u2029\ufffe\uffff")),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.from_regex(r"\A[a-z]{1,5}\Z"), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(value=JSON_VALUES, indent=st.sampled_from([None, 1, 4]))
def test_json_round_trips(value: object, indent: int | None) -> None:
    assert parsed(json.dumps(value, indent=indent, ensure_ascii=False), "f.json") == value


@given(value=JSON_VALUES)
def test_json_and_yaml_agree_on_trees_and_places(value: object) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False)
    assert parse_tree("f.json", text)[0] == parse_tree("f.yaml", text)[0]


@given(text=st.text() | st.text("{}[]:,\"'a1 \n\t-?&*!|>%#\\") | st.binary())
def test_no_text_raises_anything(text: str | bytes) -> None:
    for file in ("f.yaml", "f.json"):
        root, problems = parse_tree(file, text)
        assert root is None or isinstance(root, ScalarNode | ListNode | MapNode)
        assert all(p.line >= 1 and p.column >= 1 and p.file == file for p in problems)
