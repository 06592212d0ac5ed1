"""The command ``nnunet-plugins list``: what the trainers are, from stored facts, so that torch need not be imported."""

import argparse
import json
from collections.abc import Sequence
from typing import Any

from nnunet_plugins.cli.parser import PREFIX
from nnunet_plugins.compatibility import require_nnunet
from nnunet_plugins.errors import UserError
from nnunet_plugins.text_tables import aligned
from nnunet_plugins.trainers import TRAINERS, table_name
from nnunet_plugins.trainers.facts import Facts, read_facts

HEADINGS = ("TRAINER", "METHOD", "DIMENSIONS", "PARAMETERS", "WHAT IT VARIES")

CHANNELS = {"DLKUNet": (1, 9), "MedFusion-TransNet": (3, 2)}
"""Channels of the images and of the output with which a method's parameters are counted, if not 3 and 1."""


def list_trainers(options: argparse.Namespace) -> None:
    require_nnunet()
    facts = read_facts()
    names = chosen(options.names, facts)
    if options.json:
        print(json.dumps([described(name, facts[name]) for name in names], indent=2, ensure_ascii=False))
        return
    rows = [HEADINGS, *(row(name, facts[name]) for name in names)]
    print(aligned(rows))
    print()
    for method, paper in {facts[name].method: facts[name].paper for name in names}.items():
        inputs, outputs = CHANNELS.get(method, (3, 1))
        print(f"{method}: {paper}. Parameters: with {inputs} channels in and {outputs} out")
    print(
        "\nAdd to any name, in this order: _pretrained (an encoder from timm starts from ImageNet weights),"
        "\n_earlyStop<N> (ends after N epochs without a better validation loss), _<N>epochs, _<M>iterations"
        "\n(of a training epoch), e.g."
        f"\n{PREFIX}train DATASET 2d 0 -tr {names[0]}_100epochs"
    )


def chosen(wanted: Sequence[str], facts: dict[str, Facts]) -> list[str]:
    """Trainers of the table that were asked for by their names, with suffixes or not, or by their method.

    Raises:
        UserError: a name is neither a trainer's nor a method's.
    """
    methods = {facts[name].method.lower() for name in TRAINERS}
    names: set[str] = set()
    for word in wanted or methods:
        if word.lower() in methods:
            names |= {name for name in TRAINERS if facts[name].method.lower() == word.lower()}
        elif trainer := table_name(word):
            names.add(trainer)
        else:
            raise unknown(word)
    return [name for name in TRAINERS if name in names]


def unknown(word: str) -> UserError:
    from nnunet_plugins.trainers.near_names import near_name

    meant = near_name(word)
    if meant is not None and table_name(meant):
        return UserError(f"There is no trainer {word}: did you mean {meant}?")
    return UserError(f"There is no trainer or method {word}: 'nnunet-plugins list' prints all.")


def row(name: str, facts: Facts) -> tuple[str, ...]:
    dimensions = ", ".join(f"{d}D" for d in facts.dimensions)
    return name, facts.method, dimensions, f"{facts.parameters / 1e6:.2f} M", TRAINERS[name].varies


def described(name: str, facts: Facts) -> dict[str, Any]:
    return {"trainer": name, "varies": TRAINERS[name].varies, **facts._asdict()}
