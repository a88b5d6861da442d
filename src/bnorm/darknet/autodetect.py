"""Reading a model, and choosing the dialect where none is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from bnorm.darknet import cfg
from bnorm.darknet.dialects import DIALECTS, Dialect
from bnorm.darknet.grammar import GRAMMARS
from bnorm.darknet.header import read_header, written_by
from bnorm.darknet.layout import plan
from bnorm.darknet.model import Model
from bnorm.darknet.network import Network, build
from bnorm.darknet.vocabulary import KEYS, SECTIONS
from bnorm.errors import BnormError, CfgError, WeightsError
from bnorm.files import open_regular


def read_model(cfg_path: Path | str, weights_path: Path | str | None = None, dialect: str = "auto") -> Model:
    """Read the cfg, and the header and size of the weights file, and choose the dialect where it is `auto`.

    `CfgError` where no dialect can read the cfg, `WeightsError` where the file is too short for a header. A file of
    another size than planned is no error here: `fits` tells.
    """
    text = cfg.read(Path(cfg_path))
    path = Path(weights_path) if weights_path is not None else None
    with _opened(path) as file:
        if dialect != "auto":
            return _read(text, file, path, DIALECTS[dialect])
        models: list[Model] = []
        errors: dict[str, BnormError] = {}
        for candidate in DIALECTS.values():
            try:
                models.append(_read(text, file, path, candidate))
            except (CfgError, WeightsError) as error:
                errors[candidate.name] = error
    _raise_hidden(text, models, errors)
    model = _choose(models, errors)
    _raise_turned(model, errors)
    return model


def _raise_hidden(text: cfg.Text, models: list[Model], errors: dict[str, BnormError]) -> None:
    """Raise the error of the dialect that knows the cfg best, unless another one knows it as well, or fits the file.

    The others read it by looking away.
    """
    known = {name: _known(text, dialect) for name, dialect in DIALECTS.items()}
    most = max((known[model.dialect.name] for model in models), default=-1)
    hidden = [name for name in errors if known[name] > most]
    if hidden and not any(model.fits for model in models):
        raise errors[max(hidden, key=known.__getitem__)]


def _known(text: cfg.Text, dialect: Dialect) -> int:
    """How many lines of a cfg this dialect knows, headings and options, whether or not it can read the whole."""
    keys: frozenset[str] = frozenset()
    count = 0
    for line in text.lines:
        with suppress(ValueError):
            key, value = GRAMMARS[dialect.name].read_line(line) or ("", "")
            if key is None:
                kind = SECTIONS[dialect.name].get(value or "")
                keys = KEYS[dialect.name][kind] if kind else frozenset()
                count += kind is not None
            count += key in keys
    return count


def _raise_turned(model: Model, errors: dict[str, BnormError]) -> None:
    """Raise the error of the fork that wrote the file, where the chosen one would read its gates in another order.

    A fork that lacks one of the sections has not written it, whatever the version says.
    """
    writers = model.header.writers if model.weights else ()
    error = errors.get(writers[0]) if len(writers) == 1 else None
    if error and error.finding != "cfg-unknown-section" and _gated(model):
        raise error


def _gated(model: Model) -> bool:
    """Whether it has layers whose parts the forks store in different orders, at the same size."""
    return any(layer.type in ("gru", "lstm") for layer in model.network.layers)


@contextmanager
def _opened(path: Path | None) -> Iterator[BinaryIO | None]:
    with open_regular(path, WeightsError) if path else nullcontext() as file:
        yield file


def _read(text: cfg.Text, file: BinaryIO | None, path: Path | None, dialect: Dialect) -> Model:
    network = build(text, dialect)
    header = read_header(file, path, dialect) if file and path else written_by(dialect)
    nbytes = file.seek(0, 2) if file else None
    layout = plan(network, header.nbytes, transposed=header.transposed)
    return Model(network, header, layout, nbytes, path, "")


class Clue(NamedTuple):
    """One way to tell dialects apart: the models that it favours, and what to say of the others."""

    favours: Callable[[list[Model]], list[Model]]
    wording: str


def _choose(models: list[Model], errors: dict[str, BnormError]) -> Model:
    """Let each clue in turn narrow the models down; where several stay, the first knows the most."""
    reasons = [
        f"{name} refuses line {error.line} of the cfg ({error.what})" for name, error in errors.items() if error.line
    ]
    for clue in CLUES:
        favoured = clue.favours(models)
        if favoured and len(favoured) < len(models):
            lost = " and ".join(model.dialect.name for model in models if model not in favoured)
            reasons.append(clue.wording.format(lost))
            models = favoured
    others = " or ".join(model.dialect.name for model in models[1:])
    if others:
        reasons.append(f"{others} would do as well" if reasons else "nothing in the files decides")
    return models[0]._replace(reason="; ".join(reasons))


def _fitting(models: list[Model]) -> list[Model]:
    return [model for model in models if model.fits]


def _writing_this_version(models: list[Model]) -> list[Model]:
    return [model for model in models if model.weights and model.dialect.name in model.header.writers]


def _writing_these_gates(models: list[Model]) -> list[Model]:
    return [model for model in _writing_this_version(models) if _gated(model)]


def _knowing_most_keys(models: list[Model]) -> list[Model]:
    unknown = [_unknown_keys(model.network) for model in models]
    return [model for model, count in zip(models, unknown, strict=True) if count == min(unknown)]


def _unknown_keys(network: Network) -> int:
    return sum(not section.knows(option.key) for section in network.sections for option in section.options)


# The version comes before the keys where it says in whose order the arrays of a layer stand, at the same size.
_VERSION = "{} would write another version into the header"

CLUES = (
    Clue(_fitting, "the file's size does not fit {}"),
    Clue(_writing_these_gates, _VERSION),
    Clue(_knowing_most_keys, "{} would ignore more of the cfg's keys"),
    Clue(_writing_this_version, _VERSION),
)
