"""``test``: reachability tests, judged by the rules and, if asked, by the kernel."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from secgroupd.commands.arguments import DOCUMENT, json_option
from secgroupd.commands.documents import load_settings, read, read_file
from secgroupd.commands.explain import answer_as_json, service
from secgroupd.commands.output import (
    WIDTH,
    Colour,
    counted,
    fitted,
    painted,
    write,
    write_json,
)
from secgroupd.commands.progress import working
from secgroupd.core.draft import Binding
from secgroupd.core.model import Action, State
from secgroupd.core.policy import Policy
from secgroupd.core.questions import Expectation, answers, parse_tests
from secgroupd.core.reachability import Answer, End
from secgroupd.core.ruleset import quotable
from secgroupd.dataplane.nft import Nft
from secgroupd.errors import DataplaneError
from secgroupd.reconcile import Reconciler
from secgroupd.usage import Argument, Example, Verb

if TYPE_CHECKING:
    from secgroupd.proving.namespaces import Lab


EXIT_AS_EXPECTED, EXIT_NOT = 0, 1


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a test.

    ``kernel`` is None when no packet was sent: nobody asked for it, or no network connects the
    VPCs of the two ends.
    """

    test: Expectation
    answer: Answer
    kernel: Action | None = None

    @property
    def ok(self) -> bool:
        """Whether the expectation, the rules and the kernel all agree."""
        return {self.test.expect, self.kernel or self.test.expect} == {self.answer.verdict}


def run(args: argparse.Namespace) -> int:
    """Run the tests and print what became of each."""
    settings = load_settings(args.config)
    policy = Policy(read([args.path], settings).state)
    file = read_file(args.tests)
    tests = parse_tests(file.name, file.text)
    judged = answers(policy, tests)
    if args.kernel:
        with working("sending packets"):
            seen = sent(policy, judged, settings.managed_interfaces)
        results = [Result(*each) for each in zip(tests, judged, seen, strict=True)]
    else:
        results = [Result(*each) for each in zip(tests, judged, strict=True)]
    if args.json:
        for index, result in enumerate(results):
            write_json(_as_json(index, result, kernel=args.kernel))
    else:
        _table(results, kernel=args.kernel)
    return EXIT_AS_EXPECTED if all(result.ok for result in results) else EXIT_NOT


TEST = Verb(
    name="test",
    summary="run reachability tests on a document",
    run=run,
    description=(
        "A test says from where to where something must be allowed or denied; the rules are asked, "
        "and with `--kernel` real packets too."
    ),
    arguments=(
        Argument(
            ("--kernel",),
            "also send real packets, in network namespaces made for it (needs root and "
            "python3-pyroute2)",
            settings={"action": "store_true"},
        ),
        json_option("one JSON object a test"),
        DOCUMENT,
        Argument(("tests",), "the file of tests", "TESTS", {"type": Path}),
    ),
    exits={"": {EXIT_AS_EXPECTED: "all as expected", EXIT_NOT: "not, or an error"}},
    examples=(
        Example(
            "secgroupctl test --kernel examples/cloud.yaml examples/tests.yaml",
            "the examples of the package's documentation",
        ),
    ),
)


def sent(
    policy: Policy, judged: Sequence[Answer], managed: tuple[str, ...]
) -> tuple[Action | None, ...]:
    """Send a real packet for each flow and return what the kernel did with it.

    Args:
        policy: what is to be enforced.
        judged: the answers whose flows are tried.
        managed: the interface patterns that are closed unless a port claims them.

    Raises:
        DataplaneError: the namespaces could not be made, or the kernel refused the ruleset.
        QuestionError: no packet can put the question.
    """
    try:
        # Here, because nothing else needs what the laboratory is built with.
        from secgroupd.proving.reachability import FlowQuestion, observe  # noqa: PLC0415
    except ModuleNotFoundError as error:
        message = f"--kernel needs the Python module {error.name}: install python3-pyroute2"
        raise DataplaneError(message) from error

    def enforce(lab: "Lab", state: State) -> None:
        bindings = {port.id: _binding(lab, port.interface) for port in Policy(state).ports.values()}
        with lab.hv.enter(), Nft() as nft:
            Reconciler(nft, managed=managed).apply(state, bindings)

    flows = [answer.flow for answer in judged if answer.flow.connected]
    questions = [
        FlowQuestion(
            source=_named(policy, flow.source),
            destination=_named(policy, flow.destination),
            protocol=flow.protocol,
            dport=flow.dport,
            icmp_type=flow.icmp_type,
            icmp_code=flow.icmp_code,
        )
        for flow in flows
    ]
    observed = iter(observe(policy.state, questions, enforce, only_asked=True))
    return tuple(
        (Action.ALLOW if next(observed).connected else Action.DENY)
        if answer.flow.connected
        else None
        for answer in judged
    )


def _binding(lab: "Lab", interface: str | None) -> Binding:
    name = interface or ""
    attached = lab.ports.get(name)
    return Binding(name, None if attached is None or quotable(name) else attached.index)


def _named(policy: Policy, end: End) -> str:
    """Return the end's address, or its port's id where several ports have the address."""
    owners = sum(end.address in port.private_ips for port in policy.ports.values())
    return end.port.id if end.port and owners > 1 else str(end.address)


def _as_json(index: int, result: Result, *, kernel: bool) -> dict[str, object]:
    answer = answer_as_json(result.answer)
    found = {
        "index": index,
        "name": result.test.name or None,
        "expect": result.test.expect.value,
        "got": answer.pop("verdict"),
        "ok": result.ok,
        **answer,
    }
    return {**found, "kernel": result.kernel and result.kernel.value} if kernel else found


def _table(results: Sequence[Result], *, kernel: bool) -> None:
    write(f"{'':4}  {'expect':6}  {'rules':5}{'  kernel' if kernel else ''}  test")
    for result in results:
        columns = f"{'ok' if result.ok else 'FAIL':4}  {result.test.expect:6}  "
        columns += f"{result.answer.verdict:5}"
        if kernel:
            columns += f"  {result.kernel or '-':6}"
        write(fitted(f"{columns}  {result.test.title} ({service(result.answer.flow)})", WIDTH))
        if not result.ok:
            write(f"{'':6}{result.test.place}")
    failed = sum(not result.ok for result in results)
    summary = f"{counted(failed, 'test')} not as expected" if failed else "all as expected"
    summary = painted(summary, Colour.BAD if failed else Colour.GOOD)
    write(f"\n{counted(len(results), 'test')}: {summary}")
