"""The runs of a suite, and where nnU-Net keeps the files of each.

Nothing here needs torch or nnU-Net: Snakemake reads it in every job.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nnunet_plugins.benchmark.faults import Faults
from nnunet_plugins.benchmark.suite import Data, Suite, divided
from nnunet_plugins.benchmark.versions import shared_json
from nnunet_plugins.errors import UserError
from nnunet_plugins.nnunet_folders import PREPROCESSED, RAW, RESULTS, SPLITS, Split, dataset_name, nnunet_folder
from nnunet_plugins.planning.names import fitted_plans_name, planning_command

VALIDATION, TEST = "validation", "test"
EXTERNAL = "external_"
"""Start of the name of the part that is another dataset's test set; the rest is that dataset's name."""
SUMMARY = f"{VALIDATION}/summary.json"
"""nnU-Net's metrics of a fold."""


@dataclass(frozen=True)
class Run:
    """One training: a fold of a trainer on a dataset, the first time or repeated."""

    data: Data
    dataset: str
    """``DatasetNNN_Name``"""
    configuration: str
    trainer: str
    """Name in the suite."""
    trainer_name: str
    """Name for nnU-Net, with the training's length."""
    fold: int
    repeat: int
    """Number of the repetition, from 1."""
    results: Path
    """Folder used as ``nnUNet_results`` for this run: each repetition has one of its own, in nnU-Net's layout too."""
    gpu_memory_gb: float | None = None
    """Memory, in GiB, that the run's plans fit; None: the run has the plans of the dataset."""

    external: str | None = None
    """``DatasetNNN_Name`` of another dataset whose test set is predicted too."""

    @property
    def plans(self) -> str:
        """Name of the plans that the run is trained with."""
        trainer, own_plans = divided(self.trainer)
        plans = own_plans or self.data.plans
        return plans if self.gpu_memory_gb is None else fitted_plans_name(plans, trainer, self.gpu_memory_gb)

    @property
    def unfitted(self) -> "Run":
        """The same run with the plans that its own are made from, and that its data are preprocessed with."""
        return replace(self, gpu_memory_gb=None)

    @property
    def model(self) -> Path:
        return self.results / self.dataset / f"{self.trainer_name}__{self.plans}__{self.configuration}"

    @property
    def folder(self) -> Path:
        return self.model / f"fold_{self.fold}"

    @property
    def preprocessed(self) -> Path:
        return nnunet_folder(PREPROCESSED) / self.dataset

    @property
    def parts(self) -> list[str]:
        """Sets of cases that the run predicts and measures, that of validation first."""
        return [VALIDATION, *self.test_sets]

    @property
    def test_sets(self) -> list[str]:
        """Parts that no training sees: the dataset's own test set and another dataset's, where the suite has them."""
        external = [f"{EXTERNAL}{self.external}"] if self.external else []
        return [*([TEST] if self.data.test else []), *external]

    @property
    def plans_file(self) -> Path:
        return self.preprocessed / f"{self.plans}.json"

    @property
    def splits_file(self) -> Path:
        return self.preprocessed / SPLITS

    @property
    def plan_receipt(self) -> Path:
        return self.preprocessed / f"bench_{self.plans}.json"

    @property
    def preprocessing_receipt(self) -> Path:
        return self.preprocessed / f"bench_{self.unfitted.plans}_{self.configuration}.json"

    @property
    def source_note(self) -> Path:
        """Note of the plans and labels from which the preprocessed data were made."""
        return self.preprocessed / f"bench_source_{self.unfitted.plans}_{self.configuration}.json"

    @property
    def training_receipt(self) -> Path:
        return self.folder / "bench_train.json"

    @property
    def validation_receipt(self) -> Path:
        """Receipt of the validation step, which holds all metrics."""
        return self.folder / "bench_validate.json"

    @property
    def receipts(self) -> dict[str, Path]:
        """Receipt of each step, in their order; that of planning also stands for fitting where plans are not fitted."""
        return {
            "plan": self.unfitted.plan_receipt,
            "fit": self.plan_receipt,
            "preprocess": self.preprocessing_receipt,
            "train": self.training_receipt,
            "validate": self.validation_receipt,
        }

    @property
    def split_note(self) -> Path:
        """Note of the cases that the fold was trained and validated on, with the hash of their labels."""
        return self.folder / "bench_split.json"

    @property
    def test_note(self) -> Path:
        """Note of the test sets, each as it was when it was predicted."""
        return self.folder / "bench_test_sets.json"

    @property
    def lock_file(self) -> Path:
        """File that a process locks while it trains or validates the fold."""
        return self.folder / ".bench.lock"

    @property
    def dataset_lock_file(self) -> Path:
        """File that a process locks while it plans or preprocesses the dataset."""
        return self.preprocessed / ".bench.lock"

    def __str__(self) -> str:
        repeat = f" repeat {self.repeat}" if self.repeat > 1 else ""
        plans = f" {self.plans}" if self.plans != self.data.plans else ""
        return f"{self.dataset} {self.configuration} {self.trainer_name}{plans} fold {self.fold}{repeat}"


