"""Facts of the trainers that only torch and nnU-Net can tell, stored in a file, so that they can be read at once.

``python -m nnunet_plugins.trainers.facts`` writes the file: run it after a change of the table or a network's size.
"""

from pathlib import Path
from typing import NamedTuple

from nnunet_plugins.errors import UserError
from nnunet_plugins.files import read_json, write_json
from nnunet_plugins.trainers import TRAINERS, find_trainer

FILE = Path(__file__).with_name("facts.json")


class Facts(NamedTuple):
    """Facts of a trainer that do not change with the dataset."""

    method: str
    paper: str
    dimensions: tuple[int, ...]
    """2 and 3, or one of them."""
    parameters: int
    """Number of parameters of the network at the size for which its paper gives it."""


def read_facts() -> dict[str, Facts]:
    """Stored facts of all trainers of the table, by their names.

    Raises:
        UserError: a row is newer than the file.
    """
    stored = read_json(FILE, remedy="install nnunet-plugins again")
    if missing := [name for name in TRAINERS if name not in stored]:
        raise UserError(f"{FILE} has nothing on {', '.join(missing)}: run python -m nnunet_plugins.trainers.facts")
    return {name: Facts(**facts)._replace(dimensions=tuple(facts["dimensions"])) for name, facts in stored.items()}


def find_facts() -> dict[str, Facts]:
    """Facts of all trainers of the table, from their classes and the networks that these build."""
    import torch

    found = {}
    for name in TRAINERS:
        trainer = find_trainer(name)
        with torch.device("meta"):
            parameters = sum(parameter.numel() for parameter in trainer.reference_network().parameters())
        found[name] = Facts(trainer.method, trainer.paper, tuple(trainer.supported_dimensions), parameters)
    return found


if __name__ == "__main__":
    write_json(FILE, {name: facts._asdict() for name, facts in find_facts().items()})
