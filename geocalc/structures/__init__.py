"""Conversion of structures of ASE, pymatgen and files to and from batches."""
