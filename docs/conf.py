"""How Sphinx builds these pages: `sphinx-build -W docs docs/_build`. Nothing is fetched."""

from __future__ import annotations

import re

from pygments.lexers.special import TextLexer

import bnorm

project = "bnorm"
author = "the bnorm developers"
project_copyright = "2026, the bnorm developers"
version = release = bnorm.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"bnorm {release}"
html_static_path = ["_static"]
html_css_files = ["narrow.css"]
html_copy_source = False

myst_heading_anchors = 3  # links such as guarantees.md#limits work here as they do on GitHub
suppress_warnings = ["misc.highlighting_failure"]  # a session's output is not always what its lexer expects

autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 100
default_role = "code"  # docstrings have single backquotes


def _as_rst(_app: object, _what: str, _name: str, _object: object, _options: object, lines: list[str]) -> None:
    """Make a docstring what reStructuredText expects: aligned columns are a literal block, | and * are themselves."""
    paragraphs = re.split(r"\n(?:[ \t]*\n)+", "\n".join(lines).strip())
    lines[:] = "\n\n".join(map(_paragraph, paragraphs)).splitlines()


def _paragraph(text: str) -> str:
    if re.match(r"\S(.*\S)? {2,}\S", text):
        return "::\n\n" + re.sub(r"^", "    ", text, flags=re.MULTILINE)
    return re.sub(r"([|*])(?![^`\n]*`[^`]*$)", r"\\\1", text)


def _from_github(_app: object, page: str, source: list[str]) -> None:
    """Turn what is written for GitHub into what Sphinx needs.

    The lists of the index become the contents; pages of the repository outside of this folder are named, not linked.
    """
    if page == "index":
        source[0] += "".join(map(_contents, source[0].split("\n## ")[1:]))
    source[0] = re.sub(r"(?<!!)\[([^\]]+)\]\(\.\./([^)#]+\.md)\)", r"\1 (`\2`)", source[0])


def _contents(section: str) -> str:
    pages = "\n".join(re.findall(r"^\* \[[^\]]+\]\((\w\S*)\.md\)", section, re.MULTILINE))
    return f"\n```{{toctree}}\n:hidden:\n:caption: {section.splitlines()[0]}\n\n{pages}\n```\n"


def setup(app: object) -> None:
    for language in ("order", "map"):  # blocks of architecture.md that a test reads
        app.add_lexer(language, TextLexer)  # type: ignore[attr-defined]
    app.connect("source-read", _from_github)  # type: ignore[attr-defined]
    app.connect("autodoc-process-docstring", _as_rst)  # type: ignore[attr-defined]
