"""What the pages claim to list, they list."""

from pathlib import Path

from tests.spoofs import PAIRS

DOCS = Path(__file__).parents[2] / "docs"


def test_every_kind_of_spoof_that_is_tried_is_in_the_table_and_no_other() -> None:
    lines = (DOCS / "source-check.md").read_text(encoding="utf-8").splitlines()
    listed = [line.split(" | ")[0].removeprefix("| ") for line in lines if line.startswith("| ")]
    assert listed[1:] == [pair.name for pair in PAIRS]
