"""Whole training runs, for the command line and for Python."""
