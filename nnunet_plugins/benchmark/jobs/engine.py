"""The driver: hands a suite's jobs to Snakemake, on this machine or on Slurm, and cleans up after an earlier driver.

Snakemake decides from the receipts alone which jobs are left. It runs in a thread, so that the driver itself handles
signals: whether it is interrupted, terminated or killed, the next driver goes on in the same way.
"""

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, NoReturn

from nnunet_plugins.benchmark.jobs.gpus import GPUS
from nnunet_plugins.benchmark.jobs.states import discard_stale_receipts
from nnunet_plugins.benchmark.jobs.watch import telling
from nnunet_plugins.benchmark.progress import is_begun
from nnunet_plugins.benchmark.runs import stop_file, work_folder
from nnunet_plugins.benchmark.suite import Suite
from nnunet_plugins.benchmark.survey import Survey
from nnunet_plugins.errors import UserError
from nnunet_plugins.files import atomic_write, usable_cores
from nnunet_plugins.locks import lock
from nnunet_plugins.nnunet_folders import PREPROCESSED, RAW, RESULTS, nnunet_folder

Executor = Literal["local", "slurm"]
SNAKEFILE = Path(__file__).with_name("Snakefile")
SUITE = "suite.toml"


def run_suite(survey: Survey, suite_file: Path, executor: Executor, gpus: Sequence[str]) -> bool:
    """Do all that is left of a suite; whether everything succeeded.

    Args:
        survey: the suite and its runs.
        suite_file: the file of the suite, which the jobs read.
        executor: where jobs run.
        gpus: devices that local trainings share.

    Raises:
        UserError: another driver works on the suite, or the executor cannot be used.
    """
    suite = survey.suite
    folder = work_folder(suite)
    with ExitStack() as stack:
        if not stack.enter_context(lock(folder / ".driver.lock", wait=False)):
            raise UserError(
                f"Another 'benchmark run' works on {folder}: wait for it ('benchmark status' tells how far it is), or "
                "stop it"
            )
        if executor == "slurm":
            require_slurm()
            cancel_slurm_jobs(folder)
        else:
            os.environ[GPUS] = ",".join(gpus)
        for variable in (RAW, PREPROCESSED, RESULTS):  # Snakemake works in a folder of its own
            os.environ[variable] = str(nnunet_folder(variable))
        discard_stale_receipts(survey.states)
        stop_file(suite).unlink(missing_ok=True)
        copy = folder / SUITE  # what the jobs read: editing the file must not change a suite that runs
        if copy.resolve() != suite_file.resolve():
            with atomic_write(copy) as temporary:
                shutil.copyfile(suite_file, temporary)
        return supervise(survey, copy, executor, gpus)


