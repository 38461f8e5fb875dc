"""Test finished networks and write the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import figures
import numpy as np
import page
from baselines import BASELINES, tables
from measure import Fit, baseline_of_test, finished, read_fit, row_of, said_of_test
from plan import HERE, LEARNABLE, PAIRS, Planned
from published import read_published
from scores import Baselines, Row, Tested, Tests, ceiling, scores

from geocalc.core import write_atomically
from geocalc.properties import GlassData, configurations, read_property_recipe

BASELINES_FILE, TEST = "baselines.json", "test"
TESTS_FILE, SAID_FILE = "test.json", "said.npz"
DRAWN = {
    "moments": "network of moments",
    "bapst": "graph network of Bapst et al.",
    BASELINES[-1].name: "ridge on descriptors",
}


def glass_data() -> GlassData:
    """Where the configurations at T = 0.44 are, and which are for the test."""
    return read_property_recipe(HERE / "bapst.yaml").data


def read_fits(planned: Iterable[Planned], out: Path) -> list[Fit]:
    """All trainings; the process ends with a sentence where one is not finished."""
    fits = []
    for one in planned:
        if not finished(one):
            raise SystemExit(f"{one.folder} is not finished; run train with the same options first")
        fits.append(read_fit(one, out / "data"))
    return fits


def by_name(fits: Sequence[Fit]) -> dict[str, list[Fit]]:
    """The trainings of each recipe, in order."""
    return {
        name: [fit for fit in fits if fit.planned.name == name]
        for name in dict.fromkeys(fit.planned.name for fit in fits)
    }


def judge(fits: Sequence[Fit], out: Path) -> list[str]:
    """Judge networks and baselines by the test configurations, each of them once; what was judged
    before is left as it is.

    Returns:
        Names of those that had been judged before.
    """
    place, data = out / TEST, glass_data()
    tested, said = list(_tested(place / TESTS_FILE)), _said(place / SAID_FILE)
    before = {one.name for one in tested}
    networks, repeated = by_name(fits), []
    for name in [*networks, *(baseline.name for baseline in BASELINES)]:
        if name in before:
            repeated.append(name)
            continue
        if name in networks:
            answers = said_of_test(networks[name], out / "data")
            learned = len(
                {configuration for fit in networks[name] for configuration in fit.learned}
            )
        else:
            baseline = next(one for one in BASELINES if one.name == name)
            some = tables(baseline, data, LEARNABLE, out / "data")
            answers, learned = baseline_of_test(baseline, some, data, out / "data"), len(some)
        tested.append(Tested(name=name, learned=learned, scores=scores(answers)))
        said |= {f"{name}: {answer.name}": answer.predicted for answer in answers}
    place.mkdir(parents=True, exist_ok=True)
    np.savez(place / SAID_FILE, **said)
    write_atomically(place / TESTS_FILE, [Tests(tested=tuple(tested)).model_dump_json(indent=1)])
    return repeated


def _said(path: Path) -> dict[str, np.ndarray]:
    """Predictions of earlier tests by name."""
    if not path.is_file():
        return {}
    with np.load(path) as kept:
        return {name: kept[name] for name in kept.files}


def write_report(fits: Sequence[Fit], out: Path, to: Path) -> None:
    """results.json, tables and pictures in the folder `to`, which has a README.md; the test where
    it is done.
    """
    rows = {name: row_of(some) for name, some in by_name(fits).items()}
    own = {fit.planned.name: fit for fit in fits if fit.planned.fold is None}
    tested, baselines = _tested(out / TEST / TESTS_FILE), _baselines(out / BASELINES_FILE)
    data = glass_data()
    generated = next((_generated(fit, rows[name], tested) for name, fit in own.items()), None)
    study = page.Study(
        rows=(*baselines.rows, *(row for name, row in rows.items() if name not in own)),
        fewer=baselines.fewer,
        tested=_in_order(tested, own),
        ceilings=tuple(
            ceiling(configurations(data, names)) for names in (PAIRS[-1], LEARNABLE, data.test)
        ),
        generated=generated,
    )
    published = read_published(HERE / "published.yaml")
    page.write(study, published, to)
    real = [fit for fit in fits if fit.planned.fold is not None]
    figures.draw_curves(
        real,
        [row for name, row in rows.items() if name not in own],
        baselines.fewer,
        published,
        to / "learning-curve.png",
    )
    if generated is not None:
        figures.draw_times(generated, to / "times.png")
    if tested:
        _draw_test(data, out / TEST / SAID_FILE, to)


def _generated(fit: Fit, row: Row, tested: Sequence[Tested]) -> page.Generated:
    data = fit.planned.recipe.data
    held_out, test = (configurations(data, names) for names in (data.validation, data.test))
    return page.Generated(
        times=tuple(held_out[0].times.tolist()),
        row=row,
        tested=next((one for one in tested if one.name == row.name), None),
        ceilings=(ceiling(held_out), ceiling(test)),
    )


def _draw_test(data: GlassData, path: Path, to: Path) -> None:
    """Maps of the first test configuration, and parity of all."""
    some = configurations(data, data.test)
    known = [one.propensity[:, one.types == 0].T for one in some]
    with np.load(path) as said:
        drawn = {
            title: [said[f"{name}: {one.name}"] for one in some]
            for name, title in DRAWN.items()
            if f"{name}: {some[0].name}" in said
        }
    maps = [
        figures.Panel("measured", known[0]),
        *(figures.Panel(title, values[0]) for title, values in drawn.items()),
    ]
    figures.draw_maps(some[0], maps, to / "maps.png")
    panels = [figures.Panel(title, np.concatenate(values)) for title, values in drawn.items()]
    figures.draw_parity(panels, np.concatenate(known), to / "parity.png")


def _in_order(tested: Sequence[Tested], own: Mapping[str, Fit]) -> tuple[Tested, ...]:
    """Baselines first, as in the other table, and without configurations that are our own."""
    first = [baseline.name for baseline in BASELINES]
    return tuple(
        sorted(
            (one for one in tested if one.name not in own), key=lambda one: one.name not in first
        )
    )


def _tested(path: Path) -> tuple[Tested, ...]:
    return Tests.model_validate_json(path.read_text()).tested if path.is_file() else ()


def _baselines(path: Path) -> Baselines:
    return (
        Baselines.model_validate_json(path.read_text())
        if path.is_file()
        else Baselines(rows=(), fewer=())
    )
