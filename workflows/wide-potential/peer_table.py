"""Force errors and speed of ours and of other people's potentials on the same frames of DFT."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from ase.io import read, write
from measure import FORCES, ForceErrors, averaged, evenly, fixed_atoms, forces_of, plain

N_FRAMES = 20  # of a set at most, evenly spaced
SIZE = (36, 48)  # atoms of the frames that tell the speed
NAMES = {
    "tensornet": "TensorNet-MatPES-PBE",
    "chgnet": "CHGNet 0.3",
    "sevennet-0": "SevenNet-0",
    "sevennet-l3i5": "SevenNet-l3i5",
    "nequix": "Nequix-OAM",
}
# where names stand in the picture, points right of and above the symbol, so that they do not overlap
PLACES = {"chgnet": (0, -20), "nequix": (-40, -13), "tensornet": (30, -22), "sevennet-0": (12, 10)}
TITLES = {
    "co2-ni": "CO2 on Ni(100)",
    "co-on-pt": "Pt crowded with CO",
    "paths": "NEB paths on Cu, dry",
    "paths-forces": "NEB paths on Cu, under water",
    "oc20": "OC20",
    "alcohols": "alcohols",
    "oxides": "oxides",
}


@dataclass(frozen=True, kw_only=True)
class PeerErrors:
    """Errors of a potential's forces on the frames that it knows, by set, and structures of about 40
    atoms per second on one thread.
    """

    name: str
    sets: dict[str, ForceErrors]
    per_second: float


def write_frames(target: Path) -> None:
    """Write frames of all sets of forces to a file, with their labels, their set and their level."""
    frames = []
    for name, (level, frames_of) in FORCES.items():
        for atoms in evenly(list(frames_of()), N_FRAMES):
            frame = plain(atoms)
            frame.info |= {"set": name, "level": level}
            frame.set_array("REF_forces", forces_of(atoms))
            frames.append(frame)
    write(target, frames, format="extxyz")


def peer_errors(name: str, labeled: Path, told: Path, size: tuple[int, int] = SIZE) -> PeerErrors:
    """Errors of a peer.

    Args:
        name: of the peer.
        labeled: file of `write_frames`.
        told: file of `peers.py`.
        size: fewest and most atoms of the frames that tell the speed.
    """
    frames = read(labeled, ":")
    with np.load(told) as found:
        ends = np.cumsum([len(atoms) for atoms in frames])[:-1]
        forces, seconds = np.split(found["forces"], ends), found["seconds"]
    errors = {}
    for one in FORCES:
        rows = [
            (frame.arrays["REF_forces"], force, ~fixed_atoms(frame), False)
            for frame, force in zip(frames, forces, strict=True)
            if frame.info["set"] == one and np.isfinite(force).all()
        ]
        n_all = sum(frame.info["set"] == one for frame in frames)
        errors[one] = averaged(rows, n_all - len(rows))
    usual = [size[0] <= len(frame) <= size[1] for frame in frames]
    return PeerErrors(name=name, sets=errors, per_second=float(1 / np.median(seconds[usual])))


def keep_errors(errors: PeerErrors, target: Path) -> None:
    """Write the errors of a peer into a file of all peers."""
    found = json.loads(target.read_text()) if target.exists() else {}
    found[errors.name] = asdict(errors)
    target.write_text(json.dumps(found, indent=1))


def read_errors(file: Path) -> list[PeerErrors]:
    """Errors of all peers in a file of `keep_errors`."""
    found = []
    for one in json.loads(file.read_text()).values():
        sets = {name: ForceErrors(**values) for name, values in one["sets"].items()}
        found.append(PeerErrors(name=one["name"], sets=sets, per_second=one["per_second"]))
    return found


def table(peers: list[PeerErrors]) -> str:
    """Markdown: mean absolute errors of forces in eV/Angstrom, one row for each potential."""
    sets = [one for one in FORCES if one in TITLES]
    nulls = [f"{peers[0].sets[one].null:.3f}" for one in sets]
    lines = [
        "| potential | " + " | ".join(TITLES[one] for one in sets) + " | structures/s |",
        "|---|" + "---|" * (len(sets) + 1),
        "| predicting zero | " + " | ".join(nulls) + " | |",
    ]
    for peer in peers:
        cells = [_cell(peer.sets[one]) for one in sets]
        lines.append(
            f"| {NAMES.get(peer.name, peer.name)} | "
            + " | ".join(cells)
            + f" | {peer.per_second:.1f} |"
        )
    return "\n".join(lines)


def _cell(errors: ForceErrors) -> str:
    """An error, with the number of frames that were refused."""
    refused = f" ({errors.refused} refused)" if errors.refused else ""
    return f"{errors.mae:.3f}{refused}"


def draw(peers: list[PeerErrors], target: Path) -> None:
    """Draw the mean over sets of errors, in units of predicting zero, against speed."""
    figure, axes = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    for peer in peers:
        ours = peer.name not in NAMES
        ratios = [one.mae / one.null for one in peer.sets.values()]
        height = float(np.exp(np.mean(np.log(ratios))))
        axes.plot(peer.per_second, height, "o", color="tab:blue" if ours else "tab:gray", ms=8)
        axes.annotate(
            NAMES.get(peer.name, peer.name),
            (peer.per_second, height),
            xytext=PLACES.get(peer.name, (0, 10)),
            textcoords="offset points",
            ha="center",
        )
    axes.axhline(1.0, color="k", lw=0.8, ls="--")
    axes.set(
        xscale="log",
        ylim=(0.0, None),
        xlabel="structures of about 40 atoms per second, one thread",
        ylabel="force error / error of predicting zero\n(geometric mean over 7 sets)",
    )
    axes.margins(x=0.25)
    axes.set_ylim(top=1.1 * axes.get_ylim()[1])
    axes.text(0.02, 1.03, "predicting zero", transform=axes.get_yaxis_transform(), fontsize=9)
    figure.savefig(target, dpi=150)
    plt.close(figure)