def supervise(survey: Survey, suite_file: Path, executor: Executor, gpus: Sequence[str]) -> bool:
    """Run Snakemake in a thread, and tell how far the runs are; on SIGINT or SIGTERM end its jobs and this process."""
    suite = survey.suite
    received: list[int] = []
    handlers = {
        number: signal.signal(number, lambda n, _: received.append(n)) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        with ThreadPoolExecutor(1) as pool:
            workflow = pool.submit(snakemake, survey, suite_file, executor, gpus)
            with telling(survey) as tell:
                done = False
                while not (received or done):
                    done = bool(wait([workflow], timeout=0.5).done)
                    with suppress(OSError):  # whoever reads our output may be gone
                        tell(done)
            if received:
                stop(suite, executor, received[0])
        return workflow.result()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def stop(suite: Suite, executor: Executor, signal_number: int) -> NoReturn:
    """End the jobs, then this process at once: Snakemake's thread would wait for the jobs and start them again."""
    try:
        stop_file(suite).touch()  # ends the attempts that Snakemake starts while we end those that run
        with suppress(OSError):
            print("Stopping. The same command goes on from the last checkpoints.", flush=True)
        end_jobs(executor, work_folder(suite))
    except Exception as error:
        with suppress(OSError):
            print(f"Jobs may be left: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(128 + signal_number)


def snakemake(survey: Survey, suite_file: Path, executor: Executor, gpus: Sequence[str]) -> bool:
    """Run Snakemake's workflow, interrupted trainings first; whether all jobs succeeded."""
    from snakemake.api import SnakemakeApi
    from snakemake.exceptions import WorkflowError
    from snakemake.scheduling.greedy import SchedulerSettings
    from snakemake.settings.enums import Quietness, RerunTrigger
    from snakemake.settings.types import ConfigSettings, DAGSettings, OutputSettings, SchedulingSettings

    suite, slurm = survey.suite, executor == "slurm"
    begun = {str(run.training_receipt) for run in survey.runs if run not in survey.done and is_begun(run)}
    level = logging.ERROR if slurm else logging.CRITICAL  # local jobs say themselves why they fail
    output = OutputSettings(quiet={Quietness.HOST, Quietness.REASON, Quietness.RULES}, log_level_override=level)
    with SnakemakeApi(output) as api, telling_refusals():
        workflow = api.workflow(
            resource_settings=resource_settings(suite, slurm, len(gpus)),
            config_settings=ConfigSettings(config={"suite": str(suite_file)}),
            snakefile=SNAKEFILE,
            workdir=work_folder(suite),
        )
        triggers = {RerunTrigger.MTIME, RerunTrigger.INPUT}
        dag = workflow.dag(DAGSettings(targets={"all"}, force_incomplete=True, rerun_triggers=triggers))
        try:
            dag.execute_workflow(
                executor=executor,
                executor_settings=slurm_settings() if slurm else None,
                execution_settings=execution_settings(suite, slurm),
                scheduling_settings=SchedulingSettings(scheduler="greedy", prioritytargets=begun, greediness=1.0),
                scheduler_settings=SchedulerSettings(),
                remote_execution_settings=remote_execution_settings(),
            )
        except WorkflowError as error:
            if "At least one job" not in str(error):  # the steps themselves have said why their jobs failed
                print(error, file=sys.stderr)
            return False
    return True


def resource_settings(suite: Suite, slurm: bool, num_gpus: int) -> Any:
    """Limits of what Snakemake uses at a time: cores and GPUs of this machine, or a number of Slurm's jobs."""
    from snakemake.settings.types import ResourceSettings

    if slurm:
        return ResourceSettings(cores=None, nodes=suite.resources.slurm_jobs, resources={})
    resources = suite.resources
    gpus = num_gpus if resources.device == "cuda" else int(resources.device != "cpu")
    cores = max(usable_cores(), gpus * (resources.cpus + 1))  # one to measure, so that no GPU waits meanwhile
    return ResourceSettings(cores=cores, nodes=None, resources={"gpu": gpus})


def execution_settings(suite: Suite, slurm: bool) -> Any:
    from snakemake.settings.types import ExecutionSettings

    return ExecutionSettings(
        keep_going=True, lock=False, retries=suite.resources.retries, latency_wait=60 if slurm else 5
    )


def remote_execution_settings() -> Any:
    from snakemake.settings.types import RemoteExecutionSettings

    return RemoteExecutionSettings(seconds_between_status_checks=10, job_deploy_sources=False)


def end_jobs(executor: Executor, folder: Path) -> None:
    """Kill all processes that this driver, or a killed one before it, has started, with their workers."""
    if executor == "slurm":
        cancel_slurm_jobs(folder)
        return
    import psutil

    steps = [p for p in psutil.process_iter(["cmdline"]) if is_step(p.info["cmdline"] or [], folder)]
    processes = list(steps)
    for process in (psutil.Process(), *steps):
        with suppress(psutil.Error):
            processes += process.children(recursive=True)
    for process in processes:
        with suppress(psutil.Error):
            process.terminate()
    for process in psutil.wait_procs(processes, timeout=10)[1]:
        with suppress(psutil.Error):
            process.kill()


def is_step(command: Sequence[str], folder: Path) -> bool:
    """Whether a command line is that of a job of the suite in the folder."""
    return "nnunet_plugins.benchmark.jobs.steps" in command and str(folder / SUITE) in command


# ---- Slurm -----------------------------------------------------------------------------------------------------------


def require_slurm() -> None:
    """Make sure that Slurm can be used.

    Raises:
        UserError: there is no Slurm here, or it does not answer.
    """
    for command in ("sbatch", "squeue", "scontrol"):
        if shutil.which(command) is None:
            raise UserError(f"There is no {command} here: run this on a login node, or leave out --executor slurm")
    asked = subprocess.run(["squeue", "-h", "-o", "%i"], capture_output=True, text=True)
    if asked.returncode:
        raise UserError(f"Slurm does not answer ({' '.join(asked.stderr.split())}): ask its administrators")


def cancel_slurm_jobs(folder: Path) -> None:
    """Cancel the jobs that an earlier driver of this folder has left in the queue, and wait until they are gone."""
    while jobs := slurm_jobs(folder):
        subprocess.run(["scancel", *jobs], check=False)
        time.sleep(1)


def slurm_jobs(folder: Path, attempts: int = 30) -> list[str]:
    """Numbers of this user's jobs that wait or run in the folder.

    Raises:
        UserError: Slurm has not answered for a minute.
    """
    command = ["squeue", "-h", "--me", "-t", "PD,R,CF,S", "-o", "%i %Z"]
    for _ in range(attempts):
        asked = subprocess.run(command, capture_output=True, text=True)
        if asked.returncode == 0:
            jobs = [line.split(maxsplit=1) for line in asked.stdout.splitlines()]  # number and real path
            return [job[0] for job in jobs if os.path.realpath(job[-1]) == os.path.realpath(folder)]
        time.sleep(2)
    raise UserError(f"Slurm does not answer ({' '.join(asked.stderr.split())}): cancel the jobs in {folder} yourself")


class Refusals(logging.Handler):
    """Tells why Slurm does not take jobs, each reason once: Snakemake is quiet about all that happens to jobs."""

    reason = re.compile(r"sbatch failed.*?The error message was '(.*?)'\.\n", re.DOTALL)

    def __init__(self) -> None:
        super().__init__()
        self.told: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        found = self.reason.search(getattr(record, "rule_msg", None) or "")
        if found and found[1] not in self.told:
            self.told.add(found[1])
            why = " ".join(found[1].split())
            print(f"Slurm does not take a job ({why}): correct the suite's [resources]", file=sys.stderr, flush=True)


@contextmanager
def telling_refusals() -> Iterator[None]:
    from snakemake.logging import logger

    handler = Refusals()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def slurm_settings() -> Any:
    """Settings of Snakemake's Slurm plugin, imported only here, which takes seconds where Slurm is down."""
    from snakemake_executor_plugin_slurm import ExecutorSettings

    asked = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, check=True).stdout
    accounting = "accounting_storage/slurmdbd" in asked
    return ExecutorSettings(
        status_command="sacct" if accounting else "squeue",  # without accounting, sacct waits for ever
        no_account=not accounting,
        init_seconds_before_status_checks=10,
        keep_successful_logs=False,
    )
