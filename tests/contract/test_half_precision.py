"""Proves for the five methods, on weights trained for a while: half precision computes what float32 does.

nnU-Net's own steps run in CUDA's mixed precision on a CPU (``support.half_precision``), with the scale with which its
gradient scaler begins. Losses differ by no more than the rounding of a single number, gradients point in the same
direction, and no contrast of the images makes anything infinite.
"""

import contextlib
import copy
import io
import math
import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from support.cell_datasets import LABELS, make_trainer
from support.half_precision import INITIAL_SCALE, FixedScaler, mixed_precision
from torch import Tensor, nn
from torch.nn import functional as F

from nnunet_plugins.architectures import ConDSeg, DCSNet
from nnunet_plugins.architectures.layers import detector
from nnunet_plugins.selftest.command import MAIN_TRAINERS

FAST = "DLKUNetTrainer"
STEPS = 12
"""Training steps of each of the two epochs, which are ConDSeg's two stages."""

ROUNDING = {torch.float16: 2**-11, torch.bfloat16: 2**-8}
"""Relative error of rounding a number, and bound of a loss's difference from float32's."""
COSINE = {torch.float16: 0.98, torch.bfloat16: 0.95}
"""Bound of the cosine between all gradients and float32's."""

STAGES = [
    pytest.param((name, epoch), id=f"{name}-epoch{epoch}", marks=[] if name == FAST else [pytest.mark.slow])
    for name in MAIN_TRAINERS[1:]
    for epoch in ([0, 1] if name == "ConDSegTrainer" else [1])
]
"""The methods and the epochs whose stage of the training is tested."""

pytestmark = pytest.mark.usefixtures("results")


class Trained(NamedTuple):
    """A trainer after some steps in float32, and batches of its loader."""

    trainer: Any
    batches: list[dict[str, Any]]


@pytest.fixture(scope="module")
def trained_in_float32(planned) -> Callable[[str], Trained]:
    """``trained_in_float32(name)``, made once."""
    finished: dict[str, Trained] = {}

    def train(name: str) -> Trained:
        if name not in finished:
            with pytest.MonkeyPatch.context() as monkeypatch:
                monkeypatch.setenv("nnUNet_results", str(planned / "nnUNet_results"))  # outlives the test
                finished[name] = train_for_a_while(name)
        return finished[name]

    return train


def train_for_a_while(name: str) -> Trained:
    seed_all()
    trainer = make_trainer(f"{name}_2epochs", LABELS)
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.initialize()
        loader, _ = trainer.get_dataloaders()
    batches = [next(loader) for _ in range(2)]
    for trainer.current_epoch in range(2):
        trainer.on_train_epoch_start()
        losses = [float(trainer.train_step(batches[step % 2])["loss"]) for step in range(STEPS)]
        assert np.mean(losses[-4:]) < np.mean(losses[:4]), "it learns"
    return Trained(trainer, batches)


@pytest.fixture(params=STAGES)
def stage(request, trained_in_float32) -> Trained:
    """A trained method in a stage of its training."""
    name, epoch = request.param
    trained = trained_in_float32(name)
    trained.trainer.current_epoch = epoch
    if isinstance(trained.trainer.bare_network, ConDSeg):
        trained.trainer.bare_network.stage = trained.trainer.stage
    return trained


def seed_all() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (nnU-Net's loaders use the global generator)
    torch.manual_seed(0)


@contextlib.contextmanager
def same_weights_afterwards(trainer: Any) -> Iterator[None]:
    """Undo what happens to the network, its running statistics above all."""
    before = copy.deepcopy(trainer.network.state_dict())
    yield
    trainer.network.load_state_dict(before)


def step(
    trainer: Any, batch: dict[str, Any], dtype: torch.dtype, scale: float = INITIAL_SCALE
) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of nnU-Net's training step, which leaves the parameters as they are."""
    trainer.grad_scaler = scaler = FixedScaler(trainer.network, scale)
    seed_all()
    trainer.network.train()
    with mixed_precision(dtype):
        loss = trainer.train_step(batch)["loss"]
    return float(loss), scaler.gradients


@contextlib.contextmanager
def same_choices(trainer: Any) -> Iterator[None]:
    """Make DCSNet choose the boxes of its first step again: a rounded score may choose others, of another loss."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        if isinstance(trainer.bare_network, DCSNet):
            monkeypatch.setattr(trainer.bare_network, "boxes_to_train_on", once(trainer.bare_network.boxes_to_train_on))
            monkeypatch.setattr(detector, "select", once(detector.select))
        yield


def once(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which returns its first result again and again; the same random numbers follow each time."""
    results: list[Any] = []

    def first_result(*arguments: Any) -> Any:
        if not results:
            results.append(function(*arguments))
        seed_all()
        return results[0]

    return first_result


def not_finite(gradients: dict[str, Tensor]) -> set[str]:
    return {name for name, gradient in gradients.items() if not gradient.isfinite().all()}


def flat(gradients: dict[str, Tensor]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients.values()])


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_losses_and_gradients_are_those_of_float32(stage, dtype):
    """At the scaler's first scale, with which nothing is infinite."""
    trainer, batch = stage.trainer, stage.batches[0]
    with same_weights_afterwards(trainer), same_choices(trainer):
        exact_loss, exact = step(trainer, batch, torch.float32)
        loss, gradients = step(trainer, batch, dtype)
    cosine = F.cosine_similarity(flat(gradients), flat(exact), dim=0)
    assert loss == pytest.approx(exact_loss, rel=ROUNDING[dtype])
    assert gradients.keys() == exact.keys() and not not_finite(gradients)
    assert cosine > COSINE[dtype]


@pytest.mark.parametrize("contrast", [4, 16])
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_other_contrasts_leave_losses_and_running_statistics_finite(stage, dtype, contrast):
    trainer = stage.trainer
    with same_weights_afterwards(trainer):
        batch = stage.batches[0] | {"data": contrast * stage.batches[0]["data"]}
        trainer.network.eval()
        with mixed_precision(dtype), torch.no_grad():
            validation = float(trainer.validation_step(copy.copy(batch))["loss"])
        loss, _ = step(trainer, batch, dtype)
        assert math.isfinite(loss) and math.isfinite(validation)
        statistics = {name: buffer for name, buffer in trainer.network.named_buffers() if "running" in name}
        assert all(buffer.isfinite().all() for buffer in statistics.values())


def test_mixed_precision_has_the_dtypes_and_the_range_of_a_gpu():
    x = torch.ones(1, 1, 4, 4)
    with mixed_precision(torch.float16):
        half = F.conv2d(x, torch.full((1, 1, 1, 1), 300.0))
        assert half.dtype == (half * half).dtype == torch.float16
        assert (half * half).isinf().all()
        for computed in (half.softmax(1), half.sum(), F.interpolate(half, scale_factor=2.0), half.pow(2)):
            assert computed.dtype == torch.float32 and computed.isfinite().all()


def test_the_scaler_shows_gradients_that_overflow():
    network = nn.Linear(1, 1)
    for scale, finite in ((INITIAL_SCALE, False), (INITIAL_SCALE / 4, True)):
        network.zero_grad()
        scaler = FixedScaler(network, scale)
        with mixed_precision(torch.float16):
            loss = 2 * network(torch.ones(1, 1)).sum()
            scaler.scale(loss).backward()
        scaler.unscale_(None)
        assert bool(scaler.gradients["weight"].isfinite().all()) is finite
