"""Run `mtbert calibrate` from a checkout of this repository."""

import sys

from mtbert.cli.main import run

if __name__ == "__main__":
    sys.exit(run("calibrate"))
