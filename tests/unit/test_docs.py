"""What the pages claim to list, they list."""

import re
from pathlib import Path

import pytest
from tests.spoofs import PAIRS

from secgroupd.core.document import Source, parse
from secgroupd.core.doubts import Doubt
from secgroupd.core.exposure import MANAGEMENT_PORTS

TESTS = Path(__file__).parents[1]
DOCS = TESTS.parent / "docs"


def test_every_kind_of_spoof_that_is_tried_is_in_the_table_and_no_other() -> None:
    lines = (DOCS / "source-check.md").read_text(encoding="utf-8").splitlines()
    listed = [line.split(" | ")[0].removeprefix("| ") for line in lines if line.startswith("| ")]
    assert listed[1:] == [pair.name for pair in PAIRS]


def test_every_fault_is_listed_once_with_tests_that_there_are() -> None:
    page = (DOCS / "faults.md").read_text(encoding="utf-8")
    cases = re.findall(r"^\| (F-\d\d) \|.*$", page, re.MULTILINE)
    assert cases == [f"F-{number:02}" for number in range(1, 57)]
    assert len(check_named_tests(page)) > 56


def test_every_statement_has_tests_that_there_are() -> None:
    page = (DOCS / "semantics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (S-\d\d) \|.*$", page, re.MULTILINE)
    assert rows == [f"S-{number:02}" for number in range(1, len(rows) + 1)]
    assert all("::test_" in row for row in re.findall(r"^\| S-.*$", page, re.MULTILINE))
    check_named_tests(page)


def check_named_tests(page: str) -> list[tuple[str, str]]:
    """Return the files and tests that a page names, after a look at whether they are there."""
    named: list[tuple[str, str]] = re.findall(r"`([a-z_/0-9]+\.py)(?:::(test_\w+))?`", page)
    for file, test in named:
        root = TESTS if (TESTS / file).exists() else TESTS.parent
        places = (root / file, TESTS.parent / "agent" / "secgroupd" / file)
        found = [path for path in places if path.exists()]
        assert found, file
        assert not test or f"def {test}(" in found[0].read_text(encoding="utf-8"), test
    return named


WARNINGS = (DOCS / "warnings.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", WARNINGS, re.MULTILINE | re.DOTALL))


def test_every_code_of_a_warning_has_a_section_and_a_line_in_the_table() -> None:
    assert [*SECTIONS] == [*Doubt]
    assert re.findall(r"^\| \[(\S+)\]\(#\1\) \|", WARNINGS, re.MULTILINE) == [*Doubt]


@pytest.mark.parametrize("code", Doubt)
def test_the_example_of_a_warning_triggers_it_and_no_other(code: Doubt) -> None:
    (example,) = re.findall(r"^```yaml\n(.*?)^```", SECTIONS[code], re.MULTILINE | re.DOTALL)
    assert [each.code for each in parse([Source("f.yaml", example)]).warnings] == [code]


def test_every_management_port_is_argued() -> None:
    rows = re.findall(r"^\| (\d.*?) \|", SECTIONS[Doubt.OPEN_MANAGEMENT_PORT], re.MULTILINE)
    argued = [int(port) for row in rows for port in re.findall(r"\d+", row)]
    assert sorted(argued) == sorted(MANAGEMENT_PORTS)
    assert all(name in " ".join(rows) for name in MANAGEMENT_PORTS.values())
