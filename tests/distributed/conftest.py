"""What makes small runs fast."""

import gc

import pytest
import torch


@pytest.fixture(scope="package", autouse=True)
def _fast_small_runs():
    """One thread, for shared cores; and each training collects garbage, which need not search what is there already."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.freeze()
    yield
    gc.unfreeze()
    torch.set_num_threads(threads)
