"""File formats that ASE does not read, one module each."""
