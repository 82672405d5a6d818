"""How a script ends: our own errors in one line and with status 1, a library's with its traceback."""

import pytest

from mtbert.data.sampling import Schedule
from mtbert.recipe import RecipeError, load_recipe
from mtbert.recipe.ending import clear_errors
from mtbert.training.distillation import Distillation
from mtbert.training.numerics import NotFinite
from mtbert.training.runs import choose_checkpoint


def test_our_own_errors_end_the_process_with_their_message(tmp_path):
    class Args:
        output_dir, resume_from_checkpoint = str(tmp_path), "gone"

    with pytest.raises(SystemExit) as left, clear_errors():
        choose_checkpoint(Args)
    assert left.value.code == "resume_from_checkpoint: there is no folder gone; give a checkpoint's, or true"
    with pytest.raises(SystemExit, match="gone.yaml: cannot be read: No such file or directory"), clear_errors():
        load_recipe("gone.yaml")


@pytest.mark.parametrize("error", [ValueError("x"), OSError("x"), NotFinite("x"), RecipeError(["x"]), KeyError("x")])
def test_errors_of_others_keep_their_traceback(error):
    with pytest.raises(type(error)) as kept, clear_errors():
        raise error
    assert kept.value is error


def test_what_goes_well_goes_on():
    with clear_errors():
        assert Schedule().problems("schedule") == [] and Distillation(("a",)).problems("d") == []
