"""Every command, output and program that README and docs/ show: run page by page, each page in one folder."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import bnorm
from bnorm.cli import COMMANDS
from support.golden import ROOT, sample

DOCS = ROOT / "docs"
PAGES = {path.relative_to(ROOT).as_posix(): path for path in (ROOT / "README.md", *sorted(DOCS.glob("*.md")))}
BLOCK = re.compile(r"^( *)```(\w[^\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
SESSION = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)

NOT_RUN = ("text", "json", "order", "map", "c darknet", "python keras")  # not commands, and parts of other programs
TRIED_APART = (
    "python opencv",  # in tests/exchange/test_onnx_recipes.py
    "python onnxruntime",
    "console digits",  # in tests/replay/test_estimate_recipe.py
    "python digits",
)
INSTALLS = re.compile(r"pip install|git clone|-m pytest|\.ci/run|\.venv/bin/python ")  # by .ci/run, or for developers

NEEDS = {
    "docs/tutorial.md": ("onnx", "cv2"),
    "docs/recipes.md": ("torch", "safetensors", "cv2"),
    "docs/folding-wrongly.md": ("cv2", "sklearn"),
}
NEEDS_OPENCV_4 = ("docs/recipes.md", "docs/folding-wrongly.md")


def blocks(page: str) -> list[tuple[str, str]]:
    """Return the language and the text of each block of code."""
    return [(kind, text) for _, kind, text in BLOCK.findall(PAGES[page].read_text(encoding="utf-8"))]


RUN = [page for page in PAGES if any(kind not in NOT_RUN and "{" not in kind for kind, _ in blocks(page))]


@pytest.fixture
def samples(tmp_path, monkeypatch):
    """A folder with the samples."""
    for name in ("sample_cfgs", "sample_weights"):
        shutil.copytree(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)


def skip_without(page: str) -> None:
    """Skip a page whose programs need a package that is not installed."""
    for name in NEEDS.get(page, ()):
        pytest.importorskip(name)
    if page in NEEDS_OPENCV_4 and not hasattr(sys.modules["cv2"].dnn, "readNetFromDarknet"):
        pytest.skip("OpenCV 5 has no importer for darknet")


def exit_code(arguments: list[str], output: str) -> int:
    """Return 3 for a `diff` that shows a difference and a `check` that shows an error."""
    differs = arguments[0] == "diff" and not output.startswith("identical")
    return 3 if differs or (arguments[0] == "check" and "\nerror " in output) else 0


def try_session(text: str, invoke) -> None:
    for command, output in SESSION.findall(text):
        program, *arguments = shlex.split(command)
        assert program == "bnorm"
        assert invoke(*arguments, exit_code=exit_code(arguments, output)).stdout == output


def try_shell(text: str) -> None:
    if not INSTALLS.search(text):
        subprocess.run(text, shell=True, check=True)


def try_c(code: str) -> None:
    if compiler := shutil.which("gcc"):
        Path("main.c").write_text(code)
        flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"]
        subprocess.run([compiler, *flags, "main.c", "digits.c", "-o", "program"], check=True)
        float(subprocess.run(["./program"], capture_output=True, text=True, check=True).stdout)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # open() without with, for short examples
@pytest.mark.usefixtures("samples")
@pytest.mark.parametrize("page", RUN)
def test_what_a_page_shows_works(invoke, page):
    """One block after the other: a later one may use the files and the names of an earlier one."""
    skip_without(page)
    names: dict[str, object] = {}
    for kind, text in blocks(page):
        match kind:
            case "console":
                try_session(text, invoke)
            case "sh":
                try_shell(text)
            case "python":
                exec(compile(text, page, "exec"), names)
            case "c":
                try_c(text)
            case _:
                assert kind in NOT_RUN + TRIED_APART or "{" in kind


EXAMPLES = re.findall(
    r"^\| \[`\w+`\].*\| `bnorm (.*)` \|$", PAGES["README.md"].read_text(encoding="utf-8"), re.MULTILINE
)


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_of_the_table_of_commands_works(invoke, tmp_path, monkeypatch, example):
    if ".onnx" in example:
        pytest.importorskip("onnx")
    monkeypatch.chdir(tmp_path)
    cfg, weights = sample("digits")
    for source, copies in {cfg: ["net.cfg"], weights: ["net.weights", "old.weights"]}.items():
        for copy in copies:
            shutil.copy(source, copy)
    shutil.copy(weights.with_name("digits_x.npy"), "x.npy")
    command, *arguments = example.split()
    if command == "diff":
        invoke("convert", "net.cfg", "old.weights", "-o", "new.weights", "--seen", 0)
    if command == "import":
        invoke("export", "net.cfg", "net.weights", "-o", "net.safetensors")
    assert invoke(command, *arguments, exit_code=3 if command == "diff" else 0).stdout


def test_the_table_of_commands_has_each():
    assert sorted(example.split()[0] for example in EXAMPLES) == sorted(COMMANDS)


@pytest.mark.skipif("BNORM_OPENCV5" not in os.environ, reason="BNORM_OPENCV5 does not name a folder with OpenCV 5")
def test_the_digit_of_the_tutorial_is_recognised_in_opencv_5(tmp_path):
    pytest.importorskip("onnx")
    (program,) = (text for kind, text in blocks("docs/tutorial.md") if kind == "python")
    bnorm.export(bnorm.read_model(*sample("digits")), tmp_path / "digits.onnx")
    environment = os.environ | {"PYTHONPATH": os.environ["BNORM_OPENCV5"]}
    run = [sys.executable, "-c", program]
    done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert re.fullmatch(r"OpenCV 5\.\S+ sees a 3 \(99% sure\)\n", done.stdout)


# --- what has to be complete ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def generate():
    """The script docs/generate.py, as a module."""
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_parts_of_the_pages_are_current(generate):
    pages = list(generate.pages())
    assert {path.name for path in pages} == {
        "cfg-format.md",
        "cfg-keys.md",
        "commands.md",
        "dialects.md",
        "findings.md",
    }
    stale = [path.name for path in pages if (text := path.read_text(encoding="utf-8")) != generate.filled(text)]
    assert not stale, "run python docs/generate.py"


def test_the_library_s_page_has_every_public_name():
    text = (DOCS / "library.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\.\. auto\w+:: bnorm\.(\w+)$", text, re.MULTILINE)) == bnorm.__all__


def test_the_guide_has_a_section_for_each_command():
    headings = re.findall(r"^## (\w+):", (DOCS / "guide.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(headings) == sorted(COMMANDS)


def test_the_citation_is_of_this_version():
    assert f"\nversion: {bnorm.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md"])
def test_links_lead_somewhere(page):
    path = ROOT / page
    text = BLOCK.sub("", path.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text(encoding="utf-8")), target


def test_ci_runs_the_test_command_of_readme():
    """The lines of .ci/run that find and run it, with `printf` for `eval`."""
    (command,) = re.findall(r"^```sh\n(.*-m pytest.*)\n```$", PAGES["README.md"].read_text(), re.MULTILINE)
    lines = [line for line in (ROOT / ".ci/run").read_text().splitlines() if "readme_command" in line]
    script = re.sub(r"^eval ", "printf %s ", "\n".join(lines), flags=re.MULTILINE)
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == command
