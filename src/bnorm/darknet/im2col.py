"""Convolutions whose input a fork's CPU path cuts into other windows than the cfg means: defects around `im2col`.

The output still has the planned size, so the defect goes unnoticed. Sources: pjreddie and AlexeyAB
`convolutional_layer.c: forward_convolutional_layer`, the same in hank's `convolutional_layer.cpp`; AlexeyAB `im2col.c:
im2col_cpu_ext`.
"""

from __future__ import annotations

from bnorm.darknet.network import Layer
from bnorm.darknet.shapes import kernel, strides

# Forks that use the input unchanged for any 1x1 kernel. The other forks do so only if the stride across is 1.
ANY_STRIDE = frozenset({"pjreddie"})
# forks that use the input unchanged for every 1x1 kernel; the others require stride_x=1


def misread_windows(layer: Layer) -> str:
    """Return how the fork's CPU path misreads the input of a [convolutional]; empty if it reads it correctly."""
    if layer.type != "convolutional":
        return ""
    section = layer.section
    size, padding = kernel(section)
    across, down = (1, 1) if section.flag("antialiasing") else strides(section)
    fork = section.dialect.name
    if size == 1:
        direct = across == 1 or fork in ANY_STRIDE
        if direct and (across, down, padding) != (1, 1, 0):
            given = f"stride {across} across and {down} down, padding {padding}"
            return f"a 1x1 kernel with {given}, and {fork}'s CPU path ignores them"
        return ""
    dilation = section.integer("dilation", 1)
    reach = dilation * (size - 1) + 1
    height, width = layer.incoming.height, layer.incoming.width
    windows = (
        (height + 2 * padding * dilation - reach) // down + 1,
        (width + 2 * padding * dilation - reach) // across + 1,
    )
    planned = (height + 2 * padding - size) // down + 1, (width + 2 * padding - size) // across + 1
    if windows == planned:
        return ""
    sizes = f"{windows[0]}x{windows[1]} windows, and uses them as {planned[0]}x{planned[1]}"
    return f"dilation={dilation} and padding {padding}, so that {fork}'s CPU path makes {sizes}"
