"""``plan``, ``apply`` and ``flush``: what changes, or would change, the table of this host."""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from secgroupd.commands.arguments import DOCUMENT
from secgroupd.commands.confirm import confirmed, signals_heard
from secgroupd.commands.documents import load_settings, read
from secgroupd.commands.live import described, ends, would_be_cut, would_end
from secgroupd.commands.output import complain, complain_of_doubts, counted, write
from secgroupd.commands.progress import working
from secgroupd.config import Settings
from secgroupd.configured import configure
from secgroupd.core.bindings import Bound, bind
from secgroupd.core.clearing import Cleared
from secgroupd.core.host import FAMILIES, Abilities
from secgroupd.core.model import State
from secgroupd.core.plan import Line, Plan
from secgroupd.core.policy import Policy
from secgroupd.core.ruleset import TABLE
from secgroupd.core.tracked import Judge
from secgroupd.dataplane.conntrack import Conntrack
from secgroupd.dataplane.links import Links
from secgroupd.dataplane.nft import Nft
from secgroupd.errors import StoreError
from secgroupd.memory import FileMemory
from secgroupd.reconcile import Reconciler, Record
from secgroupd.rundir import AlreadyRunning, is_locked
from secgroupd.sweep import part_with, sweep, welcome
from secgroupd.usage import ERROR, EXIT_ERROR, Argument, Example, Verb

EXIT_NOTHING, EXIT_CHANGES = 0, 2
EXIT_DONE, EXIT_NOT_DONE = 0, 1


def run_plan(args: argparse.Namespace) -> int:
    """Print the nft commands that would be sent, and whose connections would be judged again."""
    settings = load_settings(args.config)
    state = _state(args, settings)
    with _reconciler(settings) as reconciler:
        bound = _bound(state, settings, reconciler.abilities)
        with working("comparing with what is in force"):
            proposal = reconciler.propose(state, bound.bindings, bound.links, bound.present)
        with working("looking through the connections"), Conntrack() as table:
            doomed = [described(one) for one in would_be_cut(table, proposal, bound.bindings)]
            before, managed = reconciler.record, settings.managed_interfaces
            doomed += [
                f"{port.id}: {ends(one)}, as the port leaves its interface"
                for port, one in would_end(table, before, proposal, managed)
            ]
    for line in _planned(proposal.plan):
        write(line)
    for line in (*_judged_again(proposal.cleared, bound), *_waiting(bound)):
        write(f"# {line}")
    for line in sorted(doomed):
        write(f"# would be cut: {line}")
    return EXIT_CHANGES if proposal.plan else EXIT_NOTHING


PLAN = Verb(
    name="plan",
    summary="print what a document would change on this host",
    run=run_plan,
    description=(
        "That is: nft commands, ports whose connections would be judged again, and live connections "
        "that would be cut. Nothing is changed."
    ),
    arguments=(DOCUMENT,),
    exits={"": {EXIT_NOTHING: "nothing to do", EXIT_CHANGES: "changes", EXIT_ERROR: ERROR}},
    examples=(Example("secgroupctl plan /etc/secgroupd/state.d", "before the daemon starts"),),
)


def run_apply(args: argparse.Namespace) -> int:
    """Run one cycle of the reconciler."""
    settings = load_settings(args.config)
    state = _state(args, settings)
    if is_locked(settings.run_dir):
        raise AlreadyRunning("a daemon runs, which would undo it: stop it first; its rules stay")
    _make_state_dir(settings)
    with _reconciler(settings) as reconciler, Nft() as nft:
        if args.confirm is None:
            _apply(reconciler, nft, state, settings)
            return EXIT_DONE
        kept = _tried(reconciler, nft, state, settings, args.confirm)
    return EXIT_DONE if kept else EXIT_NOT_DONE


def _tried(
    reconciler: Reconciler, nft: Nft, state: State, settings: Settings, seconds: float
) -> bool:
    """Apply, and take it back unless somebody says yes in time; tell whether it was kept."""
    before = reconciler.record.accepted
    if before is None and any(nft.observe(family) is not None for family in FAMILIES):
        raise StoreError("nobody knows what is in force now: apply without --confirm first")
    kept = False
    with signals_heard() as heard:
        try:
            _apply(reconciler, nft, state, settings)
            kept = confirmed(seconds, heard)
        finally:
            # Whatever went wrong, be it that the terminal is gone: nobody has said yes.
            if not kept:
                _take_back(reconciler, nft, before, settings)
    return kept


def _take_back(reconciler: Reconciler, nft: Nft, before: State | None, settings: Settings) -> None:
    if before is not None:
        _apply(reconciler, nft, before, settings, "taken back: ")
        return
    nft.remove()
    # A generation that was stamped is never given again.
    generations = replace(reconciler.record.generations, minimum={})
    reconciler.memory.save(Record(generations=generations))
    write("taken back: there is no table, as before")


