"""The command line: one file a command, each of which reads as a list of what it does."""
