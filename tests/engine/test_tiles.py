from __future__ import annotations

import hashlib

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from wsisr.engine.tiles import TileCutter
from wsisr.plan import Axis, Rect


@settings(deadline=None, max_examples=80)
@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    stride=st.sampled_from([(64, 8), (64, 32), (128, 24)]),
    tile=st.sampled_from([16, 48, 64, 128]),
    cut=st.tuples(*[st.floats(0, 1)] * 4),
)
def test_cells_become_the_tiles_and_the_hash_of_the_region(
    width: int,
    height: int,
    stride: tuple[int, int],
    tile: int,
    cut: tuple[float, float, float, float],
) -> None:
    image = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
    x, right = sorted((int(cut[0] * (width - 1)), int(cut[1] * width)))
    y, bottom = sorted((int(cut[2] * (height - 1)), int(cut[3] * height)))
    region = Rect(x, y, max(1, right - x), max(1, bottom - y))
    wanted = image[region.y : region.bottom, region.x : region.right]
    columns, rows = Axis(width, *stride), Axis(height, *stride)
    band = TileCutter(region, tile)
    tiles = {}
    for i in range(rows.count):
        for j in range(columns.count):
            (top, end), (left, stop) = rows.cell(i), columns.cell(j)
            for row, column, pixels in band.put(left, top, image[top:end, left:stop]):
                assert (row, column) not in tiles
                tiles[row, column] = pixels
    assert band.sha256() == hashlib.sha256(wanted.tobytes()).hexdigest()
    assert len(tiles) == -(-region.height // tile) * -(-region.width // tile)
    for (row, column), pixels in tiles.items():
        part = wanted[row * tile : (row + 1) * tile, column * tile : (column + 1) * tile]
        np.testing.assert_array_equal(pixels, part)


def test_rows_are_let_go() -> None:
    band = TileCutter(Rect(0, 0, 64, 64 * 200), 64)
    held = []
    for i in range(200):
        for _ in band.put(0, 64 * i, np.zeros((64, 64, 3), np.uint8)):
            pass
        held.append(len(band._buffer))
    assert max(held) <= 128
