"""Another number of channels of the image."""

from __future__ import annotations

from collections.abc import Iterator

from bnorm.checks.findings import make_finding
from bnorm.checks.misfit.candidate import FREE_NUMBER, SETTING, Candidate, fitting
from bnorm.checks.misfit.sizes import Sizes, solve
from bnorm.darknet.edit import Value, with_values
from bnorm.darknet.shapes import image

USUAL = (1, 3, 4)  # channels of grey, colour, and colour with one extra channel

MOST = 4096  # channels of an image


def other_channels(sizes: Sizes) -> Iterator[Candidate]:
    """Yield the number of channels of [net] that gives the file's size: the first layer grows with it."""
    model, net = sizes.model, sizes.model.network.net
    given = net.natural("channels")
    if not given or net.natural("inputs", model.network.input.outputs) != model.network.input.outputs:
        return
    height, width = model.network.input[1:3]
    one, two = (sizes.nbytes(sizes.sections, image(channels, height, width)) for channels in (given, 2 * given))
    channels = solve((given, one), (2 * given, two), model.nbytes or 0)
    if channels is None or channels > MOST:
        return
    layout = fitting(model, with_values(model.network.text, [Value(net, "channels", channels)]))
    if layout:
        option = net.find("channels")
        message = f"fits if channels={channels} in [net]; the cfg has channels={given}"
        finding = make_finding("weights-channels", message, line=option.line if option else net.line)
        nats = SETTING if channels in USUAL else SETTING + FREE_NUMBER
        yield Candidate(layout=layout, finding=finding, nats=nats)
