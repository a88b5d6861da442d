"""Train sample_cfgs/digits.cfg on scikit-learn's digits, and write digits.weights as darknet would.

The network is what the cfg says. Convolutions and the matrix are plain NumPy; every batch normalisation, forward and
backward and its rolling statistics, is bnorm's, in the arithmetic of the paper, whose gradient is exact. Everything
else is the least that learns: softmax with cross-entropy, and gradient descent with momentum and a rate that falls to
zero. Run from anywhere, with `pip install -e ".[dev]"`:

    python sample_weights/train_digits.py               # writes digits.weights, and a layer's tensors beside it
    python sample_weights/train_digits.py --compare     # with and without batch normalisation: a table, and digits.png
    python sample_weights/train_digits.py --activations DIR    # what each convolution computes for 200 mini-batches
    python sample_weights/train_digits.py --accuracy FILE ...  # of weights files, on the 500 test images
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bnorm import Parameters, Rolling, batch_normalize, read_model
from bnorm.darknet.parts import Part
from bnorm.darknet.weights import open_weights, save

HERE = Path(__file__).parent
CFG = HERE.parent / "sample_cfgs" / "digits.cfg"
WEIGHTS = HERE / "digits.weights"
EPOCHS, BATCH, RATE, MOMENTUM = 10, 64, 0.05, 0.9
TRAINING = 1297  # of 1797 images; the other 500 are for testing alone
BATCHES = 200  # mini-batches whose activations are saved
SAVED = 3  # the layer whose input and gradient are saved
LEAK = 0.1

Arrays = dict[str, np.ndarray]


class Data(NamedTuple):
    """Images of shape (N, 1, 8, 8) from 0 to 1, and their digits."""

    images: np.ndarray
    digits: np.ndarray


def load() -> tuple[Data, Data]:
    """The fixed split: scikit-learn's images in an order that seed 0 gives, the first 1297 for training."""
    from sklearn.datasets import load_digits

    images, digits = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(digits))
    images = images[order].reshape(-1, 1, 8, 8) / 16
    digits = digits[order]
    return Data(images[:TRAINING], digits[:TRAINING]), Data(images[TRAINING:], digits[TRAINING:])


# --- convolutions -----------------------------------------------------------------------------------------------------


