"""Calibrates the probability that a registration failed, and measures it on people that nothing was fitted on.

``measure`` registers sound and broken pairs of real images (``failure_pairs.py``) and writes a row of evidence for each; it goes on where it was stopped.
``fit`` fits the coefficients of :mod:`nnreg.engine.failure` on one half of the people, and reports the other half.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from failure_pairs import Case, Pairs
from scipy.optimize import minimize
from scipy.stats import rankdata

from nnreg.engine import register
from nnreg.engine.failure import INDICATORS, Evidence, Indicator, judge
from nnreg.errors import RegistrationError

NAMES = [field.name for field in fields(Evidence)]
LOGARITHMS = {"backward_alignment", "round_trip"}
LEAST_AREA, MOST_ALARMS = 0.95, 0.02
PRIOR = 1 / 3  # share of broken pairs that a probability stands for
RIDGE = 0.005  # of the squared weights beside the mean loss: the classes can be told apart without an error, and weights would grow without end
SPREAD, LEAST_WIDTH = 1.5, 0.1
REFUSED = "refused"


def measured(case: Case, preset: str) -> dict[str, Any]:
    """A row of the table: what the case is, and the evidence of its registration, or that the engine refused it."""
    row: dict[str, Any] = {"name": case.name, "dataset": case.dataset, "kind": case.kind, "half": case.half, "broken": int(case.broken), REFUSED: 0}
    try:
        found = register(preset=preset, **case.options())
    except RegistrationError:
        return {**row, REFUSED: 1}
    return {**row, "fell": int(found.fell), **{name: f"{value:.6g}" for name, value in asdict(found.failure.evidence).items()}}


def measure(data: Path, table: Path, preset: str, seed: int) -> None:
    """Add the cases that `table` lacks, in an order that keeps any beginning balanced."""
    known = {row["name"] for row in read(table)} if table.exists() else set()
    cases = list(Pairs(data))
    columns = ["name", "dataset", "kind", "half", "broken", REFUSED, "fell", *NAMES]
    with table.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns)
        if not known:
            writer.writeheader()
        for index in np.random.default_rng(seed).permutation(len(cases)):
            if cases[index].name not in known:
                writer.writerow(measured(cases[index], preset))
                file.flush()


def read(table: Path) -> list[dict[str, str]]:
    """The rows of a table."""
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def taken(rows: Sequence[dict[str, str]], name: str) -> npt.NDArray[np.float64]:
    """The values of one measure as the model takes them."""
    values = np.asarray([float(row[name]) for row in rows])
    return np.log(np.maximum(values, 1e-6)) if name in LOGARITHMS else values


def fitted(rows: Sequence[dict[str, str]]) -> tuple[float, dict[str, Indicator]]:
    """Intercept and indicators: middles and widths from the quartiles of both classes, weights of at least 0 by a penalised logistic regression."""
    broken = np.asarray([row["broken"] == "1" for row in rows])
    indicators = {}
    for name in NAMES:
        values = taken(rows, name)
        centres = [float(np.median(np.clip(values[side], -20, 20))) for side in (~broken, broken)]
        # no narrower than what sound pairs vary by
        reach = max(abs(centres[1] - centres[0]) / 2, SPREAD * float(np.clip(values[~broken], -20, 20).std()), LEAST_WIDTH)
        width = reach * np.sign(INDICATORS[name].width)  # which way a measure goes when registrations fail is known
        indicators[name] = Indicator(round(float(np.mean(centres)), 3), round(float(width), 3), 1.0, name in LOGARITHMS, INDICATORS[name].told)
    standings = np.stack([[indicators[name].standing(float(row[name])) for name in NAMES] for row in rows])
    sides = np.where(broken, 1.0, -1.0)
    balance = np.where(broken, PRIOR / broken.sum(), (1 - PRIOR) / (~broken).sum())

    def cost(values: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        margins = sides * (values[0] + standings @ values[1:])
        slope = -balance * sides / (1 + np.exp(margins))
        penalty = RIDGE * float(values[1:] @ values[1:])
        gradient = np.concatenate([[slope.sum()], standings.T @ slope + 2 * RIDGE * values[1:]])
        return float(balance @ np.logaddexp(0, -margins)) + penalty, gradient

    bounds = [(None, None), *[(0.0, None)] * len(NAMES)]
    found = minimize(cost, np.zeros(1 + len(NAMES)), jac=True, bounds=bounds, method="L-BFGS-B").x
    weighted = {
        name: Indicator(one.middle, one.width, round(float(w), 3), one.logarithm, one.told)
        for (name, one), w in zip(indicators.items(), found[1:], strict=True)
    }
    return round(float(found[0]), 3), weighted


def probability(row: dict[str, str]) -> float:
    """Of the model in the package."""
    return judge(Evidence(*(float(row[name]) for name in NAMES))).probability


def area(scores: npt.NDArray[np.float64], broken: npt.NDArray[np.bool_]) -> float:
    """Under the receiver operating characteristic (Mann and Whitney 1947)."""
    ranks = rankdata(scores)
    count = int(broken.sum())
    return float((ranks[broken].sum() - count * (count + 1) / 2) / (count * (~broken).sum()))


def report(rows: Sequence[dict[str, str]]) -> dict[str, Any]:
    """Area, false alarms and found failures of the model in the package, and by kind what it missed or raised in vain."""
    judged = [row for row in rows if row[REFUSED] == "0"]
    scores = np.asarray([probability(row) for row in judged])
    broken = np.asarray([row["broken"] == "1" for row in judged])
    alarmed = (scores >= 0.5) | np.asarray([row["fell"] == "1" for row in judged])
    kinds = {}
    for kind in sorted({(row["kind"].split("_")[0], row["dataset"]) for row in judged}):
        own = np.asarray([(row["kind"].split("_")[0], row["dataset"]) == kind for row in judged])
        kinds["_".join(kind)] = f"{int(alarmed[own].sum())} of {int(own.sum())} alarmed"
    return {
        "sound": int((~broken).sum()),
        "broken": int(broken.sum()),
        "refused": len(rows) - len(judged),
        "area_under_curve": round(area(scores, broken), 4),
        "false_alarms": round(float(alarmed[~broken].mean()), 4),
        "found": round(float(alarmed[broken].mean()), 4),
        "by_kind": kinds,
    }


def main() -> int:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["measure", "fit"])
    parser.add_argument("table", type=Path, help="CSV of evidence")
    parser.add_argument("--data", type=Path, help="folder of the datasets; needed to measure")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--seed", type=int, default=0, help="order of the cases")
    options = parser.parse_args()
    if options.step == "measure":
        if options.data is None:
            parser.error("measure needs --data")
        measure(options.data, options.table, options.preset, options.seed)
        return 0
    rows = read(options.table)
    intercept, indicators = fitted([row for row in rows if row["half"] == "fit" and row[REFUSED] == "0"])
    print("a fit on one half of the people, to be copied into nnreg/engine/failure.py:", f"INTERCEPT = {intercept}", sep="\n")
    for name, one in indicators.items():
        print(f'    "{name}": {one.middle}, {one.width}, {one.weight}')
    found = {half: report([row for row in rows if row["half"] == half]) for half in ("fit", "report")}
    print("the model in the package:", json.dumps(found, indent=2), sep="\n")
    kept = found["report"]
    return int(kept["area_under_curve"] < LEAST_AREA or kept["false_alarms"] > MOST_ALARMS)


if __name__ == "__main__":
    sys.exit(main())
