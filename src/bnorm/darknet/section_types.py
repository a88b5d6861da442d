"""The facts about each section type, one row per type: its spellings, the forks that have it, its role in a network.

Two tables of functions have a row per type as well: `shape_rules.RULES` for the output shape and
`parts.PARTS` for the learned arrays. `vocabulary.KEYS` lists the options that each fork asks for.
"""

from __future__ import annotations

from typing import NamedTuple


class SectionType(NamedTuple):
    """One section type; `name` is darknet's long name of it, `short` a second spelling.

    `numbers_in` is the option that holds layer numbers; negative ones count back from the layer itself.
    """

    name: str
    forks: frozenset[str]
    short: str = ""
    numbers_in: str = ""
    reads_numbered: bool = False  # the numbered layers are inputs, in addition to the layer before
    reads_several: bool = False  # the numbers are a list; otherwise only the first one counts
    needs_image: bool = False  # cannot follow a layer that reports no channels, height and width
    keeps_input_size: bool = True  # the layer's w and h are those of its input
    is_pool: bool = False  # takes its strides as they are given
    is_gated: bool = False  # its parts have the same size but another order in each fork's file
    loads_filters: bool = False  # loaded by load_convolutional_weights, which reads numload
    skips_scales: bool = False  # its loader reads dontloadscales
    is_head: bool = False  # usually follows a layer without batch normalisation


_ALL = frozenset({"pjreddie", "alexeyab", "hank"})

_PJREDDIE = frozenset({"pjreddie"})

_ALEXEYAB = frozenset({"alexeyab"})

_NOT_HANK = _PJREDDIE | _ALEXEYAB

_NOT_PJREDDIE = _ALL - _PJREDDIE

_ROWS = (
    SectionType("net", _ALL, short="network"),
    # linear layers
    SectionType(
        "convolutional",
        _ALL,
        short="conv",
        numbers_in="share_index",
        needs_image=True,
        loads_filters=True,
        skips_scales=True,
    ),
    SectionType("deconvolutional", _PJREDDIE, short="deconv", needs_image=True, loads_filters=True, skips_scales=True),
    SectionType("local", _NOT_HANK, needs_image=True),
    SectionType("connected", _ALL, short="conn", keeps_input_size=False, skips_scales=True),
    # recurrent layers
    SectionType("rnn", _ALL, keeps_input_size=False),
    SectionType("crnn", _ALL, needs_image=True),
    SectionType("gru", _NOT_HANK, keeps_input_size=False, is_gated=True),
    SectionType("lstm", _ALL, keeps_input_size=False, is_gated=True),
    SectionType("conv_lstm", _ALEXEYAB, needs_image=True),
    # pooling and resizing
    SectionType("maxpool", _ALL, short="max", needs_image=True, is_pool=True),
    SectionType("local_avgpool", _NOT_PJREDDIE, short="local_avg", needs_image=True, is_pool=True),
    SectionType("avgpool", _ALL, short="avg", needs_image=True, is_head=True),
    SectionType("upsample", _ALL),
    SectionType("reorg", _NOT_HANK, needs_image=True),
    SectionType("reorg3d", _NOT_PJREDDIE, needs_image=True),
    SectionType("crop", _NOT_HANK, needs_image=True),
    # layers that read others by number
    SectionType("route", _ALL, numbers_in="layers", reads_numbered=True, reads_several=True),
    SectionType("shortcut", _ALL, numbers_in="from", reads_numbered=True, reads_several=True),
    SectionType("scale_channels", _NOT_PJREDDIE, numbers_in="from", reads_numbered=True),
    SectionType("sam", _NOT_PJREDDIE, numbers_in="from", reads_numbered=True),
    # layers that keep their input's shape, or bring values of their own
    SectionType("dropout", _ALL),
    SectionType("activation", _NOT_HANK),
    SectionType("batchnorm", _NOT_HANK),
    SectionType("normalization", _NOT_HANK, short="lrn"),
    SectionType("l2norm", _PJREDDIE),
    SectionType("empty", _ALEXEYAB, short="silence"),
    SectionType("history", _ALEXEYAB),
    SectionType("implicit", _ALEXEYAB),
    # heads
    SectionType("softmax", _ALL, short="soft", is_head=True),
    SectionType("logistic", _PJREDDIE, is_head=True),
    SectionType("cost", _ALL, keeps_input_size=False, is_head=True),
    SectionType("contrastive", _NOT_PJREDDIE, numbers_in="yolo_layer"),
    SectionType("detection", _NOT_HANK, is_head=True),
    SectionType("region", _ALL, is_head=True),
    SectionType("yolo", _ALL, numbers_in="embedding_layer", is_head=True),
    SectionType("Gaussian_yolo", _NOT_PJREDDIE, is_head=True),
    SectionType("iseg", _PJREDDIE, is_head=True),
)

TYPES: dict[str, SectionType] = {row.name: row for row in _ROWS}


def spellings(fork: str) -> dict[str, str]:
    """Return every spelling that the fork accepts between brackets, with the long name of its type."""
    rows = [row for row in _ROWS if fork in row.forks]
    return {spelling: row.name for row in rows for spelling in (row.name, row.short) if spelling}


SECTIONS: dict[str, dict[str, str]] = {fork: spellings(fork) for fork in sorted(_ALL)}
