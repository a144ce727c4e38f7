"""Maps: matrices of shares as pictures of one unit a cell, small even for hundreds of rows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_NUM_LEVELS = 10
_ZERO = 99  # instead of a level


def shaded_map(share: npt.NDArray[np.float64], label: str, *, marks_zero: bool = False) -> str:
    """A matrix as <svg>, row by row from the top: 0 to 1 in ten shades of one colour, above 1 (up to 3) in those of another.

    NaN leaves the ground visible, as does 0 unless marks_zero is set. Equal neighbours of a row are one rectangle, and a shade is
    one path. label: for those who cannot see it; it must be text of this package.
    """
    rows, columns = share.shape
    filled = np.nan_to_num(share)
    over = np.clip(np.ceil((filled - 1) / 2 * _NUM_LEVELS - 1e-9), 0, _NUM_LEVELS)
    under = np.clip(np.ceil(filled * _NUM_LEVELS - 1e-9), 0, _NUM_LEVELS)
    level = np.where(filled > 1.05, -over, under).astype(int)
    if marks_zero:
        level[share == 0] = _ZERO
    paths: dict[int, list[str]] = {}
    for row in range(rows):
        cuts = [0, *(np.flatnonzero(np.diff(level[row])) + 1).tolist(), columns]
        for start, end in zip(cuts, cuts[1:], strict=False):
            if value := int(level[row, start]):
                paths.setdefault(value, []).append(f"M{start} {row}h{end - start}v1h{start - end}z")
    drawn = "".join(f'<path{_look(value)} d="{"".join(squares)}"/>' for value, squares in sorted(paths.items()))
    return f'<svg class="map" viewBox="0 0 {columns} {rows}" preserveAspectRatio="none" role="img" aria-label="{label}">{drawn}</svg>'


def _look(level: int) -> str:
    if level == _ZERO:
        return ' class="zero"'
    return f'{" class=over" if level < 0 else ""} fill-opacity="{0.08 + 0.92 * abs(level) / _NUM_LEVELS:.2f}"'
