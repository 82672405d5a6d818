"""Load a checkpoint: check its files first, and raise one clear error, with the file and a remedy, if one is wrong."""

from __future__ import annotations

import copy
import json
import os
import warnings
from collections.abc import Callable, Iterable
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedModel

from .encoder_loading import WHERE
from .errors import InputError
from .limits import beyond

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
INDEX = "model.safetensors.index.json"
LARGE = 1_000_000  # a size above those of all published encoders; the largest vocabularies have 260,000 tokens
ADAPTER = "adapter_config.json"  # peft's checkpoints hold the added weights only; peft loads them
SHOWN = 5
PROBLEMS = {"missing_keys": "missing", "unexpected_keys": "not the model's"}
AGAIN = "save the model again, or take another copy"


def load_checked(
    model_class: type[PreTrainedModel],
    load: Callable[..., Any],
    name: str | os.PathLike[str] | None,
    *args: Any,
    output_loading_info: bool = False,
    **kwargs: Any,
) -> Any:
    """Load a checkpoint with transformers' `from_pretrained`, and check that every weight fits the model.

    The files of a folder are checked before anything is read into memory. Only safetensors are loaded, also from a hub.

    Args:
        model_class: the class of the model.
        load: transformers' `from_pretrained` of this class.
        name: a folder, or a name on a hub.

    Returns:
        The model; with `output_loading_info` also transformers' loading info.

    Raises:
        ValueError: for pickled weights, files outside of the folder, incomplete files, weights that are missing,
            unexpected or of another shape, and an invalid config; with the file and the remedy.
        OSError: if the hub does not have it, or cannot be reached.
    """
    if kwargs.get("device_map") is None and torch.get_default_device().type == "meta":
        raise InputError(
            f"{name} is loaded with meta as PyTorch's default device, where weights have no values; load it outside of "
            "`with torch.device('meta')`, or make a model without weights: MtBertForMultiTask(config)"
        )
    folder = Path(name, kwargs.get("subfolder") or "") if name is not None and os.path.isdir(name) else None
    if kwargs.get("state_dict") is not None or (folder is not None and (folder / ADAPTER).is_file()):
        return load(name, *args, output_loading_info=output_loading_info, **kwargs)
    shapes, others = ({}, {}) if folder is None else check_folder(folder)
    where = str(folder or name)
    try:
        if others and folder is not None:  # some families save integer position ids beside their weights
            declared = _declared(model_class, folder)
            for key, sentence in others.items():
                if key not in declared or declared[key].is_floating_point():
                    raise InputError(f"{sentence}, but must hold floats; {AGAIN}")
        if folder is not None and _has_large_number(read_json(folder / "config.json")):
            _refuse_shapes(model_class, folder, shapes)  # before transformers allocates what the config asks for
        kwargs.setdefault("use_safetensors", True)
        model, info = load(name, *args, output_loading_info=True, **kwargs)
    except Exception as error:
        if folder is None or str(error).startswith(where):
            raise
        raise InputError(f"{where}: {_reason(model_class, folder, shapes, error)}; {AGAIN}") from error
    model._source = {"encoder": name, **{key: kwargs[key] for key in WHERE if key in kwargs}}
    mismatches = [f"weights are {what}: {_some(info[key])}" for key, what in PROBLEMS.items() if info.get(key)]
    if mismatches:
        raise InputError(
            f"{where}: {'; '.join(mismatches)}; config.json and the weights are of two models, or torn; {AGAIN}"
        )
    return (model, info) if output_loading_info else model


def unloadable_parts(model: PreTrainedModel, with_encoder: bool = True) -> list[str]:
    """Check that the parts of a model are those that its config describes.

    A checkpoint of a model with other parts does not load again, or loads as another model.

    Args:
        with_encoder: whether to check the encoder's weights, too; peft renames them.

    Returns:
        One sentence for each head, adapter or other part that differs: its weights that do not fit, or its class.
    """
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about the encoder were given when the model was made
        described = type(model)(copy.deepcopy(model.config))
    parts, described_parts = _parts(model), _parts(described)
    sentences = []
    for name in sorted(parts.keys() | described_parts.keys()):
        if name == "encoder" and not with_encoder:
            continue
        shapes, wanted = _shapes(parts.get(name)), _shapes(described_parts.get(name))
        odd = [
            f"{key} {shapes.get(key, 'is missing')}" for key in shapes | wanted if shapes.get(key) != wanted.get(key)
        ]
        if odd:
            sentences.append(f"{name} ({type(parts.get(name)).__name__}) has weights that do not fit: {_some(odd)}")
        elif name != "encoder":
            layers = ([type(layer).__name__ for layer in of[name].modules()] for of in (parts, described_parts))
            changed = [pair for pair in zip_longest(*layers, fillvalue="nothing") if pair[0] != pair[1]]
            sentences += [f"{name} has {one} where {two} is described" for one, two in changed[:1]]
    return sentences


def _parts(model: nn.Module) -> dict[str, nn.Module]:
    """Path → module of the encoder, of each head and adapter, and of all other parts of a model."""
    parts: dict[str, nn.Module] = {}
    for name, module in model.named_children():
        several = name in ("heads", "adapters")
        parts |= {f"{name}.{key}": part for key, part in module.named_children()} if several else {name: module}
    return {name: getattr(part, "original_module", part) for name, part in parts.items()}  # unwrap peft's wrappers


def _shapes(module: nn.Module | None) -> dict[str, tuple[int, ...]]:
    return {} if module is None else {key: tuple(value.shape) for key, value in module.state_dict().items()}


