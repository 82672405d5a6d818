"""Progress of a training in the terminal: a live table, short lines, or the dicts of transformers."""
