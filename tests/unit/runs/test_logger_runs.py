"""A training has one run of each logger: with stages, after its end, resumed, and with further pre-training."""

import os
import sys
from types import ModuleType, SimpleNamespace

import pytest

from mtbert.runs.logger_runs import TENSORBOARD_FOLDER, one_logger_run


class Run:
    """A run, which ends where a `with` statement ends."""

    def __init__(self, mlflow, run_id):
        self.mlflow, self.info = mlflow, SimpleNamespace(run_id=run_id)

    def __enter__(self):
        return self

    def __exit__(self, kind, *error):
        self.mlflow.end_run("FAILED" if kind else "FINISHED")


class Mlflow(ModuleType):
    """The functions of MLflow that a training uses, and a list of what they were called with."""

    def __init__(self):
        super().__init__("mlflow")
        self.active, self.calls, self.count = [], [], 0

    def active_run(self):
        return self.active[-1] if self.active else None

    def start_run(self, run_id=None, run_name=None, nested=False):
        assert not self.active or nested, "MLflow refuses a run inside another one"
        self.count += run_id is None
        run = Run(self, run_id or f"run{self.count}")
        self.active.append(run)
        self.calls.append(("start", run.info.run_id, run_name))
        return run

    def end_run(self, status="FINISHED"):
        self.calls.append(("end", self.active.pop().info.run_id, status))


@pytest.fixture
def mlflow(monkeypatch):
    for name in ("MLFLOW_RUN_ID", "MLFLOW_MAX_LOG_PARAMS", "MLFLOW_NESTED_RUN", TENSORBOARD_FOLDER):
        monkeypatch.delenv(name, raising=False)
    module = Mlflow()
    monkeypatch.setitem(sys.modules, "mlflow", module)
    return module


@pytest.fixture
def args(tmp_path):
    def make(**values):
        common = {"output_dir": str(tmp_path / "out"), "run_name": "mine", "process_index": 0}
        return SimpleNamespace(**{**common, "report_to": ["mlflow", "tensorboard"], **values})

    return make


def parameters_are_logged() -> bool:
    return os.environ.get("MLFLOW_MAX_LOG_PARAMS") != "0"


def test_one_run_for_all_stages_and_parameters_once(mlflow, args):
    folders, logged = [], []
    with one_logger_run(args(), False) as run:
        for _ in range(3):
            with run.stage():
                folders.append(os.environ[TENSORBOARD_FOLDER])
                logged.append(parameters_are_logged())
                assert mlflow.active_run().info.run_id == "run1"
    assert len(set(folders)) == 1 and logged == [True, False, False]
    assert mlflow.calls == [("start", "run1", "mine"), ("end", "run1", "FINISHED")]
    assert TENSORBOARD_FOLDER not in os.environ and "MLFLOW_MAX_LOG_PARAMS" not in os.environ


def test_a_resumed_training_goes_on_with_both_runs(mlflow, args):
    folders = []
    for resumes in (False, True, True):
        with one_logger_run(args(), resumes) as run, run.stage():
            folders.append(os.environ[TENSORBOARD_FOLDER])
            os.makedirs(folders[-1], exist_ok=True)
            assert parameters_are_logged() is not resumes
    assert len(set(folders)) == 1
    assert [call[:2] for call in mlflow.calls] == [("start", "run1"), ("end", "run1")] * 3


def test_a_new_training_has_new_runs(mlflow, args):
    for _ in range(2):
        with one_logger_run(args(), False):
            pass
    assert [call[1] for call in mlflow.calls] == ["run1", "run1", "run2", "run2"]


def test_resumed_without_an_earlier_run(mlflow, args):
    with one_logger_run(args(), True) as run, run.stage():
        assert parameters_are_logged()
    assert mlflow.calls[0] == ("start", "run1", "mine")


def test_pretraining_is_a_part_of_the_run(mlflow, args):
    with one_logger_run(args(), False) as run:
        with run.pretraining():
            folder = os.environ[TENSORBOARD_FOLDER]
            assert mlflow.active_run().info.run_id == "run2" and parameters_are_logged()
        with run.stage():
            assert folder == os.path.join(os.environ[TENSORBOARD_FOLDER], "pretraining")
            assert mlflow.active_run().info.run_id == "run1" and parameters_are_logged()
    assert [call[:2] for call in mlflow.calls] == [
        ("start", "run1"),
        ("start", "run2"),
        ("end", "run2"),
        ("end", "run1"),
    ]


def test_trainers_that_are_made_before_a_stage_trains_have_the_folder(mlflow, args):
    with one_logger_run(args(), False) as run:
        folder = os.environ[TENSORBOARD_FOLDER]
        with run.stage():
            assert os.environ[TENSORBOARD_FOLDER] == folder


def test_a_resumed_training_was_pretrained(mlflow, args):
    for resumes in (False, True):
        with one_logger_run(args(), resumes) as run, run.pretraining():
            pass
    assert [call[1] for call in mlflow.calls if call[0] == "start"] == ["run1", "run2", "run1"]


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError, "FAILED"), (RuntimeError, "FAILED"), (SystemExit, "KILLED"), (KeyboardInterrupt, "KILLED")],
)
def test_a_training_that_fails_ends_its_run_with_its_state(mlflow, args, error, status):
    with pytest.raises(error), one_logger_run(args(), False):
        raise error
    assert mlflow.calls[-1] == ("end", "run1", status)


def test_an_active_run_of_the_user_is_used_and_stays(mlflow, args):
    mlflow.start_run(run_name="theirs")
    with one_logger_run(args(), False):
        assert mlflow.active_run().info.run_id == "run1"
    assert mlflow.active_run() is not None and len(mlflow.calls) == 1


def test_variables_of_the_user_hold(mlflow, args, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "theirs")
    monkeypatch.setenv(TENSORBOARD_FOLDER, "elsewhere")
    with one_logger_run(args(), False) as run, run.stage():
        assert os.environ[TENSORBOARD_FOLDER] == "elsewhere" and mlflow.calls == []


@pytest.mark.parametrize("values", [{"report_to": []}, {"report_to": ["mlflow"], "process_index": 1}])
def test_nothing_begins_without_the_loggers_or_on_other_processes(mlflow, args, values, tmp_path):
    with one_logger_run(args(**values), False) as run, run.stage():
        assert TENSORBOARD_FOLDER not in os.environ
    assert mlflow.calls == [] and not (tmp_path / "out").exists()