def check_folder(folder: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Check the files of a checkpoint without loading its weights.

    Returns:
        Name → shape of each weight, from the files' headers, and name → error sentence of each weight that is not of
        floats.

    Raises:
        ValueError: see `load_checked`.
    """
    config = read_json(folder / "config.json")
    if (kind := config.get("model_type")) != "mtbert":
        raise InputError(
            f"{folder}/config.json: model_type is {kind!r}, but must be 'mtbert'; give a checkpoint of mtbert"
        )
    shapes: dict[str, tuple[int, ...]] = {}
    others: dict[str, str] = {}
    for file in weight_files(folder):
        of_file, no_floats = _header(file)
        shapes |= of_file
        others |= no_floats
    encoder = config.get("encoder")
    layers = encoder.get("num_hidden_layers") if isinstance(encoder, dict) else None
    if isinstance(layers, int) and layers > len(shapes):
        raise InputError(
            f"{folder}/config.json: encoder.num_hidden_layers is {layers:,}, but there are {len(shapes)} weights"
        )
    return shapes, others


def read_json(file: Path, remedy: str = AGAIN, limited: bool = True) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        remedy: end of the error message: what to do; may be empty.
        limited: whether to refuse a file of more than `config_bytes`.

    Raises:
        InputError: if the file is missing or holds anything else; with the file's path.
    """
    end = f"; {remedy}" if remedy else ""
    try:
        too_large = beyond("config_bytes", file.stat().st_size, f"{file} has", " bytes") if limited else []
        if too_large:
            raise InputError(too_large[0])
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{file} is missing{end}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} can not be read as JSON: {error}{end}") from error
    if not isinstance(values, dict):
        raise InputError(f"{file} holds a {type(values).__name__}, but must hold an object{end}")
    return values


def weight_files(folder: Path) -> list[Path]:
    """The files of a checkpoint's weights.

    Raises:
        ValueError: if there are none or only pickles, or if an index names a file that is not in the folder.
    """
    index = folder / INDEX
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if not index.is_file():
        return _variants(folder)
    named = read_json(index).get("weight_map")
    if not isinstance(named, dict) or not named:
        raise InputError(f"{index}: weight_map is {str(named)[:80]}, but must map weights to files; {AGAIN}")
    for weight, name in named.items():
        if not isinstance(name, str) or name != os.path.basename(name) or not name.endswith(".safetensors"):
            place = f"weight {weight!r} is in {str(name)[:200]!r}"
            raise InputError(f"{index}: {place}, but must be in a .safetensors file of the folder; {AGAIN}")
        if not (folder / name).is_file():
            raise InputError(f"{index}: weight {weight!r} is in {name!r}, but there is no such file; {AGAIN}")
    return [folder / name for name in sorted(set(named.values()))]


def _variants(folder: Path) -> list[Path]:
    """Weight files with other names than model.safetensors, such as model.fp16.safetensors."""
    if files := sorted(folder.glob("*.safetensors")):
        return files
    if pickles := sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES and "model" in file.name):
        raise InputError(
            f"{folder}/{pickles[0]} is a pickle, which may run any code when it is read, and is refused; "
            "save the model as model.safetensors where it came from"
        )
    raise InputError(f"{folder} has no model.safetensors; {AGAIN}")


def _header(file: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Name → shape of a file's weights, and name → error sentence of those that are not of floats."""
    shapes, others = {}, {}
    try:
        with safe_open(file, framework="pt") as weights:
            for key in weights.keys():  # noqa: SIM118 (no mapping)
                part = weights.get_slice(key)
                shapes[key] = tuple(part.get_shape())
                if not part.get_dtype().startswith(("F", "BF")):
                    others[key] = f"{file}: weight {key!r} holds {part.get_dtype()}"
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file} can not be read as safetensors: {error}; {AGAIN}") from error
    return shapes, others


def _has_large_number(config: Any) -> bool:
    """Whether a config holds an integer that no published encoder has, at any depth: a size of a million or more."""
    if isinstance(config, dict | list):
        return any(map(_has_large_number, config.values() if isinstance(config, dict) else config))
    return isinstance(config, int) and config >= LARGE


def _declared(model_class: Any, folder: Path) -> dict[str, torch.Tensor]:
    """State dict of the model that a checkpoint's config describes, on the meta device."""
    with torch.device("meta"):
        return model_class(model_class.config_class.from_pretrained(folder)).state_dict()


def _odd_shapes(model_class: Any, folder: Path, shapes: dict[str, tuple[int, ...]]) -> list[str]:
    """A sentence for each weight whose shape, in the file's header, is not the one that config.json asks for."""
    return [
        f"{key} is {shapes[key]}, but config.json asks for {tuple(value.shape)}"
        for key, value in _declared(model_class, folder).items()
        if key in shapes and shapes[key] != tuple(value.shape)
    ]


def _refuse_shapes(model_class: Any, folder: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    odd = _odd_shapes(model_class, folder, shapes)
    if odd:
        raise InputError(f"{folder}: weights have other shapes: {_some(odd)}; {AGAIN}")


def _reason(
    model_class: type[PreTrainedModel], folder: Path, shapes: dict[str, tuple[int, ...]], error: Exception
) -> str:
    """The reason why a model was not loaded: names of weights of other shapes, or the library's message."""
    message = str(error).strip() or type(error).__name__
    if not (isinstance(error, RuntimeError) and "mismatch" in message):
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        return f"config.json does not make a model ({kind}{message[:500]})"
    odd = _odd_shapes(model_class, folder, shapes)
    return f"weights have other shapes: {_some(odd)}" if odd else message[:500]


def _some(names: Iterable[Any]) -> str:
    names = sorted(map(str, names))
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else "")
