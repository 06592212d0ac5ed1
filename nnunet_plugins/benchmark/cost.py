"""Cost of trainers on a dataset's plans, without training: parameters, FLOPs, times and memory.

Measured are real trainers in nnU-Net's own ``train_step``, on random images with blob-like masks, of the plan's patch
and batch size.
"""

import contextlib
import gc
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import Any

import torch
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform
from torch import Tensor, nn
from torch._dynamo import OptimizedModule
from torch.nn import functional as F
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from tqdm import tqdm

from nnunet_plugins.benchmark.jobs.training import usable_threads
from nnunet_plugins.benchmark.runs import Run, estimate_of, planned_configuration, read_plans
from nnunet_plugins.benchmark.survey import Survey
from nnunet_plugins.errors import UserError
from nnunet_plugins.nnunet_folders import RESULTS, folders_elsewhere

WARM_UP = 2


class Contestant:
    """A trainer in its last epoch, with one batch of random data for it."""

    def __init__(self, trainer: Any, image: Tensor, mask: Tensor):
        """Initialise the trainer and make its batch.

        Args:
            trainer: an nnU-Net trainer, not initialised yet.
            image: ``(B, C, *patch)``
            mask: label map ``(B, 1, *patch)``
        """
        self.trainer = trainer
        self.device: torch.device = trainer.device
        self.patch = tuple(image.shape[2:])
        trainer.initialize()
        if hasattr(trainer, "choose_recomputation"):  # as at the start of a training
            trainer.choose_recomputation()
        trainer.current_epoch = trainer.num_epochs - 1  # a method's earlier stages may not train the whole network
        trainer.on_train_epoch_start()
        regions = torch.full((len(image), 1), -1)  # DRGO's loader adds them; -1 is no case's
        self.batch = {"data": image.to(self.device), "target": self.target(mask), "regions": regions}

    def target(self, mask: Tensor) -> Tensor | list[Tensor]:
        """Target that nnU-Net's loader would make from the masks: a list with deep supervision, a tensor without."""
        manager = self.trainer.label_manager
        if manager.has_regions:
            ignored = [(manager.ignore_label,)] if manager.has_ignore_label else []
            regions = [torch.isin(mask, torch.tensor(region)) for region in (*manager.foreground_regions, *ignored)]
            mask = torch.cat(regions, dim=1).to(mask.dtype)
        scales = self.trainer._get_deep_supervision_scales()
        if scales is None:
            return mask.to(self.device)
        targets = [DownsampleSegForDSTransform(scales)(segmentation=m)["segmentation"] for m in mask]
        return [torch.stack(target).to(self.device) for target in zip(*targets, strict=True)]

    def train(self) -> None:
        self.trainer.train_step(self.batch)

    @contextlib.contextmanager
    def inference_mode(self) -> Iterator[None]:
        """Put the network into nnU-Net's state for prediction: evaluation, without deep supervision."""
        self.trainer.network.eval()
        self.trainer.set_deep_supervision_enabled(False)
        with torch.inference_mode(), self.autocast():
            yield
        self.trainer.set_deep_supervision_enabled(self.trainer.enable_deep_supervision)
        self.trainer.network.train()

    def predict(self, num_patches: int | None = None) -> None:
        self.trainer.network(self.batch["data"][:num_patches])

    def loss_alone(self) -> Callable[[], None]:
        """Function that computes the loss and its gradient with respect to the network's outputs."""
        network_input = getattr(self.trainer, "network_input", itemgetter("data"))  # stock nnU-Net: the images
        with torch.no_grad(), self.autocast():
            outputs = self.trainer.network(network_input(self.batch).to(self.device))

        def compute() -> None:
            leaves = tree_map_only(Tensor, lambda x: x.detach().requires_grad_(), outputs)
            with self.autocast():
                loss = self.trainer.loss(leaves, self.batch["target"])
            loss.backward()

        return compute

    def autocast(self) -> contextlib.AbstractContextManager:
        return torch.autocast("cuda") if self.device.type == "cuda" else contextlib.nullcontext()

    def training_memory(self) -> int:
        """Bytes that a training step needs, with parameters, gradients and the optimiser's state.

        On CUDA this is the allocator's peak. The CPU keeps no count: there it is the memory of these tensors and of
        those that autograd saves for the backward pass.
        """
        parameters = list(self.trainer.network.parameters())
        states = [v for state in self.trainer.optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
        own = [*parameters, *(p.grad for p in parameters if p.grad is not None), *states]
        if self.device.type == "cuda":
            others = torch.cuda.memory_allocated() - storage_bytes(own)  # another trainer's
            torch.cuda.reset_peak_memory_stats()
            self.train()
            return torch.cuda.max_memory_allocated() - others
        saved: list[Tensor] = []

        def pack(x: Tensor) -> Tensor:
            saved.append(x.detach())
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            self.train()
        return storage_bytes([*own, *saved])

    def flops(self) -> int:
        """FLOPs of predicting one patch without mirroring: 2 x MACs of convolutions and matrix products."""
        with flop_counter() as counter, self.inference_mode():
            self.bare_network(self.batch["data"][:1])
        return counter.get_total_flops()

    def training_flops(self) -> int:
        """FLOPs of the forward pass of a training step, with all that only the loss needs."""
        network_input = getattr(self.trainer, "network_input", itemgetter("data"))
        with flop_counter() as counter, torch.no_grad(), self.autocast():
            self.bare_network(network_input(self.batch))
        return counter.get_total_flops()

    @property
    def bare_network(self) -> nn.Module:
        """The network without torch.compile's wrapper, in which FLOPs cannot be counted."""
        network: Any = self.trainer.network
        return network._orig_mod if isinstance(network, OptimizedModule) else network

    def parameters(self) -> int:
        """Number of parameters, each counted once, however many modules share it."""
        return sum(parameter.numel() for parameter in self.trainer.network.parameters())


def flop_counter() -> FlopCounterMode:
    """Counter of FLOPs that knows attention on the CPU too, which some versions of torch's does not."""

    def attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: object, **__: object) -> int:
        return sdpa_flop_count(query, key, value)

    on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return FlopCounterMode(display=False, custom_mapping={on_cpu: attention})


