"""Positive replacements of the Hessian of focal loss, compared by models of rare positives.

Where f'' < 0 the exact Hessian may be negative. Replacements, each in plain NumPy:

- clip: max(f'' q**2 - f' p q, 1e-16)
- slope: -f' p q
- bound: max(f'', 0) q**2 - f' p q, fusedce's "psd"

Half of the rows are for training (with positives removed down to the share of the data set), a
quarter for choosing the number of trees, a quarter for the test. Models start at the constant of
the smallest loss. The log loss is that of ``boosting_formulas.posterior`` of the raw score.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import lightgbm as lgb
import numpy as np
import xgboost as xgb
from scipy.optimize import brentq
from sklearn.datasets import load_breast_cancer, load_digits, load_wine, make_classification
from sklearn.metrics import average_precision_score, log_loss

from benchmarks.boosting_formulas import posterior, terms
from benchmarks.data import Array
from benchmarks.results import Record
from benchmarks.screen import Tell

GAMMAS = (0.5, 1.0, 2.0, 5.0)
STAGES = tuple(range(5, 151, 5))  # numbers of trees
RATE = 0.1
SURROGATES: dict[str, Callable[[Array, Array], Array]] = {
    "exact": lambda convex, slope: convex + slope,
    "clip": lambda convex, slope: np.maximum(convex + slope, 1e-16),
    "slope": lambda convex, slope: slope,
    "bound": lambda convex, slope: np.maximum(convex, 0) + slope,
}


class Part(NamedTuple):
    """Rows with their labels."""

    x: Array
    y: Array


def generated(seed: int) -> tuple[Array, Array]:
    """20000 rows of 20 features, 6 of them informative; 0.5% positives."""
    made: tuple[Array, Array] = make_classification(
        20000, 20, n_informative=6, n_clusters_per_class=3, weights=[0.995], flip_y=0,
        class_sep=0.7, random_state=seed,
    )  # fmt: skip
    return made


def bundled(load: Callable[..., Any], label: int) -> Callable[[int], tuple[Array, Array]]:
    """One of scikit-learn's data sets, one class against the others."""

    def read(seed: int) -> tuple[Array, Array]:
        x, y = load(return_X_y=True)
        return x, (y == label).astype(int)

    return read


class Source(NamedTuple):
    """A data set, and the share of positives in the training rows if some are removed."""

    read: Callable[[int], tuple[Array, Array]]
    share: float | None = None


SOURCES = {
    "breast cancer (5%)": Source(bundled(load_breast_cancer, 0), 0.05),
    "digit 8 (2%)": Source(bundled(load_digits, 8), 0.02),
    "wine (10%)": Source(bundled(load_wine, 1), 0.1),
    "generated (0.5%)": Source(generated),
}


def split(source: Source, seed: int) -> tuple[Part, Part, Part]:
    """Rows for training, for choosing the number of trees, and for the test."""
    rng = np.random.default_rng(seed)
    x, y = source.read(seed)
    order = rng.permutation(len(y))
    train, *held = np.split(order, [len(y) // 2, 3 * len(y) // 4])
    if source.share is not None:
        yes, no = train[y[train] == 1], train[y[train] == 0]
        kept = max(4, round(source.share / (1 - source.share) * len(no)))
        train = np.concatenate([no, rng.choice(yes, min(kept, len(yes)), replace=False)])
    parts = [Part(x[rows], y[rows]) for rows in (train, *held)]
    return parts[0], parts[1], parts[2]


def objective(gamma: float, surrogate: str) -> Callable[..., tuple[Array, Array]]:
    """A custom objective in the form of both libraries' own training functions."""

    def derivatives(raw: Array, data: Any) -> tuple[Array, Array]:
        grad, *terms_of_hessian = terms(raw.astype(np.float64), data.get_label(), gamma)
        return grad, SURROGATES[surrogate](*terms_of_hessian)

    return derivatives


def lightgbm(train: Part, held: list[Part], start: float, fobj: Any) -> list[list[Array]]:
    """Raw scores of each held-out part, at each stage."""
    data = lgb.Dataset(train.x, train.y, init_score=np.full(len(train.y), start))
    params = {"objective": fobj, "num_threads": 1, "learning_rate": RATE, "verbosity": -1}
    model = lgb.train(params, data, STAGES[-1])
    return [
        [start + model.predict(part.x, raw_score=True, num_iteration=k) for k in STAGES]
        for part in held
    ]


def xgboost(train: Part, held: list[Part], start: float, fobj: Any) -> list[list[Array]]:
    """Raw scores of each held-out part, at each stage."""

    def matrix(part: Part) -> Any:
        return xgb.DMatrix(part.x, part.y, base_margin=np.full(len(part.y), start))

    params = {"nthread": 1, "learning_rate": RATE, "base_score": 0.5}
    model = xgb.train(params, matrix(train), STAGES[-1], obj=fobj)

    def scores(data: Any, trees: int) -> Array:
        raw = model.predict(data, output_margin=True, iteration_range=(0, trees))
        return np.asarray(raw, dtype=np.float64)

    return [[scores(data, k) for k in STAGES] for data in map(matrix, held)]


LIBRARIES = {"LightGBM": lightgbm, "XGBoost": xgboost}


def cost(raw: Array, y: Array, gamma: float) -> float:
    """Log loss of the probabilities of raw scores; scores that are not finite are replaced."""
    finite = np.clip(np.nan_to_num(raw), -50, 50)
    return float(log_loss(y, np.clip(posterior(finite, gamma), 1e-7, 1 - 1e-7)))


def fit(parts: tuple[Part, Part, Part], library: str, gamma: float, surrogate: str) -> list[float]:
    """Average precision and log loss on the test rows, and the number of trees."""
    train, stop, test = parts
    share = train.y.mean()
    start = float(brentq(lambda z: float(posterior(np.array(z), gamma)) - share, -40, 40))
    fobj = objective(gamma, surrogate)
    stops, tests = LIBRARIES[library](train, [stop, test], start, fobj)
    best = int(np.argmin([cost(raw, stop.y, gamma) for raw in stops]))
    precision = average_precision_score(test.y, np.nan_to_num(tests[best]))
    return [float(precision), cost(tests[best], test.y, gamma), STAGES[best]]


def measure(seeds: int, sources: list[str], tell: Tell) -> list[Record]:
    """A record for each set, library, gamma and surrogate: figures seed by seed."""
    records = []
    for name in sources:
        drawn = [split(SOURCES[name], seed) for seed in range(seeds)]
        for library in LIBRARIES:
            for gamma in GAMMAS:
                for surrogate in SURROGATES:
                    tell(f"{name}, {library}, gamma {gamma:g}")
                    figures = np.array([fit(parts, library, gamma, surrogate) for parts in drawn])
                    precision, loss, trees = figures.T.round(5).tolist()
                    records.append({
                        "data": name, "library": library, "gamma": gamma, "surrogate": surrogate,
                        "average_precision": precision, "log_loss": loss, "trees": trees,
                    })  # fmt: skip
    return records
