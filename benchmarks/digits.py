"""Train a small network on scikit-learn's digits, with losses by fusedce only.

Two experiments on 1797 scans of handwriting, each with five seeds:
(a) ten classes with softmax cross-entropy; the accuracy on the held-out half
    must exceed 0.95;
(b) a detector of one digit that is 1% of its training rows, with sigmoid
    cross-entropy and with focal loss, compared by average precision.
The network has two layers and is plain NumPy.

Writes: benchmarks/runs/digits.png, the training curves.
Takes:  twenty seconds on two cores.

For example:
  python -m benchmarks.digits
      train, print the results, draw the curves
  python -m benchmarks.digits --out curves.png
      the same with the picture in another place
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from rich.console import Console
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score
from threadpoolctl import threadpool_limits

import fusedce
from benchmarks import results, screen
from benchmarks.data import Array
from benchmarks.screen import say
from benchmarks.tables import Column, Grid

mpl.use("Agg")  # draws into files, without a display
import matplotlib.pyplot as plt

Floats = NDArray[np.float32]
Loss = Callable[..., Any]  # loss(logits, targets, grad_out=) -> (mean loss, its gradient by logits)

PLOT = "digits.png"
DIGIT = 8  # the digit of the detector; the one that is confused most often
PREVALENCE = 0.01
SEEDS = range(5)
EPOCHS_TEN, EPOCHS_ONE = 40, 60
HIDDEN = 64
BATCH = 32
DETECTORS: dict[str, Loss] = {
    "cross-entropy": fusedce.binary_cross_entropy,
    "focal, γ = 2": fusedce.focal,
}


class Split(NamedTuple):
    """Scans scaled to [0, 1] and their digits; no scan is in both halves."""

    x: Floats  # (N, 64)
    y: Array  # (N,)
    x_test: Floats
    y_test: Array


def split_digits(rng: np.random.Generator) -> Split:
    """Half of the scans for training, half held out, by a random permutation."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    order = rng.permutation(len(y))
    train, test = order[: len(y) // 2], order[len(y) // 2 :]
    return Split(x[train], y[train], x[test], y[test])


def thin(split: Split, rng: np.random.Generator) -> Split:
    """Labels become "is it DIGIT?"; positives are removed until they are PREVALENCE of training."""
    positive = np.flatnonzero(split.y == DIGIT)
    negative = np.flatnonzero(split.y != DIGIT)
    kept = round(PREVALENCE / (1 - PREVALENCE) * len(negative))
    rows = np.concatenate([negative, rng.choice(positive, kept, replace=False)])
    y, y_test = (split.y[rows] == DIGIT).astype(np.int64), (split.y_test == DIGIT).astype(np.int64)
    return Split(split.x[rows], y[:, None], split.x_test, y_test[:, None])


class Network:
    """logits = relu(x W1 + b1) W2 + b2, trained by Adam (Kingma & Ba 2015)."""

    def __init__(self, rng: np.random.Generator, outputs: int, bias: float = 0.0) -> None:
        w1 = rng.normal(0, np.sqrt(2 / 64), (64, HIDDEN))
        w2 = rng.normal(0, 0.01, (HIDDEN, outputs))
        start = [w1, np.zeros(HIDDEN), w2, np.full(outputs, bias)]
        self.weights = [w.astype(np.float32) for w in start]
        self.moments = [(np.zeros_like(w), np.zeros_like(w)) for w in self.weights]
        self.steps = 0

    def forward(self, x: Floats) -> tuple[Floats, Floats]:
        """Compute the hidden layer and the logits."""
        w1, b1, w2, b2 = self.weights
        hidden = np.maximum(x @ w1 + b1, 0)
        return hidden, hidden @ w2 + b2

    def backward(self, x: Floats, hidden: Floats, grad: Floats) -> list[Floats]:
        """Compute the gradient of every weight from the gradient of the logits."""
        back = (grad @ self.weights[2].T) * (hidden > 0)
        return [x.T @ back, back.sum(axis=0), hidden.T @ grad, grad.sum(axis=0)]

    def update(self, grads: list[Floats], rate: float = 0.002) -> None:
        """One step of Adam with its usual decay rates 0.9 and 0.999."""
        self.steps += 1
        rate *= np.sqrt(1 - 0.999**self.steps) / (1 - 0.9**self.steps)
        for w, g, (m, v) in zip(self.weights, grads, self.moments, strict=True):
            m += 0.1 * (g - m)
            v += 0.001 * (g * g - v)
            w -= rate * m / (np.sqrt(v) + 1e-8)


def train(
    net: Network, x: Floats, y: Array, loss: Loss, epochs: int, rng: np.random.Generator
) -> Iterator[float]:
    """Train, and after each epoch yield the mean training loss of that epoch."""
    for _ in range(epochs):
        total = 0.0
        order = rng.permutation(len(y))
        for rows in np.split(order, range(BATCH, len(y), BATCH)):
            hidden, logits = net.forward(x[rows])
            # The logits are not needed again, so the gradient is written over them.
            value, grad = loss(logits, y[rows], grad_out=logits)
            net.update(net.backward(x[rows], hidden, grad))
            total += float(value) * len(rows)
        yield total / len(y)


def ten_classes(seed: int) -> Array:
    """Train on all ten digits; a row for each epoch: loss and accuracy, training and held out."""
    rng = np.random.default_rng(seed)
    data = split_digits(rng)
    net = Network(rng, outputs=10)
    curve = []
    for train_loss in train(net, data.x, data.y, fusedce.cross_entropy, EPOCHS_TEN, rng):
        logits, test_logits = net.forward(data.x)[1], net.forward(data.x_test)[1]
        test_loss = fusedce.cross_entropy(test_logits, data.y_test, return_grad=False)
        right = np.mean(logits.argmax(axis=1) == data.y)
        test_right = np.mean(test_logits.argmax(axis=1) == data.y_test)
        curve.append((train_loss, test_loss, right, test_right))
    return np.array(curve)


def detector(loss: Loss, seed: int) -> Array:
    """Average precision, held out, after each epoch; a seed means the same data for every loss."""
    rng = np.random.default_rng(seed)
    data = thin(split_digits(rng), rng)
    net = Network(rng, outputs=1, bias=float(fusedce.prior_bias(PREVALENCE)))
    curve = []
    for _ in train(net, data.x, data.y, loss, EPOCHS_ONE, rng):
        scores = net.forward(data.x_test)[1]
        curve.append(average_precision_score(data.y_test.ravel(), scores.ravel()))
    return np.array(curve)


def run_all(console: Console) -> tuple[Array, dict[str, Array]]:
    """Both experiments: under one progress bar, or with a line for each seed.

    The curves of the ten classes, (seed, epoch, 4), and of the detectors, {loss: (seed, epoch)}.
    """
    with screen.counter(console) as bar:

        def trained(name: str, one: Callable[[int], Array]) -> Array:
            tell, curves = screen.stepper(console, bar, name, len(SEEDS)), []
            for seed in SEEDS:
                curves.append(one(seed))
                tell(f"{np.ravel(curves[-1][-1])[-1]:.3f}")
            return np.array(curves)

        ten = trained("ten classes, accuracy", ten_classes)
        one = {
            name: trained(f"detector, {name}, average precision", partial(detector, loss))
            for name, loss in DETECTORS.items()
        }
    return ten, one


def spread(values: Array, digits: int = 3) -> str:
    """Mean ± standard deviation over the seeds."""
    return f"{values.mean():.{digits}f} ± {values.std(ddof=1):.{digits}f}"


def report(console: Console, ten: Array, one: dict[str, Array]) -> None:
    """Print both results as a table, and the detectors' difference seed by seed."""
    rows = [("ten classes", "cross-entropy", "accuracy", spread(ten[:, -1, 3]))]
    for name, curve in one.items():
        task = f"is it {DIGIT}? ({PREVALENCE:.0%} positive)"
        rows.append((task, name, "average precision", spread(curve[:, -1])))
    title = f"digits, last epoch, mean ± standard deviation over {len(SEEDS)} seeds"
    heads = "task", "loss", "held-out half", "result"
    columns = [Column(head, itemgetter(k), right=k == 3) for k, head in enumerate(heads)]
    console.print(Grid(title, columns, rows))
    entropy, focal = (curve[:, -1] for curve in one.values())
    gain = focal - entropy
    say(
        console,
        f"focal - cross-entropy, seed by seed: {', '.join(f'{g:+.3f}' for g in gain)}; "
        f"mean {gain.mean():+.3f}, standard error {gain.std(ddof=1) / np.sqrt(len(gain)):.3f}",
    )


def draw(axis: Axes, curves: Array, label: str, color: str) -> None:
    """Draw the mean over the seeds as a thick line, each seed as a thin one."""
    epochs = np.arange(1, curves.shape[1] + 1)
    axis.plot(epochs, curves.T, color=color, lw=0.8, alpha=0.35)
    axis.plot(epochs, curves.mean(axis=0), color=color, lw=2.5, label=label)


def plot(ten: Array, one: dict[str, Array], path: Path) -> None:
    """Loss and accuracy of the ten classes, average precision of the detectors."""
    look: Any = {
        "font.size": 13,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.labelpad": 8,
        "figure.constrained_layout.w_pad": 0.15,
    }
    with plt.rc_context(look):
        figure, axes = plt.subplots(1, 3, figsize=(15, 5), layout="constrained")
        loss, accuracy, precision = axes
        for k, (name, color) in enumerate((("training", "#0072b2"), ("held out", "#d55e00"))):
            draw(loss, ten[:, :, k], name, color)
            draw(accuracy, ten[:, :, 2 + k], name, color)
        for (name, curve), color in zip(one.items(), ("#5d3a9b", "#009e73"), strict=True):
            draw(precision, curve, f"{name}: {spread(curve[:, -1])}", color)
        loss.set(title="Ten digits: cross-entropy", ylabel="mean loss", yscale="log")
        accuracy.set(title="Ten digits: accuracy", ylabel="fraction right", ylim=(0.85, 1.005))
        title = f"Is it {DIGIT}? {PREVALENCE:.0%} of the training rows are"
        precision.set(title=title, ylabel="average precision, held out", ylim=(0, 1))
        for axis in axes:
            axis.set(xlabel="epoch")
            axis.grid(alpha=0.25)
            axis.legend(frameon=False)
        figure.suptitle(
            f"A two-layer NumPy network on scikit-learn's digits, losses by fusedce "
            f"(thick: mean of {len(SEEDS)} seeds, thin: each seed)"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
        plt.close(figure)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = screen.Parser("python -m benchmarks.digits", __doc__)
    parser.add_argument(
        "--out", type=Path, default=results.RUNS / PLOT, metavar="FILE",
        help="write the picture into this file (default: benchmarks/runs/digits.png)",
    )  # fmt: skip
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run both experiments, print the table, write the plot, and check the accuracy."""
    path, console = parse(argv).out, screen.console()
    start = time.perf_counter()
    # For products this small, starting BLAS threads takes longer than they save: 20 s against 6 s.
    with threadpool_limits(1, user_api="blas"):
        ten, one = run_all(console)
    report(console, ten, one)
    plot(ten, one, path)
    say(console, f"picture: {screen.place(path)}, {time.perf_counter() - start:.0f} s")
    worst = ten[:, -1, 3].min()
    if worst <= 0.95:
        raise SystemExit(f"test accuracy {worst:.3f} of the worst seed is not above 0.95")
    return 0


if __name__ == "__main__":
    sys.exit(main())
