"""What a program takes on its command line and answers with, said once: for argparse and for the pages."""

import argparse
import shutil
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from secgroupd import __version__
from secgroupd.prose import plain, sentence

EXIT_ERROR, EXIT_USAGE = 1, 2

ERROR = "error"
"""What ``EXIT_ERROR`` means where a verb says no more of it."""


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a program.

    Attributes:
        names: an option's names, or a positional argument's one.
        help: what it means, as marked text (``prose``).
        metavar: what stands for its value; choices stand for themselves.
        settings: what ``add_argument`` is told besides.
    """

    names: tuple[str, ...]
    help: str
    metavar: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def optional(self) -> bool:
        """Whether it can be left out."""
        if self.names[0].startswith("-"):
            return not self.settings.get("required", False)
        return self.settings.get("nargs") == "?"

    @property
    def value(self) -> str:
        """What stands for its value; empty for an option that is only there or not."""
        return self.metavar or "|".join(self.settings.get("choices", ()))

    @property
    def term(self) -> str:
        """The argument and its value, as marked text."""
        value = f"*{self.value}*" + ("..." if self.settings.get("nargs") == "+" else "")
        if not self.names[0].startswith("-"):
            return value
        names = ", ".join(f"`{name}`" for name in self.names)
        return f"{names} {value}" if self.value else names

    @property
    def synopsis(self) -> str:
        """The argument as a synopsis has it, as marked text."""
        return f"[{self.term}]" if self.optional else self.term


class Example(NamedTuple):
    """A command line, and what it is for."""

    command: str
    purpose: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """Something that a program does when it is told so by a word.

    Attributes:
        name: the word.
        summary: what it does, in a line.
        run: does it with the parsed arguments, and returns the exit code.
        exits: what its exit codes mean; by the option that changes it, or by "" without one.
        description: more of it, as marked text, with an empty line between paragraphs.
        arguments: what it takes besides the common options.
        examples: how it is used.
    """

    name: str
    summary: str
    run: Callable[[argparse.Namespace], int]
    exits: Mapping[str, Mapping[int, str]]
    description: str = ""
    arguments: tuple[Argument, ...] = ()
    examples: tuple[Example, ...] = ()

    @property
    def paragraphs(self) -> tuple[str, ...]:
        """What it does, a paragraph each, as marked text."""
        return (sentence(self.summary), *filter(None, self.description.split("\n\n")))


class Verbs(Protocol):
    """What a verb is added to: argparse's own type for it has no public name."""

    def add_parser(self, name: str, **settings: Any) -> argparse.ArgumentParser:
        """Add a verb and return its parser."""


CONFIG = Argument(
    ("--config",),
    "the settings; see secgroupd.yaml(5)",
    "FILE",
    {"type": Path, "default": None},
)
HELP = Argument(("-h", "--help"), "print a summary, and end", settings={"action": "help"})


def version(program: str) -> Argument:
    """Return the option that prints a program's version."""
    settings = {"action": "version", "version": f"{program} {__version__}"}
    return Argument(("--version",), "print the version, and end", settings=settings)


def options(program: str) -> tuple[Argument, ...]:
    """Return the options that every program has."""
    return (CONFIG, version(program), HELP)


def program(name: str, description: str, arguments: Iterable[Argument]) -> argparse.ArgumentParser:
    """Return the parser of a program."""
    made = argparse.ArgumentParser(
        prog=name, description=plain(description), add_help=False, formatter_class=_Formatter
    )
    _add(made, arguments)
    return made


def add_verb(verbs: Verbs, program_name: str, verb: Verb) -> None:
    """Add a verb to a program's parser."""
    parser = verbs.add_parser(
        verb.name,
        help=_escaped(verb.summary),
        usage=_usage(f"{program_name} {verb.name}", verb.arguments),
        description=plain("\n\n".join(verb.paragraphs)),
        epilog=plain(_epilog(verb)),
        add_help=False,
        formatter_class=_Formatter,
    )
    # Suppressed, so that --config before the verb is not overwritten by this one's default.
    after = Argument(
        CONFIG.names, CONFIG.help, CONFIG.metavar, {**CONFIG.settings, "default": argparse.SUPPRESS}
    )
    _add(parser, (*verb.arguments, after, HELP))
    parser.set_defaults(run=verb.run)


def _add(parser: argparse.ArgumentParser, arguments: Iterable[Argument]) -> None:
    for argument in arguments:
        settings = {"help": _escaped(argument.help), **argument.settings}
        if argument.value:
            settings["metavar"] = argument.value
        parser.add_argument(*argument.names, **settings)


def _escaped(text: str) -> str:
    """Return marked text as argparse takes a help, in which a percent sign has a meaning."""
    return plain(text).replace("%", "%%")


def _usage(prefix: str, arguments: Sequence[Argument]) -> str:
    """Return the usage, wrapped between arguments and never inside one."""
    words = " ".join(plain(each.synopsis).replace(" ", "\N{NO-BREAK SPACE}") for each in arguments)
    indent = " " * (len("usage: ") + len(prefix) + 1)
    width = shutil.get_terminal_size().columns - 2
    lines = textwrap.wrap(words, max(width - len(indent), 40), break_on_hyphens=False)
    wrapped = ("\n" + indent).join(lines).replace("\N{NO-BREAK SPACE}", " ")
    return f"{prefix} {wrapped}".rstrip()


def _epilog(verb: Verb) -> str:
    parts = []
    for option, exits in verb.exits.items():
        heading = f"exit status with {option}:" if option else "exit status:"
        parts.append("\n".join([heading, *(f"  {code}  {what}" for code, what in exits.items())]))
    if verb.examples:
        lines = (f"  {each.command}\n      {each.purpose}" for each in verb.examples)
        parts.append("\n".join(["examples:", *lines]))
    return "\n\n".join(parts)


class _Formatter(argparse.HelpFormatter):
    """Fills paragraphs one by one, and leaves those of several lines as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(
            part if "\n" in part else super(_Formatter, self)._fill_text(part, width, indent)
            for part in text.split("\n\n")
        )
