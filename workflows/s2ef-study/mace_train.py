"""Train MACE (small) on the frames of the recipe for a given time on one core.

Usage:
    python mace_train.py FOLDER SECONDS

Runs in an environment with mace-torch. Reads FOLDER/train.extxyz, writes FOLDER/mace.model; resumes
from FOLDER/mace.state. Architecture, optimizer and batch size are those of MACE's own examples for
`small`; loss, schedule over the given time and weight average are those of our recipe, which give
MACE smaller errors than a schedule by epochs if there is time for a few epochs only.
"""

from __future__ import annotations

import copy
import math
import sys
import time
from pathlib import Path
from typing import Any

import ase.io
import e3nn.o3
import numpy as np
import torch
from ase.data import chemical_symbols
from mace import data, modules, tools
from mace.tools import torch_geometric

CUTOFF, BATCH, RATE, WARMUP, EMA, CLIP, FORCES, FIXED = 5.0, 5, 0.01, 0.03, 0.999, 10.0, 5.0, 0.2
HEADED = ("H", "C", "N", "O", "S")
SAVED_EVERY = 200  # steps


def references(frames: list[Any]) -> dict[int, float]:
    """Least-squares energies of the adsorbate's elements, as the recipe has them; those of metals
    are zero.
    """
    counts = np.array(
        [[list(atoms.symbols).count(s) for s in HEADED] for atoms in frames], dtype=float
    )
    energies = np.array([atoms.info["REF_energy"] for atoms in frames])
    fitted = np.linalg.lstsq(counts, energies, rcond=None)[0]
    known = {chemical_symbols.index(s): float(e) for s, e in zip(HEADED, fitted, strict=True)}
    return {
        z: known.get(z, 0.0) for z in sorted({int(z) for atoms in frames for z in atoms.numbers})
    }


def build(zs: list[int], energies: np.ndarray, neighbors: float, scale: float) -> torch.nn.Module:
    """MACE `small`: 128 scalar channels, two interactions, correlation order 3."""
    return modules.ScaleShiftMACE(
        r_max=CUTOFF,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=modules.interaction_classes["RealAgnosticInteractionBlock"],
        num_interactions=2,
        num_elements=len(zs),
        hidden_irreps=e3nn.o3.Irreps("128x0e"),
        MLP_irreps=e3nn.o3.Irreps("16x0e"),
        atomic_energies=energies,
        avg_num_neighbors=neighbors,
        atomic_numbers=zs,
        correlation=3,
        gate=torch.nn.functional.silu,
        atomic_inter_scale=scale,
        atomic_inter_shift=0.0,
    )


def loss_of(model: torch.nn.Module, batch: Any, scale: float) -> torch.Tensor:
    """L1 of the energy and mean length of the force error, atoms that are held fixed a fifth, in
    units of the energy's spread.
    """
    told = model(batch.to_dict(), training=True, compute_force=True)
    weight = torch.where(batch.charges > 0.5, FIXED, 1.0)  # the field carries who is fixed
    energy = (told["energy"] - batch.energy).abs().mean()
    error = ((told["forces"] - batch.forces) ** 2).sum(1).add(1e-12).sqrt()
    return (energy + FORCES * (error * weight).sum() / weight.sum()) / scale


def main(folder: Path, budget: float) -> None:
    """Train."""
    torch.manual_seed(1)
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)
    frames = list(ase.io.iread(folder / "train.extxyz"))
    e0 = references(frames)
    zs = list(e0)
    table = tools.AtomicNumberTable(zs)
    for atoms in frames:
        fixed = np.zeros(len(atoms))
        fixed[atoms.constraints[0].index if atoms.constraints else []] = 1.0
        atoms.arrays["fixed"] = fixed
    keys = data.KeySpecification(
        info_keys={"energy": "REF_energy"}, arrays_keys={"forces": "REF_forces", "charges": "fixed"}
    )
    graphs = [
        data.AtomicData.from_config(data.config_from_atoms(a, keys), z_table=table, cutoff=CUTOFF)
        for a in frames
    ]
    residual = [
        atoms.info["REF_energy"] - sum(e0[int(z)] for z in atoms.numbers) for atoms in frames
    ]
    scale = float(np.std(residual))
    neighbors = float(np.mean([g.edge_index.shape[1] / len(g.positions) for g in graphs]))
    model = build(zs, np.array([e0[z] for z in zs]), neighbors, scale / math.sqrt(len(frames[0])))
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, amsgrad=True)
    average, spent, step = copy.deepcopy(model), 0.0, 0
    if (folder / "mace.state").exists():
        state = torch.load(folder / "mace.state", weights_only=False)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        spent, step = state["spent"], state["step"]
    generator = torch.Generator().manual_seed(step + 1)
    loader = torch_geometric.dataloader.DataLoader(
        graphs, BATCH, shuffle=True, drop_last=True, generator=generator
    )

    def save() -> None:
        states = {
            "model": model.state_dict(),
            "average": average.state_dict(),
            "optimizer": optimizer.state_dict(),
        }
        torch.save({**states, "spent": spent, "step": step}, folder / "mace.state")

    while spent < budget:
        for batch in loader:
            began = time.process_time()
            share = spent / budget
            rate = RATE * (
                share / WARMUP
                if share < WARMUP
                else 0.5 * (1 + math.cos(math.pi * (share - WARMUP) / (1 - WARMUP)))
            )
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad()
            loss = loss_of(model, batch, scale)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            keep = min(EMA, (1 + step) / (10 + step))
            with torch.no_grad():
                for one, other in zip(average.parameters(), model.parameters(), strict=True):
                    one.lerp_(other, 1 - keep)
            step, spent = step + 1, spent + time.process_time() - began
            if step % SAVED_EVERY == 0:
                save()
                print(f"{step} {spent:.0f}/{budget:.0f} s {float(loss):.4f}", flush=True)
            if spent >= budget:
                break
    save()
    torch.save(average, folder / "mace.model")
    print(
        f"done: {step} steps, {step * BATCH / len(frames):.1f} epochs, {sum(p.numel() for p in model.parameters())} weights"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
