"""Small tables that tests load into a lab's host, in the family that its ports' packets meet."""

import pytest

from secgroupd.proving.namespaces import Lab, Wiring


def family(lab: Lab) -> str:
    """The family of tables that sees a packet between two ports."""
    return "inet" if lab.wiring is Wiring.ROUTED else "bridge"


def chain(hook: str, *rules: str) -> str:
    lines = "\n".join(rules)
    return f"chain c {{\ntype filter hook {hook} priority 0\n{lines}\n}}"


def load(lab: Lab, text: str) -> None:
    lab.hv.run(["nft", "-f", "-"], stdin=f"table {family(lab)} t {{\n{text}\n}}\n")


def needs(lab: Lab, hook: str, rule: str) -> None:
    """Skip a test if this kernel cannot have such a rule for bridged packets; others it must."""
    if family(lab) == "bridge":
        text = f"table bridge t {{\n{chain(hook, rule)}\n}}\n"
        done = lab.hv.run(["nft", "-c", "-f", "-"], stdin=text, check=False)
        if done.returncode != 0:
            reason = done.stderr.splitlines()[0]
            pytest.skip(f"this kernel has no {rule!r} for bridged packets: {reason}")
