"""ASE, pymatgen and files on one side, `Systems` on the other."""
