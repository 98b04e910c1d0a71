"""What every small run loads first, done once in the server that runs are forks of."""

from __future__ import annotations

import imagecodecs
import numpy as np

from wsisr.resize import halve

halve(np.zeros((4, 4, 3), np.uint8))
halve(np.zeros((5, 5, 3), np.uint8))
for codec in ("deflate_crc32", "zlib_encode", "blosc_encode", "jpeg8_encode"):
    getattr(imagecodecs, codec)
