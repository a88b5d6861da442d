"""Write the generated parts of the pages, each between `<!-- generated NAME -->` and `<!-- end -->`.

    python docs/generate.py     # after a change of commands, findings, dialects, arithmetics or runtimes

A test says when this has to be run again.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import click

from bnorm.batchnorm.arithmetic import ARITHMETICS, Arithmetic
from bnorm.batchnorm.epsilon import RUNTIMES, Epsilon
from bnorm.checks.findings import KINDS
from bnorm.cli import COMMANDS, main
from bnorm.darknet.dialects import DIALECTS, Dialect
from bnorm.darknet.section_types import TYPES, SectionType
from bnorm.darknet.vocabulary import ACTIVATIONS, KEYS

HERE = Path(__file__).parent
FORKS = ("pjreddie", "alexeyab", "hank")  # in the order of their age
PART = re.compile(r"(<!-- generated (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


# --- commands ---------------------------------------------------------------------------------------------------------


def commands() -> str:
    """Return a section for each command: what it does, examples, arguments and options."""
    return "\n".join(_section(name, main.get_command(click.Context(main), name)) for name in COMMANDS)


def _section(name: str, command: click.Command | None) -> str:
    assert command is not None
    arguments = [_argument(each) for each in command.params if isinstance(each, click.Argument)]
    options = [[_spelling(each), _meaning(each)] for each in command.params if isinstance(each, click.Option)]
    usage = f"```text\nbnorm {' '.join([name, *arguments])} [OPTIONS]\n```\n"
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    return "\n".join([f"## {name}\n", usage, *map(_paragraph, paragraphs), table(["option", "meaning"], options)])


def _argument(argument: click.Argument) -> str:
    name = argument.make_metavar() if argument.metavar else (argument.name or "").upper()
    return name if argument.required else f"[{name.strip('[]')}]"


def _paragraph(text: str) -> str:
    """Return a paragraph of a command's help; one that click must not wrap is a block."""
    if text.startswith("\b\n"):
        return f"```text\n{text[2:].strip()}\n```\n"
    return " ".join(text.split()) + "\n"


def _spelling(option: click.Option) -> str:
    if option.is_flag:
        value = ""
    elif isinstance(option.type, click.Choice) and not option.metavar:
        value = " " + "|".join(option.type.choices)
    else:
        value = f" {option.metavar or option.type.name.upper()}"
    *short, long = sorted(option.opts, key=len)
    return ", ".join(f"`{text}`" for text in (*short, long + value))


def _meaning(option: click.Option) -> str:
    default = f" Default: `{option.default}`." if option.show_default else ""
    return f"{option.help}{default}"


# --- findings, runtimes -----------------------------------------------------------------------------------------------


def findings() -> str:
    """Return the table of `bnorm check --list --format markdown`, with the ids as code."""
    return table(["id", "severity", "meaning", "likely cause"], [[f"`{row.id}`", *row[1:]] for row in KINDS.values()])


_WHOSE = {
    "darknet": "every fork's GPU path; the CPU path of AlexeyAB's and hank-ai's forks; PyTorch's default",
    "pjreddie-cpu": "pjreddie's darknet without a GPU",
    "opencv": "OpenCV 4's darknet importer",
    "ultralytics": "ultralytics' early darknet models",
    "keras": "Keras' default, and so keras-yolo3",
}


def runtimes() -> str:
    """Return ε by runtime."""
    rows = [[f"`{name}`", f"{_root('σ²', epsilon)}", _WHOSE[name]] for name, epsilon in RUNTIMES.items()]
    return table(["`--epsilon`", "divides by", "used by"], rows)


def _root(variance: str, epsilon: Epsilon) -> str:
    value = f"{epsilon.value:.0e}".replace("e-0", "e-")
    return f"√({variance} + {value})" if epsilon.inside else f"(√{variance} + {value})"


# --- arithmetics ------------------------------------------------------------------------------------------------------


def arithmetics() -> str:
    """Return the formulas by arithmetic; those that differ in their name alone share a column."""
    columns: dict[Arithmetic, list[str]] = {}
    for row in ARITHMETICS.values():
        columns.setdefault(row._replace(name=""), []).append(f"`{row.name}`")
    rows = [[name, *(text(column) for column in columns)] for name, text in _PROPERTIES.items()]
    return table(["", *(", ".join(names) for names in columns.values())], rows)


def _rolling(row: Arithmetic) -> str:
    connected = f"; connected {row.keep_connected:g}" if row.keep_connected != row.keep else ""
    return f"{row.keep:g}{connected}"


_PROPERTIES = {
    "normalises by": lambda row: _root("σ²", row.forward),
    "σ² divides by": lambda row: "N" if row.biased else "N − 1",
    "rolling variance averages": lambda row: "σ²·N/(N − 1)" if row.unbiased_rolling else "σ²",
    "rolling statistics keep": _rolling,
    "mean_delta, variance_delta": lambda row: _root("σ²", row.backward),
    "direct term of dx": lambda row: "δ/" + _root("σ²", row.direct),
    "backward at inference": lambda row: "δ·gain" if row.constant_statistics else "full formula, rolling statistics",
    "vectors are": lambda row: row.vectors,
}


