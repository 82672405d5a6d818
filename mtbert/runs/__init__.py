"""Whole runs: what the commands that train do, for Python as well."""
