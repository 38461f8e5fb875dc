"""Write the tables of README.md."""

from __future__ import annotations

from compare import SAME

NAMES = {"plain": "given geometry", "warm": "warm start"}


def table(results: dict[str, dict[str, float]]) -> str:
    """The table of one set of structures."""
    lines = [
        "| start | structures | model calls, mean | median | converged | mean energy (eV) |",
        "|---|---|---|---|---|---|",
    ]
    for name, words in NAMES.items():
        one = results[name]
        lines.append(
            f"| {words} | {one['n']} | {one['calls_mean']:.1f} | {one['calls_median']:.0f} | {100 * one['converged']:.0f} % "
            f"| {one['energy_mean']:.3f} |"
        )
    c = results["compared"]
    lines += [
        "",
        f"A warm start saves {c['saved_mean']:.1f} ± {c['saved_error']:.1f} model calls per structure (mean and standard error, the call of the "
        f"direct model included), and needs fewer calls for {100 * c['fewer']:.0f} % of the structures. Both relaxations reach the same minimum "
        f"(within {SAME} eV and {SAME} Å) for {100 * c['same_place']:.0f} %; with the warm start {100 * c['lower']:.0f} % end lower and "
        f"{100 * c['higher']:.0f} % higher by more than {SAME} eV.",
    ]
    return "\n".join(lines)
