"""The digest of an output's pixels, read back from it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from wsisr.slides import open_slide

ROWS = 512


def digest_of(output: Path) -> str:
    """Computes the SHA-256 of level 0, rows top to bottom; of a lossless output it is the run's.

    Memory: a row of tiles.

    Args:
        output: a finished output.

    Raises:
        SlideError: it cannot be read.
    """
    digest = hashlib.sha256()
    with open_slide(output) as slide:
        for top in range(0, slide.height, ROWS):
            rows = slide.read(0, 0, top, slide.width, min(ROWS, slide.height - top))
            digest.update(rows.data)
    return digest.hexdigest()
