"""Tables of what trainers need, with nnU-Net's commands to type next."""

from collections.abc import Iterator, Sequence
from typing import Any

from tqdm import tqdm

from nnunet_plugins.planning.fitting import Search
from nnunet_plugins.planning.plans_file import MadePlans
from nnunet_plugins.planning.requirement import (
    CannotEstimate,
    Requirement,
    in_gib,
    in_words,
)
from nnunet_plugins.planning.source import (
    Source,
    dimensions_of,
    find_trainer_class,
    in_dimensions,
    is_preprocessed,
    known_configurations,
)
from nnunet_plugins.trainers.memory.margin import GIB, with_margin

Row = Sequence[str]
NEEDS = ("KEEPING, GiB", "RECOMPUTING, GiB", "NEEDED, GiB", "VERDICT")
PLAN_IT = "plan it"
EXPLANATION = (
    "Keeping, recomputing: estimated peaks of a training step in mixed precision that keeps all for its backward pass,"
    "\nor recomputes what the network can. Needed: the smaller one, 5 % and 1 GiB, for what the estimate does not see."
    "\nA trainer recomputes by itself, and only if it must."
)


def size_cells(configuration: dict[str, Any]) -> Row:
    return in_words(configuration["patch_size"]), str(configuration["batch_size"])


def need_cells(needs: Requirement, verdict: str) -> Row:
    recomputing = "cannot" if needs.recomputing is None else in_gib(needs.recomputing)
    return in_gib(needs.keeping), recomputing, in_gib(with_margin(needs.least)), verdict


# ---- plan ------------------------------------------------------------------------------------------------------------


def before_and_after(made: MadePlans, gpu_memory_gb: float) -> Iterator[Row]:
    """Rows of the configurations as they were, and as they are planned now."""
    memory = round(gpu_memory_gb * GIB)
    yield ("CONFIGURATION", "PLANS", "PATCH", "BATCH", *NEEDS)
    for name, fit in made.fitted.items():
        before, after = made.source.plans_name, made.content["plans_name"]
        yield (name, before, *size_cells(fit.before), *need_cells(fit.needs_before, fit.needs_before.verdict(memory)))
        yield (name, after, *size_cells(fit.after), *need_cells(fit.needs_after, fit.needs_after.verdict(memory)))


def next_commands(trainer: str, made: MadePlans) -> Iterator[str]:
    """Lines to type before the training and for it."""
    number, plans = made.source.dataset_id, made.content["plans_name"]
    first_of_data: dict[str, str] = {}  # nnU-Net would make data that several share once for each of them
    for name in made.fitted:
        first_of_data.setdefault(made.source.configuration(name)["data_identifier"], name)
    if unprocessed := [name for name in first_of_data.values() if not is_preprocessed(made.source, name)]:
        yield f"nnUNetv2_preprocess -d {number} -plans_name {plans} -c {' '.join(unprocessed)}"
    for name in made.fitted:
        yield f"nnUNetv2_train {number} {name} FOLD -tr {trainer} -p {plans}"


# ---- memory ----------------------------------------------------------------------------------------------------------


def needs_of_trainers(
    source: Source, trainers: Sequence[str], asked: Sequence[str], gpu_memory_gb: float
) -> tuple[list[Row], list[str]]:
    """Rows of what trainers need on configurations, and sentences about those that cannot be estimated."""
    classes = {name: find_trainer_class(name) for name in trainers}
    cells = [(configuration, name) for configuration in known_configurations(source, asked) for name in trainers]
    rows: list[Row] = [("CONFIGURATION", "PATCH", "BATCH", "TRAINER", "PARAMETERS", *NEEDS)]
    notes = []
    for configuration, name in tqdm(cells, desc="Trainers", leave=False):
        about = (configuration, *size_cells(source.configuration(configuration)), name)
        try:
            rows.append((*about, *needs_of(source, classes[name], configuration, gpu_memory_gb)))
        except CannotEstimate as error:
            rows.append((*about, *[""] * len(NEEDS), "not known"))
            notes.append(str(error))
    return rows, notes


def needs_of(source: Source, trainer: type, configuration: str, gpu_memory_gb: float) -> Row:
    """Cells of one trainer on one configuration: parameters, estimates and verdict."""
    if source.dimensions(configuration) not in dimensions_of(trainer):
        return *[""] * len(NEEDS), f"{in_dimensions(trainer)} only"
    search = Search(source, trainer, gpu_memory_gb)
    needs = search.estimator.requirement(configuration, source.configuration(configuration))
    verdict = needs.verdict(search.gpu_memory)
    if not needs.fits(search.gpu_memory):
        verdict = PLAN_IT if search.fits_on_any_patch(configuration) else "cannot"
    return f"{needs.parameters / 1e6:.2f} M", *need_cells(needs, verdict)
