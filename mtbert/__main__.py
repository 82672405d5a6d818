"""Run the command line: `python -m mtbert …` is the same as `mtbert …`."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
