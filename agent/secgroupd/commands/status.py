"""``status``: what the running agent says of itself."""

import argparse
import json
from pathlib import Path

from secgroupd.commands.arguments import json_option
from secgroupd.commands.documents import load_settings
from secgroupd.commands.output import write
from secgroupd.control import NoSocket, Silent, ask
from secgroupd.rundir import is_locked, read_status
from secgroupd.usage import ERROR, EXIT_ERROR, Verb

EXIT_HEALTHY, EXIT_DEGRADED, EXIT_NOT_RUNNING = 0, 3, 4


def run(args: argparse.Namespace) -> int:
    """Print the agent's status."""
    settings = load_settings(args.config)
    status = _status(settings.run_dir)
    if args.json:
        write(json.dumps({"running": status is not None, **(status or {})}))
    elif status is None:
        write("not running")
    elif not status:
        write("running, and has not enforced anything yet")
    else:
        _tell(status)
    if status is None:
        return EXIT_NOT_RUNNING
    return EXIT_HEALTHY if status.get("healthy") else EXIT_DEGRADED


STATUS = Verb(
    name="status",
    summary="tell how the running agent is",
    run=run,
    description=(
        "It is asked over its control socket, which root and members of the group `secgroupd` may use; "
        "one that does not answer is called degraded."
    ),
    arguments=(json_option(),),
    exits={
        "": {
            EXIT_HEALTHY: "healthy",
            EXIT_DEGRADED: "degraded",
            EXIT_NOT_RUNNING: "not running",
            EXIT_ERROR: ERROR,
        }
    },
)


def _status(run_dir: Path) -> dict[str, object] | None:
    """Return the running daemon's status, empty before it has one; None when none runs.

    Raises:
        NotAllowed: it may not be asked.
    """
    try:
        return ask(run_dir, "status")
    except Silent as error:
        return {"healthy": False, "error": str(error)}
    except NoSocket:
        # It may have been unable to make one: then what it wrote down last must do.
        return (read_status(run_dir) or {}) if is_locked(run_dir) else None


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