def seconds(call: Callable[[], object], device: torch.device, clock: Callable[[], float] = time.perf_counter) -> float:
    """Time that a call takes, until the device has finished it."""
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    synchronize()
    start = clock()
    call()
    synchronize()
    return clock() - start


def storage_bytes(tensors: Sequence[Tensor]) -> int:
    """Bytes of the tensors' memory, each piece counted once."""
    return sum({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}.values())


def random_batch(patch: Sequence[int], batch: int, channels: int, classes: int) -> tuple[Tensor, Tensor]:
    """Images ``(B, C, *patch)`` and masks ``(B, 1, *patch)`` of smooth blobs, all classes equally frequent."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn((batch, 1, *(max(2, size // 12) for size in patch)), generator=generator)
    blobs = F.interpolate(coarse, size=tuple(patch), mode="bilinear" if len(patch) == 2 else "trilinear")
    borders = blobs.flatten()[::97].quantile(torch.linspace(0, 1, classes + 1)[1:-1])
    noise = torch.randn((batch, channels, *patch), generator=generator)
    return blobs + 0.5 * noise, torch.bucketize(blobs, borders).to(torch.int16)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """First quartile, median, third quartile."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3
    return low, middle, high


# ---- trainers of a suite ---------------------------------------------------------------------------------------------


