"""`mtbert unlabelled_texts`, for commands that name this file."""

import sys

from mtbert.cli.main import run

if __name__ == "__main__":
    sys.exit(run("unlabelled_texts"))
