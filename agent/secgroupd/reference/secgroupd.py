"""secgroupd(8)."""

from secgroupd.cli import NAME as CONTROL
from secgroupd.commands import check, enforce, guard
from secgroupd.daemon import EXITS, NAME, SUMMARY
from secgroupd.reference.model import (
    Code,
    Definition,
    Definitions,
    Manual,
    Paragraph,
    Section,
    Synopsis,
    see_also,
)
from secgroupd.reference.places import files
from secgroupd.reference.secgroupctl import defined
from secgroupd.usage import CONFIG, options

DESCRIPTION = (
    Paragraph(
        "`secgroupd` follows a state document, which names instances, their ports, security groups and "
        "rules, and makes the kernel enforce it on the tap and veth interfaces of this host, with "
        "nftables tables named `secgroupd`. It changes and flushes nothing else."
    ),
    Paragraph(
        "It acts when the document, its settings or the host's interfaces change, when somebody else "
        "has changed its tables, and now and then, to compare everything. A document is accepted whole "
        "or refused whole; when it is refused, the last accepted one stays in force."
    ),
    Paragraph("Interfaces that are managed and that no port of the document claims are closed."),
    Paragraph(
        "Stopping it leaves the rules in force, and so do a crash, an upgrade, and removing the "
        f"package. They are removed by purging the package, or by `{CONTROL} {enforce.FLUSH.name}`."
    ),
)

UNITS = (
    Definitions(
        (
            Definition(
                "`secgroupd.service`",
                "Runs `secgroupd` as the user `secgroupd`, with `CAP_NET_ADMIN` and no other "
                "capability. It is ready once the ports are guarded: with what the document says, or, "
                "where that is refused, with what was accepted last, with the rules that are there, or "
                "closed. Until then it is `activating`, five minutes at the most, after which a fresh "
                "process tries. The line `Status` of `systemctl status` tells what is in force, what is "
                "wrong, and where a refused document is. It is watched by systemd, and is started "
                "again however often it fails.",
            ),
            Definition(
                "`secgroupd-guard.service`",
                f"Runs `{CONTROL} {guard.GUARD.name}` at boot, before the network is set up and before "
                "anything that starts instances (libvirt, Nova, Incus and others): what was accepted "
                "last is enforced, or, where nothing was, managed interfaces are closed. If it fails, "
                "those services are not started.",
            ),
        )
    ),
    Paragraph(
        "Installing the package enables both and starts neither, since that would close the interfaces "
        "of instances that run. Write a document, and then:"
    ),
    Code(
        f"{CONTROL} {check.CHECK.name} /etc/secgroupd/state.d\n"
        f"{CONTROL} {enforce.PLAN.name} /etc/secgroupd/state.d\n"
        "systemctl start secgroupd"
    ),
)

SIGNALS = Definitions(
    (
        Definition(
            "`SIGHUP`",
            "Read the settings, the document, and the certificate and token of the metrics again "
            "(`systemctl reload secgroupd`). Changes of the settings and of the document are noticed "
            "without it.",
        ),
        Definition("`SIGTERM`, `SIGINT`", "Stop; the rules stay."),
    )
)


def manual() -> Manual:
    """Return secgroupd(8)."""
    exits = tuple(Definition(f"`{code}`", what) for code, what in EXITS.items())
    return Manual(
        name=NAME,
        number=8,
        title="System administration",
        summary=SUMMARY,
        sections=(
            Section("Synopsis", (Synopsis(NAME, (CONFIG.synopsis,)),)),
            Section("Description", DESCRIPTION),
            Section("Options", (defined(options(NAME)),)),
            Section("Units", UNITS),
            Section("Signals", (SIGNALS,)),
            Section("Files", (files(),)),
            Section("Exit status", (Definitions(exits),)),
            see_also("secgroupctl(1)", "secgroupd.yaml(5)", "secgroupd-state(5)", "nft(8)"),
        ),
    )
