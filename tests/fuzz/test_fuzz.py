"""A short run of the fuzzer: see tests/fuzz/fuzz.py for the long one."""

from __future__ import annotations

import pytest

import fuzz

RUNS = (40, pytest.param(200, marks=pytest.mark.slow))


@pytest.mark.parametrize("runs", RUNS)
@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_damaged_files_are_answered(name, runs, tmp_path):
    for case in fuzz.cases(name, seed=1, runs=runs):
        fuzz.try_one(case, tmp_path)
