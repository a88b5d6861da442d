"""Writes a folder of raw values: one file for the weights of all layers, one for their biases, and so on.

`layout.json` has for each array its name, file, offset in bytes, shape and type; without it the files are worthless.
Values are little-endian, in the order of the layers, each array in C order.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from bnorm.exchange.job import SCALE, Item, Job

LAYOUT = "layout.json"

FIELDS = ("weights", f"weights{SCALE}", "biases", "scales", "rolling_mean", "rolling_variance")


def bin_files(folder: Path, items: Sequence[Item] | None = None) -> tuple[Path, ...]:
    """Return the files for these arrays, or for any arrays if None; first the layout, which describes the rest."""
    held = FIELDS if items is None else {item.field for item in items}
    return (folder / LAYOUT, *(folder / f"{field}.bin" for field in FIELDS if field in held))


def write_bins(job: Job, files: Sequence[BinaryIO]) -> None:
    """Write the values of each array after those of the same kind, and the layout."""
    by_name = {path.name: file for path, file in zip(job.outputs, files, strict=True)}
    entries = []
    for item in job.items:
        name = f"{item.field}.bin"
        entries.append(
            {
                "name": item.name,
                "file": name,
                "offset": by_name[name].tell(),
                "shape": list(item.shape),
                "dtype": np.dtype(item.dtype).name,
                "scale_of": item.scale_of or None,
            }
        )
        for block in item.blocks():
            by_name[name].write(np.ascontiguousarray(block, item.dtype).data)
    rows = ",\n".join(f"  {json.dumps(entry)}" for entry in entries)
    by_name[LAYOUT].write(f'{{"byteorder": "little", "arrays": [\n{rows}\n]}}\n'.encode())
