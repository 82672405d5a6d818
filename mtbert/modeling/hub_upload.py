"""Upload models to a hub: complete a saved folder to a repository that anyone can load, and commit it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import CommitInfo, HfApi, ModelCard
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers import PreTrainedTokenizerBase
from transformers.dynamic_module_utils import get_relative_import_files

from .calibration_card import decisions_text, with_decisions
from .calibration_file import figures_of_model
from .errors import PushError
from .pipeline import PIPELINE_TASK, MultiTaskTextClassificationPipeline

if TYPE_CHECKING:
    from .modeling_mtbert import MtBertForMultiTask

# Entries of config.json that name the code beside it, for `trust_remote_code=True`.
REMOTE_CODE: dict[str, Any] = {
    "auto_map": {
        "AutoConfig": "configuration_mtbert.MtBertConfig",
        "AutoModel": "modeling_mtbert.MtBertForMultiTask",
    },
    "custom_pipelines": {
        PIPELINE_TASK: {
            "impl": f"pipeline.{MultiTaskTextClassificationPipeline.__name__}",
            "pt": ["AutoModel"],
            "type": "text",
        }
    },
}
_NO_ANSWER: Any = HfHubHTTPError.__bases__[0]  # the error class of the HTTP library that huggingface_hub uses
_LOG_IN = "log in with `hf auth login`, set HF_TOKEN, or give token="
_AGAIN = "nothing was committed that the hub did not confirm; push again"
_REMEDIES = {
    409: "something else was pushed meanwhile; push again",
    412: "something else was pushed meanwhile; push again",
    413: "save smaller files (max_shard_size=)",
    429: "wait some minutes, then push again",
}


@contextmanager
def explained(repo_id: str) -> Iterator[None]:
    """Within, errors of the hub's client become PushErrors with a remedy."""
    where = f"push to {repo_id!r}"
    try:
        yield
    except PushError:
        raise
    except HFValidationError as error:
        raise PushError(f"{where}: this is no name of a repository; write 'user/name' ({error})") from error
    except OfflineModeIsEnabled as error:
        raise PushError(f"{where}: offline mode is on; unset HF_HUB_OFFLINE to push") from error
    except LocalTokenNotFoundError as error:
        raise PushError(f"{where}: there is no token; {_LOG_IN}") from error
    except HfHubHTTPError as error:
        raise PushError(f"{where}: {_refusal(error)}") from error
    except _NO_ANSWER as error:
        raise PushError(f"{where}: the hub gave no answer ({error}); {_AGAIN}") from error
    except (RuntimeError, OSError) as error:  # from the upload of a large file
        cause = error.__cause__
        if isinstance(cause, HfHubHTTPError):
            reason = _refusal(cause)
        else:
            reason = _AGAIN if cause is None else f"{cause}; {_AGAIN}"
        raise PushError(f"{where}: {str(error).rstrip('.')}: {reason}") from error
    except ValueError as error:
        if "metadata" in str(error):
            raise PushError(f"{where}: the hub refuses the model card: {error}") from error
        if "LFS" in str(error):
            raise PushError(f"{where}: the hub takes no large files: {error}") from error
        raise


def _refusal(error: HfHubHTTPError) -> str:
    """The meaning of a hub's error response, and a remedy."""
    status = error.response.status_code
    answer = error.server_message or str(error).splitlines()[0]
    if status == 401:
        return f"the token was refused or is missing; {_LOG_IN}"
    if isinstance(error, RepositoryNotFoundError):
        return f"no such repository, or the token may not see it; {_LOG_IN}"
    if isinstance(error, RevisionNotFoundError):
        return "no such revision; give a branch, or the reference of an open pull request"
    if status == 403:
        return f"the token may not write there ({answer}); use a token with write access, or another name"
    remedy = _REMEDIES.get(status, "the fault is the hub's; push again later" if status >= 500 else "see what it says")
    return f"the hub answered {status} ({answer}); {remedy}"


def add_code(folder: str | os.PathLike[str]) -> None:
    """Copy the code of the `modeling` folder beside a saved model, and name it in the model's config.json."""
    here = Path(__file__).parent
    entries = [here / f"{reference.partition('.')[0]}.py" for reference in REMOTE_CODE["auto_map"].values()]
    entries.append(here / "pipeline.py")
    for file in {str(module_file) for entry in entries for module_file in (entry, *get_relative_import_files(entry))}:
        shutil.copyfile(file, Path(folder, Path(file).name))
    edit_json(Path(folder, "config.json"), lambda config: {**config, **REMOTE_CODE})


def edit_json(file: Path, change: Callable[[Any], Any]) -> None:
    """Rewrite a JSON file with the result of `change` on its content."""
    text = json.dumps(
        change(json.loads(file.read_text(encoding="utf-8"))), indent=2, sort_keys=True, ensure_ascii=False
    )
    file.write_text(text + "\n", encoding="utf-8")


