"""How much memory the training step of a run takes: the run's own model, method, loss and optimizer on tensors without content.

Nothing is downloaded and no GPU is needed. One optimizer step runs in PyTorch's FakeTensorMode while the bytes of all live
storages are counted. A model whose layers are all alike is built with one and with two of them: the peak of each phase is
linear in their number, since what a layer keeps for the backward pass is kept until the last layer has run.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from accelerate.utils import convert_outputs_to_fp32  # type: ignore[import-untyped]
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, TrainerControl, TrainerState

import methods
from beamlora import fused
from harness.errors import within
from harness.models.architecture import Architecture
from harness.schema.run import RunSpec
from harness.train import attention
from harness.train.optimizer import train_in_float32
from harness.train.steps import context
from harness.train.trainer import MethodTrainer
from methods.base import Method

if TYPE_CHECKING:
    from transformers import PretrainedConfig

#: Layers of the two models whose peaks give that of one of any depth.
_SHALLOW, _DEEP = 1, 2
#: Length of the run that is rehearsed: long enough for every method's schedule, on which memory does not depend.
_STEPS = 30_000


def without_memory(
    run: RunSpec, method: Method[Any], config: PretrainedConfig, *, total_steps: int, steps_per_epoch: int
) -> tuple[dict[int, int], torch.nn.Module]:
    """The model that a method prepared, on the meta device, and the sizes of the base model's parameters by their identity.

    Raises:
        ConfigError: the method's settings do not fit the model or the length of the run.
    """
    attention.register()
    known = context(run, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
    # flash attention keeps what packed_sdpa keeps, and wants a GPU to be built
    options = {"dtype": getattr(torch, run.training.dtype), "attn_implementation": attention.NAME}
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of libraries among themselves
        model = AutoModelForCausalLM.from_config(config, **options)
        base = {id(parameter): parameter.numel() for parameter in model.parameters()}
        with within("methods", run.method.key, "settings"):
            return base, method.wrap(model, known)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of every storage that an operation makes, from then until it is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._live: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for value in tree_leaves(made):
            if isinstance(value, torch.Tensor):
                self.add(value)
        return made

    def add(self, tensor: torch.Tensor) -> None:
        """Count the storage of a tensor, if it is not counted yet."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._live:
            self._live[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self.now -= self._live.pop(key)


class _Rehearsal(MethodTrainer):
    """The loop's loss and optimizer, without what ``transformers.Trainer`` does with real devices and data."""

    def __init__(self, run: RunSpec, method: Method[Any], model: torch.nn.Module) -> None:
        self.method, self.spec, self.model = method, run.training, model
        self.head = model.get_output_embeddings() if run.training.fused else None  # type: ignore[operator]
        self.optimizer = None
        self.args, self.is_fsdp_enabled = SimpleNamespace(world_size=1), False
        self.tokens = {"input": 0, "label": 0, "padding": 0}
        self.labels_in_all_parts = None

    def is_world_process_zero(self) -> bool:
        return True


def peak_bytes(run: RunSpec, base: Architecture, *, lengths: Sequence[int], gpu: bool) -> int | None:
    """The largest number of bytes that live tensors take in training on packed batches, on one device. None: the method or the
    model asks for the values of tensors, which have none here.

    Not counted are what lies outside of PyTorch's tensors (the CUDA context, the work space of its libraries, gaps between
    tensors) and the initialisation of a method.

    Args:
        base: the sizes of the base model.
        lengths: tokens of the examples in the largest micro-batch; all of them count as labelled.
        gpu: compute as on a GPU: dropout keeps one byte an element, and the optimizer updates all tensors at a time. Else as
            on the CPU.
    """
    depths = (_SHALLOW, _DEEP) if base.is_uniform and base.layers > _DEEP else (base.layers,)
    try:
        peaks = [_rehearse(run, base.of_depth(depth), lengths, gpu=gpu) for depth in depths]
    except (DataDependentOutputException, DynamicOutputShapeException):
        return None
    if len(peaks) == 1:
        return max(peaks[0])
    further = (base.layers - _SHALLOW) / (_DEEP - _SHALLOW)
    return max(round(shallow + further * (deep - shallow)) for shallow, deep in zip(*peaks, strict=True))


def _rehearse(run: RunSpec, base: Architecture, lengths: Sequence[int], *, gpu: bool) -> list[int]:
    """The peak of each phase of a step (``_phases``)."""
    training = run.training
    method = methods.of(run.method)
    meta: Any = without_memory(run, method, base.config(), total_steps=_STEPS, steps_per_epoch=_STEPS // 3)[1]
    with warnings.catch_warnings(), FakeTensorMode(allow_non_fake_inputs=True), LiveBytes() as live:
        warnings.simplefilter("ignore")  # of libraries among themselves
        model = meta.to_empty(device="cpu")
        model.tie_weights()
        for name, value in vars(method).items():  # what it keeps beside the model
            if isinstance(value, torch.Tensor):
                setattr(method, name, torch.empty_like(value, device="cpu"))
        if training.bf16_update == "float32":
            train_in_float32(model)
        for tensor in (*model.parameters(), *model.buffers()):
            live.add(tensor)
        if training.fused:
            fused.install(model)
        if training.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=training.dtype == "bfloat16")
        if training.dtype == "bfloat16":  # as accelerate prepares a model
            model.forward = convert_outputs_to_fp32(autocast(model.forward))
        trainer = _Rehearsal(run, method, model.train())
        with patch.object(fused, "_is_frozen", _is_frozen), _as_on_gpu() if gpu else nullcontext():
            return list(_phases(trainer, live, lengths, gpu=gpu))


def _phases(trainer: _Rehearsal, live: LiveBytes, lengths: Sequence[int], *, gpu: bool) -> Iterator[int]:
    """The peak of each phase. The optimizer's step stands first, on gradients of zero, so that its moments are there; the
    second micro-batch finds the gradients of the first, which alone has the regulariser."""
    model, tokens = trainer.model, sum(lengths)
    optimizer = trainer.create_optimizer()
    for group in optimizer.param_groups:
        group["foreach"] = gpu  # AdamW's own choice, which it makes by the device of real tensors
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    callbacks = trainer.method.callbacks()
    args, state, control = SimpleNamespace(), TrainerState(), TrainerControl()
    live.peak = live.now
    torch.nn.utils.clip_grad_norm_(model.parameters(), trainer.spec.max_grad_norm, foreach=gpu)
    for callback in callbacks:
        callback.on_pre_optimizer_step(args, state, control, model=model, optimizer=optimizer)
    optimizer.step()
    for callback in callbacks:
        callback.on_optimizer_step(args, state, control, model=model, optimizer=optimizer)
    yield live.peak
    optimizer.zero_grad()
    ids = torch.zeros(1, tokens, dtype=torch.long)
    batch = {"input_ids": ids, "position_ids": ids, "labels": ids[0], "logits_to_keep": ids[0]}
    trainer.micro_batches, trainer.penalised = 2, False
    several = trainer.spec.gradient_accumulation_steps > 1 or len(lengths) < trainer.spec.per_device_train_batch_size
    for _ in range(2 if several else 1):
        live.peak = live.now
        loss = trainer.compute_loss(model, batch | {"segment_lengths": list(lengths)}, num_items_in_batch=2 * tokens)
        yield live.peak
        live.peak = live.now
        loss.backward()
        yield live.peak
        del loss


def _is_frozen(base: torch.nn.Module) -> bool:
    """For ``fused``, which asks for plain parameters and takes those without content for quantised ones."""
    return not any(parameter.requires_grad for parameter in base.parameters())


@contextmanager
def _as_on_gpu() -> Iterator[None]:
    """Dropout as CUDA has it: a mask of one byte an element."""

    def drop(rows: torch.Tensor, p: float) -> tuple[torch.Tensor, torch.Tensor | None]:
        return torch.native_dropout(rows, p, True) if p else (rows, None)

    def dropout(rows: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
        return torch.native_dropout(rows, p, training)[0] if training and p else rows

    with patch.object(fused, "_drop", drop), patch.object(torch.nn.functional, "dropout", dropout):
        yield
