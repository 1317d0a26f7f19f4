"""``guard``: what makes a host safe before anything of it has started.

It enforces what was accepted last, and nothing else: the document may not be readable yet, or be
refused, and is the daemon's to judge. The record it leaves is the one that a daemon would leave.
"""

import argparse
import os
from contextlib import ExitStack

from secgroupd.commands.documents import load_settings
from secgroupd.commands.output import complain, complain_of, counted, write
from secgroupd.config import Settings
from secgroupd.configured import configure
from secgroupd.core.bindings import Bound, bind
from secgroupd.core.model import State
from secgroupd.core.policy import Policy
from secgroupd.core.tracked import Judge
from secgroupd.dataplane.conntrack import Conntrack
from secgroupd.dataplane.links import Links
from secgroupd.dataplane.nft import Nft
from secgroupd.errors import DataplaneError, SecgroupdError, SettingsError
from secgroupd.memory import FileMemory, PatientMemory
from secgroupd.reconcile import Forgetful, Memory, Outcome, Reconciler
from secgroupd.rundir import AlreadyRunning, lock, make_directory
from secgroupd.sweep import welcome
from secgroupd.usage import Verb

EXIT_GUARDED, EXIT_NOT_GUARDED = 0, 1


def run(args: argparse.Namespace) -> int:
    """Guard the host until the daemon does."""
    try:
        settings = load_settings(args.config)
    except SettingsError as error:
        complain_of(error.problems)
        complain("secgroupctl: the settings are refused: guarding by the defaults")
        _close(Settings())
        return EXIT_NOT_GUARDED
    with ExitStack() as held:
        try:
            make_directory(settings.run_dir)
            held.callback(os.close, lock(settings.run_dir))
        except AlreadyRunning:
            write("a daemon runs: it guards")
            return EXIT_GUARDED
        except SecgroupdError as error:
            # Without a lock the worst is a daemon that must repair what is done here.
            complain(f"secgroupctl: warning: {error}")
        return _guard(settings)


GUARD = Verb(
    name="guard",
    summary="enforce what was accepted last, or close managed interfaces, before instances start",
    run=run,
    description=(
        "Where nothing was accepted, and no rules are there, managed interfaces are closed. It never "
        "reads the document, and does nothing while a daemon runs. systemd runs it at boot."
    ),
    exits={
        "": {
            EXIT_GUARDED: "enforced or closed",
            EXIT_NOT_GUARDED: "something is wrong: closed at best",
        }
    },
)


def _guard(settings: Settings) -> int:
    store = FileMemory(settings.state_dir)
    memory = PatientMemory(store)
    accepted = memory.load().accepted
    if store.trouble:
        complain(f"secgroupctl: warning: {store.trouble}")
    if accepted is None:
        _close(settings)
        return EXIT_GUARDED
    try:
        _enforce(accepted, settings, memory)
    except DataplaneError as error:
        complain(f"secgroupctl: what was accepted last is not enforced: {error}")
        _close(settings)
        return EXIT_NOT_GUARDED
    if memory.trouble:
        complain(f"secgroupctl: warning: {memory.trouble}")
    return EXIT_GUARDED


def _enforce(state: State, settings: Settings, memory: Memory) -> None:
    with Nft() as nft, Links() as links:
        reconciler = Reconciler(nft, memory)
        configure(reconciler, settings)
        bound = bind(Policy(state), settings.host_id, links.read(), reconciler.abilities)
        outcome = reconciler.apply(state, bound.bindings, bound.links, bound.present)
    _welcome(outcome, bound)
    write(f"enforced: revision {state.revision}, {counted(len(bound.bindings), 'port')}")


def _welcome(outcome: Outcome, bound: Bound) -> None:
    """Do what the daemon will not, which finds the ports here already."""
    if not outcome.arrived:
        return
    judge = Judge(outcome.policy, outcome.generations, bound.bindings)
    try:
        with Conntrack() as table:
            welcome(table, judge, outcome.arrived)
    except DataplaneError as error:
        complain(f"secgroupctl: warning: connections of ports that came back may stall: {error}")


def _close(settings: Settings) -> None:
    """Close what is managed, unless tables are there already that judge."""
    with Nft() as nft:
        reconciler = Reconciler(nft, Forgetful())
        configure(reconciler, settings)
        if not reconciler.close():
            write("the rules that are there stay")
            return
    write(f"closed: {', '.join(settings.managed_interfaces) or 'nothing is managed'}")
