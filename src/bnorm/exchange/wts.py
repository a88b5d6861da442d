"""Writes .wts, the text that tensorrtx and DeepStream-Yolo read.

    3
    module_list.0.Conv2d.weight 864  3d2c1a00 bd000000 ...

The first line is the number of arrays; each other line a name, the number of values, and each value as 8 hexadecimal
digits of the big-endian float32. Two spaces follow the count (wang-xinyu/tensorrtx, `gen_wts.py`).
"""

from __future__ import annotations

from binascii import hexlify
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np

from bnorm.exchange.job import Item, Job
from bnorm.exchange.names import FAMILIES

DIGITS = 4  # bytes of a group of digits


def write_wts(job: Job, files: Sequence[BinaryIO]) -> None:
    """Write the arrays in the order of the model's file, with `num_batches_tracked` if the names are PyTorch's."""
    file = files[0]
    counters = _counters(job) if job.options.names in FAMILIES else {}
    file.write(b"%d\n" % (len(job.items) + len(counters)))
    for item in job.items:
        file.write(f"{item.name} {item.size} ".encode())
        for text in _digits(item):
            file.write(b" ")
            file.write(text)
        file.write(b"\n")
        if item.name in counters:
            file.write(f"{counters[item.name]} 1  {0:08x}\n".encode())


def _digits(item: Item) -> Iterator[bytes]:
    """Yield the values as text, in blocks."""
    for block in item.blocks():
        yield hexlify(np.ascontiguousarray(block, ">f4").data, " ", DIGITS)


def _counters(job: Job) -> dict[str, str]:
    """Return the name of each norm's counter of batches, by the name of its last array."""
    norms = [item.name for item in job.items if item.array.field == "rolling_variance"]
    return {name: f"{name.rpartition('.')[0]}.num_batches_tracked" for name in norms}
