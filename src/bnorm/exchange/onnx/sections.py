"""One builder for each section type. A type without one is refused by name and line, see `REFUSED`.

Every rule is that of the fork's `forward_*_layer` at inference, on the CPU; where the CPU and the GPU differ, the
builder says which it takes.
"""

from __future__ import annotations

from collections.abc import Callable

from bnorm.exchange.onnx import elementwise, heads, joins, linear, resizing
from bnorm.exchange.onnx.context import Context
from bnorm.exchange.onnx.graph import Value

Builder = Callable[[Context], Value]

BUILDERS: dict[str, Builder] = {
    "convolutional": linear.convolutional,
    "deconvolutional": linear.deconvolutional,
    "connected": linear.connected,
    "local": linear.local,
    "batchnorm": linear.batchnorm,
    "maxpool": resizing.maxpool,
    "local_avgpool": resizing.local_avgpool,
    "avgpool": resizing.avgpool,
    "upsample": resizing.upsample,
    "reorg": resizing.reorg,
    "reorg3d": resizing.reorg3d,
    "crop": resizing.crop,
    "route": joins.route,
    "shortcut": joins.shortcut,
    "scale_channels": joins.scale_channels,
    "sam": joins.sam,
    "activation": elementwise.activation,
    "logistic": elementwise.logistic,
    "l2norm": elementwise.l2norm,
    "normalization": elementwise.normalization,
    "softmax": elementwise.softmax,
    "implicit": elementwise.implicit,
    "dropout": elementwise.through,
    "cost": elementwise.through,
    "empty": elementwise.through,
    **{name: head.activated for name, head in heads.HEADS.items()},
}

RECURRENT = "has a state that moves from image to image, expected a feed-forward layer"

REFUSED: dict[str, str] = {
    **dict.fromkeys(("rnn", "gru", "lstm", "crnn", "conv_lstm", "history"), RECURRENT),
    "contrastive": "compares images with each other in training, expected a layer of inference",
    "iseg": "outputs masks and embeddings, which no rule turns into boxes",
}
