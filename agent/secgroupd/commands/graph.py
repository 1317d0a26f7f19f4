"""``graph``: a picture of who may talk to whom."""

import argparse
import subprocess
from pathlib import Path

from secgroupd.commands.arguments import Verbs, add_verb
from secgroupd.commands.documents import load_settings, read
from secgroupd.commands.output import complain_of_doubts, write
from secgroupd.commands.progress import working
from secgroupd.core.graph import dot
from secgroupd.core.policy import Policy
from secgroupd.errors import DrawingError


def add(verbs: Verbs) -> None:
    """Add the verb to the parser."""
    verb = add_verb(
        verbs, "graph", "draw who may talk to whom, as SVG on standard output", "0, 1: error"
    )
    verb.add_argument("paths", nargs="+", metavar="PATH", type=Path, help="a file or directory")
    verb.add_argument(
        "--dot", action="store_true", help="print Graphviz's text instead, which needs no graphviz"
    )
    verb.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the picture, or the text that it is drawn from."""
    parsed = read(args.paths, load_settings(args.config))
    complain_of_doubts(parsed.warnings)
    with working("drawing"):
        text = dot(Policy(parsed.state))
        picture = text if args.dot else svg(text)
    write(picture.rstrip("\n"))
    return 0


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
