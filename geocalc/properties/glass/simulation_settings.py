"""Settings of glass simulations."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from geocalc.core.settings import Settings
from geocalc.properties.glass.dynamics import steps_of


class GlassSettings(Settings):
    """Settings of an isoconfigurational ensemble of the Kob-Andersen mixture at constant volume.

    All quantities are in Lennard-Jones units.

    Attributes:
        n_particles: number of particles; four fifths are A.
        density: particles per sigma_AA^3.
        temperature: temperature of the configurations and of the initial velocities, epsilon_AA /
            k_B.
        melt_temperature: temperature of the melt, epsilon_AA / k_B.
        melt_time: duration of the melt.
        quench_time: duration of the linear cooling to `temperature`.
        equilibration_time: duration at `temperature` before the part that is tested for aging.
        ageing_time: duration of that part; its last image is the configuration.
        n_frames: number of images of that part.
        ageing_tolerance: largest allowed difference between the scattering functions of its halves.
        times: times of the measured displacements, multiples of the time step.
        n_runs: runs per configuration.
        timestep: time step of all simulations.
        seed: seed of all random numbers.
    """

    n_particles: int = Field(default=1000, ge=100)
    density: float = Field(default=1.2, gt=0.5, lt=1.6)
    temperature: float = Field(default=0.64, gt=0)
    melt_temperature: float = Field(default=2.0, gt=0)
    melt_time: float = Field(default=10.0, gt=0)
    quench_time: float = Field(default=10.0, gt=0)
    equilibration_time: float = Field(default=100.0, ge=0)
    ageing_time: float = Field(default=100.0, gt=0)
    n_frames: int = Field(default=40, ge=8)
    ageing_tolerance: float = Field(default=0.1, gt=0)
    times: tuple[float, ...] = (0.1, 0.3, 1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 13.0)
    n_runs: int = Field(default=16, ge=2)
    timestep: float = Field(default=0.005, gt=0, le=0.01)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        """Check that times are multiples of the time step, and that images and cutoff fit."""
        steps_of(self.times, self.timestep)
        if self.ageing_time < self.n_frames * self.timestep:
            raise ValueError(
                f"an ageing_time of {self.ageing_time} has no {self.n_frames} steps of"
                f" {self.timestep}"
            )
        if self.box_length < 5.6:
            raise ValueError(
                f"{self.n_particles} particles at density {self.density} fill a box of"
                f" {self.box_length:.2f}, which is less than twice the cutoff 2.5 and a skin of"
                " 0.3; use more particles"
            )
        return self

    @property
    def box_length(self) -> float:
        """Edge of the cubic box, sigma_AA."""
        return float((self.n_particles / self.density) ** (1 / 3))

    @property
    def types(self) -> NDArray[np.int64]:
        """(n_particles,), 0 for A and 1 for B; four fifths, rounded, are A."""
        n_a = round(0.8 * self.n_particles)
        return np.repeat(np.array([0, 1], dtype=np.int64), [n_a, self.n_particles - n_a])

    @property
    def steps(self) -> tuple[int, ...]:
        """Numbers of steps after which displacements are recorded."""
        return steps_of(self.times, self.timestep)

    @property
    def ageing_steps(self) -> tuple[int, ...]:
        """Numbers of steps after which images are recorded for the aging test, evenly spaced."""
        spacing = round(self.ageing_time / self.timestep / self.n_frames)
        return tuple(spacing * k for k in range(1, self.n_frames + 1))
