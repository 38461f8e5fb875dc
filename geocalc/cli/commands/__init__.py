"""The commands of `geocalc`, one a file; the list is in `geocalc.cli.main`."""
