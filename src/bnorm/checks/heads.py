"""The heads of a detector: detection layers, and a check that their classes and filters agree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from bnorm.checks.findings import Finding, make_finding
from bnorm.darknet.cfg import Section
from bnorm.darknet.network import Network
from bnorm.darknet.shape_rules import DETECTORS, boxes

DEFAULT = 20  # classes of a detection layer without the option


class Head(NamedTuple):
    """A detection layer and the section before it."""

    before: Section
    section: Section

    @property
    def filtered(self) -> bool:
        """Return whether its number of channels is the number of filters of a convolution."""
        return self.before.type == "convolutional"

    @property
    def classes(self) -> int:
        """Return the number of classes."""
        return self.section.integer("classes", DEFAULT)

    @property
    def filters(self) -> int | None:
        """Return the number of filters of the convolution before it; None without one."""
        return self.before.integer("filters", 1) if self.filtered else None

    @property
    def settings(self) -> str:
        """Return classes and filters as the cfg has them."""
        return f"classes={self.classes}" + (f" and filters={self.filters}" if self.filtered else "")


def heads_of(sections: Sequence[Section]) -> list[Head]:
    """Return the heads of a network, in order; `sections` begin with [net]."""
    return [Head(before=before, section=section) for before, section in pairwise(sections) if section.type in DETECTORS]


def disagreement(heads: Sequence[Head]) -> str:
    """Return how the heads differ in classes, or in filters for each box; empty if they do not."""
    settings = {(head.classes, head.filters and head.filters / max(1, boxes(head.section))) for head in heads}
    if len(settings) < 2 or len({head.section.type for head in heads}) > 1:
        return ""
    return f"the heads disagree: {', '.join(f'line {head.section.line} has {head.settings}' for head in heads)}"


def head_findings(network: Network) -> Iterator[Finding]:
    """Yield a finding for heads with different numbers of classes.

    Each fork allocates room for the classes of the last layer (`network.c: make_network_boxes`), but every head writes
    its own number of classes (`yolo_layer.c: get_yolo_detections`).
    """
    heads = heads_of(network.sections)
    last = heads[-1].classes if heads else 0
    odd = [head for head in heads if head.classes != last]
    if odd and disagreement(heads):
        effect = f"{network.dialect.name} reserves room only for the classes of the last layer"
        yield make_finding("cfg-heads", f"{disagreement(heads)}; {effect}", line=odd[0].section.line)
