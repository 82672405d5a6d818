"""The encoder's layers shared out among processes (FSDP2): of each, a process holds 1/N of weights, gradients, moments.

A layer is gathered when a pass comes to it, and its gradient is averaged and shared out again (Rajbhandari et al.,
2020, ZeRO stage 3; PyTorch's `fully_shard`). Every process takes every layer at every pass, whatever its tasks. Heads,
adapters and embeddings stay whole, and DistributedDataParallel averages their gradients: a process that lacks a task
has none of its head, which it allows for and a reduction of shards does not.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from transformers import Trainer

from ...errors import InputError
from ...modeling.encoder_support import depends_on_padding
from .._compat import clip_with
from ..console import print_lines
from .process_group import FP16_WITH_SHARES

State = dict[str, Any]


def encoder_layers(encoder: nn.Module) -> tuple[nn.ModuleList, ...]:
    """The lists of an encoder's layers, outermost ones only.

    Raises:
        ValueError: if it has none.
    """
    found: list[tuple[str, nn.ModuleList]] = []
    for name, module in encoder.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer, _ in found)
        if isinstance(module, nn.ModuleList) and len(module) and not inside:
            found.append((name, module))
    kind = encoder.config.model_type
    if depends_on_padding(encoder.config):  # processes would make different numbers of passes, and wait for each other
        raise InputError(f"training.shard_encoder: {kind} encoders make a pass for each length of text; drop it")
    if not found:
        raise InputError(f"training.shard_encoder: {kind} encoders have no list of layers; drop it")
    return tuple(module for _, module in found)


class ShardedLayers:
    """The layers of a model's encoder, each process holding its share of each parameter.

    Args:
        model: as every process has it, alike; it is changed, and `gather` changes it back.
        device: of the processes.
    """

    def __init__(self, model: nn.Module, device: torch.device):
        self.model, self.lists = model, encoder_layers(model.encoder)
        self.mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
        self._plain = [[_without_weights(layer) for layer in layers] for layers in self.lists]
        for layer in self:
            fully_shard(layer, mesh=self.mesh)
        shares = {id(parameter) for layer in self for parameter in layer.parameters()}
        names = [name for name, parameter in model.named_parameters() if id(parameter) in shares]
        model._ddp_params_and_buffers_to_ignore = names  # what DistributedDataParallel reads

    def __iter__(self) -> Iterator[nn.Module]:
        return (layer for layers in self.lists for layer in layers)

    def describe(self) -> str:
        """One line for the terminal."""
        whole = sum(parameter.numel() for layer in self for parameter in layer.parameters())
        own = sum(parameter.to_local().numel() for layer in self for parameter in layer.parameters())
        return f"The encoder's layers are shared out: {own:,} of their {whole:,} parameters on this process"

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Within, every process has all weights, so that each may make passes that others do not."""
        for layer in self:
            layer.set_reshard_after_forward(False)
            layer.unshard()
        try:
            yield
        finally:
            for layer in self:
                layer.set_reshard_after_forward(True)
                layer.reshard()

    def gather(self) -> None:
        """Make the model an ordinary one again, with all its weights on every process."""
        del self.model._ddp_params_and_buffers_to_ignore
        for layers, plain in zip(self.lists, self._plain, strict=True):
            for number, (layer, empty) in enumerate(zip(list(layers), plain, strict=True)):
                empty.load_state_dict(gathered(layer.state_dict()), assign=True)
                layers[number] = empty.train(layer.training)


def _without_weights(layer: nn.Module) -> nn.Module:
    """A copy whose parameters take no memory."""
    empty = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in layer.parameters()}
    return copy.deepcopy(layer, empty)


def gathered(values: Any) -> Any:
    """The same with every share replaced by the whole tensor; all processes have to ask for it."""
    if isinstance(values, DTensor):
        return values.detach().full_tensor()
    if isinstance(values, dict):
        return {key: gathered(value) for key, value in values.items()}
    return [gathered(value) for value in values] if isinstance(values, list) else values


