"""Checks of Python, this package, nnU-Net and all that both require."""

import importlib.metadata
import importlib.util
import platform
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

import nnunet_plugins
from nnunet_plugins.compatibility import nnunet_problem, overwriting_problem, trainer_problem
from nnunet_plugins.doctor.findings import Finding, problem_from, summary

OURS, NNUNET, EXTRA = "nnunet-plugins", "nnunetv2", "benchmark"
SLURM_PLUGIN = "snakemake-executor-plugin-slurm"
INSTALL_EXTRA = "pip install '.[benchmark]' in the clone of this repository"


def versions() -> Iterator[Finding]:
    """Versions of Python, of this package and of the packages on which it depends."""
    yield Finding("ok", f"python {platform.python_version()} at {sys.executable}")
    yield Finding("ok", f"{OURS} {nnunet_plugins.__version__} at {Path(nnunet_plugins.__file__).parent}")
    try:
        installed = importlib.metadata.version(OURS)
        requirements = requirements_of(OURS)
    except importlib.metadata.PackageNotFoundError:
        yield Finding("note", f"{OURS} is not installed by pip: its dependencies are unknown", "pip install it")
        return
    if installed != nnunet_plugins.__version__:
        yield Finding(
            "note", f"pip has installed {OURS} {installed}: what it requires may have changed", "pip install it"
        )
    for requirement in requirements:
        if requirement.name != NNUNET:  # nnunet_installation() looks closer at that one
            yield installed_version(requirement)


def requirements_of(package: str, extra: str = "") -> list[Requirement]:
    """Requirements of an installed package in this environment, or those that one of its extras adds.

    Raises:
        PackageNotFoundError: it is not installed.
    """
    found = [Requirement(text) for text in importlib.metadata.requires(package) or []]
    wanted = [r for r in found if r.marker is None or r.marker.evaluate({"extra": extra})]
    return [r for r in wanted if not extra or (r.marker and not r.marker.evaluate({"extra": ""}))]


def installed_version(requirement: Requirement) -> Finding:
    """Compare the version that is installed with the ones that are required."""
    name, wanted = requirement.name, f"{requirement.name}{requirement.specifier}"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding("PROBLEM", f"{name} is not installed", f"pip install {shlex.quote(wanted)}")
    if not requirement.specifier.contains(version, prereleases=True):
        return Finding("PROBLEM", f"{name} {version} is not {wanted}", f"pip install {shlex.quote(wanted)}")
    return Finding("ok", f"{name} {version}")


def nnunet_installation() -> Iterator[Finding]:
    """Whether nnU-Net is the one that our trainers expect, and has what it requires itself."""
    if problem := nnunet_problem():
        yield problem_from(problem)
        return
    yield from (f for f in map(installed_version, requirements_of(NNUNET)) if f.level != "ok")
    if importlib.util.find_spec("distutils") is None:
        yield Finding(
            "PROBLEM", "nnU-Net preprocesses with distutils, which is not in Python 3.12", "pip install setuptools"
        )
    try:
        from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    except Exception as error:
        yield Finding("PROBLEM", f"nnU-Net cannot be imported: {summary(error)}", "install what pip check names")
        return
    for sentence in filter(None, (overwriting_problem(), trainer_problem(nnUNetTrainer))):
        yield problem_from(sentence)
    place = Path(sys.modules[NNUNET].__path__[0])
    yield Finding("ok", f"{NNUNET} {importlib.metadata.version(NNUNET)} at {place}")


def benchmark_software() -> Iterator[Finding]:
    """Whether the benchmark has what it needs, with Slurm's plugin where there is Slurm."""
    try:
        findings = [installed_version(requirement) for requirement in requirements_of(OURS, EXTRA)]
    except importlib.metadata.PackageNotFoundError:
        return
    wrong = [finding.text for finding in findings if finding.level != "ok"]
    if wrong:
        yield Finding("note", f"'nnunet-plugins benchmark' cannot run yet: {'; '.join(wrong)}", INSTALL_EXTRA)
        return
    plugin = f"{SLURM_PLUGIN} {importlib.metadata.version(SLURM_PLUGIN)}"
    if shutil.which("sbatch"):
        yield Finding("ok", f"benchmarks can run here and as jobs of Slurm, with {plugin}")
    else:
        yield Finding("ok", f"benchmarks can run here, and on a machine with Slurm as its jobs, with {plugin}")
