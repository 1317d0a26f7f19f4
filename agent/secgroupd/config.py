"""The agent's own settings: where everything is, and what differs from one host to the next.

Not what to enforce: that is the state document. Every setting has a default, so that a host needs
no file at all; a file that is there is taken whole or refused with every problem in it.
"""

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from secgroupd.core.document import Limits
from secgroupd.core.model import Clearing, Timeout
from secgroupd.core.nflog import LIVE_GROUP, SILENT, Logging
from secgroupd.core.reading import (
    Field,
    Kind,
    Place,
    Reader,
    Refusal,
    Shape,
    TooManyProblems,
    Values,
    list_kind,
    mapping_kind,
    read_fields,
    scalar_kind,
    shown,
)
from secgroupd.core.ruleset import quotable
from secgroupd.core.scalars import BOOLEAN, ID, Plain, interface_name, number_between, one_of
from secgroupd.core.tree import TooLarge
from secgroupd.core.yamltree import parse_tree
from secgroupd.errors import Problem, SettingsError

DEFAULT_PATH = Path("/etc/secgroupd/secgroupd.yaml")
"""Where the settings are read from unless another file is named."""

MAX_BYTES = 1 << 20
"""The largest file of settings; whatever is larger is something else."""

LONGEST_WAIT = 86400
"""Upper bound of settings that are times, in seconds: a day."""

LOG_LEVELS = {"debug": "DEBUG", "info": "INFO", "warning": "WARNING", "error": "ERROR"}

_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?").fullmatch
_LISTEN = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([0-9.]+|localhost)):([0-9]{1,5})").fullmatch


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


def _path(value: Plain) -> Path:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise Refusal("path", f"{shown(value)} is not a whole path: write one that begins with /")
    return Path(value)


def _pattern(value: Plain) -> str:
    name = interface_name(value)
    stem = name.removesuffix("*")
    if not stem:
        message = "* would close every interface, the host's own too: write a prefix before it"
        raise Refusal("interface-pattern", message)
    if not quotable(name) or "*" in stem:
        message = (
            f"{shown(name)} cannot be a pattern: write a name without quotes, backslashes and "
            "unprintable characters, with * only at its end"
        )
        raise Refusal("interface-pattern", message)
    return name


def _listen(value: Plain) -> tuple[str, int] | None:
    if value == "":
        return None
    match = _LISTEN(value) if isinstance(value, str) else None
    message = f"{shown(value)} is no place to listen: write ADDRESS:PORT, or [ADDRESS]:PORT"
    if match is None or not 1 <= int(match[3]) <= 65535:
        raise Refusal("listen", message)
    host: str = match[1] or match[2]
    if host == "localhost":
        return "127.0.0.1", int(match[3])
    try:
        address = ip_address(host)
    except ValueError:
        raise Refusal("listen", message) from None
    return str(address), int(match[3])


def _seconds(low: float) -> Kind:
    def parse_seconds(value: Plain) -> float:
        text = "" if isinstance(value, bool) else str(value)
        if not _NUMBER(text) or not low <= float(text) <= LONGEST_WAIT:
            message = f"{shown(value)} is not a time: write seconds, from {low:g} to {LONGEST_WAIT}"
            raise Refusal("seconds", message)
        return float(text)

    return scalar_kind(parse_seconds)


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


_PATH = scalar_kind(_path)
SOURCE = Shape("source", "Where the state document is.", {"directory": Field(_PATH, "its path")})
_GROUP = scalar_kind(number_between(0, 65535, "nflog-group"))
METRICS = Shape(
    "metrics",
    "Where metrics are served.",
    {
        "listen": Field(scalar_kind(_listen), 'address and port, or "" for nowhere'),
        "cert_file": Field(_PATH, "TLS certificate"),
        "key_file": Field(_PATH, "its private key"),
        "token_file": Field(_PATH, "a file with a bearer token"),
        "rule_hits": Field(BOOLEAN, "whether there is a series for each rule"),
    },
)
TIMEOUTS = Shape(
    "timeouts",
    "Connection tracking timeouts of the ports' connections.",
    {each.value: Field(_seconds(1), "seconds") for each in Timeout},
)
NFLOG = Shape(
    "nflog",
    "Where copies of packets always go, for a program such as ulogd2.",
    {
        "denied_group": Field(_GROUP, "NFLOG group of denied packets"),
        "accepted_group": Field(_GROUP, "NFLOG group of the first packets of connections"),
    },
)
SETTINGS = Shape(
    "settings",
    "The agent's own settings.",
    {
        "source": Field(mapping_kind(SOURCE, lambda values, _: values), "the document's place"),
        "host_id": Field(ID, "this host's id in the document"),
        "state_dir": Field(_PATH, "where the last accepted document is kept"),
        "run_dir": Field(_PATH, "where lock and status are"),
        "managed_interfaces": Field(list_kind(scalar_kind(_pattern)), "closed unless claimed"),
        "metrics": Field(mapping_kind(METRICS, _serving), "metrics"),
        "clearing": Field(
            scalar_kind(one_of({each.value: each for each in Clearing}, "clearing")),
            "which connections a change judges again",
        ),
        "adoption_grace": Field(_seconds(0), "seconds"),
        "resync_interval": Field(_seconds(0.1), "seconds"),
        "protect_tables": Field(BOOLEAN, "whether only the agent can change its tables"),
        "timeouts": Field(mapping_kind(TIMEOUTS, _timeouts), "timeouts"),
        "nflog": Field(mapping_kind(NFLOG, _logging), "packets that are logged"),
        "limits": Field(
            scalar_kind(one_of({each.value: each for each in Limits}, "limits")),
            "what going over a limit is",
        ),
        "log_level": Field(scalar_kind(one_of(LOG_LEVELS, "log-level")), "how much is logged"),
    },
)
"""The fields of the settings."""


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
