"""Optimization and training settings of a recipe: schedule, noise and weights of the loss."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from geocalc.core.settings import Settings
from geocalc.data.settings import Noise


class FinalStage(Settings):
    """Last steps of a run, with another frame policy and a second decay of the learning rate.

    A network can first learn from randomly rotated structures, which are more diverse, and then
    from the frames that its potential averages over.

    Attributes:
        steps: number of steps.
        learning_rate: initial learning rate.
        frames: frame policy.
    """

    steps: int = Field(ge=1)
    learning_rate: float = Field(ge=0)
    frames: str


class FineTuning(Settings):
    """Choices of fine-tuning that are not settings of training.

    The defaults, like the settings of `training` in a recipe made for a file of structures, were
    chosen by hand on relaxations on palladium; other materials and larger sets of data may need
    others.
    """

    chosen_on: str = Field(
        "relaxations of adsorbates on palladium",
        description=(
            "data that the values of this group and of `training` were chosen on; change this text"
            " when you choose others"
        ),
    )
    passes: int = Field(30, ge=1, description="times that a structure is seen, for choosing steps")
    min_steps: int = Field(100, ge=1, description="fewest steps, whatever `passes` says")
    max_steps: int = Field(3000, ge=1, description="most steps, whatever `passes` says")
    few_relaxations: int = Field(
        10,
        ge=0,
        description=(
            "with fewer relaxations than this, energies change the references alone and the"
            " learning rate is smaller"
        ),
    )
    reference_samples: int = Field(
        400, ge=1, description="training structures that the references are fitted to, at most"
    )
    reference_hold: float = Field(
        25.0,
        ge=0,
        description=(
            "weight of the model's own zero of adsorption energies, in relaxations: as many pull"
            " the references half as far as they would go without it"
        ),
    )


class Optimization(Settings):
    """Settings of the optimizer, evaluations and checkpoints, for energies and for properties."""

    steps: int = Field(ge=1, description="all of them, those of `final_stage` or of all stages too")
    batch_size: int = Field(
        16, ge=1, description="structures behind one step of the optimizer, over all processes"
    )
    optimizer: Literal["adamw", "muon"] = Field(
        "adamw",
        description=(
            "adamw, or muon, which orthogonalizes the updates of weight matrices; equivariant"
            " networks learn faster with it, at a little more work for each step"
        ),
    )
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    warmup_fraction: float = Field(0.03, ge=0, lt=1)
    ema_decay: float = Field(
        0.999,
        ge=0,
        lt=1,
        description="of the averaged weights; less in the beginning, see WeightAverage",
    )
    clip_norm: float = Field(10.0, gt=0)
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    seed: int = 0
    evaluate_every: int = Field(1000, ge=1)
    patience: int | None = Field(
        None,
        ge=1,
        description=(
            "evaluations without a smaller validation error that end the run; the best averaged"
            " weights are the result"
        ),
    )
    checkpoint_every: int = Field(500, ge=1)
    log_every: int = Field(50, ge=1)
    max_seconds: float | None = Field(
        None, gt=0, description="stop and checkpoint after this wall time; resume continues"
    )

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step: linear warm-up, then cosine decay to zero.

        Steps are counted from 0.
        """
        return self._warmed_cosine(step, self.steps)

    def _warmed_cosine(self, step: int, steps: int) -> float:
        warmup = max(1, int(self.warmup_fraction * steps))
        if step < warmup:
            return self.learning_rate * ((step + 1) / warmup)
        return self.learning_rate * half_cosine(step - warmup, max(1, steps - warmup))


class Training(Optimization):
    """Training settings of energies, forces and displacements; energies in eV, lengths in Å."""

    accumulate: int = Field(
        1,
        ge=1,
        description=(
            "micro-batches that a process cuts its share of a batch into; the same step with less"
            " memory"
        ),
    )
    max_edges: int | None = Field(
        None,
        ge=1,
        description=(
            "edges that a process computes together; larger shares are cut into more micro-batches"
        ),
    )
    balance_by_edges: bool = Field(
        True,
        description=(
            "processes get equal numbers of edges of each batch, about; without, of structures"
        ),
    )
    workers: int = Field(
        0, ge=0, description="processes that prepare batches ahead, for each process that trains"
    )
    frames: str = Field("stochastic", description="frame policy while training")
    final_stage: FinalStage | None = None
    energy_weight: float = Field(1.0, ge=0)
    force_weight: float = Field(5.0, ge=0)
    direct_force_weight: float = Field(0.0, ge=0)
    gradient_target_weight: float = Field(
        0.0, ge=0, description="direct forces towards the gradient, detached"
    )
    displacement_weight: float = Field(
        0.0, ge=0, description="is2re: displacements to the relaxed structure"
    )
    displacement_weight_end: float | None = Field(
        None,
        ge=0,
        description=(
            "what displacement_weight comes to at the last step, along a straight line; by default"
            " it stays"
        ),
    )
    noise: Noise | None = None
    add_layers_probability: float = Field(
        0.0,
        ge=0,
        le=1,
        description=(
            "share of slabs that are seen with one or two layers more below; adsorption energies"
            " only"
        ),
    )
    substrate_weight: float = Field(
        0.0,
        ge=0,
        description=(
            "pull to zero of the energy shares of subsurface atoms and of clean slabs; adsorption"
            " energies only"
        ),
    )
    consistency_weight: float = Field(
        0.0,
        ge=0,
        description=(
            "s2ef: pull of energies and forces under two random frames towards each other, in units"
            " of their weights; each batch is computed twice"
        ),
    )
    penalty_weight: float = Field(
        0.0,
        ge=0,
        description=(
            "weight of the architecture's own penalty: for regnn the group lasso of its relaxed"
            " weights, which pulls it towards equivariance"
        ),
    )
    penalty_weight_end: float | None = Field(
        None,
        ge=0,
        description=(
            "value of penalty_weight at the last step, reached linearly; by default it stays"
            " constant"
        ),
    )
    fixed_force_weight: float = Field(
        0.2, ge=0, description="weight of forces on atoms that are held fixed"
    )
    freeze: tuple[str, ...] = Field(
        (), description="parts of the network that stay as they are, e.g. [embedding, blocks.0]"
    )

    @property
    def first_steps(self) -> int:
        """Number of steps before `final_stage`."""
        return self.steps - (self.final_stage.steps if self.final_stage else 0)

    def frames_at(self, step: int) -> str:
        """Return the frame policy of a step, counted from 0."""
        return (
            self.final_stage.frames
            if self.final_stage and step >= self.first_steps
            else self.frames
        )

    def displacement_weight_at(self, step: int) -> float:
        """Return the weight of displacements in a step, counted from 0."""
        return self._towards(self.displacement_weight, self.displacement_weight_end, step)

    def penalty_weight_at(self, step: int) -> float:
        """Return the weight of the architecture's penalty in a step, counted from 0."""
        return self._towards(self.penalty_weight, self.penalty_weight_end, step)

    def _towards(self, first: float, last: float | None, step: int) -> float:
        return first + ((first if last is None else last) - first) * step / max(1, self.steps - 1)

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step: linear warm-up, then cosine decay to zero.

        `final_stage` begins a second decay without warm-up.
        """
        if self.final_stage and step >= self.first_steps:
            return self.final_stage.learning_rate * half_cosine(
                step - self.first_steps, self.final_stage.steps
            )
        return self._warmed_cosine(step, self.first_steps)


def half_cosine(step: int, steps: int) -> float:
    """Decay from 1 at step 0 to 0 at step `steps` along half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))
