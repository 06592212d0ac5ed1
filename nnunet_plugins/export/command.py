"""The command ``nnunet-plugins export``."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nnunet_plugins.deployed.model import refuse_unknown
from nnunet_plugins.errors import UserError
from nnunet_plugins.export.description import describe
from nnunet_plugins.export.formats import require, write_network
from nnunet_plugins.export.trained_model import TrainedModel, read_trained_model
from nnunet_plugins.files import digest, partial_path


def export_model(folder: Path, output: Path, network_format: str, folds: Sequence[str], checkpoint: str) -> None:
    """Write a model into a new folder, whole or not at all.

    Args:
        folder: of the trained model.
        output: the new folder.
        network_format: name of the networks' format.
        folds: folds to export; none for all.
        checkpoint: name of the file of each fold.

    Raises:
        UserError: the model cannot be read, exported or written.
    """
    if output.exists():
        raise UserError(f"{output} is there already: give -o another folder, or move it away")
    require(network_format)
    model = read_trained_model(folder, folds, checkpoint)
    description = describe(model, [], network_format)
    refuse_unknown(description)  # before the long part
    temporary = partial_path(output)
    try:
        temporary.mkdir(parents=True)
        networks = [export_fold(model, fold, network_format, temporary) for fold in model.folds]
        replace(description, networks=networks).write(temporary)
        temporary.rename(output)
    except OSError as error:
        raise UserError(f"{output} cannot be written ({error.strerror}): make room or mend the permissions") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    steps = len(description.postprocessing)
    print(f"{output}: {model.trainer_name}, folds {' '.join(model.folds)}, {steps} steps of postprocessing")


def export_fold(model: TrainedModel, fold: str, network_format: str, folder: Path) -> dict[str, Any]:
    """Write the network of a fold, print how it compares with torch, and describe the file."""
    path = folder / f"fold_{fold}.{network_format}"
    shape = (model.num_channels, *model.configuration.patch_size)
    difference = write_network(network_format, model.network(fold), shape, path)
    print(f"fold {fold}: logits within {difference:.1e} of torch's, {path.stat().st_size / 1e6:.0f} MB", flush=True)
    return {"fold": fold, "file": path.name, "sha256": digest(path), "largest_difference": difference}
