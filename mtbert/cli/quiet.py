"""Turn off the progress bars of the libraries that a command uses; the commands show their own progress."""

from __future__ import annotations

import os
import sys

# environment variables that libraries read when they are imported, here and in the processes that a command starts
_SWITCHES = {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


def silence_libraries() -> None:
    """Turn off the progress bars of transformers, datasets and huggingface_hub in this process and those it starts.

    Only the command line calls this: importing mtbert changes no setting of another library. A variable that is set
    already stays: `HF_HUB_DISABLE_PROGRESS_BARS=0` shows the bars of downloads.
    """
    for name, value in _SWITCHES.items():
        os.environ.setdefault(name, value)
    from transformers.utils import logging

    logging.disable_progress_bar()
    if "datasets" in sys.modules:  # which has read the variables before they were set
        import datasets

        datasets.disable_progress_bars()
