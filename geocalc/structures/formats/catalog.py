"""File formats by suffix, one module each; ASE reads the others."""

from geocalc.structures.formats.ase_database import read_database
from geocalc.structures.formats.aselmdb import read_aselmdb
from geocalc.structures.formats.base import FileFormat
from geocalc.structures.formats.oc20 import read_oc20
from geocalc.structures.formats.rmd17 import read_rmd17
from geocalc.structures.formats.trajectory import read_trajectory
from geocalc.structures.formats.xyz import read_extended_xyz

FORMATS: dict[str, FileFormat] = {
    ".traj": FileFormat(read=read_trajectory),
    ".xyz": FileFormat(read=read_extended_xyz, compressed=True),
    ".extxyz": FileFormat(read=read_extended_xyz, compressed=True),
    ".db": FileFormat(read=read_database),
    ".json": FileFormat(read=read_database),
    ".aselmdb": FileFormat(read=read_aselmdb),
    ".lmdb": FileFormat(read=read_oc20),
    ".npz": FileFormat(read=read_rmd17, in_folders=False),
}