class SharedMoments:
    """An optimizer of shares and of whole parameters, whose saved state is that of a run without shares.

    In a step, and only there, each of its groups is split in two, since fused optimizers take no mixed ones.

    Args:
        optimizer: without a state so far.
        shares: a parameter of its → what that is now, a share or the same.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, shares: Mapping[nn.Parameter, nn.Parameter]):
        self.optimizer = optimizer
        for group in optimizer.param_groups:
            group["params"] = [shares.get(parameter, parameter) for parameter in group["params"]]
        self._groups = optimizer.param_groups
        optimizer.register_step_pre_hook(self._split)
        optimizer.register_step_post_hook(self._join)

    def _split(self, *_: Any) -> None:
        self._groups, split = self.optimizer.param_groups, []
        for group in self._groups:
            for shared in (True, False):
                if part := [each for each in group["params"] if isinstance(each, DTensor) is shared]:
                    split.append({**group, "params": part})
        self.optimizer.param_groups = split

    def _join(self, *_: Any) -> None:
        self.optimizer.param_groups = self._groups

    def whole(self) -> State:
        """What a run without shares would save; all processes have to ask for it."""
        return gathered(self.optimizer.state_dict())

    def own(self, state: State) -> State:
        """This process's shares of such a state."""
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        moments = {
            number: {key: _share(value, parameters[number]) for key, value in values.items()}
            for number, values in state["state"].items()
        }
        return {**state, "state": moments}


def _share(value: Any, parameter: nn.Parameter) -> Any:
    """The part of a whole moment that belongs to a process's share of a parameter."""
    if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)


def clip(parameters: Iterable[nn.Parameter], largest: float) -> Tensor:
    """Scale gradients, some of them shares, so that their norm is at most `largest`; returns the norm before that."""
    having = [each for each in parameters if each.grad is not None]
    parts = [[each for each in having if isinstance(each, DTensor) is shared] for shared in (True, False)]
    norms = [get_total_norm([each.grad for each in part]) for part in parts if part]
    norm = torch.linalg.vector_norm(torch.stack([gathered(each) for each in norms]))
    for part in parts:
        clip_grads_with_norm_(part, largest, norm)
    return norm


class EncoderSharding:
    """Shares the encoder's layers out while a trainer trains, with the checkpoints of a trainer that does not.

    Without `shard_encoder`, and on one process, each method does nothing.

    Args:
        trainer: whose model is shared out.

    Attributes:
        layers: the layers while they are shared out; else None.
    """

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        self.layers: ShardedLayers | None = None
        self._moments: SharedMoments | None = None
        self._weights: dict[str, Tensor] | None = None

    def share_out(self, optimizer: torch.optim.Optimizer) -> None:
        """Share out the layers, which have the weights to begin with by now, and the optimizer's parameters."""
        trainer, args = self.trainer, self.trainer.args
        if not args.shard_encoder or args.world_size == 1 or self.layers is not None:
            return
        if trainer.accelerator.scaler is not None:  # which a launcher can switch on, too
            raise InputError(f"training.fp16 does not go with training.shard_encoder: {FP16_WITH_SHARES}")
        names = {parameter: name for name, parameter in trainer.model.named_parameters()}
        self.layers = ShardedLayers(trainer.model, args.device)
        shares = dict(trainer.model.named_parameters())
        self._moments = SharedMoments(optimizer, {whole: shares[name] for whole, name in names.items()})
        clip_with(trainer.accelerator, clip)
        if trainer.is_world_process_zero():
            print_lines([self.layers.describe()])

    def gather(self) -> None:
        """Have the whole model on every process again; after training."""
        if self.layers is not None:
            self.layers.gather()
            self.layers, self._moments = None, None
            del self.trainer.accelerator.clip_grad_norm_
            self.trainer.optimizer, self.trainer.model_wrapped = None, self.trainer.model

    def whole(self) -> AbstractContextManager[None]:
        """Within, a process may make passes that others do not."""
        return nullcontext() if self.layers is None else self.layers.whole()

    @contextmanager
    def gathered_weights(self) -> Iterator[None]:
        """Within, `weights` are those of the whole model; all processes have to enter."""
        self._weights = None if self.layers is None else gathered(self.trainer.model.state_dict())
        try:
            yield
        finally:
            self._weights = None

    @property
    def weights(self) -> dict[str, Tensor] | None:
        """The whole model's weights within `gathered_weights`; None where the model has them itself."""
        return self._weights

    @contextmanager
    def saving_moments(self) -> Iterator[None]:
        """Within, the optimizer's state is that of a run without shares; all processes have to enter."""
        if self._moments is None:
            yield
            return
        state = self._moments.whole()
        hook = self._moments.optimizer.register_state_dict_post_hook(lambda *_: state)
        try:
            yield
        finally:
            hook.remove()

    @contextmanager
    def loading_moments(self) -> Iterator[None]:
        """Within, the optimizer takes its shares of a state that is loaded."""
        if self._moments is None:
            yield
            return
        moments = self._moments
        hook = moments.optimizer.register_load_state_dict_pre_hook(lambda _, state: moments.own(state))
        try:
            yield
        finally:
            hook.remove()
