"""A short run of the fuzzer: see tests/fuzz/fuzz.py for the long one."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location("fuzz", Path(__file__).parent / "fuzz" / "fuzz.py")
fuzz = importlib.util.module_from_spec(SPEC)
sys.modules["fuzz"] = fuzz
SPEC.loader.exec_module(fuzz)

RUNS = 400


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_damaged_files_are_answered(name, tmp_path):
    for data in fuzz.inputs(name, seed=1, runs=RUNS):
        fuzz.try_one(name, data, tmp_path)
