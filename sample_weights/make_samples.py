"""Write a weights file of random numbers for every sample cfg but digits.cfg, which is trained.

Filters are scaled by the number of their inputs, variances and scales are positive, as training leaves them. Run from
anywhere: `python sample_weights/make_samples.py`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bnorm import read_model
from bnorm.darknet.layout import Array
from bnorm.darknet.weights import save

HERE = Path(__file__).parent
DIALECTS = {
    "batchnorm": "alexeyab",
    "binary": "alexeyab",
    "conv_recurrent": "alexeyab",
    "deconvolution": "pjreddie",
    "detector": "alexeyab",
    "local": "alexeyab",
    "recurrent": "alexeyab",
    "shared": "alexeyab",
    "weighted": "alexeyab",
}
IMAGES = 64_000


def values(array: Array, rng: np.random.Generator) -> np.ndarray:
    """Random numbers of the size that the field has in a trained network."""
    if array.field in ("scales", "rolling_variance"):
        return rng.gamma(9, 1 / 9, array.shape).astype("f4")
    inputs = np.prod(array.shape[1:]) if array.field == "weights" else 1
    return rng.normal(0, inputs**-0.5, array.shape).astype("f4")


def main() -> None:
    """Write the files beside this one."""
    for number, (name, dialect) in enumerate(DIALECTS.items()):
        model = read_model(HERE.parent / "sample_cfgs" / f"{name}.cfg", None, dialect)
        rng = np.random.default_rng(number)
        arrays = (values(array, rng) for array in model.layout.arrays)
        save(HERE / f"{name}.weights", model.header._replace(seen=IMAGES), model.layout, arrays)


if __name__ == "__main__":
    main()
