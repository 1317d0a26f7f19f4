"""What the demonstration shows, step by step."""

import difflib
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from secgroupd.commands.explain import told
from secgroupd.commands.output import WIDTH, write
from secgroupd.core.document import Source, parse
from secgroupd.core.model import TCP
from secgroupd.core.policy import Policy
from secgroupd.demo.cloud import Cloud, Service
from secgroupd.demo.matrix import SERVICES, as_expected, table
from secgroupd.demo.process import DaemonProcess
from secgroupd.errors import DataplaneError
from secgroupd.proving.namespaces import Lab

DOCUMENT = Path(__file__).parents[3] / "examples" / "cloud.yaml"

CHANGE = ("enabled: true", "enabled: false")
"""The one word that the demonstration changes in the document."""

SHOP = Service("web-1", TCP, 443)
DATABASE = Service("db-1", TCP, 5432)

METRICS = ("secgroupd_connections_", "secgroupd_ports", "secgroupd_revision")
"""What the names of the metrics that are shown begin with."""


def tell() -> bool:
    """Run the demonstration; return whether every packet did what the rules say.

    Raises:
        DataplaneError: something could not be built or started.
    """
    text = _document()
    changed = text.replace(*CHANGE)
    before, after = _policy(text), _policy(changed)
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="secgroupd-demo-"))
        lab = stack.enter_context(Lab())
        cloud = Cloud(lab, before)
        _title("A small cloud: each instance a network namespace, each packet a real one")
        cloud.introduce(before)
        daemon = DaemonProcess(lab.hv, Path(directory))
        daemon.give(DOCUMENT.name, text)
        stack.enter_context(daemon)
        took = daemon.await_revision(before.state.revision)
        write(f"\nThe daemon enforces examples/{DOCUMENT.name}, {took:.1f} s after its start.")

        _title("Who reaches whom")
        at_first = cloud.try_all(before, SERVICES)
        _show(table(at_first))

        _title("Why? The rules in the order in which they are asked; the arrow decides")
        write("$ secgroupctl explain examples/cloud.yaml \\")
        write("      --from app-1 --to db-1 --protocol tcp --dport 5432\n")
        _show(told(before, cloud.ask(before, "app-1", DATABASE)))

        _title("One rule is switched off, while connections are open")
        _show(_difference(text, changed))
        right = _change(cloud, daemon, (before, after), changed)

        _title("Who reaches whom now")
        at_last = cloud.try_all(after, SERVICES)
        _show(table(at_last, at_first))

        _title("What the daemon tells Prometheus")
        _show(_metrics(daemon))
    _title("Done: everything has been taken down again")
    write("Read examples/cloud.yaml next. The commands: .venv/bin/secgroupctl --help")
    return right and as_expected(at_first) and as_expected(at_last)


def _document() -> str:
    try:
        return DOCUMENT.read_text(encoding="utf-8")
    except OSError as error:
        raise DataplaneError(f"the demo needs a checkout of the project: {error}") from error


def _policy(text: str) -> Policy:
    return Policy(parse([Source(DOCUMENT.name, text)]).state)


def _title(text: str) -> None:
    write(f"\n{text}\n{'=' * min(len(text), WIDTH)}")


def _show(lines: Iterator[str]) -> None:
    for line in lines:
        write(line)


def _difference(old: str, new: str) -> Iterator[str]:
    compared = difflib.unified_diff(old.splitlines(), new.splitlines(), n=5, lineterm="")
    for line in compared:
        if not line.startswith(("---", "+++", "@@")):
            yield f"  {line}"


def _change(
    cloud: Cloud, daemon: DaemonProcess, policies: tuple[Policy, Policy], text: str
) -> bool:
    """Change the document under two open connections; return whether it did what it should."""
    before, after = policies
    database = cloud.converse(cloud.ask(before, "app-1", DATABASE).flow)
    shop = cloud.converse(cloud.ask(before, "the world", SHOP).flow)
    with database, shop:
        spoke = database.goes_on(), shop.goes_on()
        daemon.give(DOCUMENT.name, text)
        took = daemon.await_revision(after.state.revision)
        speaks = database.goes_on(), shop.goes_on()
    write(f"\n  In force {took * 1000:.0f} ms after the file was renamed into place.\n")
    write(f"  {'open connection':28}{'before':>10}{'after':>24}")
    for name, was, is_now in zip(
        ("app-1 to db-1 (tcp 5432)", "the world to web-1 (443)"), spoke, speaks, strict=True
    ):
        write(f"  {name:28}{_spoken(was):>10}{_spoken(is_now):>24}")
    return (spoke, speaks) == ((True, True), (False, True))


def _spoken(goes_on: bool) -> str:  # noqa: FBT001 - it is the one thing that is said
    return "open" if goes_on else "cut: no byte passes"


def _metrics(daemon: DaemonProcess) -> Iterator[str]:
    for line in daemon.metrics():
        counted_nothing = line.startswith(METRICS[0]) and line.endswith(" 0.0")
        if line.startswith(METRICS) and "_created" not in line and not counted_nothing:
            yield f"  {line}"
