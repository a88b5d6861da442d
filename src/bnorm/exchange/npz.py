"""Writes .npz archives."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np

from bnorm.exchange.job import Job
from bnorm.tensors.npz import new_member


def write_npz(job: Job, files: Sequence[BinaryIO]) -> None:
    """Write an archive of .npy files, uncompressed and without times: the same arrays give the same bytes.

    `numpy.savez` would hold all arrays in memory, and write the time of day.
    """
    with zipfile.ZipFile(files[0], "w", zipfile.ZIP_STORED) as archive:
        for item in job.items:
            header = {"descr": item.dtype, "fortran_order": False, "shape": item.shape}
            with new_member(archive, item.name) as member:
                np.lib.format.write_array_header_1_0(member, header)
                for block in item.blocks():
                    member.write(np.ascontiguousarray(block, item.dtype).data)
