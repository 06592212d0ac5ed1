"""The command ``nnunet-plugins doctor``: find what would keep a training from working here, and name the remedies.

Every check is a generator of findings and writes nothing but a temporary file. The checks do not depend on each other,
except that those which call nnU-Net are left out if it cannot be used.
"""

from collections.abc import Iterator

from nnunet_plugins.doctor.findings import Finding
from nnunet_plugins.doctor.folders import folders
from nnunet_plugins.doctor.gpus import gpus
from nnunet_plugins.doctor.machine import memory, processes, threads
from nnunet_plugins.doctor.search import discovery, trainers
from nnunet_plugins.doctor.software import benchmark_software, nnunet_installation, versions


def report(quiet: bool = False) -> int:
    """Print each finding as soon as it is known, and return the number of problems.

    Args:
        quiet: whether to leave out what is well.
    """
    problems = 0
    for finding in examine():
        if not (quiet and finding.level == "ok"):
            print(finding, flush=True)
        problems += finding.level == "PROBLEM"
    if problems:
        print(f"\n{problems} problem{'s' * (problems != 1)} found.")
    elif not quiet:
        print("\nNo problem found.")
    return problems


def examine() -> Iterator[Finding]:
    yield from versions()
    yield from processes()
    nnunet = list(nnunet_installation())
    yield from nnunet
    if all(finding.level != "PROBLEM" for finding in nnunet):
        yield from discovery()
        yield from trainers()
    yield from benchmark_software()
    devices = list(gpus())
    yield from devices
    yield from memory()
    yield from threads(without_gpu=not any(finding.text.startswith("GPU ") for finding in devices))
    yield from folders()