# --- dialects ---------------------------------------------------------------------------------------------------------


def dialects() -> str:
    """Return what differs between the forks' files."""
    forks = [DIALECTS[name] for name in FORKS]
    rows = [[name, *(text(fork) for fork in forks)] for name, text in _RULES.items()]
    return table(["", *(f"`{fork.name}`" for fork in forks)], rows)


def _order(gates: Iterable[object], absent: str) -> str:
    return " ".join(gate.name for gate in gates) or absent  # type: ignore[attr-defined]


def _seen(fork: Dialect) -> str:
    limit = fork.narrow_seen_from
    return "8 bytes" if limit is None else f"8 bytes; 4 if major or minor ≥ {limit}"


_RULES = {
    "header it writes": lambda fork: ".".join(map(str, fork.version)),
    "`seen` from version 0.2 on": _seen,
    "a key given twice": lambda fork: "refused" if fork.strict else "the first one counts",
    "a key it does not know": lambda fork: "refused" if fork.strict else "ignored",
    "parts of an `[lstm]`": lambda fork: _order(fork.lstm, "no such layer"),
    "parts of a `[gru]`": lambda fork: _order(fork.gru, "no such layer"),
    "arrays of a `[batchnorm]`": lambda fork: ", ".join(fork.batchnorm) or "no such layer",
    "`groups` below 1": lambda fork: "1" if fork.repairs_groups else "a crash",
    "`xnor=1`": lambda fork: "also sets `groups` to 1" if fork.repairs_groups else "leaves `groups`",
    "weighted `[shortcut]`": lambda fork: ", ".join(fork.weights_types[1:]) or "no",
    "`[shortcut]` reads": lambda fork: "one layer" if "shortcut" in fork.reads_first_only else "a list of layers",
    "`[crnn]`": lambda fork: "always 3×3, width and height swapped" if fork.fixed_crnn else "any size",
}


def sections() -> str:
    """Return the names of sections, and the forks that have each."""
    rows = [
        [
            ", ".join(f"`[{name}]`" for name in (row.name, row.short) if name),
            *("✓" if fork in row.forks else "" for fork in FORKS),
        ]
        for row in TYPES.values()
    ]
    return table(["section", *(f"`{fork}`" for fork in FORKS)], rows)


# The keys that every section except [net] has.
COMMON = {fork: frozenset.intersection(*(KEYS[fork][kind] for kind in KEYS[fork] if kind != "net")) for fork in FORKS}


def common_keys() -> str:
    """Return the keys that every section has, by the forks that ask for them."""
    return table(["forks", "keys"], _by_forks(COMMON))


def keys() -> str:
    """Return the other keys of each section, by the forks that ask for them."""
    rows = [[f"`[{row.name}]`", *line] for row in TYPES.values() for line in _by_forks(_own_keys(row))]
    return table(["section", "forks", "keys"], rows)


def _own_keys(row: SectionType) -> dict[str, frozenset[str]]:
    forks = [fork for fork in FORKS if fork in row.forks and row.name in KEYS[fork]]
    return {fork: KEYS[fork][row.name] - (COMMON[fork] if row.name != "net" else frozenset()) for fork in forks}


def activations() -> str:
    """Return the activations, by the forks that know them."""
    return table(["forks", "activations"], _by_forks(ACTIVATIONS))


def _by_forks(names: Mapping[str, frozenset[str]]) -> Iterator[list[str]]:
    """Yield the names that the same forks know: those of all forks first."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in sorted(frozenset().union(*names.values())):
        groups.setdefault(tuple(fork for fork in FORKS if name in names.get(fork, ())), []).append(name)
    for forks in sorted(groups, key=lambda forks: (-len(forks), forks)):
        yield ["all" if forks == FORKS else ", ".join(forks), ", ".join(f"`{name}`" for name in groups[forks])]


PARTS = {
    "commands": commands,
    "findings": findings,
    "runtimes": runtimes,
    "arithmetics": arithmetics,
    "dialects": dialects,
    "sections": sections,
    "keys": keys,
    "common_keys": common_keys,
    "activations": activations,
}


def filled(page: str) -> str:
    """Return the page with its generated parts as they must be now."""
    return PART.sub(lambda match: f"{match[1]}\n{PARTS[match[2]]().strip()}\n\n{match[3]}", page)


def pages() -> Iterator[Path]:
    """Yield the pages that have generated parts."""
    yield from (path for path in sorted(HERE.glob("*.md")) if PART.search(path.read_text(encoding="utf-8")))


if __name__ == "__main__":
    for path in pages():
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")
