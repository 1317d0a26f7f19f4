"""secgroupctl(1) and docs/commands.md, from the verbs that the program has."""

from collections.abc import Iterator, Mapping

from secgroupd.cli import EXITS, NAME, SUMMARY, VERBS
from secgroupd.prose import sentence
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
    see_also,
)
from secgroupd.reference.places import files
from secgroupd.usage import Argument, Verb, options

INTRODUCTION = (
    Paragraph("`secgroupctl` is everything that a person or a script asks of secgroupd(8)."),
    Paragraph(
        "*PATH* is a state document, secgroupd-state(5): a file, or a directory whose `.yaml`, `.yml` "
        "and `.json` files are merged."
    ),
)


def manual() -> Manual:
    """Return secgroupctl(1)."""
    return Manual(
        name=NAME,
        number=1,
        title="User commands",
        summary=SUMMARY,
        sections=(
            Section(
                "Synopsis", (Synopsis(NAME, ("[`--config` *FILE*]", "*VERB*", "[*ARGUMENT*]...")),)
            ),
            Section("Description", INTRODUCTION),
            Section("Verbs", sections=tuple(map(_verb, VERBS))),
            _options(),
            _exit_status(),
            Section("Files", (files(),)),
            see_also("secgroupd(8)", "secgroupd.yaml(5)", "secgroupd-state(5)", "nft(8)"),
        ),
    )


def page() -> Page:
    """Return docs/commands.md."""
    rows = tuple((f"[{verb.name}](#{verb.name})", verb.summary) for verb in VERBS)
    return Page(
        title="Commands",
        blocks=(*INTRODUCTION, Table(("verb", "does"), rows)),
        sections=(*map(_verb, VERBS), _options(), _exit_status(), Section("Files", (files(),))),
    )


def defined(arguments: tuple[Argument, ...]) -> Definitions:
    """Return arguments as a list of what they mean."""
    return Definitions(tuple(Definition(each.term, each.help) for each in arguments))


def _verb(verb: Verb) -> Section:
    return Section(verb.name, tuple(_told(verb)))


def _told(verb: Verb) -> Iterator[Block]:
    yield Synopsis(f"{NAME} {verb.name}", tuple(each.synopsis for each in verb.arguments))
    yield from map(Paragraph, verb.paragraphs)
    if verb.arguments:
        yield defined(verb.arguments)
    for option, exits in verb.exits.items():
        heading = f"Exit status with `{option}`" if option else "Exit status"
        yield Paragraph(f"{heading}: {_codes(exits)}.")
    for example in verb.examples:
        yield Paragraph(f"{sentence(example.purpose)[:-1]}:")
        yield Code(example.command)


def _codes(exits: Mapping[int, str]) -> str:
    return ", ".join(f"`{code}` {what}" for code, what in exits.items())


def _options() -> Section:
    *_, help_option = common = options(NAME)
    return Section(
        "Options",
        (
            defined(common),
            Paragraph(
                f"Verbs take `--config` too, and {help_option.term} for a summary of the verb."
            ),
        ),
    )


def _exit_status() -> Section:
    rows = tuple(
        (f"`{verb.name} {option}`" if option else f"`{verb.name}`", _codes(exits))
        for verb in VERBS
        for option, exits in verb.exits.items()
    )
    return Section(
        "Exit status",
        (Table(("verb", "exit status"), rows), Paragraph(f"With every verb: {_codes(EXITS)}.")),
    )
