"""The command line: commands in `commands/`, and the work that they do."""
