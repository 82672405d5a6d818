"""The base class of mtbert's models: loading, saving and initialisation."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel, initialization as init

from .adapters import Decoder, TopNorm
from .checkpoint_loading import load_checked
from .configuration_mtbert import MtBertConfig
from .precision import unsaved_buffers


class MtBertPreTrainedModel(PreTrainedModel):
    """Base class of mtbert's models: loading, saving and initialisation."""

    config: MtBertConfig
    config_class = MtBertConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _keys_to_ignore_on_load_unexpected: Any = (
        r"^encoder\.pooler\.",
    )  # tasks that were removed before saving may have read it
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *args: Any, **kwargs: Any
    ) -> Any:
        """Load a saved model; as in transformers, but no weight may be missing or have another shape (`load_checked`).

        Raises:
            ValueError: for an incomplete checkpoint, and for pickles.
        """
        return load_checked(cls, super().from_pretrained, pretrained_model_name_or_path, *args, **kwargs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """As in torch (for `to`, `half`, …), but buffers computed from the config keep their precision."""
        buffers = list(unsaved_buffers(self))
        super()._apply(fn, recurse)
        for module, name, buffer in buffers:
            cast: Any = module._buffers[name]
            if cast.dtype.itemsize < buffer.dtype.itemsize:
                module._buffers[name] = buffer.to(cast.device)
        return self

    def _init_weights(self, module: nn.Module) -> None:
        std = getattr(self.config.encoder, "initializer_range", 0.02)
        if isinstance(module, Decoder) and (spec := self.config.adapter_spec) and spec.init == "zero":
            init.zeros_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, TopNorm):
            init.normal_(module.weight, 0.0, std)
            init.normal_(module.bias, 0.0, std)
        elif isinstance(module, (nn.Linear, nn.MultiheadAttention)):
            weights = [module.weight] if isinstance(module, nn.Linear) else [module.in_proj_weight]
            biases = [module.bias] if isinstance(module, nn.Linear) else [module.in_proj_bias]
            for weight in weights:
                init.normal_(weight, 0.0, std)
            for bias in biases:
                if bias is not None:
                    init.zeros_(bias)
