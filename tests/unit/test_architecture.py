"""Who may import whom. A rule that is in nobody's way says nothing, so each is stated exactly."""

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

AGENT = Path(__file__).parents[2] / "agent"
FILES = {
    ".".join(path.relative_to(AGENT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((AGENT / "secgroupd").rglob("*.py"))
}

PURE = {
    "bisect", "collections", "collections.abc", "contextlib", "dataclasses", "difflib", "enum",
    "functools", "hashlib", "ipaddress", "itertools", "json", "operator", "re", "struct", "types", "typing",
}  # fmt: skip
"""What core may import of the standard library: nothing that touches the world."""

PURE_PARTS = {
    ("secgroupd.core.ruleset", "socket"): {"AF_INET", "AF_INET6", "htons", "inet_ntop"},
    ("secgroupd.core.uncollected", "gc"): {"disable", "enable", "isenabled"},
    ("secgroupd.core.uncollected", "threading"): {"Lock"},
}
"""Modules that do touch the world, and the parts of them that do not (or only for speed)."""

PACKAGES = {
    "yaml": {"secgroupd.core.yamltree", "secgroupd.importers.rendering"},
    "pyroute2": {"secgroupd.proving.wiring"},
    "prometheus_client": {"secgroupd.metrics", "secgroupd.page", "secgroupd.traffic"},
    "nftables": {"secgroupd.dataplane.nft_worker"},
}
"""Who may import what is not the standard library's."""

BESIDE = {
    ("secgroupd.dataplane.nft", "secgroupd.dataplane.nft_read"),
    ("secgroupd.dataplane.nft", "secgroupd.dataplane.nft_worker"),
    ("secgroupd.dataplane.nft", "secgroupd.dataplane.nft_write"),
    ("secgroupd.dataplane.nft", "secgroupd.dataplane.netlink"),
    ("secgroupd.dataplane.nft_read", "secgroupd.dataplane.netlink"),
    ("secgroupd.dataplane.nft_write", "secgroupd.dataplane.nft_read"),
    ("secgroupd.dataplane.nft_write", "secgroupd.dataplane.netlink"),
    ("secgroupd.dataplane.conntrack", "secgroupd.dataplane.netlink"),
    ("secgroupd.dataplane.links", "secgroupd.dataplane.netlink"),
    ("secgroupd.dataplane.links", "secgroupd.dataplane.events"),
    ("secgroupd.dataplane.events", "secgroupd.dataplane.netlink"),
    ("secgroupd.dataplane.nft_trace", "secgroupd.dataplane.events"),
    ("secgroupd.dataplane.nft_trace", "secgroupd.dataplane.netlink"),
    ("secgroupd.dataplane.nft_trace", "secgroupd.dataplane.nft_read"),
    ("secgroupd.dataplane.nflog", "secgroupd.dataplane.conntrack"),
    ("secgroupd.dataplane.nflog", "secgroupd.dataplane.netlink"),
}
"""The dataplane modules that know another one. Otherwise each is alone with its kernel subsystem."""

BUILDERS = ("secgroupd.cli", "secgroupd.commands", "secgroupd.daemon", "secgroupd.demo")
"""Who builds adapters. Everybody else is handed what it needs."""

ENTRIES = ("secgroupd.cli", "secgroupd.commands", "secgroupd.demo", "secgroupd.reference")
"""Who may import those who build: what is made of commands, and the pages about them."""

LAYERS = {
    "secgroupd.errors": set[str](),
    "secgroupd.prose": set[str](),
    "secgroupd.usage": {"secgroupd", "secgroupd.prose"},
    "secgroupd.core": {"secgroupd.core", "secgroupd.errors"},
    "secgroupd.closing": set[str](),
    "secgroupd.dataplane": {
        "secgroupd.closing",
        "secgroupd.core",
        "secgroupd.dataplane",
        "secgroupd.errors",
    },
    "secgroupd.importers": {"secgroupd.core", "secgroupd.errors", "secgroupd.importers"},
    "secgroupd.proving": {"secgroupd.core", "secgroupd.errors", "secgroupd.proving"},
    "secgroupd.reconcile": {"secgroupd.core", "secgroupd.errors"},
    "secgroupd.sweep": {"secgroupd.core", "secgroupd.errors"},
}
"""What the modules of a layer may import of this project."""


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def imports(module: str) -> Iterator[str]:
    """Yield the full names of the modules that a module imports, wherever in it it does so."""
    for node in ast.walk(ast.parse(FILES[module].read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            named = node.module or ""
            for alias in node.names:
                submodule = f"{named}.{alias.name}"
                yield submodule if submodule in FILES else named


IMPORTS = {module: set(imports(module)) for module in FILES}


def test_the_walk_sees_imports() -> None:
    assert "secgroupd.core.clearing" in IMPORTS["secgroupd.reconcile"]
    assert "yaml" in IMPORTS["secgroupd.core.yamltree"]


PURE_LAYERS = ("secgroupd.core", "secgroupd.importers")
"""What decides, and what converts."""


@pytest.mark.parametrize("module", [name for name in FILES if within(name, *PURE_LAYERS)])
def test_core_touches_nothing(module: str) -> None:
    foreign = {
        name
        for name in IMPORTS[module]
        if name not in PURE
        and name not in PACKAGES
        and not within(name, "secgroupd")
        and (module, name) not in PURE_PARTS
    }
    assert not foreign


@pytest.mark.parametrize(("module", "name"), sorted(PURE_PARTS))
def test_core_uses_pure_parts_only(module: str, name: str) -> None:
    used = {
        node.attr
        for node in ast.walk(ast.parse(FILES[module].read_bytes()))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == name
    }
    assert used == PURE_PARTS[module, name]


@pytest.mark.parametrize("module", FILES)
def test_packages_are_imported_where_they_belong(module: str) -> None:
    known = sys.stdlib_module_names | {"secgroupd"}
    for name in {name.partition(".")[0] for name in IMPORTS[module]} - known:
        assert module in PACKAGES.get(name, ())


@pytest.mark.parametrize(
    ("module", "layer"),
    [(module, layer) for module in FILES for layer in LAYERS if within(module, layer)],
)
def test_layers_know_only_what_is_below(module: str, layer: str) -> None:
    own = {name for name in IMPORTS[module] if within(name, "secgroupd")}
    assert {name for name in own if not within(name, *LAYERS[layer])} == set()


def test_dataplane_modules_are_strangers() -> None:
    pairs = {
        (module, name)
        for module in FILES
        if within(module, "secgroupd.dataplane")
        for name in IMPORTS[module]
        if within(name, "secgroupd.dataplane")
    }
    assert pairs == BESIDE


@pytest.mark.parametrize("module", FILES)
def test_only_entry_points_build_adapters(module: str) -> None:
    if not within(module, *BUILDERS, "secgroupd.dataplane"):
        assert not [name for name in IMPORTS[module] if within(name, "secgroupd.dataplane")]


@pytest.mark.parametrize("module", FILES)
def test_nobody_imports_an_entry_point(module: str) -> None:
    if not within(module, *ENTRIES):
        assert not [name for name in IMPORTS[module] if within(name, *BUILDERS)]


def test_no_module_needs_itself() -> None:
    known = {module: names & FILES.keys() for module, names in IMPORTS.items()}
    try:
        TopologicalSorter(known).prepare()
    except CycleError as error:
        pytest.fail(f"modules import each other: {error.args[1]}")
