"""The agent's own settings: where everything is, and what differs from one host to the next.

Not what to enforce: that is the state document. Every setting has a default, so that a host needs
no file at all; a file that is there is taken whole or refused with every problem in it.
"""

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from secgroupd.core.document import Limits
from secgroupd.core.model import Clearing, Timeout
from secgroupd.core.nflog import LIVE_GROUP, SILENT, Logging
from secgroupd.core.reading import (
    Field,
    Place,
    Reader,
    Refusal,
    Shape,
    TooManyProblems,
    Values,
    list_kind,
    mapping_kind,
    read_fields,
)
from secgroupd.core.scalars import BOOLEAN, ID
from secgroupd.core.tree import TooLarge
from secgroupd.core.yamltree import parse_tree
from secgroupd.errors import Problem, SettingsError
from secgroupd.settingkinds import (
    LISTEN,
    NFLOG_GROUP,
    PATH,
    PATTERN,
    listening,
    seconds,
    word,
)

DEFAULT_PATH = Path("/etc/secgroupd/secgroupd.yaml")
"""Where the settings are read from unless another file is named."""

MAX_BYTES = 1 << 20
"""The largest file of settings; whatever is larger is something else."""

LOG_LEVELS = {"debug": "DEBUG", "info": "INFO", "warning": "WARNING", "error": "ERROR"}

NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """How metrics are served.

    Attributes:
        listen: address and TCP port; None for nowhere.
        cert_file: the TLS certificate, with what leads to its root; None for plain HTTP.
        key_file: the certificate's private key; there if and only if the certificate is.
        token_file: a file with the bearer token that readers must send; None for no token.
        rule_hits: whether there is a series for each rule.
    """

    listen: tuple[str, int] | None = ("127.0.0.1", 9760)
    cert_file: Path | None = None
    key_file: Path | None = None
    token_file: Path | None = None
    rule_hits: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an agent is told about its host.

    Attributes:
        source_directory: the state document: a directory of files, or one file.
        host_id: which ``host_id`` of the document means this host.
        state_dir: where the last accepted document is kept.
        run_dir: lock and status.
        managed_interfaces: names, or prefixes with a closing ``*``, of interfaces that are closed
            unless a port claims them.
        metrics: how metrics are served.
        clearing: which connections a change judges again.
        adoption_grace: how long connections that began before the agent may go on, in seconds.
        resync_interval: how often the kernel is read back, in seconds.
        protect_tables: whether nobody else is to be able to change the tables while the agent runs,
            where kernel and nft can have that.
        timeouts: connection tracking timeouts of the ports' connections, in seconds; what is not
            named keeps the kernel's.
        logging: the NFLOG groups that always get copies of packets.
        limits: what going over one of the cloud's limits is.
        log_level: name of a level of the logging module.
    """

    source_directory: Path = Path("/etc/secgroupd/state.d")
    host_id: str = field(default_factory=socket.gethostname)
    state_dir: Path = Path("/var/lib/secgroupd")
    run_dir: Path = Path("/run/secgroupd")
    managed_interfaces: tuple[str, ...] = ("tap*", "vnet*")
    metrics: Serving = Serving()
    clearing: Clearing = Clearing.DOCUMENTED
    adoption_grace: float = 60.0
    resync_interval: float = 60.0
    protect_tables: bool = True
    timeouts: Mapping[Timeout, int] = field(default_factory=dict)
    logging: Logging = SILENT
    limits: Limits = Limits.WARN
    log_level: str = "INFO"


def load(path: Path | None = None) -> Settings:
    """Read the settings.

    Args:
        path: the file; None for the default one, which may be missing.

    Raises:
        SettingsError: the file cannot be read or is refused; it carries every problem.
    """
    chosen = DEFAULT_PATH if path is None else path
    try:
        content = chosen.read_bytes()
    except FileNotFoundError as error:
        if path is None:
            return Settings()
        raise _unreadable(chosen, error) from error
    except OSError as error:
        raise _unreadable(chosen, error) from error
    return parse(str(chosen), content)


def parse(name: str, content: str | bytes) -> Settings:
    """Read settings from a file's content.

    Args:
        name: the file, as problems are to show it.
        content: its text; an empty one means the defaults.

    Raises:
        SettingsError: the content is refused; it carries every problem.
    """
    if len(content) > MAX_BYTES:
        message = f"the settings are over {MAX_BYTES >> 20} MiB: this is another file"
        raise SettingsError((Problem(name, 1, 1, "settings-too-large", message),))
    reader = Reader(file=name)
    found: Settings | None = Settings()
    try:
        root, reader.problems = parse_tree(name, content)
        if root is not None:
            try:
                found = _settings(read_fields(SETTINGS, root, reader))
            except Refusal as refusal:
                reader.report(root, refusal.code, refusal.message)
    except TooLarge as refusal:
        place = Place(name, refusal.line, refusal.column)
        reader.report(place, refusal.code, refusal.message)
    except TooManyProblems:
        found = None
    if reader.problems or found is None:
        raise SettingsError(tuple(reader.problems))
    return found


def _unreadable(path: Path, error: OSError) -> SettingsError:
    message = f"it cannot be read ({error.strerror}): name a file that can"
    return SettingsError((Problem(str(path), 1, 1, "unreadable", message),))


def _serving(values: Values, reader: Reader) -> Serving:
    given = dict(values.given)
    if "listen" in values.node.entries and "listen" not in values.bad:
        given.setdefault("listen", None)
    for one, other in (("cert_file", "key_file"), ("key_file", "cert_file")):
        if one in given and other not in given and other not in values.bad:
            message = f"{one} needs {other}: write both for TLS, or neither"
            reader.report(values.at(one), "tls-incomplete", message)
    return Serving(**given)


def _timeouts(values: Values, _: Reader) -> Mapping[Timeout, int]:
    return {Timeout(name): int(value) for name, value in values.given.items()}


def _logging(values: Values, reader: Reader) -> Logging:
    denied, accepted = (values.given.get(name) for name in ("denied_group", "accepted_group"))
    if LIVE_GROUP in {denied, accepted}:
        message = f"{LIVE_GROUP} is the group of secgroupctl drops: take another one"
        reader.report(values.node, "nflog-group", message)
    return Logging(*(() if group is None else (group,) for group in (denied, accepted)))


_DEFAULT = Settings()


@dataclass(frozen=True, slots=True)
class Setting(Field):
    """A key of the settings; ``help`` is marked text (``prose``).

    ``absence`` says what absence means where no value can.
    """

    absence: str = ""


SOURCE = Shape(
    "source",
    "Where the state document is.",
    {
        "directory": Setting(
            PATH,
            "A directory whose `.yaml`, `.yml` and `.json` files are merged, or one file. The daemon "
            "takes only files, links and a directory that belong to root or to itself, and that not "
            "everybody can write. A change needs a restart.",
            default=_DEFAULT.source_directory,
        )
    },
)
METRICS = Shape(
    "metrics",
    "Where metrics are served, for Prometheus. The group `secgroupd` must be able to read the files; "
    "they are read again on `systemctl reload secgroupd`. While one of them cannot be used, what was "
    "served before goes on being served as it was; at the start nothing is.",
    {
        "listen": Setting(
            LISTEN,
            'Address and port, `[ADDRESS]:PORT` with IPv6; `""` serves none.',
            default=listening(_DEFAULT.metrics.listen),
        ),
        "cert_file": Setting(
            PATH,
            "A TLS certificate (PEM), with what leads to its root. With it and its key, metrics are "
            "served by TLS 1.2 or later and not otherwise.",
            absence=NONE,
        ),
        "key_file": Setting(
            PATH, "The certificate's private key (PEM); one goes with the other.", absence=NONE
        ),
        "token_file": Setting(
            PATH,
            "A file with one word. With it, metrics are served to requests with the header "
            "`Authorization: Bearer WORD` and to nobody else.",
            absence=NONE,
        ),
        "rule_hits": Setting(
            BOOLEAN,
            "Whether there is a series for each rule that judges a port here. `secgroupctl rules` "
            "shows them in any case.",
            default=_DEFAULT.metrics.rule_hits,
        ),
    },
)
_SILENCE = {
    Timeout.TCP_ESTABLISHED: "TCP connections that are established",
    Timeout.TCP_FIN_WAIT: "TCP connections that one side has closed",
    Timeout.UDP: "UDP packets that nobody has answered",
    Timeout.UDP_STREAM: "UDP conversations",
}
TIMEOUTS = Shape(
    "timeouts",
    "After how much silence connections of the ports are forgotten.",
    {
        each.value: Setting(seconds(1), f"For {what}.", absence="the kernel's")
        for each, what in _SILENCE.items()
    },
)
NFLOG = Shape(
    "nflog",
    "NFLOG groups to which the kernel sends copies of packets, for a program such as ulogd2. "
    "`secgroupctl drops` needs none.",
    {
        "denied_group": Setting(
            NFLOG_GROUP,
            "Of packets that are denied, up to 10 a second and port.",
            absence=NONE,
        ),
        "accepted_group": Setting(
            NFLOG_GROUP,
            "Of the first packet of each connection that is allowed.",
            absence=NONE,
        ),
    },
)
SETTINGS = Shape(
    "settings",
    "The settings of secgroupd(8) and secgroupctl(1) on one host, in YAML or JSON. What to enforce "
    "is not here, but in the state document, secgroupd-state(5). Every key has a default.",
    {
        "source": Setting(mapping_kind(SOURCE, lambda values, _: values), SOURCE.help),
        "host_id": Setting(
            ID,
            "What the state document calls this host. A port with another `host_id` only counts as a "
            "member of its groups here.",
            absence="the host's name, as hostname(1) prints it",
        ),
        "state_dir": Setting(
            PATH,
            "Where the last accepted document is kept. A change needs a restart, and "
            "`ReadWritePaths=` in both units (`systemctl edit`).",
            default=_DEFAULT.state_dir,
        ),
        "run_dir": Setting(
            PATH,
            "Where the lock, the status and the control socket are. A change needs the same as one of "
            "`state_dir`.",
            default=_DEFAULT.run_dir,
        ),
        "managed_interfaces": Setting(
            list_kind(PATTERN),
            "Interfaces that are closed unless a port of the document claims them: names, or "
            "beginnings of names with a `*` at the end. Interfaces that a port claims are guarded in "
            "any case; all others are left alone.",
            default=_DEFAULT.managed_interfaces,
        ),
        "metrics": Setting(mapping_kind(METRICS, _serving), METRICS.help),
        "clearing": Setting(
            word({each.value: each for each in Clearing}, "clearing"),
            "Which connections are judged again when the rules change: `documented`, those that the "
            "cloud's own table of changes names, or `strict`, every one that the change could forbid.",
            default=_DEFAULT.clearing,
        ),
        "adoption_grace": Setting(
            seconds(0),
            "How long a port that is met for the first time, or has come back, may continue the TCP "
            "connections that it had before; 0 for not at all.",
            default=_DEFAULT.adoption_grace,
        ),
        "resync_interval": Setting(
            seconds(0.1),
            "How often everything is read back from the kernel and compared. Changes by others are "
            "noticed earlier than that.",
            default=_DEFAULT.resync_interval,
        ),
        "protect_tables": Setting(
            BOOLEAN,
            "Whether nobody else can change the agent's tables while it runs: `nft flush ruleset` then "
            "passes them over, and other commands on them are refused until the agent is stopped. It "
            "takes Linux 6.9 and nftables 1.1 (Debian 13), and tables that were made so. Elsewhere, "
            "changes by others are undone when they are noticed, which is within milliseconds.",
            default=_DEFAULT.protect_tables,
        ),
        "timeouts": Setting(mapping_kind(TIMEOUTS, _timeouts), TIMEOUTS.help),
        "nflog": Setting(mapping_kind(NFLOG, _logging), NFLOG.help),
        "limits": Setting(
            word({each.value: each for each in Limits}, "limits"),
            "What it is when a document goes over one of the cloud's limits: `warn` accepts it and "
            "says so, `enforce` refuses it.",
            default=_DEFAULT.limits,
        ),
        "log_level": Setting(
            word(LOG_LEVELS, "log-level"), "How much is logged.", default=_DEFAULT.log_level.lower()
        ),
    },
)
"""The keys of the settings, of which the file of defaults and the pages are made too."""


def _settings(values: Values) -> Settings:
    given = dict(values.given)
    source: Values | None = given.pop("source", None)
    if source is not None and "directory" in source.given:
        given["source_directory"] = source.given["directory"]
    if "managed_interfaces" in given:
        given["managed_interfaces"] = tuple(each.value for each in given["managed_interfaces"])
    if "nflog" in given:
        given["logging"] = given.pop("nflog")
    return Settings(**given)
