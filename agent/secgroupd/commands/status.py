"""``status``: what the running agent says of itself."""

import argparse

from secgroupd.commands.arguments import Verbs, add_json, add_verb
from secgroupd.commands.documents import load_settings
from secgroupd.commands.output import write

EXIT_HEALTHY, EXIT_DEGRADED, EXIT_NOT_RUNNING = 0, 3, 4


def add(verbs: Verbs) -> None:
    """Add the verb to the parser."""
    verb = add_verb(
        verbs, "status", "tell how the running agent is", "0: healthy, 3: degraded, 4: not running"
    )
    add_json(verb)
    verb.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the agent's status."""
    load_settings(args.config)
    write("not running")
    return EXIT_NOT_RUNNING
