"""The programs of docs/recipes.md: both run as they are printed, and find the same boxes."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import numpy as np
import pytest

from bnorm import export, read_model
from support.golden import ROOT, sample

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
cv2 = pytest.importorskip("cv2")
pytest.importorskip("PIL")

PROGRAMS = dict(re.findall(r"```python (\w+)\n(.*?)```", (ROOT / "docs" / "recipes.md").read_text(), re.DOTALL))


@pytest.fixture
def folder(tmp_path):
    """The sample detector as a graph, and an image of its size, which no program has to resize."""
    export(read_model(*sample("detector")), tmp_path / "detector.onnx")
    cv2.imwrite(str(tmp_path / "image.png"), np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    return tmp_path


def printed(program, folder, path=""):
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize("opencv", ["", os.environ.get("BNORM_OPENCV5", "")], ids=["OpenCV 4", "OpenCV 5"])
def test_both_programs_find_the_same_boxes(folder, opencv, request):
    if "OpenCV 5" in request.node.name and not opencv:
        pytest.skip("BNORM_OPENCV5 does not name a folder with OpenCV 5")
    ours, theirs = printed(PROGRAMS["onnxruntime"], folder), printed(PROGRAMS["opencv"], folder, opencv)
    assert ours
    assert sorted(theirs) == sorted(ours)
