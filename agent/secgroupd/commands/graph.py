"""``graph``: a picture of who may talk to whom."""

import argparse
import subprocess

from secgroupd.commands.arguments import DOCUMENTS
from secgroupd.commands.documents import load_settings, read
from secgroupd.commands.output import complain_of_doubts, write
from secgroupd.commands.progress import working
from secgroupd.core.graph import dot
from secgroupd.core.policy import Policy
from secgroupd.errors import DrawingError
from secgroupd.usage import ERROR, EXIT_ERROR, Argument, Example, Verb


def run(args: argparse.Namespace) -> int:
    """Print the picture, or the text that it is drawn from."""
    parsed = read(args.paths, load_settings(args.config))
    complain_of_doubts(parsed.warnings)
    with working("drawing"):
        text = dot(Policy(parsed.state))
        picture = text if args.dot else svg(text)
    write(picture.rstrip("\n"))
    return 0


GRAPH = Verb(
    name="graph",
    summary="draw who may talk to whom, as SVG on standard output",
    run=run,
    description=(
        "An arrow goes from who opens connections to who answers, with protocol and ports; dashed red "
        "is denied. Dotted grey is what one group allows and the other does not let out, or in: a port "
        "of each set of groups is asked. What a group may open to everybody is said in its box.\n\n"
        "dot(1) of the Debian package graphviz draws."
    ),
    arguments=(
        Argument(
            ("--dot",),
            "print the text that dot(1) would be given, which needs no graphviz",
            settings={"action": "store_true"},
        ),
        DOCUMENTS,
    ),
    exits={"": {0: "drawn", EXIT_ERROR: ERROR}},
    examples=(Example("secgroupctl graph examples/cloud.yaml > policy.svg", "for a browser"),),
)


def svg(text: str) -> str:
    """Return what the program ``dot`` draws from text in its language.

    Raises:
        DrawingError: the program is not there, or it failed.
    """
    try:
        done = subprocess.run(
            ["dot", "-Tsvg"], input=text, capture_output=True, encoding="utf-8", check=False
        )
    except OSError as error:
        message = (
            f"cannot run dot, which draws the picture ({error.strerror}): "
            "apt install graphviz, or write its text with --dot and draw it elsewhere"
        )
        raise DrawingError(message) from error
    if done.returncode != 0:
        raise DrawingError(f"dot failed ({done.returncode}): {done.stderr.strip() or 'no message'}")
    return done.stdout
