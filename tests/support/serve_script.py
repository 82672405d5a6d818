"""`mtbert serve`, as a script that `forked.start` can run."""

import sys

from mtbert.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))
