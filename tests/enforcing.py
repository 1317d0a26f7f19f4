"""Put a state into force in a lab, with the real reconciler and the real kernel."""

from collections.abc import Iterator
from contextlib import contextmanager

from secgroupd.core.draft import Binding
from secgroupd.core.model import State
from secgroupd.core.ruleset import quotable
from secgroupd.dataplane.nft import Nft
from secgroupd.proving.namespaces import Lab
from secgroupd.reconcile import Forgetful, Memory, Outcome, Reconciler


def bindings(lab: Lab, state: State) -> dict[str, Binding]:
    """Bind every port to the interface that it names."""
    found = {}
    for instance in state.instances:
        for port in instance.ports:
            if port.interface is None:
                continue
            there = lab.ports.get(port.interface)
            index = None if quotable(port.interface) or there is None else there.index
            found[port.id] = Binding(port.interface, index, there.bridge if there else None)
    return found


@contextmanager
def kernel(lab: Lab) -> Iterator[Nft]:
    """The nft adapter of a lab's host."""
    with lab.hv.enter():
        nft = Nft()
    try:
        yield nft
    finally:
        nft.close()


@contextmanager
def enforcer(lab: Lab, memory: Memory | None = None, grace: int = 0) -> Iterator[Reconciler]:
    """A reconciler of a lab's host; without grace, so that nothing is let through by it."""
    with kernel(lab) as nft:
        yield Reconciler(nft, memory or Forgetful(), grace=grace)


def enforce(lab: Lab, state: State) -> Outcome:
    """Enforce a state once."""
    with enforcer(lab) as reconciler:
        return reconciler.apply(state, bindings(lab, state))


def enforce_only(lab: Lab, state: State) -> None:
    """Enforce a state once, for callers that want no outcome."""
    enforce(lab, state)
