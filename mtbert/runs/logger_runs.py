"""One run of TensorBoard and of MLflow for a whole training: its stages, its pre-training, and what resumes it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from accelerate.utils import patch_environment

from ..files import write_json
from ..modeling.checkpoint_loading import read_json
from ..training.checkpoints.run_folder import MLFLOW

TENSORBOARD_FOLDER = "TENSORBOARD_LOGGING_DIR"
_PART = "pretraining"


class LoggerRun:
    """The loggers' run of a training.

    transformers begins a run for each trainer, and MLflow one more for scores that are logged after a trainer's end.

    Args:
        folder: TensorBoard's folder of the run; None: TensorBoard is not used, or the user has set its folder.
        has_parameters: whether MLflow has the arguments of the run already; it refuses to change them.
        mlflow: the module, if this process logs to MLflow.
    """

    def __init__(self, folder: str | None, has_parameters: bool, mlflow: Any = None):
        self.folder, self.has_parameters, self.mlflow = folder, has_parameters, mlflow

    @contextmanager
    def stage(self) -> Iterator[None]:
        """Within, a trainer trains and logs to this run; only the first one logs its arguments to MLflow."""
        variables = {"MLFLOW_MAX_LOG_PARAMS": "0"} if self.has_parameters else {}
        self.has_parameters = True
        with patch_environment(**variables):
            yield

    @contextmanager
    def pretraining(self) -> Iterator[None]:
        """Within, trainers log to a part of this run, because their steps begin at 0 and their losses are others."""
        variables = {} if self.folder is None else {TENSORBOARD_FOLDER: os.path.join(self.folder, _PART)}
        with ExitStack() as stack:
            stack.enter_context(patch_environment(**variables))
            if self.mlflow is not None and not self.has_parameters:  # a resumed run has been pre-trained
                stack.enter_context(self.mlflow.start_run(run_name=_PART, nested=True))
            yield


@contextmanager
def one_logger_run(args: Any, resumes: bool) -> Iterator[LoggerRun]:
    """Context manager of a training: begins the loggers' run and ends it, with its state.

    A run of MLflow that is active already, or that `MLFLOW_RUN_ID` names, is used and not ended.

    Args:
        args: the training arguments: `report_to`, `output_dir`, `run_name`, `process_index`.
        resumes: whether the training goes on from an earlier one in its output folder, whose runs are then used.
    """
    loggers, output, folder = args.report_to or [], Path(args.output_dir), None
    if "tensorboard" in loggers and TENSORBOARD_FOLDER not in os.environ:
        new = output / "runs" / f"{time.strftime('%b%d_%H-%M-%S')}_{socket.gethostname()}"  # as transformers names it
        earlier = sorted(path for path in new.parent.glob("*") if path.is_dir()) if resumes else []
        folder = str(max(earlier, key=lambda path: path.stat().st_mtime, default=new))
    with ExitStack() as stack:
        if folder is not None:  # transformers reads it when a trainer is made
            stack.enter_context(patch_environment(**{TENSORBOARD_FOLDER: folder}))
        goes_on, mlflow = False, None
        if "mlflow" in loggers and args.process_index == 0:
            mlflow = import_module("mlflow")  # installed by those who use it
            goes_on = stack.enter_context(_mlflow_run(mlflow, args.run_name, output / MLFLOW, resumes))
        yield LoggerRun(folder, goes_on, mlflow)


@contextmanager
def _mlflow_run(mlflow: Any, name: str | None, file: Path, resumes: bool) -> Iterator[bool]:
    """Context manager of a run of MLflow: that which a file in the output folder names, or a new one.

    Yields:
        Whether an earlier training has begun this run.
    """
    if mlflow.active_run() is not None or "MLFLOW_RUN_ID" in os.environ:
        yield resumes
        return
    goes_on = resumes and file.is_file()
    if goes_on:
        mlflow.start_run(run_id=read_json(file, "remove it, for a new run of MLflow").get("run_id"))
    else:
        run = mlflow.start_run(run_name=name)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"run_id": run.info.run_id})
    try:
        yield goes_on
    except (SystemExit, KeyboardInterrupt):
        mlflow.end_run("KILLED")
        raise
    except BaseException:
        mlflow.end_run("FAILED")
        raise
    mlflow.end_run()
