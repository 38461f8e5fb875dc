"""`python -m geocalc` is the command `geocalc`."""

from __future__ import annotations

from geocalc.cli.main import main

if __name__ == "__main__":
    main(prog_name="geocalc")