def runs(suite: Suite) -> list[Run]:
    """All runs of a suite; folds of one trainer after those of another, so that tables fill evenly.

    Raises:
        UserError: nnU-Net's folders are not set, or datasets are in none of them.
    """
    root = nnunet_folder(RESULTS)
    faults = Faults()
    names: dict[int | None, str] = {}
    for number in (number for data in suite.datasets for number in (data.id, data.external) if number is not None):
        with faults.noted():
            names[number] = dataset_name(number)
    faults.end_command()
    roots = {repeat: root / f"repeat_{repeat}" if repeat > 1 else root for repeat in range(1, suite.repeats + 1)}
    return [
        Run(
            data,
            names[data.id],
            configuration,
            trainer,
            suite.trainer_name(trainer),
            fold,
            repeat,
            results,
            suite.gpu_memory_gb,
            names.get(data.external),
        )
        for repeat, results in roots.items()
        for data in suite.datasets
        for configuration in data.configurations
        for fold in suite.folds
        for trainer in suite.trainers_of(data)
    ]


# ---- files of a suite ------------------------------------------------------------------------------------------------


def work_folder(suite: Suite) -> Path:
    """Folder with the suite's logs and its report."""
    return nnunet_folder(RESULTS) / "benchmarks" / suite.name


def stop_file(suite: Suite) -> Path:
    """File that makes jobs end at once: while it exists, their driver is being stopped, or was."""
    return work_folder(suite) / ".stopped"


def log_file(suite: Suite, step: str, receipt: Path) -> Path:
    """File with the output of all attempts of the job that writes the receipt."""
    known = [path for path in (nnunet_folder(RESULTS), nnunet_folder(PREPROCESSED)) if receipt.is_relative_to(path)]
    names = receipt.relative_to(known[0]).with_suffix("").parts if known else receipt.parts
    return work_folder(suite) / "logs" / f"{step}.{'.'.join(names)}.log"


# ---- files of a dataset ----------------------------------------------------------------------------------------------


def dataset_json(run: Run) -> dict[str, Any]:
    """``dataset.json`` of the preprocessed dataset, or of the raw one before there is one; not to be changed."""
    preprocessed = run.preprocessed / "dataset.json"
    if preprocessed.exists():
        return shared_json(preprocessed, remedy="remove it and run the benchmark again")
    path = nnunet_folder(RAW) / run.dataset / "dataset.json"
    return shared_json(path, remedy="convert the dataset again, or correct that file")


def read_splits(run: Run) -> list[Split]:
    """The folds of the dataset, not to be changed.

    Raises:
        UserError: the file cannot be read.
    """
    return shared_json(run.splits_file, remedy="correct it, or remove it and run the benchmark again")


def read_plans(run: Run) -> dict[str, Any]:
    """nnU-Net's plans of the dataset, not to be changed.

    Raises:
        UserError: the file cannot be read.
    """
    again = f"make it again, with {planning_command(run.data.id, run.plans)}"
    remedy = f"move it away and {'run the benchmark again' if run.gpu_memory_gb is not None else again}"
    plans = shared_json(run.plans_file, remedy)
    configurations = plans.get("configurations") if isinstance(plans, dict) else None
    if not isinstance(configurations, dict) or not all(isinstance(value, dict) for value in configurations.values()):
        raise UserError(f"{run.plans_file} has no configurations: {remedy}")
    return plans


def planned_configuration(run: Run) -> dict[str, Any]:
    """The run's configuration in the plans, with all that it inherits.

    Raises:
        UserError: the plans do not have it, or not what it inherits from.
    """
    plans, name = read_plans(run)["configurations"], run.configuration
    if name not in plans:
        raise UserError(f"{run.plans_file} has no configuration {name}: choose from {', '.join(plans)}")
    found: dict[str, Any] = {}
    inherited: list[Any] = []
    while name:
        if name in inherited or name not in plans:
            raise UserError(
                f"{run.plans_file}: configuration {run.configuration} inherits from {name!r}, which is "
                f"{'itself' if name in inherited else 'not there'}: correct its inherits_from"
            )
        inherited.append(name)
        found = plans[name] | found
        name = plans[name].get("inherits_from")
    return found


def estimate_of(run: Run) -> dict[str, float | None]:
    """Estimated peak of a step on the GPU that the run's plans are made for, in GiB; nothing of a run of other plans.

    The estimate is None if the plans were edited since.
    """
    if run.gpu_memory_gb is None:
        return {}
    from nnunet_plugins.planning.plans_file import noted_requirement

    needs = noted_requirement(read_plans(run), run.configuration)
    return {"estimate_gb": None if needs is None else needs.peak_on(round(run.gpu_memory_gb * 2**30)) / 2**30}


def is_test_set(part: str) -> bool:
    """Whether a part is a test set, of the dataset itself or another."""
    return part == TEST or part.startswith(EXTERNAL)


def dataset_of(run: Run, part: str) -> str:
    """Name of the dataset that a part's cases belong to."""
    return part.removeprefix(EXTERNAL) if part.startswith(EXTERNAL) else run.dataset


def images_folder(run: Run, part: str) -> Path:
    return nnunet_folder(RAW) / dataset_of(run, part) / ("imagesTs" if is_test_set(part) else "imagesTr")


def references(run: Run, part: str) -> dict[str, Path]:
    """File with the true segmentation of each case that the run predicts."""
    ending = dataset_json(run)["file_ending"]
    if part == VALIDATION:
        folder = run.preprocessed / "gt_segmentations"
        return {case: folder / f"{case}{ending}" for case in read_splits(run)[run.fold]["val"]}
    folder = nnunet_folder(RAW) / dataset_of(run, part) / "labelsTs"
    return {path.name.removesuffix(ending): path for path in sorted(folder.glob(f"[!.]*{ending}"))}


def predictions(run: Run, part: str) -> dict[str, Path]:
    """File with the predicted segmentation of each case."""
    return {case: run.folder / part / path.name for case, path in references(run, part).items()}
