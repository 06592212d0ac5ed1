"""Work of a process in the two-process DDP test; importable by spawned processes.

nnU-Net's DDP needs CUDA and NCCL. Here its real trainer code runs on two CPU processes: DDP without ``device_ids``, the
device put back to the CPU, and batch normalisation left unsynchronised (SyncBatchNorm exists for GPUs only; DDP still
broadcasts the buffers).
"""

import json
import os
import traceback
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as trainer_module
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nnunet_plugins.architectures.layers.recomputation import is_recomputing
from nnunet_plugins.losses.common import Target, soft_dice_loss
from nnunet_plugins.losses.condseg import penalty
from nnunet_plugins.losses.drgo_regions import RegionStatistics
from nnunet_plugins.trainers import find_trainer
from nnunet_plugins.trainers.drgo import DRGO, Observation, gathered
from support import cell_datasets
from support.narrow import narrow_networks


class CpuDDP(DistributedDataParallel):
    def __init__(self, module: nn.Module, device_ids: list[int]):
        super().__init__(module)


class OnCpu:
    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cpu")):  # noqa: B008 (nnU-Net's signature)
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.device = torch.device("cpu")
        self.grad_scaler = None

    def train_step(self, batch: dict) -> dict:
        """Train the second process on background alone."""
        if dist.get_rank() == 1:
            targets = batch["target"] if isinstance(batch["target"], list) else [batch["target"]]
            for target in targets:
                target.zero_()
        return super().train_step(batch)


def train(rank: int, environment: dict[str, str], port: int, jobs: list[tuple[str, int, bool]], folder: Path) -> None:
    """Train every trainer with a global batch size, recomputing or not, and write a JSON file for each."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    os.environ["nnUNet_n_proc_DA"] = "0"  # load in this process
    trainer_module.DDP = CpuDDP
    narrow_networks()
    nn.SyncBatchNorm.convert_sync_batchnorm = staticmethod(lambda network: network)
    timeout = timedelta(seconds=120)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2, timeout=timeout)
    (folder / f"dice-rank{rank}.json").write_text(json.dumps(batch_dice_over_processes(rank)))
    (folder / f"regions-rank{rank}.json").write_text(json.dumps(regions_over_processes(rank)))
    for name, batch_size, recompute in jobs:
        os.environ["NNUNET_PLUGINS_RECOMPUTE"] = str(int(recompute))
        try:
            outcome = train_one(name, batch_size)
        except Exception:
            outcome = {"error": traceback.format_exc()}
        (folder / f"{name}-{batch_size}-{recompute}-rank{rank}.json").write_text(json.dumps(outcome))
        if "error" in outcome:
            break  # the other rank waits for a partner that is gone
    dist.destroy_process_group()


def batch_dice_over_processes(rank: int) -> dict:
    """Dice and ConDSeg's beta of 2 + 1 samples on two processes, and those of all three on one."""
    torch.manual_seed(0)
    p, y = torch.rand(2, 3, 2, 4, 4).unbind()
    mine = slice(0, 2) if rank == 0 else slice(2, 3)
    local = p[mine].clone().requires_grad_()
    distributed = soft_dice_loss(local, Target(y[mine], None))
    distributed.backward()
    whole = p.clone().requires_grad_()
    sums = [(whole * y).sum((0, 2, 3)), whole.sum((0, 2, 3)), y.sum((0, 2, 3))]
    expected = (1 - (2 * sums[0] + 1e-5) / (sums[1] + sums[2] + 1e-5)).mean()
    expected.backward()
    after_averaging = local.grad / dist.get_world_size()
    beta = penalty(p[mine], None, over_processes=True)
    return {
        "beta": torch.allclose(beta, penalty(p, None)),
        "loss": torch.allclose(distributed, expected),
        "gradient": torch.allclose(after_averaging, whole.grad[mine]),
    }


def regions_over_processes(rank: int) -> list[list[float]]:
    """Gather the regions that both processes have seen: 0 and 1, or 1 and, not annotated, 2."""
    values = torch.tensor([1.0, 2.0]).view(2, 1, 1) + 10 * rank
    annotated = torch.tensor([1.0, 1.0 - rank]).view(2, 1, 1)
    observation = Observation(torch.tensor([[rank], [rank + 1]]), RegionStatistics(values, values / 10, annotated))
    return [x.tolist() for x in gathered([observation])]


def train_one(name: str, batch_size: int) -> dict:
    base = find_trainer(f"{name}_2epochs_1iterations")
    trainer_class = type(base.__name__, (OnCpu, base), {})
    plans = cell_datasets.load_plans(cell_datasets.LABELS) | {"continue_training": False}
    plans["configurations"]["2d"]["batch_size"] = batch_size
    trainer = trainer_class(plans, "2d", 0, cell_datasets.load_dataset_json(cell_datasets.LABELS))
    trainer.disable_checkpointing = True
    trainer.run_training()
    assert isinstance(trainer.network, CpuDDP)
    mine = nn.utils.parameters_to_vector(trainer.network.parameters()).detach()
    both = [torch.empty_like(mine) for _ in range(2)]
    dist.all_gather(both, mine)
    if isinstance(trainer, DRGO):
        assert (trainer.importance is not None) == (dist.get_rank() == 0)
    return {
        "local_batch": trainer.batch_size,
        "equal": torch.equal(*both),
        "finite": bool(mine.isfinite().all()),
        "recomputes": is_recomputing(trainer.network),
    }
