"""The facts about each section type, one row per type: its spellings, the forks that have it, its role in a network.

Two tables of functions have a row per type as well: `shape_rules.RULES` for the output shape and
`parts.PARTS` for the learned arrays. `vocabulary.KEYS` lists the options that each fork asks for.
"""

from __future__ import annotations

from typing import NamedTuple


class SectionType(NamedTuple):
    """One section type; `name` is its long name in darknet, `short` a second spelling.

    `numbers_in` is the option that holds layer numbers; negative ones count back from the layer itself.
    """

    name: str
    forks: frozenset[str]
    short: str = ""
    numbers_in: str = ""
    reads_numbered: bool = False  # the numbered layers are inputs, in addition to the layer before
    reads_several: bool = False  # the numbers are a list; otherwise only the first one counts
    needs_image: bool = False  # cannot follow a layer that reports no channels, height and width
    keeps_input_size: bool = True  # the fields w and h of the layer are those of its input
    is_pool: bool = False  # takes its strides as they are given
    is_gated: bool = False  # its parts have the same size but a different order in each fork's file
    loads_filters: bool = False  # loaded by load_convolutional_weights, which reads numload
    skips_scales: bool = False  # its loader reads dontloadscales
    is_head: bool = False  # usually follows a layer without batch normalisation


ALL = frozenset({"pjreddie", "alexeyab", "hank"})

PJREDDIE = frozenset({"pjreddie"})

ALEXEYAB = frozenset({"alexeyab"})

HANK = frozenset({"hank"})

NOT_HANK = PJREDDIE | ALEXEYAB

NOT_PJREDDIE = ALL - PJREDDIE

_ROWS = (
    SectionType("net", ALL, short="network"),
    # linear layers
    SectionType(
        "convolutional",
        ALL,
        short="conv",
        numbers_in="share_index",
        needs_image=True,
        loads_filters=True,
        skips_scales=True,
    ),
    SectionType("deconvolutional", PJREDDIE, short="deconv", needs_image=True, loads_filters=True, skips_scales=True),
    SectionType("local", NOT_HANK, needs_image=True),
    SectionType("connected", ALL, short="conn", keeps_input_size=False, skips_scales=True),
    # recurrent layers
    SectionType("rnn", ALL, keeps_input_size=False),
    SectionType("crnn", ALL, needs_image=True),
    SectionType("gru", NOT_HANK, keeps_input_size=False, is_gated=True),
    SectionType("lstm", ALL, keeps_input_size=False, is_gated=True),
    SectionType("conv_lstm", ALEXEYAB, needs_image=True),
    # pooling and resizing
    SectionType("maxpool", ALL, short="max", needs_image=True, is_pool=True),
    SectionType("local_avgpool", NOT_PJREDDIE, short="local_avg", needs_image=True, is_pool=True),
    SectionType("avgpool", ALL, short="avg", needs_image=True, is_head=True),
    SectionType("upsample", ALL),
    SectionType("reorg", NOT_HANK, needs_image=True),
    SectionType("reorg3d", NOT_PJREDDIE, needs_image=True),
    SectionType("crop", NOT_HANK, needs_image=True),
    # layers that read others by number
    SectionType("route", ALL, numbers_in="layers", reads_numbered=True, reads_several=True),
    SectionType("shortcut", ALL, numbers_in="from", reads_numbered=True, reads_several=True),
    SectionType("scale_channels", NOT_PJREDDIE, numbers_in="from", reads_numbered=True),
    SectionType("sam", NOT_PJREDDIE, numbers_in="from", reads_numbered=True),
    # layers that keep their input's shape, or have values of their own
    SectionType("dropout", ALL),
    SectionType("activation", NOT_HANK),
    SectionType("batchnorm", NOT_HANK),
    SectionType("normalization", NOT_HANK, short="lrn"),
    SectionType("l2norm", PJREDDIE),
    SectionType("empty", ALEXEYAB, short="silence"),
    SectionType("history", ALEXEYAB),
    SectionType("implicit", ALEXEYAB, keeps_input_size=False),
    # heads
    SectionType("softmax", ALL, short="soft", is_head=True),
    SectionType("logistic", PJREDDIE, is_head=True),
    SectionType("cost", ALL, keeps_input_size=False, is_head=True),
    SectionType("contrastive", NOT_PJREDDIE, numbers_in="yolo_layer"),
    SectionType("detection", NOT_HANK, is_head=True),
    SectionType("region", ALL, is_head=True),
    SectionType("yolo", ALL, numbers_in="embedding_layer", is_head=True),
    SectionType("Gaussian_yolo", NOT_PJREDDIE, is_head=True),
    SectionType("iseg", PJREDDIE, is_head=True),
)

TYPES: dict[str, SectionType] = {row.name: row for row in _ROWS}


def spellings(fork: str) -> dict[str, str]:
    """Return every spelling that the fork accepts between brackets, with the long name of its type."""
    rows = [row for row in _ROWS if fork in row.forks]
    return {spelling: row.name for row in rows for spelling in (row.name, row.short) if spelling}


SECTIONS: dict[str, dict[str, str]] = {fork: spellings(fork) for fork in sorted(ALL)}
