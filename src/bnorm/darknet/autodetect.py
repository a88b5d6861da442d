"""Reading a model, and the choice of its dialect where none is given.

With the dialect `auto`, every fork's rules are tried, and these steps decide:

1. A fork is ruled out if it cannot read the cfg or the header, or if it reads the cfg only because assertions were left
   out when it was built, unless the file has the planned size. If the fork that recognises most lines is ruled out,
   its error is raised, because the others can read the cfg only by ignoring lines; unless another fork recognises as
   many lines, or its plan has the file's size.
2. The clues in `CLUES` narrow down the forks, one after the other: the planned size; the header's version if the
   network has gated layers, whose arrays have the same size but a different order in each fork; the keys; the version.
3. If several forks are left, the first of `DIALECTS` is taken.
4. If the network has gated layers, and only one fork writes this version, and that fork is ruled out, its error is
   raised, because the chosen fork would mix up the gates. A fork that lacks one of the section types cannot have
   written the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from bnorm.darknet import cfg
from bnorm.darknet.cfg import CfgText
from bnorm.darknet.dialects import AUTO, DIALECTS, Dialect, candidates
from bnorm.darknet.grammar import GRAMMARS, Heading
from bnorm.darknet.header import read_header, written_by
from bnorm.darknet.layout import plan
from bnorm.darknet.model import Model
from bnorm.darknet.network import Network, build
from bnorm.darknet.refusals import left_out
from bnorm.darknet.rivals import rivals
from bnorm.darknet.section_types import SECTIONS, TYPES
from bnorm.darknet.vocabulary import KEYS
from bnorm.errors import BnormError, CfgError, WeightsError
from bnorm.files import open_regular

Errors = Mapping[str, BnormError]  # why a fork cannot read the model, by the fork's name


def read_model(cfg_path: Path | str, weights_path: Path | str | None = None, dialect: str = AUTO) -> Model:
    """Read the cfg, and the header and size of the weights file, and choose the dialect if it is `auto`.

    `CfgError` if no dialect can read the cfg, `WeightsError` if the file is too short for a header, ValueError for an
    unknown dialect. A file whose size differs from the plan is not an error here: see `Model.fits`.
    """
    forks = candidates(dialect)
    text = cfg.read(Path(cfg_path))
    path = Path(weights_path) if weights_path is not None else None
    with _opened(path) as file:
        if dialect != AUTO:
            return _read(text, file, path, forks[0])
        models, errors = _read_all(text, file, path, forks)
    return _choose(text, models, errors)


@contextmanager
def _opened(path: Path | None) -> Iterator[BinaryIO | None]:
    with open_regular(path, WeightsError) if path else nullcontext() as file:
        yield file


def _read_all(
    text: CfgText, file: BinaryIO | None, path: Path | None, forks: Sequence[Dialect]
) -> tuple[list[Model], Errors]:
    """Return the model as each fork reads it, and the errors of the forks that cannot."""
    models: list[Model] = []
    errors: dict[str, BnormError] = {}
    for fork in forks:
        try:
            model = _read(text, file, path, fork)
        except (CfgError, WeightsError) as error:
            errors[fork.name] = error
            continue
        doubtful = not fork.asserts and not model.fits
        if doubtful and (failed := next(left_out(model.network.layers), None)):
            errors[fork.name] = failed  # it continues only because assertions were left out of its build
        else:
            models.append(model)
    return models, errors


def _read(text: CfgText, file: BinaryIO | None, path: Path | None, dialect: Dialect) -> Model:
    network = build(text, dialect)
    header = read_header(file, path, dialect) if file and path else written_by(dialect)
    return Model(
        network=network,
        header=header,
        layout=plan(network, header),
        nbytes=file.seek(0, 2) if file else None,
        weights=path,
        reason="",
    )


def _choose(text: CfgText, models: list[Model], errors: Errors) -> Model:
    error = error_of_the_best_informed_fork(text, models, errors)
    if error:
        raise error
    model = narrow_down(models, errors)
    error = error_of_the_writing_fork(model, errors)
    if error:
        raise error
    return model


# --- step 1 -----------------------------------------------------------------------------------------------------------


def error_of_the_best_informed_fork(text: CfgText, models: Sequence[Model], errors: Errors) -> BnormError | None:
    """Return the error of the fork that recognises most lines; None if another recognises as many or fits the file."""
    if not errors or any(model.fits for model in models):
        return None
    recognised = {name: recognised_lines(text, DIALECTS[name]) for name in DIALECTS}
    most = max((recognised[model.dialect.name] for model in models), default=-1)
    best = max(errors, key=recognised.__getitem__)
    return errors[best] if recognised[best] > most else None


def recognised_lines(text: CfgText, dialect: Dialect) -> int:
    """Return how many headings and options of a cfg this dialect knows, whether or not it can read the whole."""
    keys: frozenset[str] = frozenset()
    count = 0
    for line in text.lines:
        with suppress(ValueError):
            entry = GRAMMARS[dialect.name].read_line(line)
            if isinstance(entry, Heading):
                kind = SECTIONS[dialect.name].get(entry.name)
                keys = KEYS[dialect.name][kind] if kind else frozenset()
                count += kind is not None
            elif entry:
                count += entry.key in keys
    return count


# --- steps 2 and 3 ----------------------------------------------------------------------------------------------------


def narrow_down(models: list[Model], errors: Errors) -> Model:
    """Apply each clue in turn, and return the first model that remains; its `reason` says which clues decided."""
    why = {name: _refusal(name, error) for name, error in errors.items()}
    reasons = [why[name] for name, error in errors.items() if error.line]
    left = models
    for clue in CLUES:
        favoured = clue.favoured(left)
        if favoured and len(favoured) < len(left):
            out = [model.dialect.name for model in left if model not in favoured]
            why |= {name: clue.wording.format(name) for name in out}
            reasons.append(clue.wording.format(" and ".join(out)))
            left = favoured
    if equals := " or ".join(model.dialect.name for model in left[1:]):
        reasons.append(f"{equals} fits equally well" if reasons else "nothing in the files tells the dialects apart")
    chosen = left[0]
    others = [model for model in models if model is not chosen]
    return chosen._replace(reason="; ".join(reasons), rivals=tuple(rivals(chosen, others, errors, why)))


def _refusal(name: str, error: BnormError) -> str:
    refused = f"line {error.line} of the cfg" if error.line else "the weights file"
    return f"{name} refuses {refused} ({error.what})"


class Clue(NamedTuple):
    """One way to tell dialects apart: the models that it selects, and the reason against the rest."""

    favoured: Callable[[list[Model]], list[Model]]
    wording: str


def _fitting(models: list[Model]) -> list[Model]:
    return [model for model in models if model.fits]


def _writing_this_version(models: list[Model]) -> list[Model]:
    return [model for model in models if model.weights and model.dialect.name in model.header.writers]


def _writing_these_gates(models: list[Model]) -> list[Model]:
    return [model for model in _writing_this_version(models) if has_gates(model.network)]


def _knowing_most_keys(models: list[Model]) -> list[Model]:
    unknown = [_unknown_keys(model.network) for model in models]
    return [model for model, count in zip(models, unknown, strict=True) if count == min(unknown)]


def _unknown_keys(network: Network) -> int:
    return sum(not section.knows(option.key) for section in network.sections for option in section.options)


def has_gates(network: Network) -> bool:
    """Return whether the network has layers whose parts the forks store in different orders, at the same size."""
    return any(TYPES[layer.type].is_gated for layer in network.layers)


CLUES = (
    Clue(_fitting, "the file's size does not fit {}"),
    Clue(_writing_these_gates, "{} would write a different header version"),
    Clue(_knowing_most_keys, "{} would ignore more of the cfg's keys"),
    Clue(_writing_this_version, "{} would write a different header version"),
)


# --- step 4 -----------------------------------------------------------------------------------------------------------


def error_of_the_writing_fork(model: Model, errors: Errors) -> BnormError | None:
    """Return the error of the fork that wrote the file, if it has one and the chosen fork would mix up the gates."""
    writers = model.header.writers if model.weights else ()
    error = errors.get(writers[0]) if len(writers) == 1 else None
    if error is None or error.finding == "cfg-unknown-section" or not has_gates(model.network):
        return None
    return error
