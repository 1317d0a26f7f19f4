"""``status``: what the running agent says of itself."""

import argparse
import json

from secgroupd.commands.arguments import Verbs, add_json, add_verb
from secgroupd.commands.documents import load_settings
from secgroupd.commands.output import write
from secgroupd.rundir import is_locked, read_status

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
    settings = load_settings(args.config)
    running = is_locked(settings.run_dir)
    status = read_status(settings.run_dir) if running else None
    if args.json:
        write(json.dumps({"running": running, **(status or {})}))
    elif not running:
        write("not running")
    elif status is None:
        write("running, and has not enforced anything yet")
    else:
        _tell(status)
    if not running:
        return EXIT_NOT_RUNNING
    return EXIT_HEALTHY if status and status.get("healthy") else EXIT_DEGRADED


def _tell(status: dict[str, object]) -> None:
    write(f"revision in force: {status.get('revision') or 'none'}")
    if status.get("error"):
        write(f"last error: {status['error']}")
    problems = status.get("problems")
    for problem in problems if isinstance(problems, list) else ():
        write(f"document refused: {problem}")
    write(f"drift repairs: {status.get('drift_repairs')}")
    ports = status.get("ports")
    for port_id, port in ports.items() if isinstance(ports, dict) else ():
        reason = f" ({port['reason']})" if port.get("reason") else ""
        write(f"port {port_id}: {port['state']}{reason}")
