"""The same bits on other processors; the compiled engine without a cache folder, after a fork, and without OpenMP."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from bnorm.batchnorm import engines
from bnorm.batchnorm.arrays import batch_normalize
from bnorm.batchnorm.engines import ENGINES, NUMPY, has_numba, kernels_of
from bnorm.batchnorm.formulas import Parameters, Rolling

needs_numba = pytest.mark.skipif(not has_numba(), reason="needs Numba")

DIGEST = """
import hashlib, sys
import numpy as np
from bnorm.batchnorm.arrays import batch_normalize
from bnorm.batchnorm.formulas import Parameters, Rolling
digest = hashlib.sha256()
for shape in [(300, 7), (5, 9, 13, 13), (3, 4, 70, 71), (2, 3, 300, 301)]:
    numbers = np.arange(np.prod(shape), dtype="f8").reshape(shape)
    x, delta = ((numbers * factor % 1.0 - 0.5) * 10.0 ** (numbers % 5) for factor in (0.618, 0.417))
    vectors = np.arange(1.0, shape[1] + 1)
    parameters, rolling = Parameters(vectors, 1 / vectors), Rolling(vectors / 9, vectors)
    for train in (False, True):
        found = batch_normalize(x, parameters, rolling, train=train, delta=delta, engine=sys.argv[1])
        parts = (found.y, found.dx, *(found.moments or ()), *found.gradients, *found.rolling)
        for values in parts:
            digest.update(values.tobytes())
print(digest.hexdigest())
"""


def digest_of(engine: str, **variables: str) -> str:
    """The SHA-256 of every result in a fresh process with these variables."""
    command = [sys.executable, "-W", "ignore", "-c", DIGEST, engine]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture(scope="module")
def wanted() -> str:
    return digest_of("numpy")


def dispatched() -> str:
    """The instruction sets that NumPy chooses at run time, as far as this processor has them."""
    umath = np._core._multiarray_umath
    return " ".join(name for name in umath.__cpu_dispatch__ if umath.__cpu_features__.get(name))


@pytest.mark.slow
@pytest.mark.parametrize("core", ["Prescott", "Nehalem", "Haswell", "Zen"])
def test_the_same_bits_whatever_blas_would_do(core, wanted):
    assert digest_of("numpy", OPENBLAS_CORETYPE=core) == wanted


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 99])
def test_the_same_bits_on_a_processor_with_fewer_instructions(count, wanted):
    features = dispatched().split()
    assert digest_of("numpy", NPY_DISABLE_CPU_FEATURES=" ".join(features[-count:])) == wanted


@pytest.mark.slow
@needs_numba
@pytest.mark.parametrize("processor", ["x86-64", "x86-64-v2", "znver2"])
def test_the_same_bits_compiled_for_another_processor(processor, wanted, tmp_path):
    names = {"NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": ""}
    assert digest_of("numba", NUMBA_CACHE_DIR=str(tmp_path), **names) == wanted


@pytest.mark.slow
@needs_numba
def test_a_cache_folder_that_cannot_be_written_is_no_error(wanted):
    assert digest_of("numba", NUMBA_CACHE_DIR=os.devnull + "/folder") == wanted


@needs_numba
def test_without_openmp_the_team_s_threads_work(wanted):
    assert digest_of("numba", NUMBA_THREADING_LAYER="workqueue") == wanted


@needs_numba
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore")  # newer versions of Python warn of forks of processes with threads
def test_a_fork_computes_too():
    x, vector = np.arange(2 * 3 * 5.0).reshape(2, 3, 5, 1), np.ones(3)

    def result() -> bytes:
        return batch_normalize(
            x, Parameters(vector, vector), Rolling(vector, vector), train=True, engine="numba"
        ).y.tobytes()

    wanted = result()
    child = os.fork()
    if child == 0:
        os._exit(0 if result() == wanted else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_auto_takes_numba_for_many_values_only(monkeypatch):
    assert kernels_of("auto", engines.WORTH - 1) is NUMPY
    monkeypatch.setattr(engines, "has_numba", lambda: False)
    assert kernels_of("auto", 1 << 40) is NUMPY


@needs_numba
def test_auto_takes_numba_where_it_pays():
    assert kernels_of("auto", engines.WORTH) is not NUMPY


def test_an_engine_that_does_not_exist_or_is_not_installed_is_refused(monkeypatch):
    x, vector = np.ones((2, 3), "f4"), np.ones(3)
    with pytest.raises(ValueError, match=f"expected one of {', '.join(ENGINES)}"):
        batch_normalize(x, Parameters(vector, vector), Rolling(vector, vector), engine="cuda")
    monkeypatch.setattr(engines, "has_numba", lambda: False)
    with pytest.raises(ValueError, match="pip install 'numba>="):
        batch_normalize(x, Parameters(vector, vector), Rolling(vector, vector), engine="numba")
