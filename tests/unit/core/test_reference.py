"""The reference of the state document is what the parser reads by."""

import re
from pathlib import Path

import pytest

from secgroupd.core.document import DOCUMENT
from secgroupd.core.reference import pages

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("place", pages())
def test_the_published_page_is_up_to_date(place: str) -> None:
    assert (ROOT / place).read_text(encoding="utf-8") == pages()[place], "make reference"


def test_every_field_of_every_part_is_there() -> None:
    page = pages()["docs/state-document.md"]
    fields = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert {*DOCUMENT.fields, "remote_group_id", "allowed_address_pairs", "fwmark"} <= {*fields}
    assert "| `priority` | 1 to 100 or text | default 1 |" in page