def forget_paths(value: Any) -> Any:
    """Remove paths of models and tokenizers on this machine from a JSON tree."""
    if isinstance(value, list):
        return [forget_paths(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    local = [key for key in value if key.endswith("name_or_path") and is_path(value[key])]
    emptied = {key: None if "base_model" in key else "" for key in local}
    return emptied | {key: forget_paths(entry) for key, entry in value.items() if key not in local}


def is_path(name: Any) -> bool:
    """Whether a model's name is a path on this machine, and not `name` or `user/name` of a hub."""
    return isinstance(name, str) and (name.count("/") > 1 or name.startswith((".", "~", "/")) or os.path.isdir(name))


def finish_repository(
    folder: str | os.PathLike[str], tokenizer: PreTrainedTokenizerBase | None, card: ModelCard | None
) -> None:
    """Add tokenizer, code and card to a folder with config.json and weights, and remove paths of this machine."""
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    if not Path(folder, "adapter_config.json").exists():  # a peft adapter loads only with mtbert installed
        add_code(folder)
    for name in ("config.json", "tokenizer_config.json", "adapter_config.json"):
        if (file := Path(folder, name)).exists():
            edit_json(file, forget_paths)
    if card is not None:
        card.save(Path(folder, "README.md"))


def create(repo_id: str, private: bool | None = None, token: str | bool | None = None) -> str:
    """Create a repository if it does not exist; return its full name, `user/name`."""
    with explained(repo_id):
        return HfApi().create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id


def upload(folder: tempfile.TemporaryDirectory[str], repo_id: str, background: bool = False, **options: Any) -> Any:
    """Commit all files of a temporary folder, then remove the folder.

    Args:
        background: upload in the background, and return a future; a failed upload's PushError is its exception.
        options: options of `HfApi.upload_folder`: `path_in_repo`, `commit_message`, `token`, `revision`, `create_pr`, …
    """

    def send() -> CommitInfo:
        with folder, explained(repo_id):
            revision = options.get("revision")
            if revision is not None and not revision.startswith("refs/"):
                api.create_branch(repo_id, branch=revision, token=options.get("token"), exist_ok=True)
            return api.upload_folder(repo_id=repo_id, folder_path=folder.name, **options)

    api = HfApi()
    return api.run_as_future(send) if background else send()


def refuse_links(folder: str | None) -> None:
    """Raise PushError if a small file of a checkpoint is a link that leads out of its folder.

    Links to weights are allowed, because a push writes the weights again. So are links of a hub's cache into `blobs`.

    Raises:
        PushError: with the link.
    """
    if not folder or not os.path.isdir(folder):
        return
    places = (Path(folder).resolve(), Path(folder).resolve().parents[1] / "blobs")
    for file in Path(folder).iterdir():
        inside = any(file.resolve().is_relative_to(place) for place in places)
        if file.is_symlink() and not inside and file.suffix != ".safetensors":
            raise PushError(f"{file} is a link to {file.resolve()}, which is not pushed; put a copy in its place")


def push(
    model: MtBertForMultiTask,
    repo_id: str,
    tokenizer: PreTrainedTokenizerBase | None = None,
    card: ModelCard | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    max_shard_size: int | str = "50GB",
    tags: list[str] | None = None,
    commit_message: str = "Upload model",
    **options: Any,
) -> CommitInfo:
    """Upload a model; see `MtBertForMultiTask.push_to_hub`."""
    refuse_links(model.name_or_path)
    tokenizer = tokenizer or model.tokenizer
    repo_id = create(repo_id, private, token)
    card = card or _card(model, repo_id)
    if tags:
        about: Any = card.data
        about.tags = list(dict.fromkeys([*(about.tags or []), *tags]))
    folder = tempfile.TemporaryDirectory()
    model.save_pretrained(folder.name, max_shard_size=max_shard_size)
    finish_repository(folder.name, tokenizer, card)
    return upload(folder, repo_id, token=token, commit_message=commit_message, **options)


def _card(model: MtBertForMultiTask, repo_id: str) -> ModelCard:
    """The README.md of the checkpoint, or a new card."""
    written = Path(model.name_or_path or "", "README.md")
    if model.name_or_path and written.is_file():
        card = ModelCard.load(written)
        card.text = with_decisions(card.text, decisions_text(model.tasks, figures_of_model(model)))
        return card
    if model.make_card is not None:
        return model.make_card(model, repo_id)
    try:
        with explained(repo_id):
            return ModelCard.load(model.name_or_path or repo_id)
    except (OSError, ValueError):
        tasks = "\n".join(f"- `{task.name}`: {task.problem_type}" for task in model.tasks)
        return ModelCard(f"---\nlibrary_name: transformers\n---\n\n# {repo_id}\n\nTasks:\n\n{tasks}\n")
