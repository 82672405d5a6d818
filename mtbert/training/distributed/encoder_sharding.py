"""Shards the encoder's layers over N processes (FSDP2): each holds 1/N of their weights, gradients and moments.

A layer is gathered before its forward and backward, and its gradient is averaged and sharded again (Rajbhandari et al.,
2020, ZeRO stage 3; PyTorch's `fully_shard`). Every process runs every layer in every pass, whatever its tasks. Heads,
adapters and embeddings stay whole, because a process without rows of a task has no gradient for its head:
DistributedDataParallel, which averages their gradients, allows for that, and the reduction of shards does not.
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
from transformers import PreTrainedModel

from ...errors import InputError
from ...modeling.encoder_support import depends_on_padding
from .._compat import clip_with
from ..console import print_lines
from .process_group import FP16_WITH_SHARES

State = dict[str, Any]


def encoder_layers(encoder: PreTrainedModel) -> tuple[nn.ModuleList, ...]:
    """The outermost lists of layers in an encoder.

    Raises:
        ValueError: if there is none, or if the family needs one pass for each length of text.
    """
    lists: list[tuple[str, nn.ModuleList]] = []
    for name, module in encoder.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer, _ in lists)
        if isinstance(module, nn.ModuleList) and len(module) and not inside:
            lists.append((name, module))
    kind = encoder.config.model_type
    if depends_on_padding(encoder.config):  # processes with different numbers of passes would wait for each other
        raise InputError(f"training.shard_encoder: {kind} encoders make a pass for each length of text; drop it")
    if not lists:
        raise InputError(f"training.shard_encoder: {kind} encoders have no list of layers; drop it")
    return tuple(module for _, module in lists)


class ShardedLayers:
    """The sharded layers of a model's encoder: each process holds a shard of each parameter.

    Args:
        model: the model, equal on every process; it is changed in place, and `gather` restores it.
        device: the device of this process.
    """

    def __init__(self, model: Any, device: torch.device):
        self.model, self.lists = model, encoder_layers(model.encoder)
        self.mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
        self._plain = [[_without_weights(layer) for layer in layers] for layers in self.lists]
        for layer in self:
            fully_shard(layer, mesh=self.mesh)
        shards = {id(parameter) for layer in self for parameter in layer.parameters()}
        names = [name for name, parameter in model.named_parameters() if id(parameter) in shards]
        model._ddp_params_and_buffers_to_ignore = names  # DistributedDataParallel reads this attribute

    def __iter__(self) -> Iterator[Any]:
        return (layer for layers in self.lists for layer in layers)

    def describe(self) -> str:
        """One line for the terminal."""
        whole = sum(parameter.numel() for layer in self for parameter in layer.parameters())
        local = sum(parameter.to_local().numel() for layer in self for parameter in layer.parameters())
        return f"The encoder's layers are shared out: {local:,} of their {whole:,} parameters on this process"

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Within, every process holds all weights, so that processes may run different numbers of passes."""
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
        """Restore the unsharded model, with all weights on every process. Collective."""
        del self.model._ddp_params_and_buffers_to_ignore
        for layers, plain in zip(self.lists, self._plain, strict=True):
            for number, (layer, empty) in enumerate(zip(list(layers), plain, strict=True)):
                empty.load_state_dict(gathered(layer.state_dict()), assign=True)
                layers[number] = empty.train(layer.training)


def _without_weights(layer: nn.Module) -> nn.Module:
    """A copy of a layer whose parameters are on the meta device and take no memory."""
    empty = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in layer.parameters()}
    return copy.deepcopy(layer, empty)


def gathered(values: Any) -> Any:
    """Replace every shard in nested dicts and lists by the whole tensor. Collective: every process must call it."""
    if isinstance(values, DTensor):
        share: Any = values.detach()
        return share.full_tensor()
    if isinstance(values, dict):
        return {key: gathered(value) for key, value in values.items()}
    return [gathered(value) for value in values] if isinstance(values, list) else values