APPLY = Verb(
    name="apply",
    summary="enforce a document once, without a daemon",
    run=run_apply,
    description="While a daemon runs it is refused: the daemon would undo it.",
    arguments=(
        Argument(
            ("--confirm",),
            "go back to what was in force unless somebody types yes in that time",
            "SECONDS",
            {"type": float},
        ),
        DOCUMENT,
    ),
    exits={"": {EXIT_DONE: "enforced", EXIT_NOT_DONE: "not, or taken back"}},
    examples=(
        Example(
            "secgroupctl apply --confirm 60 /etc/secgroupd/state.d",
            "from afar, so that who cuts off their own connection has it back after a minute",
        ),
    ),
)


def _apply(
    reconciler: Reconciler, nft: Nft, state: State, settings: Settings, what: str = ""
) -> None:
    """Run one cycle and what follows in the connection table, then say what was done.

    Nothing is said before: where nobody listens any more, that may fail.
    """
    bound = _bound(state, settings, reconciler.abilities)
    with working("enforcing"):
        outcome = reconciler.apply(state, bound.bindings, bound.links, bound.present)
    judge = Judge(outcome.policy, outcome.generations, bound.bindings)
    judged_again = bound.bindings.keys() & outcome.cleared.keys()
    deleted = 0
    if outcome.arrived or outcome.vacated or judged_again:
        grace = nft.adopting()
        spared = {i for i, binding in bound.bindings.items() if binding.interface in grace}
        with Conntrack() as table:
            part_with(table, outcome.vacated)
            welcome(table, judge, outcome.arrived)
            if judged_again:
                deleted = sweep(table, judge, outcome.cleared, spared).deleted
    if outcome.plan:
        commands = sum(len(part) for part in outcome.plan.transactions)
        write(f"{what}enforced with {counted(commands, 'nft command')}")
    else:
        write(f"{what}nothing to do: it is in force")
    if judged_again:
        write(f"inbound connections judged again at {counted(len(judged_again), 'port')}")
        write(f"deleted from the connection table: {counted(deleted, 'denied connection')}")
    for line in _waiting(bound):
        write(line)


def run_flush(args: argparse.Namespace) -> int:
    """Remove the tables, after asking."""
    load_settings(args.config)
    if not args.yes and not _agreed():
        complain("secgroupctl: nothing was removed")
        return EXIT_NOT_DONE
    with Nft() as nft:
        removed = nft.remove()
    for family in removed:
        write(f"removed: table {family} {TABLE}")
    if not removed:
        write(f"there is no table {TABLE}")
    return EXIT_DONE


FLUSH = Verb(
    name="flush",
    summary="remove the agent's tables from this host",
    run=run_flush,
    description="This opens every port. It asks before it does so.",
    arguments=(Argument(("--yes",), "do not ask", settings={"action": "store_true"}),),
    exits={"": {EXIT_DONE: "removed", EXIT_NOT_DONE: "not, or an error"}},
)


def _agreed() -> bool:
    complain(f"Removing the tables {TABLE} opens every port of this host to everybody.")
    sys.stderr.write("Remove it? Type yes: ")
    sys.stderr.flush()
    return sys.stdin.readline().strip() == "yes"


def _state(args: argparse.Namespace, settings: Settings) -> State:
    parsed = read([args.path], settings)
    complain_of_doubts(parsed.warnings)
    return parsed.state


def _bound(state: State, settings: Settings, abilities: Abilities) -> Bound:
    with Links() as links:
        return bind(Policy(state), settings.host_id, links.read(), abilities)


@contextmanager
def _reconciler(settings: Settings) -> Iterator[Reconciler]:
    memory = FileMemory(settings.state_dir)
    with Nft() as nft:
        made = Reconciler(nft, memory)
        configure(made, settings)
        # Read at once, so that what is wrong with it is said before anything else is.
        if made.record and memory.trouble:
            complain(f"warning: {memory.trouble}")
        yield made


def _make_state_dir(settings: Settings) -> None:
    try:
        settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot make {settings.state_dir}: {error.strerror}") from error


def _planned(plan: Plan) -> Iterator[str]:
    """Yield the plan as a script that ``nft -f`` takes, each part under what it comes from."""
    if not plan:
        yield "# nothing to do: it is in force"
    if plan.preparation:
        yield f"# first {_commands(plan.preparation)}, which no packet notices"
        yield from _under_origins(plan.preparation)
    if plan.lines:
        yield f"# {_commands(plan.lines)} in one transaction"
        yield from _under_origins(plan.lines)


def _commands(lines: Sequence[Line]) -> str:
    return counted(len(lines), "command")


def _under_origins(lines: Iterable[Line]) -> Iterator[str]:
    origin = ""
    for line in lines:
        if line.origin not in {"", origin}:
            origin = line.origin
            yield f"# {origin}"
        yield line.text


def _judged_again(cleared: Cleared, bound: Bound) -> Iterator[str]:
    for port_id, scenarios in cleared.items():
        if port_id in bound.bindings:
            rows = ", ".join(sorted(scenarios))
            yield f"inbound connections judged again: {port_id} ({rows})"


def _waiting(bound: Bound) -> Iterator[str]:
    for port_id, reason in bound.waiting.items():
        yield f"waiting: {port_id}: {reason}"
