"""A plain forward pass of small networks, in float64: the oracle for folding, which must not change its result.

Written from darknet's `forward_*_layer` functions, one value per formula and no thought of speed. One image; recurrent
layers take several, one per time step.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from bnorm.darknet.autodetect import read_model
from bnorm.darknet.network import Layer, Network
from bnorm.darknet.weights import open_weights


def logistic(x):
    return 1 / (1 + np.exp(-x))


ACTIVATIONS: dict[str, Callable] = {
    "linear": lambda x: x,
    "logistic": logistic,
    "relu": lambda x: np.maximum(x, 0),
    "leaky": lambda x: np.where(x > 0, x, 0.1 * x),
    "tanh": np.tanh,
}


def normalise(x, arrays, prefix, epsilon):
    """(x − mean) / deviation · scale + bias per channel, the first axis of x; pjreddie's [batchnorm] has no biases."""
    shape = (-1,) + (1,) * (x.ndim - 1)
    vectors = (arrays.get(prefix + name) for name in ("rolling_mean", "rolling_variance", "scales", "biases"))
    mean, variance, scales, biases = (0.0 if v is None else v.reshape(shape) for v in vectors)
    return (x - mean) / epsilon.deviation(variance) * scales + biases


def convolve(x, weights, stride, padding, groups):
    """(C, H, W) by (n, C/groups, k, k): cross-correlation."""
    _, depth, size, _ = weights.shape
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))[:, ::stride, ::stride]
    pairs = zip(
        weights.reshape(groups, -1, depth, size, size), windows.reshape(groups, depth, *windows.shape[1:]), strict=True
    )
    return np.concatenate([np.tensordot(own, seen, axes=((1, 2, 3), (0, 3, 4))) for own, seen in pairs])


def deconvolve(x, weights, stride, padding):
    """(C, H, W) by (C, n, k, k): each input spreads its kernel over the output (PJ `deconvolutional_layer.c`)."""
    _, height, width = x.shape
    _, filters, size, _ = weights.shape
    out = np.zeros((filters, (height - 1) * stride + size, (width - 1) * stride + size))
    for row in range(height):
        for column in range(width):
            place = np.s_[:, row * stride : row * stride + size, column * stride : column * stride + size]
            out[place] += np.einsum("c,cnyx->nyx", x[:, row, column], weights)
    end = slice(padding, -padding or None)
    return out[:, end, end]


def pool(x, size, stride):
    """Return the largest value of each window, with darknet's default padding: size − 1 in total."""
    below = (size - 1) // 2
    edges = (below, size - 1 - below)
    x = np.pad(x, ((0, 0), edges, edges), constant_values=-np.inf)
    return np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))[:, ::stride, ::stride].max(
        axis=(3, 4)
    )


def binarise(weights):
    """Each filter's signs, 0 counting as negative, times its mean magnitude (`binarize_weights`)."""
    mean = np.abs(weights).mean(axis=(1, 2, 3), keepdims=True)
    return np.where(weights > 0, mean, -mean)


