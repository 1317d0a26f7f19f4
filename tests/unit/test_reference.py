"""Every page has one source: the program, whose help says the same."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from secgroupd.cli import VERBS, parser
from secgroupd.core.document import DOCUMENT
from secgroupd.prose import Style, plain, spans
from secgroupd.reference import pages, roff, secgroupctl, secgroupd, settings, state
from secgroupd.reference.markdown import markdown
from secgroupd.reference.model import (
    Block,
    Code,
    Definition,
    Definitions,
    Manual,
    Page,
    Paragraph,
    Section,
    Synopsis,
    Table,
)
from secgroupd.usage import Verb

ROOT = Path(__file__).parents[2]
PAGES = pages(ROOT)
MANUALS = (secgroupctl.manual(), secgroupd.manual(), settings.manual(), state.manual())


@pytest.mark.parametrize("place", PAGES)
def test_the_published_page_is_up_to_date(place: str) -> None:
    assert (ROOT / place).read_text(encoding="utf-8") == PAGES[place], "make reference"


def test_every_manual_page_is_made() -> None:
    made = {path.removeprefix("man/") for path in PAGES if path.startswith("man/")}
    assert made == {path.name for path in (ROOT / "man").iterdir()}


def test_every_field_of_every_part_of_the_document_is_there() -> None:
    page = PAGES["docs/state-document.md"]
    fields = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert {*DOCUMENT.fields, "remote_group_id", "allowed_address_pairs", "fwmark"} <= {*fields}
    assert "| `priority` | 1 to 100 or text | default 1 |" in page


def words(text: str) -> str:
    """Return a text without its line breaks, and with one kind of hyphen."""
    return " ".join(text.replace("\N{HYPHEN}", "-").replace("\N{MINUS SIGN}", "-").split())


def unmarked(text: str) -> str:
    """Return a marked text as paper shows it, where fonts take the place of marks."""
    return words(
        "".join(
            f"{span.text}({span.target})" if span.style is Style.MANUAL else span.text
            for span in spans(text)
        )
    )


def rendered(source: str) -> str:
    """Return what man(1) shows of a manual page, on paper that is wide enough for every line."""
    command = ["groff", "-t", "-man", "-ww", "-Tutf8", "-P-cbou", "-rLL=4000n", "-rHY=0"]
    done = subprocess.run(command, input=source, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return words(done.stdout)


def texts(sections: tuple[Section, ...]) -> Iterator[str]:
    """Yield all that sections say, as marked text."""
    for section in sections:
        for block in section.blocks:
            yield from texts_of(block)
        yield from texts(section.sections)


def texts_of(block: Block) -> Iterator[str]:
    match block:
        case Paragraph(text):
            yield text
        case Code(text):
            yield from (f"`{line}`" for line in text.splitlines())
        case Synopsis(name, following):
            yield " ".join([name, *following])
        case Definitions(items):
            for item in items:
                yield from texts_of_definition(item)
        case Table(_, rows):
            yield from (cell for row in rows for cell in row)


def texts_of_definition(item: Definition) -> Iterator[str]:
    yield from (item.term, item.text, *item.notes)
    for part in item.inner:
        yield from texts_of_definition(part)


@pytest.mark.parametrize("manual", MANUALS, ids=lambda manual: manual.name)
def test_a_manual_page_shows_all_that_it_is_made_of(manual: Manual) -> None:
    shown = rendered(roff.manual(manual))
    assert [text for text in texts(manual.sections) if unmarked(text) not in shown] == []


HOSTILE = (
    ".SH no heading",
    "'tis no request",
    r"a\b \fBnot bold\fR \n(.l \(aq",
    """a "quote" 'and' another" """,
    "`--option=-1`",
    "`.dotted` and `'quoted`",
    "1 < 2 | 3 * 4 & _5_ ~^",
)


