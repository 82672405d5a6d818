"""The report of a run: `TaskRows` → `analyse_run` (and `compare_runs`) → `write_report`."""

from .analysis import analyse_run, analyse_task, compare_runs
from .course import RunLog, StagedPlan, pretraining_losses, read_run
from .data_facts import data_facts
from .rows import TaskRows
from .token_weights import TokenWeights, recording
from .write import check_folder, write_pretraining_losses, write_report

__all__ = [
    "RunLog",
    "StagedPlan",
    "TaskRows",
    "TokenWeights",
    "analyse_run",
    "analyse_task",
    "check_folder",
    "compare_runs",
    "data_facts",
    "pretraining_losses",
    "read_run",
    "recording",
    "write_pretraining_losses",
    "write_report",
]
