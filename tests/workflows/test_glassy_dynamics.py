"""The study of glassy dynamics runs from its recipes to its page, on made-up configurations; its
descriptors against other formulas.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from ase.build import bulk
from click.testing import CliRunner
from helpers.glasses import glass
from helpers.workflow_modules import workflow_modules
from PIL import Image
from scipy.special import eval_legendre

from geocalc.properties import glass_graphs
from geocalc.properties.glass.configuration import GlassConfiguration, write_configuration
from geocalc.properties.glass.inherent import InherentStructure
from geocalc.properties.recipe import read_property_recipe
from geocalc.properties.samples import signed_permutations
from geocalc.relaxation.status import Status

STUDY = Path(__file__).parents[2] / "workflows" / "glassy-dynamics"
MODULES = (
    "plan",
    "scores",
    "published",
    "descriptors",
    "baselines",
    "measure",
    "page",
    "figures",
    "report",
    "run",
)  # imports before
RECIPES = ("moments", "bapst", "unshared", "edges-parallel", "report", "gcn")
TEST = ("ka_T0.44_401", "ka_T0.44_402")


@pytest.fixture(scope="module")
def study() -> Iterator[dict[str, ModuleType]]:
    """Modules of the study."""
    with workflow_modules("glassy-dynamics", MODULES) as found:
        yield found


def box(seed: int) -> GlassConfiguration:
    """500 particles on a shaken fcc lattice, wide enough for all reaches; the propensity grows with
    the neighbors of type B.
    """
    rng = np.random.default_rng(seed)
    lattice = bulk("Ar", "fcc", a=(4 / 1.2) ** (1 / 3) * 1.08, cubic=True).repeat(5)
    positions, length = lattice.positions + rng.uniform(-0.05, 0.05, (500, 3)), lattice.cell[0, 0]
    types = (rng.permutation(500) < 100).astype(np.int64)
    away = positions[:, None] - positions[types == 1]
    away -= length * np.round(away / length)
    propensity = 0.3 + 0.02 * (np.linalg.norm(away, axis=2) < 1.5).sum(1)[None]
    halves = [propensity + rng.normal(0, 0.01, 500) for _ in range(2)]
    return GlassConfiguration(
        name=f"b{seed}",
        positions=positions,
        types=types,
        box=np.full(3, length),
        times=np.ones(1),
        propensity=propensity,
        half_a=halves[0],
        half_b=halves[1],
    )


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, study: dict[str, ModuleType]) -> Path:
    """A folder with ten configurations and two for the test, and 14 at nine times; minima are not
    searched, bond order is short.
    """
    data, own = (
        tmp_path / "data" / "glassy-kob-andersen-botan",
        tmp_path / "runs" / "glassy-dynamics" / "T0.64",
    )
    for folder in (data, own):
        folder.mkdir(parents=True)
    for k, name in enumerate((*study["plan"].LEARNABLE, *TEST)):
        write_configuration(data / f"{name}.npz", box(k))
    held_out = read_property_recipe(STUDY / "generated.yaml").data
    for k, name in enumerate(
        ("ka_T0.64_0000", "ka_T0.64_0001", *held_out.test, *held_out.validation)
    ):
        made = glass(k, n_times=9)
        halves = [
            made.propensity * (1 + 0.1 * np.random.default_rng((k, side)).random())
            for side in (0, 1)
        ]
        write_configuration(own / f"{name}.npz", replace(made, half_a=halves[0], half_b=halves[1]))
    monkeypatch.setenv("GEOCALC_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(glass_graphs, "inherent_structure", stays)
    monkeypatch.setattr(study["descriptors"], "DEGREE", 2)
    for name in ("run", "report"):
        monkeypatch.setattr(study[name], "BASELINES", study["baselines"].BASELINES[1::2])
    return tmp_path


def stays(configuration: GlassConfiguration) -> InherentStructure:
    none = np.zeros(configuration.n_particles)
    return InherentStructure(
        positions=configuration.positions,
        energies=none,
        fmax=0.0,
        n_steps=0,
        status=Status.CONVERGED,
    )


@pytest.mark.slow
def test_the_study_on_made_up_configurations(study: dict[str, ModuleType], place: Path) -> None:
    options = [
        "--recipes",
        ",".join((*RECIPES, "generated")),
        "--steps",
        "3",
        "--out",
        str(place / "runs"),
    ]

    def go(command: str, *more: str, fails: bool = False) -> str:
        given = ["--out", str(place / "runs")] if command == "baselines" else [*options, *more]
        done = CliRunner().invoke(study["run"].main, [command, *given], catch_exceptions=False)
        assert done.exit_code == int(fails), done.output
        return done.output

    assert "is not finished; run train with the same options first" in go("test", fails=True)
    go("train")
    log = (place / "runs" / "gcn-3" / "fold-4" / "log.jsonl").read_bytes()
    go("train", "--recipes", "gcn")  # again, with nothing left to do
    assert (place / "runs" / "gcn-3" / "fold-4" / "log.jsonl").read_bytes() == log
    shutil.copy(STUDY / "README.md", place / "README.md")
    go("report", "--to", str(place), "--recipes", "gcn")  # before the baselines and the test
    assert "Not tested yet." in (place / "README.md").read_text()
    go("baselines")
    go("test", "--recipes", "moments,gcn")
    judged = json.loads((place / "runs" / "test" / "test.json").read_text())["tested"]
    again = go("test")  # the others
    assert [line.split(" was judged before")[0] for line in again.splitlines()][:2] == [
        "moments",
        "gcn",
    ]
    assert (
        json.loads((place / "runs" / "test" / "test.json").read_text())["tested"][: len(judged)]
        == judged
    )
    go("report", "--to", str(place))

    told = json.loads((place / "results.json").read_text())
    rows = {row["name"]: row for row in told["rows"]}
    assert [name for name in rows if name in RECIPES] == list(RECIPES)
    assert [rows[name]["weights"] for name in RECIPES[1:]] == [
        62_401,
        334_273,
        66_497,
        358_849,
        16_897,
    ]
    assert rows["moments"]["folds"] == 5
    assert rows["moments"]["validation"][0]["names"] == list(study["plan"].LEARNABLE)
    assert {row["learned"] for row in told["rows"]} == {8}
    tested = {one["name"]: one for one in told["tested"]}
    assert (
        tested["moments"]["learned"],
        tested["bapst"]["learned"],
        tested["local energy, inherent"]["learned"],
    ) == (10, 8, 10)
    # it sees the neighbors of type B
    assert rows["ridge on descriptors, inherent"]["validation"][0]["pooled"] > 0.7
    with np.load(place / "runs" / "test" / "said.npz") as said:
        predicted = np.concatenate([said[f"gcn: {name}"][:, 0] for name in TEST])
    some = [box(k) for k in (10, 11)]
    known = np.concatenate([one.propensity[0, one.types == 0] for one in some])
    assert tested["gcn"]["scores"][0]["pooled"] == pytest.approx(
        np.corrcoef(predicted, known)[0, 1], abs=1e-6
    )
    generated = told["generated"]
    assert len(generated["row"]["validation"]) == len(generated["tested"]["scores"]) == 9
    assert generated["row"]["learned"] == 2

    text = (place / "README.md").read_text()
    assert "Not" not in "".join(
        text.split(f"<!-- {mark} -->")[1].split("<!-- /")[0]
        for mark in ("held out", "test", "times")
    )
    score = tested["bapst"]["scores"][0]
    assert (
        f"| bapst | 8 | {score['pooled']:.3f} | {score['each'][0]:.3f} | {score['each'][1]:.3f} | {score['r2']:.3f} |"
        in text
    )
    for name in ("learning-curve.png", "maps.png", "parity.png", "times.png"):
        with Image.open(place / name) as picture:
            assert min(picture.size) > 200


def test_ablations_are_the_published_network_but_for_one_choice() -> None:
    recipes = {
        path.stem: read_property_recipe(path)
        for path in STUDY.glob("*.yaml")
        if path.stem != "published"
    }
    plain = recipes["bapst"]
    for name, choice in (
        ("unshared", {"shared": False}),
        ("edges-parallel", {"edges_first": False}),
    ):
        assert recipes[name].model.settings == choice
        assert (recipes[name].data, recipes[name].training) == (plain.data, plain.training)
    for recipe in recipes.values():
        rates = [recipe.training.rate_at(step) for step in range(recipe.training.steps)]
        assert rates[-1] < 0.05 * max(rates)
        assert not set(recipe.data.validation) & set(recipe.data.test)


def test_a_shorter_training_keeps_the_proportion_of_its_stages(
    study: dict[str, ModuleType],
) -> None:
    recipe = read_property_recipe(STUDY / "report.yaml")
    assert [stage.steps for stage in recipe.training.stages] == [160, 20, 40, 160]
    longer = study["plan"].shortened(recipe, 950)
    assert [stage.steps for stage in longer.training.stages] == [400, 50, 100, 400]
    assert longer.training.rate_at(949) == pytest.approx(recipe.training.rate_at(379))
    short = study["plan"].shortened(recipe, 3)
    assert sum(stage.steps for stage in short.training.stages) == short.training.steps == 3


def test_folds_hold_out_every_configuration_once(
    study: dict[str, ModuleType], tmp_path: Path
) -> None:
    planned = list(study["plan"].plan("moments,bapst", None, None, tmp_path))
    assert [(one.name, one.fold) for one in planned] == [
        *(("moments", k) for k in range(5)),
        ("bapst", 4),
    ]
    held_out = [name for one in planned[:5] for name in one.recipe.data.validation]
    assert sorted(held_out) == sorted(f"ka_T0.44_{k}" for k in range(1, 11))
    failed = CliRunner().invoke(
        study["run"].main, ["train", "--folds", "5", "--out", str(tmp_path)]
    )
    assert "there is no fold '5'; choose from 0, 1, 2, 3, 4" in str(failed.exception)


def edges_of(study: dict[str, ModuleType], vectors: np.ndarray) -> object:
    """A particle with neighbors at these places."""
    n = len(vectors)
    return study["descriptors"].Edges(
        n + 1, np.zeros(n, int), np.arange(1, n + 1), vectors, np.linalg.norm(vectors, axis=1)
    )


def test_bond_order_is_that_of_steinhardt(study: dict[str, ModuleType]) -> None:
    ends = np.array([v for v in np.ndindex(3, 3, 3) if sum(x == 1 for x in v) == 1]) - 1.0
    # twelve neighbors of fcc, first shell
    found = study["descriptors"].bond_order(edges_of(study, ends / np.sqrt(2)))[0, :8]
    assert found[[3, 5, 7]] == pytest.approx([0.190940654, 0.574524259, 0.403914561], abs=1e-7)
    assert found[[0, 2, 4, 6]] == pytest.approx(0, abs=1e-6)


def test_bond_order_is_the_sum_over_pairs_of_neighbors(study: dict[str, ModuleType]) -> None:
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(9, 3))
    vectors *= (rng.uniform(0.8, 2.4, 9) / np.linalg.norm(vectors, axis=1))[:, None]
    found = study["descriptors"].bond_order(edges_of(study, vectors))[0].reshape(4, 8)
    r = np.linalg.norm(vectors, axis=1)
    cosines = (vectors / r[:, None]) @ (vectors / r[:, None]).T
    for k, (center, width) in enumerate(study["descriptors"].SHELLS):
        w = np.exp(-0.5 * ((r - center) / width) ** 2)
        for degree in range(1, 9):
            wanted = np.sqrt(w @ eval_legendre(degree, cosines) @ w) / w.sum()
            assert found[k, degree - 1] == pytest.approx(wanted, abs=1e-7)


def test_descriptors_do_not_depend_on_turns_places_or_names(study: dict[str, ModuleType]) -> None:
    one, rng = box(1), np.random.default_rng(0)
    order = rng.permutation(one.n_particles)
    turned = one.positions @ signed_permutations()[17].double().numpy().T + rng.normal(size=3)
    other = replace(
        one,
        positions=turned[order],
        types=one.types[order],
        propensity=one.propensity,
        half_a=None,
        half_b=None,
    )
    for columns in (study["descriptors"].descriptors, study["descriptors"].local_energies):
        assert np.abs(columns(other) - columns(one)[order]).max() < 1e-6


def test_densities_count_the_neighbors_of_each_type(study: dict[str, ModuleType]) -> None:
    edges = edges_of(study, np.array([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 2.0]]))
    found = study["descriptors"].densities(edges, np.array([0, 0, 1, 1]))[0].reshape(2, -1)
    centers = np.array(study["descriptors"].CENTRES)
    assert found[0] == pytest.approx(np.exp(-50 * (centers - 1) ** 2))
    assert found[1] == pytest.approx(
        np.exp(-50 * (centers - 1) ** 2) + np.exp(-50 * (centers - 2) ** 2)
    )


def test_averages_over_neighbors(study: dict[str, ModuleType]) -> None:
    one = box(2)
    average = study["descriptors"].Edges.of(one).within(3.0).average(0.7)
    away = one.positions[:, None] - one.positions
    r = np.linalg.norm(away - one.box * np.round(away / one.box), axis=2)
    weights = np.exp(-r / 0.7) * (r < 3.0)
    assert np.abs(average.toarray() - weights / weights.sum(1, keepdims=True)).max() < 1e-12


def table(study: dict[str, ModuleType], seed: int, weights: np.ndarray, noise: float) -> object:
    rng = np.random.default_rng(seed)
    columns = rng.normal(size=(200, len(weights))) * np.arange(1, len(weights) + 1) + 5
    return study["baselines"].Table(
        f"t{seed}", columns, columns @ weights + 0.5 + noise * rng.normal(size=200)
    )


def test_ridges_are_least_squares_with_a_penalty(study: dict[str, ModuleType]) -> None:
    some = [table(study, k, np.array([0.3, -0.2, 0.1]), 1.0) for k in range(2)]
    columns, known = (
        np.concatenate([t.columns for t in some]),
        np.concatenate([t.known for t in some]),
    )
    scaled = (columns - columns.mean(0)) / columns.std(0)
    for strength, fit in zip(
        study["baselines"].STRENGTHS, study["baselines"].ridges(some), strict=True
    ):
        padded = np.concatenate([scaled, np.sqrt(strength) * np.eye(3)])
        wanted = np.linalg.lstsq(
            padded, np.concatenate([known - known.mean(), np.zeros(3)]), rcond=None
        )[0]
        assert fit(some[0]) == pytest.approx(scaled[:200] @ wanted + known.mean(), abs=1e-10)


def test_the_strength_of_a_ridge_is_chosen_by_what_is_left_out(
    study: dict[str, ModuleType],
) -> None:
    clear = [table(study, k, np.array([0.3, -0.2, 0.1]), 0.0) for k in range(3)]
    noise = [table(study, k, np.zeros(3), 1.0) for k in range(3)]
    assert float(study["baselines"].fit_ridge(clear).chosen) == min(study["baselines"].STRENGTHS)
    assert float(study["baselines"].fit_ridge(noise).chosen) >= 100


def test_the_local_energy_learns_its_reach_and_its_sign(study: dict[str, ModuleType]) -> None:
    weights = np.zeros(len(study["descriptors"].LENGTHS))
    weights[2] = -0.4
    fit = study["baselines"].fit_energy([table(study, k, weights, 0.1) for k in range(3)])
    assert fit.chosen == f"{study['descriptors'].LENGTHS[2]:g}"
    assert fit.weights[2] == pytest.approx(-0.4, abs=0.01)
    assert np.count_nonzero(fit.weights) == 1


def test_the_ceiling_is_the_correlation_of_the_truth_with_the_mean_of_the_runs(
    study: dict[str, ModuleType],
) -> None:
    rng, some = np.random.default_rng(0), []
    truth = rng.uniform(0.5, 1.5, (40, 500))
    for k, own in enumerate(truth):
        halves = [(own + rng.normal(0, 0.1, 500))[None] for _ in range(2)]
        some.append(
            replace(box(k), propensity=np.mean(halves, axis=0), half_a=halves[0], half_b=halves[1])
        )
    most = study["scores"].ceiling(some)
    counted = [one.types == 0 for one in some]
    known = np.concatenate(
        [one.propensity[0, mask] for one, mask in zip(some, counted, strict=True)]
    )
    best = np.corrcoef(
        known, np.concatenate([own[mask] for own, mask in zip(truth, counted, strict=True)])
    )[0, 1]
    assert most.pooled[0] == pytest.approx(best, abs=2e-3)
    assert np.mean(most.each) == pytest.approx(best, abs=5e-3)