class Run:
    """One network with its arrays; `layers` yields every layer's outputs for some inputs, layer by layer."""

    def __init__(self, cfg: Path, weights: Path, dialect: str, epsilon) -> None:
        model = read_model(cfg, weights, dialect)
        self.network: Network = model.network
        self.epsilon = epsilon
        self.states: dict[int, tuple] = {}
        with open_weights(model) as opened:
            opened.require_fit()
            arrays = [(array, opened.read(array).astype("f8")) for array in opened.layout.arrays]
        self.arrays: dict[int, dict[str, np.ndarray]] = {}
        for array, values in arrays:
            self.arrays.setdefault(array.layer, {})[array.name] = values

    def layers(self, *inputs):
        with np.errstate(over="ignore"):  # of exp, far below zero
            return [self._image(x) for x in inputs]

    def _image(self, x):
        outputs = []
        for layer in self.network.layers:
            x = self._layer(layer, x, outputs)
            outputs.append(x)
        return outputs

    def _layer(self, layer: Layer, x, outputs):
        section = layer.section
        if layer.type == "batchnorm":
            return normalise(x.reshape(layer.output[:3]), self.arrays[layer.index], "", self.epsilon)
        if layer.type == "route":
            read = [outputs[number] for number in layer.reads]
            return np.concatenate([y.reshape(-1, *layer.output[1:3]) for y in read])
        if layer.type == "shortcut":
            inputs = [x, *(outputs[number] for number in layer.reads)]
            return sum(weight * y for weight, y in zip(self._weights(layer, len(inputs)), inputs, strict=True))
        if layer.type == "implicit":
            return self.arrays[layer.index]["weights"].reshape(layer.output[:3])
        if layer.type == "maxpool":
            return pool(x, section.integer("size", 1), section.integer("stride", 1))
        if layer.type == "softmax":
            return np.exp(x - x.max()) / np.exp(x - x.max()).sum()
        if layer.type in ("yolo", "dropout"):
            return x  # [yolo]'s logistic activation is that of what is compared
        if layer.type == "upsample":
            stride = section.integer("stride", 2)
            return x.repeat(stride, axis=1).repeat(stride, axis=2)
        if layer.type == "activation":
            return self._activate(layer, x)
        if layer.type in ("rnn", "crnn", "gru", "lstm", "conv_lstm"):
            return self._recurrent(layer, x)
        return self._activate(layer, self._linear(layer, "", x))

    def _weights(self, layer: Layer, count: int):
        """Return a shortcut's weights: 1 each, or its own, at least 0 and normalised (AB `shortcut_multilayer_cpu`)."""
        if layer.index not in self.arrays:
            return [1.0] * count
        weights = np.maximum(self.arrays[layer.index]["weights"], 0)
        return (weights / (1e-4 + weights.sum(axis=0)))[:, :, None, None]

    def _activate(self, layer: Layer, x):
        return ACTIVATIONS[layer.section.text("activation", "logistic")](x)

    def _linear(self, layer: Layer, name: str, x):
        """A part's linear operation and its batch normalisation, or its biases."""
        part = next(part for part in layer.parts if part.name == name)
        arrays = self.arrays[layer.index if part.shared is None else self._root(layer)]
        prefix = f"{name}." if name else ""
        y = self._product(layer, part, x, arrays[f"{prefix}weights"])
        if part.batch_normalize:
            known = {f"{prefix}rolling_mean": np.zeros(part.channels), f"{prefix}scales": np.ones(part.channels)}
            known[f"{prefix}rolling_variance"] = np.zeros(part.channels)
            return normalise(y, known | arrays, prefix, self.epsilon)
        biases = arrays[f"{prefix}biases"]
        return y + biases.reshape((-1,) + (1,) * (y.ndim - 1) if biases.ndim == 1 else y.shape)

    def _root(self, layer: Layer) -> int:
        shared = layer.parts[0].shared
        return layer.index if shared is None else self._root(self.network.layers[shared])

    def _product(self, layer: Layer, part, x, weights):
        if part.kind == "connected":
            return (weights @ x.reshape(-1)).reshape(-1, 1, 1)
        stride, padding, groups = self._geometry(layer, part)
        x = x.reshape(-1, *x.shape[-2:])
        if part.kind == "deconvolutional":
            return deconvolve(x, weights, stride, padding)
        if part.kind == "local":
            size, edge = round((weights.shape[2] // len(x)) ** 0.5), layer.section.integer("pad", 0)
            x = np.pad(x, ((0, 0), (edge, edge), (edge, edge)))
            windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))[:, ::stride, ::stride]
            places = windows.transpose(1, 2, 0, 3, 4).reshape(len(weights), -1)
            return np.einsum("pw,pnw->np", places, weights).reshape(-1, *windows.shape[1:3])
        if layer.section.flag("binary") or layer.section.flag("xnor"):
            weights = binarise(weights)
        return convolve(x, weights, stride, padding, groups)

    def _geometry(self, layer: Layer, part):
        section = layer.section
        size = part.weights[-1]
        if layer.type == "crnn" and section.dialect.name == "pjreddie":
            return 1, 1, 1
        padding = size // 2 if section.flag("pad") else section.integer("padding", 0)
        groups = 1 if section.flag("xnor") else section.integer("groups", 1)
        inner = part.name.startswith(("self", "w", "v")) or part.name == "output_layer"
        return 1 if inner else section.integer("stride", 1), padding, groups

    def _recurrent(self, layer: Layer, x):
        def part(name, value):
            return self._linear(layer, name, value)

        shape = (layer.output.outputs, 1, 1) if not any(layer.output[:3]) else layer.output[:3]
        if layer.type in ("rnn", "crnn"):
            hidden = layer.parts[1].channels
            (state,) = self.states.get(layer.index, (np.zeros((hidden, *shape[1:])),))
            act = ACTIVATIONS[layer.section.text("activation", "logistic")]
            state = act(part("input_layer", x)) + act(part("self_layer", state))
            self.states[layer.index] = (state,)
            return act(part("output_layer", state))
        if layer.type == "gru":
            names = (
                "wz wr wh uz ur uh".split()
                if layer.section.dialect.name == "pjreddie"
                else [f"{kind}_{gate}_layer" for kind in ("state", "input") for gate in "zrh"]
            )
            wz, wr, wh, uz, ur, uh = names
            (state,) = self.states.get(layer.index, (np.zeros(shape),))
            z, r = logistic(part(uz, x) + part(wz, state)), logistic(part(ur, x) + part(wr, state))
            state = z * state + (1 - z) * logistic(part(uh, x) + part(wh, r * state))
            self.states[layer.index] = (state,)
            return state
        cell, state = self.states.get(layer.index, (np.zeros(shape), np.zeros(shape)))
        peep = {gate: part(f"v{gate}", cell) for gate in "fi"} if layer.section.flag("peephole") else {}
        f, i = (logistic(part(f"w{gate}", state) + part(f"u{gate}", x) + peep.get(gate, 0)) for gate in "fi")
        g = np.tanh(part("wg", state) + part("ug", x))
        cell = f * cell + i * g
        peep_o = part("vo", cell) if peep else 0
        state = logistic(part("wo", state) + part("uo", x) + peep_o) * np.tanh(cell)
        self.states[layer.index] = (cell, state)
        return state
