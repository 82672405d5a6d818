"""The multi-task model: one encoder, and one head for each task."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from huggingface_hub import CommitInfo
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .adapted_layers import prepare_layers
from .adapters import make_adapter
from .calibration_file import save_figures
from .configuration_mtbert import MtBertConfig, list_tasks
from .cpu_layers import use_faster_layers
from .deberta_attention import prepare_deberta
from .encoder_loading import WHERE, make_encoder, start_encoder
from .encoder_support import adopt, check_encoder, drop_pooler, has_pooler
from .errors import InputError, UnknownTaskError
from .forward_arguments import as_tensor, check_tokens, given_tasks, pack, refuse_unknown, task_names
from .heads import make_head
from .limits import refuse_reserved
from .mpnet_attention import prepare_mpnet
from .onnx_export import export_onnx, traced_logits
from .outputs import MtBertOutput, add_losses
from .own_tokenizer import find_tokenizer, save_tokenizer
from .packing import PackedLayout, enable_packing, is_packed
from .prediction import BATCH_TOKENS, Prediction, embed, predict
from .pretrained_model import MtBertPreTrainedModel
from .routing import encode_packed, pool_segment, task_outputs
from .task_editing import add_task, export_encoder, extract_task, remove_task
from .task_spec import AdapterSpec, TaskSpec
from .tokenization import shown

_LOADED = "_loaded_encoder"  # passes an encoder to __init__ inside the config, the only argument of subclasses


class MtBertForMultiTask(MtBertPreTrainedModel):
    """A shared encoder with one head for each task.

    A batch may mix tasks; its rows come grouped by task. Inputs are padded, `(sequences, length)`, or packed,
    `(1, tokens)` with a `PackedLayout`; the outputs are the same.

    Attributes:
        make_card: (model, repository) → its model card. mtbert sets it; code loaded from a hub has none, and keeps the
            existing card.
    """

    encoder: Any  # PreTrainedModel
    heads: nn.ModuleDict
    adapters: nn.ModuleDict
    make_card: ClassVar[Callable[..., Any] | None] = None

    def __init__(self, config: MtBertConfig):
        loaded = vars(config).pop(_LOADED, None)
        super().__init__(config)
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._source: dict[str, Any] = {}  # the checkpoint or encoder that the model was made from; see find_tokenizer
        if not config.tasks:
            raise InputError("tasks is empty; a model needs at least one task")
        self.tasks: tuple[TaskSpec, ...] = config.task_specs
        check_encoder(config.encoder)
        self.encoder = make_encoder(config.encoder) if loaded is None else loaded
        self.heads = nn.ModuleDict({task.name: make_head(task, config.hidden_size) for task in self.tasks})
        adapter = config.adapter_spec
        self.adapters = nn.ModuleDict(
            {
                task.name: make_adapter(adapter, config.encoder)
                for task in self.tasks
                if adapter is not None and task.adapter
            }
        )
        self._adopt_encoder()
        self.post_init()

    def _adopt_encoder(self) -> None:
        """Adapt the encoder: drop a pooler that no task reads, prepare adapters, and use packing if possible."""
        needs_pooler = [task.name for task in self.tasks if task.pooling == "pooler"]
        if needs_pooler and not has_pooler(self.encoder):
            raise InputError(
                f"tasks {needs_pooler}: pooling is 'pooler', but {self.encoder.config.model_type} encoders have none; "
                "use cls, mean or max"
            )
        if not needs_pooler:
            drop_pooler(self.encoder)
        adopt(self.encoder)
        prepare_mpnet(self.encoder)
        prepare_deberta(self.encoder)
        if self.config.adapter is not None:
            prepare_layers(self.encoder)
        use_faster_layers(self.encoder)
        use_faster_layers(self.adapters)
        if self.config.packed:
            enable_packing(self.encoder)
        self._accepts_types = "token_type_ids" in inspect.signature(self.encoder.forward).parameters

    @classmethod
    def from_encoder(
        cls,
        encoder: str | os.PathLike[str],
        tasks: TaskSpec | Sequence[TaskSpec | Mapping[str, Any]] | Mapping[str, Any],
        adapter: AdapterSpec | Mapping[str, Any] | None = None,
        packed: bool = True,
        attention_dropout: float | None = None,
        **kwargs: Any,
    ) -> MtBertForMultiTask:
        """Start from a pretrained encoder, with new heads.

        Args:
            encoder: a model of the hub, or a folder, that `AutoModel.from_pretrained` loads.
            tasks: the tasks, in the order of their ids; a single task; or name → the other fields.
            adapter: the adapter that each task adds to the encoder; None: no adapter.
            packed: whether to encode without padding, if the encoder's family supports it.
            attention_dropout: dropout probability of the attention weights, in [0, 1); None: that of the encoder's
                config. Training on a GPU is faster with 0.
            kwargs: passed on to `AutoModel.from_pretrained` (`revision`, `dtype`, `attn_implementation`, …).

        Raises:
            ValueError: for an encoder that is not part of transformers, or that needs remote code; for a dropout that
                the encoder does not have.
        """
        tasks = list_tasks(tasks)
        pretrained = start_encoder(encoder, attention_dropout, tasks, **kwargs)
        where = {key: kwargs[key] for key in WHERE if key in kwargs}
        attention = pretrained.config._attn_implementation
        config = MtBertConfig(encoder=pretrained.config, tasks=tasks, adapter=adapter, packed=bool(packed))
        config.encoder._attn_implementation = attention  # a new config around it resets this
        refuse_reserved(task.name for task in config.task_specs)
        setattr(config, _LOADED, pretrained)
        model: Any = cls(config)
        model._source = {"encoder": os.path.abspath(encoder) if os.path.isdir(encoder) else encoder, **where}
        return model.to(pretrained.dtype)

    def __getstate__(self) -> dict[str, Any]:
        """State of a copy or a pickle, without the hub's token."""
        return self.__dict__ | {"_source": {key: self._source[key] for key in self._source if key != "token"}}

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.encoder.set_input_embeddings(value)

    def task_id(self, name: str) -> int:
        """The id of a task; raise UnknownTaskError with the model's tasks if there is none of this name."""
        names = [task.name for task in self.tasks]
        if name not in names:
            raise UnknownTaskError(f"no task {shown(name)}; this model has: {', '.join(names)}")
        return names.index(name)

    def freeze_encoder(self, frozen: bool = True, layer_norms: bool = True) -> None:
        """Freeze the encoder's weights, so that only heads and adapters are trained.

        Args:
            frozen: False: unfreeze them.
            layer_norms: whether the encoder's layer norms are frozen, too.
        """
        self.encoder.requires_grad_(not frozen)
        for module in self.encoder.modules():
            if isinstance(module, nn.LayerNorm) and not layer_norms:
                module.requires_grad_(True)

    def add_task(self, spec: TaskSpec | Mapping[str, Any]) -> None:
        """Add a task with a new head and adapter; see `task_editing.add_task`."""
        add_task(self, spec)

    def remove_task(self, name: str) -> None:
        """Remove a task with its head and adapter; see `task_editing.remove_task`."""
        remove_task(self, name)

    def extract_task(self, name: str, to: str | None = None) -> PreTrainedModel:
        """A copy with one task only, as a model of mtbert or of plain transformers; see `task_editing.extract_task`."""
        return extract_task(self, name, to)

    def export_encoder(self) -> PreTrainedModel:
        """A copy of the encoder as a plain transformers model; see `task_editing.export_encoder`."""
        return export_encoder(self)

    @property
    def _packs(self) -> bool:
        return is_packed(self.encoder)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the model's checkpoint or encoder; raise MissingTokenizer if there is none."""
        if self._tokenizer is None:
            self._tokenizer = find_tokenizer(self)
        return self._tokenizer

    def __getattr__(self, name: str) -> Any:
        if name == "tokenizer":  # the property failed: raise its error again, which Python would replace
            return find_tokenizer(self)
        return super().__getattr__(name)

    def predict(
        self,
        inputs: Iterable[Any],
        tasks: str | Sequence[str] | None = None,
        task: str | Sequence[str] | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        batch_tokens: int = BATCH_TOKENS,
    ) -> Prediction | dict[str, Prediction]:
        """Predict texts or pairs, in their order.

        Args:
            inputs: a text, a pair `(text, text)`, `{"text": ..., "text_pair": ...}`, or a list or table of such rows;
                see `text_rows.iterate_rows`.
            tasks: a name, several names, or `"all"`: all tasks that take such rows; None: the model's only task. Tasks
                that encode a row alike share one pass of the encoder; with adapters, a pass has a copy of the rows for
                each task.
            task: alias of `tasks`.
            tokenizer: None: that of the trainer, the checkpoint or the encoder.
            batch_tokens: largest number of tokens in a batch; rows are sorted by length.

        Returns:
            A Prediction (`labels`, `scores`, `logits`, `truncated`) for one name; for several or `"all"` a dict from
            task names to Predictions.
        """
        return predict(self, inputs, given_tasks(tasks, task), tokenizer, batch_tokens)

    def embed(
        self,
        texts: str | Sequence[str],
        task: str | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        normalize: bool = False,
        batch_tokens: int = BATCH_TOKENS,
    ) -> np.ndarray:
        """Sentence embeddings in fp32: the pooled output of each text.

        Args:
            texts: one text or several, in the forms that `predict` takes.
            task: a task that encodes the texts of a pair apart, or takes one text; None: the only one that encodes them
                apart.
            tokenizer: None: that of the trainer, the checkpoint or the encoder.
            normalize: whether to scale each embedding to length 1.
            batch_tokens: largest number of tokens in a batch.

        Returns:
            `(texts, hidden)`.
        """
        return embed(self, texts, task, tokenizer, normalize, batch_tokens)

    def export_onnx(self, file: str | os.PathLike[str], tasks: str | Sequence[str] | None = None) -> list[str]:
        """Write one ONNX graph with every head, or with adapters of one task; see `onnx_export.export_onnx`."""
        return export_onnx(self, file, tasks)

    def save_pretrained(  # type: ignore[override]  # the rest is given by name
        self, save_directory: str | os.PathLike[str], is_main_process: bool = True, **kwargs: Any
    ) -> None:
        """Save weights, config, tokenizer and the figures of a calibration; see `PreTrainedModel.save_pretrained`.

        A tokenizer in the folder is replaced, unless the model was made from an encoder and its tokenizer has not been
        used in training or prediction.
        """
        super().save_pretrained(save_directory, is_main_process=is_main_process, **kwargs)
        if is_main_process:
            save_tokenizer(self, save_directory)
            save_figures(self, save_directory)

    def push_to_hub(  # type: ignore[override]  # the rest is given by name
        self, repo_id: str, **kwargs: Any
    ) -> CommitInfo:
        """Upload weights, config, tokenizer, the code that loads them without mtbert, and a model card.

        Args:
            repo_id: `user/name`; created if it does not exist.
            kwargs: `tokenizer` (None: the model's), `card` (a ModelCard; None: the README.md of the checkpoint, or a
                new one), and as in transformers: `private`, `token`, `revision`, `create_pr`, `commit_message`,
                `commit_description`, `max_shard_size`, `tags`.

        Raises:
            PushError: if the hub refuses or cannot be reached; it says why and what to do.
        """
        from .hub_upload import push  # imports transformers' pipelines, which takes long

        return push(self, repo_id, **kwargs)

    def parts(self) -> list[tuple[str, str, nn.Module]]:
        """(component, task, module) of the encoder, of each adapter, and of each head."""
        adapters = [("adapter", name, module) for name, module in self.adapters.items()]
        return [("encoder", "", self.encoder), *adapters, *(("head", *item) for item in self.heads.items())]

    def parameter_table(self) -> list[dict[str, str | int | float]]:
        """Numbers of parameters of the encoder, of each adapter and head, and of the whole model.

        Returns:
            Rows with `component`, `task`, `parameters`, `trainable` and `ratio`: parameters divided by the encoder's.
        """
        whole = sum(p.numel() for p in self.encoder.parameters())
        rows: list[dict[str, Any]] = []
        for component, task, module in [*self.parts(), ("total", "", self)]:
            count = sum(p.numel() for p in module.parameters())
            trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
            row: dict[str, str | int | float] = {
                "component": component,
                "task": task,
                "parameters": count,
                "trainable": trained,
            }
            rows.append({**row, "ratio": count / whole})
        return rows

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        task_ids: Tensor | Sequence[int] | None = None,
        labels: Tensor | Mapping[str, Tensor] | None = None,
        task: str | Sequence[str] | None = None,
        tasks: str | Sequence[str] | None = None,
        layout: PackedLayout | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> MtBertOutput | tuple[Any, ...]:
        """Encode a batch and run the heads of its tasks.

        Args:
            input_ids: `(sequences, length)`, padded, or `(1, tokens)` with a `layout`. A Siamese pair is two sequences,
                one after the other; with `pair: both` a row is three (first text, second text, both in one input).
            attention_mask: `(sequences, length)`, 1 on real tokens, 0 on padding before or behind them; there is no
                padding between real tokens. None: all tokens are real. Not with a `layout`.
            token_type_ids: like `input_ids`; ignored for encoders without token types.
            task_ids: `(rows,)`, the task of each row; rows are grouped by task. Not with a `layout`.
            labels: task name → labels, or one tensor `(rows,)` (`(rows, num_labels)` for a multi-label task). Class
                ids, 0 and 1, or scores; -100 or nan where missing (see `heads.as_labels`). Their values are checked,
                except for packed inputs on a GPU, where that would synchronise.
            task: alias of `tasks`.
            tasks: a name, several names, or `"all"`, in place of `task_ids`: run these heads on every row, after one
                pass of the encoder (with adapters, on a copy of the rows for each task).
            inputs_embeds: `(sequences, length, hidden)` or `(1, tokens, hidden)` in place of `input_ids`.
            output_hidden_states: whether to return `hidden_states`; None: the config's value.
            output_attentions: whether to return `attentions`, which need the attention implementation `eager`
                (`set_attn_implementation`); None: the config's value.
            return_dict: False: return a tuple of the values that are not None, in the order of MtBertOutput; None: the
                config's value.
            num_items_in_batch: divisor of the summed loss, as counted by transformers' Trainer: the label values of all
                micro-batches of a step. None: the labelled rows of this batch.
            kwargs: none; any other argument raises TypeError.

        Raises:
            TypeError: for an argument that is not listed here.
            ValueError: for inputs, masks, tasks and labels that do not fit each other or the model.
        """
        if kwargs:
            refuse_unknown(kwargs, MtBertForMultiTask.forward)
        if layout is not None and not (attention_mask is task_ids is None):
            raise InputError("a layout says where sequences and tasks lie; drop attention_mask and task_ids")
        mask, tasks = None, given_tasks(tasks, task)
        if tasks is not None and task_ids is not None:
            raise InputError("give either tasks or task_ids")
        names = None if tasks is None else task_names(tasks, self.tasks)
        if names is None and len(self.tasks) == 1:
            names = [self.tasks[0].name]
        flags: dict[str, Any] = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        flags = {key: getattr(self.config, key) if value is None else value for key, value in flags.items()}
        flags = {key: value for key, value in flags.items() if value}
        if layout is None and (torch.compiler.is_exporting() or torch.jit.is_tracing()):
            inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
            others = {"inputs_embeds": inputs_embeds, "labels": labels, "task_ids": task_ids, **flags}
            output = MtBertOutput(task_logits=traced_logits(self, inputs, names or [], **others))
        else:
            values = {"input_ids": input_ids, "token_type_ids": token_type_ids, "inputs_embeds": inputs_embeds}
            values = [as_tensor(name, value, self.device) for name, value in values.items()]
            check_tokens(values[0], values[1], values[2], layout)
            if layout is None:
                first = self.task_id(names[0]) if names else None
                values, layout, mask = pack(self.tasks, values, attention_mask, task_ids, first)
                shared = names if names and len(names) > 1 else None  # for one task, the layout is enough
            else:
                shared = None if tasks is None else names
            output = task_outputs(self, values, layout, mask, shared, flags)
        logits = output.task_logits or {}
        if len(logits) == 1:
            output.logits = next(iter(logits.values()))
        if labels is not None:
            if tasks is not None and len(logits) > 1 and not isinstance(labels, Mapping):
                raise InputError("labels: with several tasks on every row, give them by task name")
            specs = {name: self.tasks[self.task_id(name)] for name in logits}
            add_losses(output, specs, labels, num_items_in_batch, look=mask is not None)
        as_dict = self.config.return_dict if return_dict is None else return_dict
        return output if as_dict else output.to_tuple()

    def pool(self, task: str, input_ids: Tensor, layout: PackedLayout, token_type_ids: Tensor | None = None) -> Tensor:
        """Pooled outputs `(sequences, hidden)` of packed sequences, all of one task: the inputs of its head."""
        hidden: Any = encode_packed(self, input_ids, token_type_ids, None, layout).last_hidden_state
        return pool_segment(self, self.tasks[self.task_id(task)], hidden, layout, layout.segments[0])


__all__ = ["MtBertForMultiTask", "MtBertOutput", "MtBertPreTrainedModel"]