def test_no_text_is_taken_for_a_request_or_an_escape() -> None:
    items = Definitions(tuple(Definition(f"`{n}`", text) for n, text in enumerate(HOSTILE)))
    blocks: list[Block] = [
        *map(Paragraph, HOSTILE),
        items,
        Table(("", ""), tuple((t, t) for t in HOSTILE)),
    ]
    blocks += [Code("\n".join(map(plain, HOSTILE)))]
    page = Manual(
        name="hostile", number=1, title="T", summary="s", sections=(Section("All", (*blocks,)),)
    )
    shown = rendered(roff.manual(page))
    for text in HOSTILE:
        assert shown.count(unmarked(text)) == 5, text


def test_markdown_keeps_tables_and_marks_apart_from_text() -> None:
    rows = (("`a|b`", "1 < 2 | 3 * 4, *FILE*, nft(8), secgroupctl(1)"),)
    source = markdown(Page(title="T", blocks=(Table(("x", "y"), rows),), sections=()))
    assert source.splitlines()[-1] == (
        r"| `a\|b` | 1 \< 2 \| 3 \* 4, *FILE*, nft(8), [secgroupctl(1)](commands.md) |"
    )


def test_a_terminal_shows_where_words_belong_together() -> None:
    assert plain("run `nft -f x`, see `a`, *FILE*, [b](b.md) or nft(8)") == (
        'run "nft -f x", see a, FILE, b or nft(8)'
    )


def helped(verb: Verb) -> str:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args([verb.name, "--help"])
    assert ended.value.code == 0
    return verb.name


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_the_help_of_a_verb_says_what_its_pages_say(
    verb: Verb, capsys: pytest.CaptureFixture[str]
) -> None:
    helped(verb)
    told = words(capsys.readouterr().out)
    manual = words(rendered(PAGES["man/secgroupctl.1"]))
    (section,) = [each for each in secgroupctl.page().sections if each.heading == verb.name]
    for text in (*verb.paragraphs, *(each.help for each in verb.arguments)):
        assert words(plain(text)) in told
        assert unmarked(text) in manual
        assert text in set(texts((section,)))
    for codes in verb.exits.values():
        assert all(f"{code} {words(plain(what))}" in told for code, what in codes.items())
        assert all(f"{code} {unmarked(what)}" in manual for code, what in codes.items())


DOCUMENTATION = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def shown_commands() -> Iterator[tuple[str, str]]:
    """Yield the command lines that the documentation shows, after the program's name, with the page."""
    for path in DOCUMENTATION:
        text = path.read_text(encoding="utf-8")
        blocks = re.findall(r"^ *```\w*\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
        for line in "".join(blocks).splitlines():
            # Brackets and dots are a synopsis's.
            if (match := re.match(r"[$ ]*secgroupctl ([^[#>|]*)(?![^#>|]*\[)", line)) is not None:
                yield path.name, match[1].strip()


def mentioned_commands() -> Iterator[tuple[str, str]]:
    for path in DOCUMENTATION:
        for line in re.findall(r"`secgroupctl ([a-z][^`]*)`", path.read_text(encoding="utf-8")):
            yield path.name, line


SHOWN = sorted({each for each in shown_commands() if "..." not in each[1] and each[1]})
MENTIONED = sorted(set(mentioned_commands()))


def test_the_documentation_shows_commands() -> None:
    assert {"commands.md", "drops.md", "import.md", "README.md"} <= {page for page, _ in SHOWN}
    assert {"operating.md", "data-path.md", "lab.md"} <= {page for page, _ in MENTIONED}


@pytest.mark.parametrize(("page", "line"), SHOWN)
def test_a_command_that_a_page_shows_is_one(page: str, line: str) -> None:
    stands_for = {"N": "1", "P": "tcp", "SECONDS": "1", "CLOUD": "aws"}
    words = [stands_for.get(word, word) for word in shlex.split(line)]
    assert parser().parse_args(words).run, page


@pytest.mark.parametrize(("page", "line"), MENTIONED)
def test_a_command_that_a_page_mentions_takes_such_options(page: str, line: str) -> None:
    name, *words = line.split()
    (verb,) = [verb for verb in VERBS if verb.name == name]
    known = {name for each in verb.arguments for name in each.names}
    assert {word for word in words if word.startswith("-")} <= known, page
