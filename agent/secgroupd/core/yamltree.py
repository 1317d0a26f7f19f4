"""YAML or JSON text -> a tree of nodes; what is dangerous or ambiguous in YAML ends here.

Aliases and anchors (they can grow without bound), merge keys, tags, a second document and duplicate
keys are problems; scalars keep to the short list of ``tree.plain_value``.
"""

from typing import Any

import yaml

from secgroupd.core import jsontree
from secgroupd.core.tree import (
    Budget,
    Node,
    ScalarNode,
    TooLarge,
    TreeBuilder,
    Unreadable,
    decoded,
    plain_value,
)
from secgroupd.errors import Problem

__all__ = ["parse_tree"]


def parse_tree(
    file: str, content: str | bytes, budget: Budget | None = None
) -> tuple[Node | None, list[Problem]]:
    """Parse one file; ``.json`` at the end of its name means strict JSON, all else is YAML.

    Args:
        file: its name, for the problems.
        content: its text, or its bytes in UTF-8.
        budget: what may still be read; it is drawn down, and shared by the files of a document.

    Returns:
        The tree (None when the file is empty or cannot be read) and every problem found. A tree can
        come with problems: they do not keep its fields from being checked.

    Raises:
        TooLarge: the document, of which this file is a part, is over a limit.
    """
    builder = TreeBuilder(file, budget if budget is not None else Budget())
    try:
        text = decoded(content)
        if file.endswith(".json"):
            jsontree.feed(builder, text)
        else:
            _feed(builder, text)
    except TooLarge:
        raise
    except Unreadable as problem:
        builder.report(problem.line, problem.column, problem.code, problem.message)
        return None, builder.problems
    root = builder.root
    if isinstance(root, ScalarNode) and root.value is None:
        root = None
    return root, builder.problems


def _feed(builder: TreeBuilder, text: str) -> None:
    parser = yaml.CSafeLoader(text)
    try:
        _walk(builder, parser.get_event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        what = " ".join(filter(None, (error.context, error.problem)))
        message = f"this is not YAML ({what}): correct the syntax here"
        raise Unreadable(line, column, "yaml-syntax", message) from None
    except yaml.YAMLError as error:
        message = f"this is not YAML ({str(error).splitlines()[0]}): correct the syntax"
        raise Unreadable(1, 1, "yaml-syntax", message) from None
    finally:
        parser.dispose()


def _walk(builder: TreeBuilder, next_event: Any) -> None:
    # Local names, and classes compared by identity in order of frequency: this loop is half of a
    # parse.
    scalar, scalar_event = builder.scalar, yaml.ScalarEvent
    ends = (yaml.MappingEndEvent, yaml.SequenceEndEvent)
    documents = 0
    while True:
        event = next_event()
        kind = event.__class__
        if kind is scalar_event:
            mark = event.start_mark
            plain, quoted = event.implicit
            if event.anchor is not None or not (plain or quoted) or event.value == "<<":
                _check_scalar(builder, event)
            value = plain_value(event.value) if plain else event.value
            scalar(mark.line + 1, mark.column + 1, value)
        elif kind in ends:
            builder.close()
        elif kind is yaml.StreamEndEvent:
            return
        else:
            documents += kind is yaml.DocumentStartEvent
            _take_other(builder, event, documents)


def _take_other(builder: TreeBuilder, event: Any, documents: int) -> None:
    """Take an event that is neither a scalar nor an end."""
    line, column = event.start_mark.line + 1, event.start_mark.column + 1
    kind = event.__class__
    if kind is yaml.AliasEvent:
        _refuse_anchor(builder, event)
        builder.scalar(line, column, "*" + event.anchor)
    elif kind is yaml.DocumentStartEvent and documents > 1:
        message = "a second YAML document begins: put it into a file of its own"
        raise Unreadable(line, column, "second-document", message)
    elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
        if event.anchor is not None:
            _refuse_anchor(builder, event)
        if event.tag is not None:
            _refuse_tag(builder, event)
        begin = builder.open_map if kind is yaml.MappingStartEvent else builder.open_list
        begin(line, column)


def _check_scalar(builder: TreeBuilder, event: Any) -> None:
    plain, quoted = event.implicit
    if plain and event.value == "<<":
        _refuse(builder, event.start_mark, "merge-key", "a merge key", "write the fields out")
    if not (plain or quoted):
        _refuse_tag(builder, event)
    if event.anchor is not None:
        _refuse_anchor(builder, event)


def _refuse(builder: TreeBuilder, mark: Any, code: str, what: str, remedy: str) -> None:
    builder.report(mark.line + 1, mark.column + 1, code, f"{what} is not allowed: {remedy}")


def _refuse_tag(builder: TreeBuilder, event: Any) -> None:
    _refuse(builder, event.start_mark, "tag", f"the tag {event.tag[:40]!r}", "remove it")


def _refuse_anchor(builder: TreeBuilder, event: Any) -> None:
    what = f"the anchor or alias {event.anchor[:40]!r}"
    _refuse(builder, event.start_mark, "alias", what, "write the value out")
