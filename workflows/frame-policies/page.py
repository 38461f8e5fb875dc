"""Write the README of this folder from the measured numbers."""

from __future__ import annotations

from typing import Any

FINDING = """## Findings

- Frames from the lattice are the best choice for relaxations. They do not depend on positions, so the
  energy is as smooth as the network, gradient forces are exact, and nothing changes under rotation,
  translation or re-wrapping.
- `averaged`, the average over all equivalent frames, is also independent of the choice of lattice basis and
  keeps the symmetry of a site: an adsorbate on a symmetric site feels no spurious force, as in DFT. It is
  the default of the shipped model.
- `single`, one of these frames, costs a fraction of it and differs by the few meV in the last column of the
  first table; it is the choice for speed.
- One random frame for each structure (`stochastic`) makes the energy jump from point to point; a seed only
  makes the jumps reproducible.
- Axes of the covariance of positions depend on the periodic image in which an atom is stored. Axes of the
  edge covariance do not, but they are degenerate on fcc(111): with a single frame the energy jumps where
  the axes swap.
- PCA in two dimensions is not invariant when the slab is tilted out of the xy plane.

## Limitations

The shipped model was trained on randomly rotated structures, so it depends little on the frame. An earlier
model, trained on lattice frames alone, changed by 7 meV with the basis, jumped 12 times by up to 9 meV with
edge PCA, and needed 51 calls with `single` at fmax 0.01."""


def text(about: dict[str, Any], policies: dict[str, dict[str, dict[str, float]]]) -> str:
    """The README beside this file."""
    coarse, fine = about["steps_A"]
    lines = [
        "# Frame policies for relaxations",
        "",
        "This study compares frame policies by the invariance of the energy, its continuity along real "
        "relaxations, and the convergence and cost of relaxations.",
        "",
        "```bash",
        "GEOCALC_DATA=... python workflows/frame-policies/run.py",
        "```",
        "",
        f"Model `{about['model']}`, float64, one CPU thread, held-out relaxations of `{about['data']}` (the validation split of the recipe). "
        "`results.json` holds all numbers.",
        "",
        "## Invariance",
        "",
        "Largest change of the energy (eV) of 8 relaxed adslabs under operations that change nothing physical:",
        "",
        "| policy | repeated call | rotation about z | any rotation | shift and re-wrap | another basis |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in policies.items():
        e = found["invariance_eV"]
        keys = (
            "repeated call",
            "rotation about z",
            "rotation",
            "shift and re-wrap",
            "another lattice basis",
        )
        lines.append(f"| `{name}` | " + " | ".join(f"{e[key]:.0e}" for key in keys) + " |")
    lines += [
        "",
        "## Continuity and convergence",
        "",
        f"{about['paths']} DFT relaxations are followed in steps of {coarse} Å, and of {fine} Å where the energy changes by more than 1 meV beyond "
        "the work of the forces. The table gives the jumps that remain, the largest unexplained change at the coarse spacing, and relaxations "
        f"of {about['relaxations']} structures with BFGS, at most 200 steps:",
        "",
        "| policy | points | jumps > 1 meV | largest (eV) | converged, calls at fmax 0.05 | at fmax 0.01 | seconds for both |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in policies.items():
        path, loose, tight = found["path"], found["relax_fmax_0.05"], found["relax_fmax_0.01"]
        lines.append(
            f"| `{name}` | {path['points']} | {path['jumps_above_1meV']} | {path['largest_unexplained_eV']:.1e} | "
            f"{loose['converged']:.0%}, {loose['model_calls']:.1f} | {tight['converged']:.0%}, {tight['model_calls']:.1f} | "
            f"{loose['seconds'] + tight['seconds']:.0f} |"
        )
    return "\n".join([*lines, "", FINDING, ""])
