"""Findings of the doctor."""

from collections.abc import Iterable

from nnunet_plugins.doctor import Finding


def problems(findings: Iterable[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.level == "PROBLEM"]