class SharedMoments:
    """Lets an optimizer update sharded and whole parameters; its saved state is that of an unsharded run.

    During a step each parameter group is split into sharded and whole parameters, because fused optimizers do not take
    both in one group.

    Args:
        optimizer: has no state yet.
        shares: parameter of the optimizer → its shard, or the same parameter if it is not sharded.
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
            for sharded in (True, False):
                part = [parameter for parameter in group["params"] if isinstance(parameter, DTensor) is sharded]
                if part:
                    split.append({**group, "params": part})
        self.optimizer.param_groups = split

    def _join(self, *_: Any) -> None:
        self.optimizer.param_groups = self._groups

    def whole(self) -> State:
        """Full, unsharded state dict. Collective: every process must call it."""
        return gathered(self.optimizer.state_dict())

    def own(self, state: State) -> State:
        """This process's shards of a full state dict."""
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        moments = {
            number: {key: _share(value, parameters[number]) for key, value in values.items()}
            for number, values in state["state"].items()
        }
        return {**state, "state": moments}


def _share(value: Any, parameter: nn.Parameter) -> Any:
    """This process's shard of a whole moment; values that are not sharded are returned unchanged."""
    if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)


def clip(parameters: Iterable[nn.Parameter], largest: float) -> Tensor:
    """Clip sharded and whole gradients to one global norm of at most `largest`; return the norm before clipping."""
    with_gradient = [parameter for parameter in parameters if parameter.grad is not None]
    sharded = [parameter for parameter in with_gradient if isinstance(parameter, DTensor)]
    whole = [parameter for parameter in with_gradient if not isinstance(parameter, DTensor)]
    parts = (sharded, whole)
    norms = [
        get_total_norm([parameter.grad for parameter in part if parameter.grad is not None]) for part in parts if part
    ]
    norm = torch.linalg.vector_norm(torch.stack([gathered(part_norm) for part_norm in norms]))
    for part in parts:
        clip_grads_with_norm_(part, largest, norm)
    return norm


class EncoderSharding:
    """Shards the encoder's layers over processes during training. Checkpoints are the same as without sharding.

    Without `shard_encoder`, and on one process, all methods do nothing.

    Args:
        trainer: the trainer of the model.

    Attributes:
        layers: the layers while they are sharded; else None.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self.layers: ShardedLayers | None = None
        self._moments: SharedMoments | None = None
        self._weights: dict[str, Tensor] | None = None

    def share_out(self, optimizer: torch.optim.Optimizer) -> None:
        """Shard the layers and the optimizer's parameters; called when the model has its initial weights."""
        trainer, args = self.trainer, self.trainer.args
        if not args.shard_encoder or args.world_size == 1 or self.layers is not None:
            return
        if trainer.accelerator.scaler is not None:  # a launcher can switch fp16 on, too
            raise InputError(f"training.fp16 does not go with training.shard_encoder: {FP16_WITH_SHARES}")
        names = {parameter: name for name, parameter in trainer.model.named_parameters()}
        self.layers = ShardedLayers(trainer.model, args.device)
        shards = dict(trainer.model.named_parameters())
        self._moments = SharedMoments(optimizer, {whole: shards[name] for whole, name in names.items()})
        clip_with(trainer.accelerator, clip)
        if trainer.is_world_process_zero():
            print_lines([self.layers.describe()])

    def gather(self) -> None:
        """Restore the unsharded model on every process; called after training. Collective."""
        if self.layers is not None:
            self.layers.gather()
            self.layers, self._moments = None, None
            del self.trainer.accelerator.clip_grad_norm_
            self.trainer.optimizer, self.trainer.model_wrapped = None, self.trainer.model

    def whole(self) -> AbstractContextManager[None]:
        """Within, processes may run different numbers of passes."""
        return nullcontext() if self.layers is None else self.layers.whole()

    @contextmanager
    def gathered_weights(self) -> Iterator[None]:
        """Within, `weights` holds those of the unsharded model. Collective: every process must enter."""
        self._weights = None if self.layers is None else gathered(self.trainer.model.state_dict())
        try:
            yield
        finally:
            self._weights = None

    @property
    def weights(self) -> dict[str, Tensor] | None:
        """The unsharded model's weights within `gathered_weights`; None if the model is not sharded."""
        return self._weights

    @contextmanager
    def saving_moments(self) -> Iterator[None]:
        """Within, the optimizer's `state_dict` is the unsharded one. Collective: every process must enter."""
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
        """Within, the optimizer takes this process's shards from a full state that is loaded."""
        if self._moments is None:
            yield
            return
        moments = self._moments
        hook = moments.optimizer.register_load_state_dict_pre_hook(lambda _, state: moments.own(state))
        try:
            yield
        finally:
            hook.remove()
