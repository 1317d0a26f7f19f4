"""Decisions in words, and in JSON."""

from collections.abc import Mapping

from secgroupd.core.verdict import Decision, Reason

_REASONS: Mapping[Reason, str] = {
    Reason.RULE: "by rule {rule} of group {group}",
    Reason.DEFAULT_DENY: "as no rule allows it",
    Reason.SOURCE_CHECK: "by the source check",
    Reason.PORT_SECURITY_DISABLED: "as port security is off",
    Reason.LOAD_BALANCER: "as it comes through the load balancer",
    Reason.LINK_SERVICE: "as the network itself needs it (no rule is asked)",
}


def because(decision: Decision) -> str:
    """Return what a decision was taken by."""
    return _REASONS[decision.reason].format(rule=decision.rule_id, group=decision.group_id)


def decision_as_json(decision: Decision | None) -> dict[str, object] | None:
    """Return the decision at one end as JSON has it; None where that end is no port."""
    if decision is None:
        return None
    return {
        "port": decision.port_id,
        "verdict": decision.verdict.value,
        "reason": decision.reason.value,
        "security_group": decision.group_id,
        "rule": decision.rule_id,
    }