def suite_costs(survey: Survey, steps: int) -> list[dict[str, Any]]:
    """Costs of each dataset, configuration and trainer, measured one after the other.

    Args:
        survey: the suite and its runs.
        steps: timed training steps, and timed predictions, of each trainer.

    Raises:
        UserError: a dataset is not preprocessed, or the device is not there.
    """
    resources = survey.suite.resources
    device = torch.device(resources.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("There is no GPU here: set device = 'cpu' in the suite's [resources]")
    torch.backends.cudnn.benchmark = True  # as nnUNetv2_train sets it
    if device.type == "cpu":
        torch.set_num_threads(usable_threads(resources.cpus))
    chosen = [run for run in survey.runs if run.repeat == 1 and run.fold == survey.suite.folds[0]]
    for run in chosen:
        if not has_preprocessed_data(run):
            if run.gpu_memory_gb is not None and has_preprocessed_data(run.unfitted):
                raise UserError(f"{run.plans_file} is not there: start the suite with 'benchmark run', which makes it")
            raise UserError(
                f"{run.dataset} is not preprocessed: run nnUNetv2_plan_and_preprocess -d {run.data.id} "
                f"-c {run.configuration}"
            )
    with temporary_results():
        costs = [cost_or_none(run, device, steps) for run in tqdm(chosen, desc="Trainers")]
    return [row for row in costs if row is not None]


def cost_or_none(run: Run, device: torch.device, steps: int) -> dict[str, Any] | None:
    """Cost of a run's trainer, as if it were the only one in this process; None where memory does not suffice."""
    torch.compiler.reset()  # or graphs of earlier trainers would change those of later ones
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    try:
        return run_cost(run, device, steps)
    except torch.cuda.OutOfMemoryError:
        tqdm.write(f"{run} is left out: its step needs more memory than the GPU has")
        return None


@contextlib.contextmanager
def temporary_results() -> Iterator[None]:
    """Let trainers write into a temporary folder instead of the user's ``nnUNet_results``."""
    with tempfile.TemporaryDirectory() as folder, folders_elsewhere(folder, RESULTS):
        yield


def has_preprocessed_data(run: Run) -> bool:
    """Whether the dataset is preprocessed, by our steps or by nnU-Net's commands, so that a trainer can be made."""
    if not run.plans_file.exists() or run.configuration not in read_plans(run)["configurations"]:
        return False
    return any((run.preprocessed / planned_configuration(run)["data_identifier"]).glob("*.pkl"))


def run_cost(run: Run, device: torch.device, steps: int) -> dict[str, Any]:
    """Cost of a run's trainer."""
    with contextlib.redirect_stdout(io.StringIO()):
        contestant = contestant_of(run, device)
        for _ in range(WARM_UP):
            contestant.train()
        memory = contestant.training_memory()
        training = [seconds(contestant.train, device) for _ in range(steps)]
        with contestant.inference_mode():
            contestant.predict(1)
            latency = [seconds(lambda: contestant.predict(1), device) for _ in range(steps)]
        flops = contestant.flops()
    cuda = device.type == "cuda"
    plan = contestant.trainer.configuration_manager
    return {
        "dataset": run.dataset,
        "configuration": run.configuration,
        "trainer": run.trainer,
        "plans": run.plans,
        "patch": " x ".join(map(str, plan.patch_size)),
        "batch": plan.batch_size,
        **estimate_of(run),
        "parameters": contestant.parameters(),
        "flops": flops,
        "memory_mb": memory / 2**20,
        **milliseconds("step_ms", training),
        **milliseconds("latency_ms", latency),
        "device": torch.cuda.get_device_name() if cuda else device.type,
        "compiled": bool(contestant.trainer._do_i_compile()),
        "torch_version": torch.__version__,
        "cudnn_version": torch.backends.cudnn.version() if cuda else None,
    }


def contestant_of(run: Run, device: torch.device) -> Contestant:
    """Contestant with the run's trainer and a batch that fits its plan."""
    from nnunetv2.run.run_training import get_trainer_from_args

    trainer: Any = get_trainer_from_args(
        run.dataset, run.configuration, run.fold, run.trainer_name, run.plans, device=device
    )
    plan = trainer.configuration_manager
    channels, classes = len(trainer.dataset_json["channel_names"]), len(trainer.label_manager.all_labels)
    return Contestant(trainer, *random_batch(plan.patch_size, plan.batch_size, channels, classes))


def milliseconds(name: str, times: Sequence[float]) -> dict[str, float]:
    """Median of times in seconds, as milliseconds, with the quartiles around it."""
    low, middle, high = quartiles([1e3 * value for value in times])
    return {name: middle, f"{name}_low": low, f"{name}_high": high}
