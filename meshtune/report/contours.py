"""Areas of a table of heights: where it is at or below a level, as one path of an SVG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from meshtune.report.scales import round_values

Corner = tuple[float, float, float]  # across, up, height
HIGH = 0.85  # of the heights lie below the last level; the others have one colour


def levels(heights: Sequence[Sequence[float]], most: int) -> list[tuple[float, str]]:
    """At most so many round levels between the lowest height and most of the others, as they are written too."""
    flat = sorted(height for row in heights for height in row)
    low, high = flat[0], flat[int(HIGH * (len(flat) - 1))]
    if high <= low:
        return []
    return [one for one in round_values(low, high, most) if low < one[0] <= high][:most]


def below(across: Sequence[float], up: Sequence[float], heights: Sequence[Sequence[float]], level: float) -> str:
    """The path of the area at or below the level; `heights[j][i]` is at `across[i]`, `up[j]`. Between them straight."""
    parts = list[str]()
    for j in range(len(up) - 1):
        start: int | None = None  # of cells in a row that lie below as a whole
        for i in range(len(across)):
            corners = list(_corners(across, up, heights, i, j)) if i < len(across) - 1 else []
            whole = bool(corners) and all(height <= level for _, _, height in corners)
            if whole and start is None:
                start = i
            if not whole:
                if start is not None:
                    parts.append(
                        f"M{across[start]:.1f},{up[j]:.1f}H{across[i]:.1f}V{up[j + 1]:.1f}H{across[start]:.1f}Z"
                    )
                    start = None
                if points := list(_cut(corners, level)):
                    parts.append("M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in points) + "Z")
    return "".join(parts)


def _corners(
    across: Sequence[float], up: Sequence[float], heights: Sequence[Sequence[float]], i: int, j: int
) -> Iterator[Corner]:
    for a, b in ((i, j), (i + 1, j), (i + 1, j + 1), (i, j + 1)):
        yield across[a], up[b], heights[b][a]


def _cut(corners: Sequence[Corner], level: float) -> Iterator[tuple[float, float]]:
    """The part of a cell at or below the level: its corners there, and where its edges cross it."""
    for place, (x, y, height) in enumerate(corners):
        before_x, before_y, before = corners[place - 1]
        if (height <= level) != (before <= level):
            share = (level - before) / (height - before)
            yield before_x + share * (x - before_x), before_y + share * (y - before_y)
        if height <= level:
            yield x, y
