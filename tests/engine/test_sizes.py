"""Whole runs from file to file on sizes and scales at which arithmetic goes wrong first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from wsisr.engine.job import Job
from wsisr.engine.run import upscale
from wsisr_kernels.blocks.reference import block_means

SIZES = [(1, 1), (1, 2), (3, 1), (1, 211), (211, 1), (2, 97), (7, 13), (13, 7), (97, 31)]
SIZES += [(31, 97), (64, 64), (63, 65), (211, 97)]
"""Width and height of the input: single pixels and rows, odd, prime, and one off a window."""
SCALES = [2, 3, 4, 8, 2.5]
MPP = 2.0


def picture(width: int, height: int) -> np.ndarray:
    rng = np.random.default_rng(width * 7919 + height)
    return rng.integers(90, 240, (height, width, 3), np.uint8)


def run(folder: Path, size: tuple[int, int], scale: float, **options: object) -> Path:
    """Upscale a picture; exact, and checked to be, wherever the scale allows it."""
    image = picture(*size)
    source, output = folder / "in.png", folder / "out.ome.tif"
    Image.fromarray(image).save(source)
    whole = float(scale).is_integer()
    settings = {"consistency": "exact"} if whole else {}
    options = {"model": "bicubic", "tile": 128, "overlap": 32, "tissue": "off"} | options
    job = Job(
        source,
        output,
        scale=scale,
        input_mpp=MPP,
        settings=settings,
        compression="zstd" if whole else "jpeg",
        layout="hybrid" if options["tile"] == 128 else "ome",
        **options,  # type: ignore[arg-type]
    )
    result = upscale(job)
    check(result.output, size, scale)
    if whole:
        reduced = block_means(tifffile.imread(output), int(scale))
        np.testing.assert_array_equal(reduced, image)
    return output


def check(output: str, size: tuple[int, int], scale: float) -> None:
    """Every level opens in both readers, has the size it should, and level 0 the right mpp."""
    width, height = (max(1, round(side * scale)) for side in size)
    with tifffile.TiffFile(output) as file:
        assert file.is_ome
        levels = file.series[0].levels
        for level in levels:
            assert level.shape == (height, width, 3)
            assert level.asarray().any()
            height, width = -(-height // 2), -(-width // 2)
        chained = len(file.pages)
    with openslide.OpenSlide(output) as slide:
        assert slide.level_count == chained
        for axis in "xy":
            mpp = float(slide.properties[f"openslide.mpp-{axis}"])
            assert mpp == pytest.approx(MPP / scale, rel=1e-6)
        for level, (wide, high) in enumerate(slide.level_dimensions):
            assert levels[level].shape == (high, wide, 3)
            pixels = slide.read_region((0, 0), level, (min(wide, 512), min(high, 512)))
            assert np.asarray(pixels)[..., 3].all()


@pytest.mark.parametrize("scale", SCALES)
def test_any_size_by_any_scale(tmp_path: Path, scale: float) -> None:
    for width, height in SIZES:
        folder = tmp_path / f"{width}x{height}"
        folder.mkdir()
        run(folder, (width, height), scale)


@pytest.mark.parametrize("scale", SCALES)
def test_sizes_below_a_window_go_through_the_diffusion_model(tmp_path: Path, scale: float) -> None:
    for size in ((1, 1), (7, 13)):
        folder = tmp_path / f"{size[0]}x{size[1]}"
        folder.mkdir()
        run(folder, size, scale, model="tiny", window=128)


@pytest.mark.slow
@pytest.mark.parametrize("scale", SCALES)
def test_a_large_image_by_any_scale(tmp_path: Path, scale: float) -> None:
    run(tmp_path, (3000, 1700), scale, window=512, overlap=64)
