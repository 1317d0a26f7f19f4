"""``explain --live``: connections that exist, who let them in, and what becomes of them."""

import argparse
from collections.abc import Iterator

from secgroupd.commands.documents import in_force, load_settings, read
from secgroupd.commands.live import ends
from secgroupd.commands.output import WIDTH, fitted, write, write_json
from secgroupd.commands.progress import working
from secgroupd.commands.reasons import because, decision_as_json
from secgroupd.core.living import Epoch, Fate, Standing, standings
from secgroupd.core.policy import Policy
from secgroupd.core.reachability import addresses
from secgroupd.core.tracked import Judge
from secgroupd.dataplane.conntrack import Conntrack

EXIT_GO_ON, EXIT_CUT, EXIT_NONE = 0, 3, 4

FATES = {
    Fate.PASSES: "passes: it has been let in, and nothing has asked for a new judgement",
    Fate.JUDGED_AND_PASSES: "is judged again, and passes",
    Fate.CUT: "is judged again, and dropped: the connection is cut",
}


def run_live(args: argparse.Namespace) -> int:
    """Find the connections of a question, and say how each stands."""
    settings = load_settings(args.config)
    memory, record, _ = in_force(settings)
    epochs = [
        Epoch(one.accepted.revision, Policy(one.accepted), one.generations)
        for one in (record, *memory.before())
        if one.accepted is not None
    ]
    policy = Policy(read([args.path], settings).state) if args.path else epochs[0].policy
    judge = Judge(policy, record.generations, record.bindings)
    sources, destinations = (addresses(policy, end) for end in (args.source, args.destination))
    with working("looking through the connections"), Conntrack() as table:
        found = [
            one
            for one in table.entries()
            if one.protocol == args.protocol
            and args.dport in {None, one.original.dport, one.reply.sport}
            # By what either end calls the other: the host may translate addresses between them.
            and not sources.isdisjoint({one.original.source, one.reply.destination})
            and not destinations.isdisjoint({one.original.destination, one.reply.source})
        ]
    shown = [each for one in found for each in standings(one, judge, epochs)]
    if args.json:
        write_json([_as_json(each) for each in shown])
    else:
        for line in _told(shown):
            write(line)
        if not shown:
            write("no such connection is tracked at a port of this host")
    if not shown:
        return EXIT_NONE
    return EXIT_CUT if any(each.fate is Fate.CUT for each in shown) else EXIT_GO_ON


def _told(shown: list[Standing]) -> Iterator[str]:
    before = None
    for each in shown:
        if each.connection is not before:
            if before is not None:
                yield ""
            before = each.connection
            yield fitted(ends(each.connection), WIDTH)
        yield fitted(f"  {each.direction.value} at {each.now.port_id}", WIDTH)
        yield from (fitted(f"    let in   {line}", WIDTH) for line in _admitted(each))
        yield fitted(f"    now      {each.now.verdict.value} {because(each.now)}", WIDTH)
        yield f"    its next packet {FATES[each.fate]}"


def _admitted(each: Standing) -> Iterator[str]:
    if not each.admitted:
        yield "under a document that is not kept any more, or not yet"
    for revision, decision in each.admitted:
        perhaps = "perhaps " if len(each.admitted) > 1 else ""
        yield f"{perhaps}{because(decision)}, revision {revision}"


def _as_json(each: Standing) -> dict[str, object]:
    one = each.connection
    return {
        "protocol": one.protocol,
        "source": str(one.original.source),
        "sport": one.original.sport,
        "destination": str(one.reply.source),
        "dport": one.reply.sport,
        "age": one.age,
        "direction": each.direction.value,
        "admitted": [
            {"revision": revision, **(decision_as_json(decision) or {})}
            for revision, decision in each.admitted
        ],
        "now": decision_as_json(each.now),
        "next": each.fate.value,
    }
