"""Write sample.weights: random filters, with the rolling statistics that random images really give.

Beside it, x.npy is what the batch normalisation of layer 5 receives for four of the images, and delta.npy a random
upstream gradient of the same shape. The statistics come from pushing the images through the network layer by layer,
so that the numbers in the file are what training would have kept for these filters. Run it from anywhere:
`python sample_weights/make_sample.py`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bnorm.batchnorm import DARKNET
from bnorm.model import read_model
from bnorm.network import Layer
from bnorm.weights import save

HERE = Path(__file__).parent
IMAGES = 64
LEAK = 0.1
SAVED = 5  # the layer whose tensors are saved


def convolve(x: np.ndarray, weights: np.ndarray, stride: int) -> np.ndarray:
    """Cross-correlate (N, C, H, W) with (F, C/groups, K, K), padded by K/2; groups by channels."""
    _, depth, size, _ = weights.shape
    groups = x.shape[1] // depth
    padded = np.pad(x, ((0, 0), (0, 0), (size // 2, size // 2), (size // 2, size // 2)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(2, 3))[:, :, ::stride, ::stride]
    parts = zip(np.split(windows, groups, axis=1), np.split(weights, groups), strict=True)
    return np.concatenate([np.einsum("nchwyx,fcyx->nfhw", part, kernel) for part, kernel in parts], axis=1)


def layer_arrays(layer: Layer, x: np.ndarray, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Random filters for one convolution, the statistics of its output, and what the layer hands on."""
    (part,) = layer.parts
    fan_in = np.prod(part.weights[1:])
    arrays = {"weights": rng.normal(0, fan_in**-0.5, part.weights), "biases": rng.normal(0, 0.3, part.channels)}
    y = convolve(x, arrays["weights"], layer.section.integer("stride", 1))
    if layer.index == SAVED:
        np.save(HERE / "x.npy", y[:4].astype("f4"))
        np.save(HERE / "delta.npy", rng.normal(0, 0.01, y[:4].shape).astype("f4"))
    if part.batch_normalize:
        arrays["scales"] = rng.gamma(9, 1 / 9, part.channels)
        arrays["rolling_mean"] = y.mean(axis=(0, 2, 3))
        arrays["rolling_variance"] = y.var(axis=(0, 2, 3))
        gain = arrays["scales"] / DARKNET.deviation(arrays["rolling_variance"])
        y = (y - arrays["rolling_mean"][:, None, None]) * gain[:, None, None]
    y += arrays["biases"][:, None, None]
    return arrays, np.where(y > 0, y, LEAK * y) if layer.section.text("activation") == "leaky" else y


def main() -> None:
    """Write the three files beside this one."""
    model = read_model(HERE.parent / "sample_cfgs" / "sample.cfg", None, "alexeyab")
    rng = np.random.default_rng(20)
    x = rng.uniform(0, 1, (IMAGES, *model.network.input[:3]))
    arrays: dict[tuple[int, str], np.ndarray] = {}
    outputs: list[np.ndarray] = []
    for layer in model.network.layers:
        if layer.type == "convolutional":
            found, x = layer_arrays(layer, x, rng)
            arrays |= {(layer.index, name): values for name, values in found.items()}
        elif layer.type == "maxpool":
            x = np.maximum.reduce([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)])
        elif layer.type == "route":
            x = np.concatenate([outputs[-1], outputs[-2]], axis=1)
        outputs.append(x)
    stored = (arrays[array.layer, array.field].astype("f4") for array in model.layout.arrays)
    save(HERE / "sample.weights", model.header._replace(seen=IMAGES * 1000), model.layout, stored)


if __name__ == "__main__":
    main()
