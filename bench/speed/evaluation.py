"""Measures what judging costs: speed, where the time goes, texture of nuclei, and memory.

    python -m bench.speed evaluation --json evaluation.json
    python -m bench.speed evaluation --slides out.ome.tif real40x.svs in.svs

Speed is that of `wsisr eval` itself, from files, with the bicubic column, by the measures that run
offline without a neural network. It counts pixels of the judged slide, once each, over seconds of
processor time of all threads: what one core does, also on a machine that is busy. Networks whose
weights are there stand in the split by measure beside the others. Texture is measured in turn with
scikit-image's `graycomatrix` on the same nuclei, and has to agree with it. Memory is the peak of
two whole runs, registration and report included, in processes of their own; their slides differ in
height only, and all tiles are judged.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import tifffile
from scipy.ndimage import find_objects
from skimage.feature import graycomatrix, graycoprops

from bench.command import DATA, add_json, make_parser, name_list, report, run_module
from bench.quality import list_tiles
from bench.speed.clock import peak_rss_mb
from wsisr.errors import OptionError
from wsisr.evaluation import evaluate
from wsisr.evaluation.measures import (
    OFFSETS,
    TEXTURE_NAMES,
    Image,
    Sample,
    Scan,
    available_metrics,
    grey_levels,
    measure_tile,
    nuclear_features,
)
from wsisr.evaluation.nuclei import ClassicalSegmenter, Labels
from wsisr.evaluation.pairing import FolderPairs, PairSource, pixel_size, read_image, register
from wsisr.resize import area_downsample, bicubic_upsample
from wsisr.slides import open_slide

SCALE = 4
MPP = 0.25
PARTS = ("speed", "split", "texture", "memory")
WIDTH, HEIGHTS = 4096, (4096, 16384)
ANGLES = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]


def offline() -> list[str]:
    """Returns the measures that run here and need no neural network."""
    return [metric.name for metric in available_metrics()[0]]


def make_tiles(paths: Sequence[Path], folder: Path) -> tuple[Path, Path]:
    """Writes folders of SR and HR tiles and returns them; SR has half of HR's fine detail."""
    for index, path in enumerate(paths):
        hr = read_image(path)
        hr = hr[: hr.shape[0] // SCALE * SCALE, : hr.shape[1] // SCALE * SCALE]
        for name, image in (("hr", hr), ("sr", half_detail(hr))):
            (folder / name).mkdir(exist_ok=True)
            cv2.imwrite(str(folder / name / f"{index}.png"), image[:, :, ::-1])
    return folder / "sr", folder / "hr"


def half_detail(hr: Image) -> Image:
    """Returns the mean of a tile and the bicubic enlargement of its average."""
    low = bicubic_upsample(area_downsample(np.ascontiguousarray(hr), SCALE), SCALE)
    return np.asarray(cv2.addWeighted(np.ascontiguousarray(hr), 0.5, low, 0.5, 0))


def speed(sr: Path, hr: Path, only: Sequence[str], rounds: int) -> dict[str, float]:
    """Measures `wsisr eval` on two folders of tiles.

    Args:
        sr: folder of SR tiles.
        hr: folder of HR tiles.
        only: names of measures.
        rounds: how often it runs, after one round that compiles and fills caches.

    Returns:
        Medians: `mpix_per_s` of processor time, `mpix_per_s_clock` of wall time.
    """
    pixels = sum(read_image(path)[:, :, 0].size for path in sorted(sr.iterdir())) / 1e6
    processor, clock = [], []
    for turn in range(rounds + 1):
        began = time.process_time(), time.perf_counter()
        evaluate(sr, hr, tiles=True, scale=SCALE, sr_mpp=MPP, metrics=only)
        if turn:
            processor.append(pixels / (time.process_time() - began[0]))
            clock.append(pixels / (time.perf_counter() - began[1]))
    return {
        "mpix_per_s": statistics.median(processor),
        "mpix_per_s_clock": statistics.median(clock),
    }


def slide_speed(sr: Path, hr: Path, lr: Path, only: Sequence[str], count: int) -> dict[str, float]:
    """Measures `wsisr eval` on slides of any format.

    Args:
        sr: the SR slide.
        hr: the HR slide.
        lr: the LR slide.
        only: names of measures.
        count: how many tiles are judged.

    Returns:
        `slide_mpix_per_s` of processor time, reading included; `slide_registration_s` apart from
        it; `slide_tiles`, how many were judged.
    """
    with open_slide(sr) as first, open_slide(hr) as second:
        sizes = pixel_size(first, None, "sr"), pixel_size(second, None, "hr")
        register(first, second, *sizes)
        began = time.process_time()
        register(first, second, *sizes)
        registration = time.process_time() - began
    evaluate(sr, hr, lr, metrics=only, count=2)
    began = time.process_time()
    tiles = evaluate(sr, hr, lr, metrics=only, count=count).tiles
    seconds = time.process_time() - began
    pixels = sum(tile.location.width * tile.location.height for tile in tiles) / 1e6
    return {
        "slide_mpix_per_s": pixels / (seconds - registration),
        "slide_registration_s": registration,
        "slide_tiles": len(tiles),
    }


def split(source: PairSource, only: Sequence[str] | None) -> dict[str, float]:
    """Returns {step: ms of processor time per MPix of slide}; the costliest step first.

    Both columns together, each measure after the steps that it shares with others: pixels (files
    decoded, LR and bicubic made), nuclei found in HR and in both columns.
    """
    spent: dict[str, float] = defaultdict(float)

    @contextmanager
    def clocked(step: str) -> Iterator[None]:
        began = time.process_time()
        yield
        spent[step] += 1e3 * (time.process_time() - began)

    chosen, _ = available_metrics(only)
    pixels = 0
    for turn, location in enumerate([source.locations[0], *source.locations]):
        if turn == 1:
            spent.clear()
            pixels = 0
        with clocked("(pixels)"):
            images = source.load(location)
        assert images.hr is not None
        assert images.bicubic is not None
        pixels += images.sr[:, :, 0].size
        scan = Scan(images.hr, source.mpp)
        with clocked("(nuclei found)"):
            _ = scan.nuclei
        for image in (images.sr, images.bicubic):
            sample = Sample(image, scan, images.lr)
            with clocked("(nuclei found)"):
                _ = sample.nuclei
            for metric in chosen:
                with clocked(metric.name):
                    measure_tile(sample, [metric])
    ordered = sorted(spent.items(), key=lambda item: -item[1])
    return {name: value / (pixels / 1e6) for name, value in ordered}


def texture(image: Image, rounds: int) -> dict[str, float]:
    """Measures intensity and texture of nuclei beside scikit-image, both in turn on one image.

    Args:
        image: a tile with nuclei, uint8 RGB (h, w, 3).
        rounds: how often both run; the best counts.

    Returns:
        `glcm_ms_a_nucleus`; `glcm_vs_skimage`, how many times faster that is; `glcm_nuclei`.

    Raises:
        RuntimeError: both do not agree to 1e-9, or there are no nuclei.
    """
    labels = ClassicalSegmenter().segment(image, MPP)
    count = int(labels.max())
    if count == 0:
        raise RuntimeError("no nuclei in the tile that texture is measured on")
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(rounds + 1):
        own = _clocked(lambda: nuclear_features(image, labels)[1], ours)
        reference = _clocked(lambda: plain_texture(image, labels), theirs)
    if not np.allclose(own, reference, rtol=1e-9, atol=1e-9):
        raise RuntimeError("texture features differ from those of scikit-image")
    return {
        "glcm_ms_a_nucleus": 1e3 * min(ours) / count,
        "glcm_vs_skimage": min(theirs) / min(ours),
        "glcm_nuclei": count,
    }


def plain_texture(image: Image, labels: Labels) -> np.ndarray:
    """Returns V_texture nucleus by nucleus with scikit-image, (nuclei, 4).

    Each angle's matrix is made of the nucleus's own box; level 256 stands for its outside.
    """
    grey = grey_levels(image).astype(np.uint16)
    values = np.zeros((int(labels.max()), len(TEXTURE_NAMES)))
    for n, (rows, columns) in enumerate(find_objects(labels)):
        patch = np.where(labels[rows, columns] == n + 1, grey[rows, columns], 256)
        counts = graycomatrix(patch, [1], ANGLES, levels=257, symmetric=True)[:256, :256]
        matrix = counts / np.maximum(counts.sum(axis=(0, 1), keepdims=True), 1)
        values[n] = [graycoprops(matrix, name).sum() / len(OFFSETS) for name in TEXTURE_NAMES]
    return values


def _clocked(task: Callable[[], np.ndarray], seconds: list[float]) -> np.ndarray:
    began = time.process_time()
    result = task()
    seconds.append(time.process_time() - began)
    return result


def memory(
    tiles: Sequence[Path],
    only: Sequence[str],
    width: int = WIDTH,
    heights: tuple[int, int] = HEIGHTS,
) -> dict[str, float]:
    """Measures the peak memory of evaluations of two slides in processes of their own.

    Args:
        tiles: files of real tiles, of which the slides are made.
        only: names of measures.
        width: of both slides, px.
        heights: of the slides, px.

    Returns:
        `rss_mb_HEIGHT_rows` of each, and `rss_ratio_height`, the second over the first.
    """
    figures = {}
    with tempfile.TemporaryDirectory() as name:
        for height in heights:
            folder = Path(name) / str(height)
            folder.mkdir()
            make_slides(tiles, folder, width, height)
            words = ("evaluation", "--peak", str(folder), "--metrics", ",".join(only))
            figures[f"rss_mb_{height}_rows"] = float(run_module("bench.speed", *words))
    first, second = figures.values()
    return {"rss_ratio_height": second / first, **figures}


def make_slides(tiles: Sequence[Path], folder: Path, width: int, height: int) -> None:
    """Writes hr.tif, sr.tif and lr.tif: real tiles side by side, JPEG, pyramids of two levels."""
    random = np.random.default_rng(0)
    hr = np.empty((height, width, 3), np.uint8)
    sr = np.empty_like(hr)
    lr = np.empty((height // SCALE, width // SCALE, 3), np.uint8)
    images = [read_image(path) for path in tiles]
    side = min(min(image.shape[:2]) for image in images) // 16 * 16
    for y in range(0, height, side):
        for x in range(0, width, side):
            # a flip makes neighbours differ, so that registration cannot mistake one for another
            image = images[random.integers(len(images))][:side, :side]
            image = np.ascontiguousarray(
                image[:: random.choice([-1, 1])][: height - y, : width - x]
            )
            part = np.s_[y : y + side, x : x + side]
            hr[part], sr[part] = image, half_detail(image)
            lr[y // SCALE : (y + side) // SCALE, x // SCALE : (x + side) // SCALE] = (
                area_downsample(image, SCALE)
            )
    _write_pyramid(folder / "hr.tif", hr)
    _write_pyramid(folder / "sr.tif", sr)
    _write_pyramid(folder / "lr.tif", lr, mpp=MPP * SCALE)


def _write_pyramid(path: Path, image: Image, mpp: float = MPP) -> None:
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for level, reduced in enumerate((image, area_downsample(image, 4))):
            writer.write(
                reduced,
                tile=(256, 256),
                photometric="ycbcr",
                compression="jpeg",
                compressionargs={"level": 90},
                subfiletype=int(level > 0),
                resolution=(1e4 / mpp / 4**level, 1e4 / mpp / 4**level),
                resolutionunit="CENTIMETER",
                metadata=None,
            )


def peak_of_evaluation(folder: Path, only: Sequence[str]) -> float:
    """Evaluates the slides of `make_slides` whole, with a report; returns the peak memory, MB."""
    slides = (folder / f"{name}.tif" for name in ("sr", "hr", "lr"))
    evaluate(*slides, metrics=only, count=None, out=folder / "report")
    return peak_rss_mb()


def measure(
    tiles: Sequence[Path],
    slides: tuple[Path, Path, Path] | None = None,
    parts: Sequence[str] = PARTS,
    rounds: int = 3,
) -> dict[str, float]:
    """Measures what judging costs.

    Args:
        tiles: files of real tiles.
        slides: SR, HR and LR, which are judged as well.
        parts: some of `PARTS`.
        rounds: how often speed and texture are measured.

    Returns:
        All figures by name.
    """
    only = offline()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        sr, hr = make_tiles(tiles, Path(name))
        if "speed" in parts:
            figures |= speed(sr, hr, only, rounds)
            if slides is not None:
                figures |= slide_speed(*slides, only, len(tiles))
        if "split" in parts:
            steps = split(FolderPairs(sr, hr, scale=SCALE, mpp=MPP), ["all"])
            figures |= {f"ms_per_mpix {step}": value for step, value in steps.items()}
    if "texture" in parts:
        images = [read_image(path) for path in tiles]
        counts = [int(ClassicalSegmenter().segment(image, MPP).max()) for image in images]
        figures |= texture(images[int(np.argsort(counts)[len(counts) // 2])], rounds)
    if "memory" in parts:
        figures |= memory(tiles, only)
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table.

    Raises:
        WsisrError: tiles or slides cannot be judged, or a file cannot be written.
    """
    options = _parser().parse_args(arguments)
    if options.peak is not None:
        print(peak_of_evaluation(options.peak, options.metrics))
        return 0
    if unknown := set(options.parts) - set(PARTS):
        raise OptionError("parts", ",".join(sorted(unknown)), f"choose from {', '.join(PARTS)}")
    slides = tuple(options.slides) if options.slides else None
    tiles = list_tiles(options.tiles, limit=options.limit)
    report(measure(tiles, slides, options.parts, options.rounds), options.json)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("bench.speed evaluation", __doc__)
    add = parser.add_argument
    add("--tiles", type=Path, default=DATA / "tiles" / "test", help="folder of real tiles")
    add("--limit", type=int, default=20, help="take that many tiles, spread evenly; default: 20")
    add("--slides", type=Path, nargs=3, metavar=("SR", "HR", "LR"), help="judge these as well")
    add(
        "--parts",
        type=name_list,
        default=",".join(PARTS),
        help="parts, separated by commas; default: %(default)s",
    )
    add("--rounds", type=int, default=3, help="how often each is measured; default: 3")
    add_json(parser)
    add("--peak", type=Path, help=argparse.SUPPRESS)
    add("--metrics", type=name_list, help=argparse.SUPPRESS)
    return parser
