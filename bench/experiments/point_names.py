"""Names beside the points of a picture that do not lie on each other."""

from collections.abc import Sequence
from typing import Any


def name_points(axes: Any, names: Sequence[tuple[float, float, str]]) -> None:
    """Names beside points (x, y, name), each at the first place around its point that is still free."""
    box, points = axes.get_window_extent(), [axes.transData.transform((x, y)) for x, y, _ in names]
    dot = axes.figure.dpi / 72
    taken = [(x - 4 * dot, y - 4 * dot, x + 4 * dot, y + 4 * dot) for x, y in points]
    for (x, y, name), (at_x, at_y) in zip(names, points, strict=True):
        width, height = 3.4 * len(name) * dot, 7 * dot  # of 6 points' letters, nearly
        for side, up in ((1, 4), (1, -9), (-1, 4), (-1, -9), (1, 12), (-1, 12)):
            left = at_x + 6 * dot if side > 0 else at_x - 6 * dot - width
            low = at_y + up * dot
            mine = (left, low, left + width, low + height)
            inside = box.x0 <= mine[0] and mine[2] <= box.x1
            if inside and not any(_meet(mine, other) for other in taken):
                break
        taken.append(mine)
        align = "left" if side > 0 else "right"
        axes.annotate(name, (x, y), fontsize=6, ha=align, xytext=(6 * side, up), textcoords="offset points")


def _meet(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two boxes (left, low, right, high) overlap."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