def windows(x: np.ndarray, size: int, groups: int) -> np.ndarray:
    """(N, C, H, W) to (N, groups, C/groups · size², H·W): what each place of a padded convolution sees."""
    count, channels, height, width = x.shape
    x = np.pad(x, ((0, 0), (0, 0), (size // 2, size // 2), (size // 2, size // 2)))
    seen = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(2, 3))
    seen = seen.transpose(0, 1, 4, 5, 2, 3)
    return seen.reshape(count, groups, channels // groups * size * size, height * width)


def convolve(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Cross-correlate with (n, C/groups, k, k), padded by k/2."""
    filters, depth, size, _ = weights.shape
    groups = x.shape[1] // depth
    y = weights.reshape(groups, filters // groups, -1) @ windows(x, size, groups)
    return y.reshape(len(x), filters, *x.shape[2:])


def convolve_back(x: np.ndarray, weights: np.ndarray, delta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of the input and of the weights."""
    filters, depth, size, _ = weights.shape
    count, channels, height, width = x.shape
    groups = channels // depth
    delta = delta.reshape(count, groups, filters // groups, height * width)
    updates = (delta @ windows(x, size, groups).swapaxes(2, 3)).sum(axis=0).reshape(weights.shape)
    seen = weights.reshape(groups, filters // groups, -1).swapaxes(1, 2) @ delta
    seen = seen.reshape(count, channels, size, size, height, width)
    dx = np.zeros((count, channels, height + size - 1, width + size - 1))
    for row in range(size):
        for column in range(size):
            dx[:, :, row : row + height, column : column + width] += seen[:, :, row, column]
    edge = size // 2
    return dx[:, :, edge : edge + height, edge : edge + width], updates


# --- layers: `backward` turns ∂loss/∂output into ∂loss/∂input, and leaves the gradients of `arrays` in `updates` ------


class Convolution:
    """Convolution, batch normalisation or else biases, leaky ReLU."""

    def __init__(self, part: Part, rng: np.random.Generator, deviation: float | None, normalised: bool) -> None:
        deviation = deviation or np.sqrt(2 / np.prod(part.weights[1:]))
        self.arrays: Arrays = {"weights": rng.normal(0, deviation, part.weights), "biases": np.zeros(part.channels)}
        self.updates: Arrays = {}
        self.normalised = normalised
        if normalised:
            self.arrays["scales"] = np.ones(part.channels)
            self.rolling = Rolling(np.zeros(part.channels), np.ones(part.channels))

    def forward(self, x: np.ndarray, train: bool) -> np.ndarray:
        self.x = x
        self.z = convolve(x, self.arrays["weights"])
        self.y = self.normalise(train) if self.normalised else self.z + self.arrays["biases"][:, None, None]
        return np.where(self.y > 0, self.y, LEAK * self.y)

    def backward(self, delta: np.ndarray) -> np.ndarray:
        self.delta = np.where(self.y > 0, delta, LEAK * delta)
        dz = self.normalise_back() if self.normalised else self.delta
        if not self.normalised:
            self.updates["biases"] = dz.sum(axis=(0, 2, 3))
        dx, self.updates["weights"] = convolve_back(self.x, self.arrays["weights"], dz)
        return dx

    def normalise(self, train: bool) -> np.ndarray:
        """bnorm's forward pass; in training the rolling statistics move."""
        result = batch_normalize(self.z, self.parameters, self.rolling, arithmetic="paper", train=train, threads=1)
        self.rolling = result.rolling
        return result.y

    def normalise_back(self) -> np.ndarray:
        """bnorm's backward pass, on what the forward pass received."""
        result = batch_normalize(
            self.z, self.parameters, self.rolling, arithmetic="paper", train=True, delta=self.delta, threads=1
        )
        self.updates["scales"], self.updates["biases"] = result.gradients[:2]
        return result.dx

    @property
    def parameters(self) -> Parameters:
        return Parameters(self.arrays["scales"], self.arrays["biases"])

    @property
    def stored(self) -> Arrays:
        """What the file holds."""
        return self.arrays | {f"rolling_{name}": vector for name, vector in self.rolling._asdict().items()}


class Pool:
    """The largest of each 2x2 places."""

    def __init__(self) -> None:
        self.arrays: Arrays = {}
        self.updates: Arrays = {}

    def forward(self, x: np.ndarray, train: bool) -> np.ndarray:
        count, channels, height, width = x.shape
        y = x.reshape(count, channels, height // 2, 2, width // 2, 2).max(axis=(3, 5))
        self.largest = x == spread(y)
        return y

    def backward(self, delta: np.ndarray) -> np.ndarray:
        return np.where(self.largest, spread(delta), 0)


def spread(x: np.ndarray) -> np.ndarray:
    """Each value on 2x2 places."""
    return x.repeat(2, axis=2).repeat(2, axis=3)


class Connected:
    """A matrix and biases."""

    def __init__(self, part: Part, rng: np.random.Generator) -> None:
        deviation = np.sqrt(1 / part.weights[1])
        self.arrays: Arrays = {"weights": rng.normal(0, deviation, part.weights), "biases": np.zeros(part.channels)}
        self.stored = self.arrays
        self.updates: Arrays = {}

    def forward(self, x: np.ndarray, train: bool) -> np.ndarray:
        self.x = x
        return x.reshape(len(x), -1) @ self.arrays["weights"].T + self.arrays["biases"]

    def backward(self, delta: np.ndarray) -> np.ndarray:
        self.updates = {"weights": delta.T @ self.x.reshape(len(self.x), -1), "biases": delta.sum(axis=0)}
        return (delta @ self.arrays["weights"]).reshape(self.x.shape)


class Network:
    """What the cfg says, but for its softmax, which belongs to the loss."""

    def __init__(self, *, deviation: float | None = None, normalised: bool = True) -> None:
        """Convolutions begin with weights of this deviation, by default √(2 / inputs) after He."""
        self.model = read_model(CFG, None, "alexeyab")
        rng = np.random.default_rng(0)
        make = {
            "convolutional": lambda layer: Convolution(layer.parts[0], rng, deviation, normalised),
            "maxpool": lambda _: Pool(),
            "connected": lambda layer: Connected(layer.parts[0], rng),
        }
        self.layers = [make[layer.type](layer) for layer in self.model.network.layers if layer.type in make]

    def logits(self, x: np.ndarray, train: bool = False) -> np.ndarray:
        for layer in self.layers:
            x = layer.forward(x, train)
        return x

    def loss(self, data: Data) -> float:
        """Mean cross-entropy of a mini-batch in training; every layer's `updates` are its gradients."""
        logits = self.logits(data.images, train=True)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        odds /= odds.sum(axis=1, keepdims=True)
        right = np.arange(len(logits)), data.digits
        loss = -np.log(np.maximum(odds[right], 1e-300)).mean()
        odds[right] -= 1
        delta = odds / len(logits)
        for layer in reversed(self.layers):
            delta = layer.backward(delta)
        return float(loss)

    def accuracy(self, data: Data) -> float:
        """Share of images whose digit has the largest logit, with the rolling statistics."""
        return float((self.logits(data.images).argmax(axis=1) == data.digits).mean())

    def load(self, path: Path) -> None:
        """Take all arrays from a weights file."""
        with open_weights(read_model(CFG, path, "alexeyab")) as weights:
            for array in self.model.layout.arrays:
                layer, values = self.layers[array.layer], np.asarray(weights[array.layer, array.name], "f8")
                if array.field.startswith("rolling_"):
                    layer.rolling = layer.rolling._replace(**{array.field.removeprefix("rolling_"): values})
                else:
                    layer.arrays[array.field] = values

    def save(self, path: Path, seen: int) -> None:
        """Write the arrays as darknet would, with the number of images seen."""
        layout = self.model.layout
        arrays = (self.layers[array.layer].stored[array.field].astype("f4") for array in layout.arrays)
        save(path, self.model.header._replace(seen=seen), layout, arrays)


# --- training ---------------------------------------------------------------------------------------------------------


def train(
    network: Network, data: Data, rate: float, *, epochs: int = EPOCHS, momentum: float = MOMENTUM
) -> Iterator[float]:
    """Yield the mean loss of every epoch. The rate falls to zero in a straight line."""
    rng = np.random.default_rng(1)
    velocity = [{name: np.zeros_like(array) for name, array in layer.arrays.items()} for layer in network.layers]
    steps = len(data.digits) // BATCH
    for epoch in range(epochs):
        order = rng.permutation(len(data.digits))
        losses = []
        for step in range(steps):
            chosen = order[step * BATCH : (step + 1) * BATCH]
            losses.append(network.loss(Data(data.images[chosen], data.digits[chosen])))
            now = rate * (1 - (epoch * steps + step) / (epochs * steps))
            for layer, moving in zip(network.layers, velocity, strict=True):
                for name, array in layer.arrays.items():
                    moving[name] = momentum * moving[name] - now * layer.updates[name]
                    array += moving[name]
        yield float(np.mean(losses))


def write() -> None:
    """Train, and write the weights, and one layer's tensors in one more mini-batch of training: eight images."""
    training, test = load()
    network = Network()
    for epoch, loss in enumerate(train(network, training, RATE), 1):
        print(f"epoch {epoch:2}  loss {loss:.4f}  test accuracy {network.accuracy(test):.1%}")
    network.save(WEIGHTS, seen=EPOCHS * (TRAINING // BATCH) * BATCH)
    network.loss(Data(training.images[:8], training.digits[:8]))
    layer = network.layers[SAVED]
    np.save(HERE / "digits_x.npy", layer.z.astype("f4"))
    np.save(HERE / "digits_delta.npy", layer.delta.astype("f4"))


def save_activations(folder: Path) -> None:
    """Write what each convolution computes in training, before batch normalisation: a folder and a list for each.

    Training normalises by the mini-batch's own moments: the statistics in the file have no part in what is saved.
    """
    training, _ = load()
    network, rng = Network(), np.random.default_rng(2)
    network.load(WEIGHTS)
    convolutions = [(number, layer) for number, layer in enumerate(network.layers) if isinstance(layer, Convolution)]
    for number, _ in convolutions:
        (folder / str(number)).mkdir(parents=True)
        names = [f"{folder.as_posix()}/{number}/{batch:03}.npy\n" for batch in range(BATCHES)]
        (folder / f"{number}.txt").write_text("".join(names))
    for batch in range(BATCHES):
        network.logits(training.images[rng.choice(TRAINING, BATCH, replace=False)], train=True)
        for number, layer in convolutions:
            np.save(folder / str(number) / f"{batch:03}.npy", layer.z.astype("f4"))
    print(f"{BATCHES} mini-batches of {BATCH} images: layers {', '.join(str(number) for number, _ in convolutions)}")


def show_accuracy(paths: list[Path]) -> None:
    """Print the accuracy of each weights file."""
    _, test = load()
    network = Network()
    for path in paths:
        network.load(path)
        print(f"{path.as_posix()}  test accuracy {network.accuracy(test):.1%}")


# --- the paper's claims -----------------------------------------------------------------------------------------------

RATES = (0.01, 0.1, 1.0)
BEGINNINGS = {"after He": None, "careless": 1.0}  # the deviation of the first weights
GOAL = 0.95


def compare() -> None:
    """Train with and without batch normalisation, print a table in Markdown and draw each run's accuracy.

    By plain gradient descent, without momentum, as the rates are those of a step.
    """
    from matplotlib.figure import Figure

    training, test = load()
    figure = Figure(figsize=(9, 5), layout="constrained")
    grid = figure.subplots(len(BEGINNINGS), len(RATES), sharex=True, sharey=True)
    print("| weights begin | rate | batch normalisation | epochs to 95 % | accuracy in the end |")
    print("|---|---|---|---|---|")
    for row, (beginning, deviation) in zip(grid, BEGINNINGS.items(), strict=True):
        for axes, rate in zip(row, RATES, strict=True):
            for normalised in (True, False):
                network = Network(deviation=deviation, normalised=normalised)
                with np.errstate(all="ignore"):  # without batch normalisation some runs diverge
                    reached = [network.accuracy(test) for _ in train(network, training, rate, momentum=0)]
                epochs = next((str(epoch) for epoch, share in enumerate(reached, 1) if share >= GOAL), "never")
                kind = "with" if normalised else "without"
                print(f"| {beginning} | {rate:g} | {kind} | {epochs} | {reached[-1]:.1%} |", flush=True)
                axes.plot(range(1, EPOCHS + 1), reached, "o-" if normalised else "s--", markersize=3, label=kind)
            axes.set_title(f"rate {rate:g}, weights {beginning}", fontsize=9)
            axes.grid(alpha=0.3)
    grid[0, 0].legend(title="batch normalisation")
    grid[0, 0].set_ylim(0, 1.02)
    figure.supxlabel("epoch")
    figure.supylabel("accuracy on the 500 test images")
    figure.savefig(HERE / "digits.png", dpi=110)


def main() -> None:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description="Train sample_cfgs/digits.cfg on scikit-learn's digits.")
    parser.add_argument("--compare", action="store_true", help="train with and without batch normalisation instead")
    parser.add_argument("--activations", type=Path, metavar="DIR", help="save those of the trained network instead")
    parser.add_argument("--accuracy", type=Path, metavar="FILE", nargs="+", help="print that of weights files instead")
    asked = parser.parse_args()
    if asked.activations:
        save_activations(asked.activations)
    elif asked.accuracy:
        show_accuracy(asked.accuracy)
    else:
        compare() if asked.compare else write()


if __name__ == "__main__":
    main()
