"""What judging costs: speed, where the time goes, texture of nuclei, and memory.

    python -m bench.speed.evaluation --json evaluation.json
    python -m bench.speed.evaluation --slides out.ome.tif real40x.svs in.svs

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
import json
import statistics
import subprocess
import sys
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

from bench.quality import list_tiles
from bench.speed.reader import DATA
from wsisr.errors import UsageError, WsisrError
from wsisr.evaluation import evaluate
from wsisr.evaluation.measures import (
    OFFSETS,
    TEXTURE_NAMES,
    Image,
    Sample,
    Scan,
    area_downsample,
    available_metrics,
    bicubic_upsample,
    grey_levels,
    measure_tile,
    nuclear_features,
)
from wsisr.evaluation.nuclei import ClassicalSegmenter, Labels
from wsisr.evaluation.pairing import FolderPairs, PairSource, pixel_size, read_image, register
from wsisr.slides import open_slide

SCALE = 4
MPP = 0.25
PARTS = ("speed", "split", "texture", "memory")
WIDTH, HEIGHTS = 4096, (4096, 16384)
ANGLES = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]


def offline() -> list[str]:
    """Return the measures that run here and need no neural network."""
    return [metric.name for metric in available_metrics()[0]]


def make_tiles(paths: Sequence[Path], folder: Path) -> tuple[Path, Path]:
    """Write folders of SR and HR tiles and return them; SR has half of HR's fine detail."""
    for index, path in enumerate(paths):
        hr = read_image(path)
        hr = hr[: hr.shape[0] // SCALE * SCALE, : hr.shape[1] // SCALE * SCALE]
        for name, image in (("hr", hr), ("sr", half_detail(hr))):
            (folder / name).mkdir(exist_ok=True)
            cv2.imwrite(str(folder / name / f"{index}.png"), image[:, :, ::-1])
    return folder / "sr", folder / "hr"


def half_detail(hr: Image) -> Image:
    """Return the mean of a tile and the bicubic enlargement of its average."""
    low = bicubic_upsample(area_downsample(np.ascontiguousarray(hr), SCALE), SCALE)
    return np.asarray(cv2.addWeighted(np.ascontiguousarray(hr), 0.5, low, 0.5, 0))


def speed(sr: Path, hr: Path, only: Sequence[str], rounds: int) -> dict[str, float]:
    """Return `mpix_per_s` of processor time, and of the clock, for two folders of tiles.

    The medians of `rounds`, after one that compiles and fills caches.
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
    """Return the same for slides of any format: reading them is in it, registration beside it."""
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


def split(pairs: PairSource, only: Sequence[str] | None) -> dict[str, float]:
    """Return {step: ms of processor time per MPix of slide}; the costliest step first.

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
    for turn, location in enumerate([pairs.locations[0], *pairs.locations]):
        if turn == 1:
            spent.clear()
            pixels = 0
        with clocked("(pixels)"):
            images = pairs.load(location)
        assert images.hr is not None
        assert images.bicubic is not None
        pixels += images.sr[:, :, 0].size
        scan = Scan(images.hr, pairs.mpp)
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
    """Return ms a nucleus of its intensity and texture, and how many times faster that is.

    Both sides in turn on the nuclei of one image, the best of `rounds`. Raises `RuntimeError`
    where they do not agree to 1e-9.
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
    """Return V_texture nucleus by nucleus with scikit-image, (nuclei, 4).

    Each angle's matrix is made of the nucleus's own box; level 256 stands for its outside.
    """
    grey = grey_levels(image).astype(np.uint16)
    values = np.zeros((int(labels.max()), len(TEXTURE_NAMES)))
    for n, (rows, columns) in enumerate(_boxes(labels)):
        patch = np.where(labels[rows, columns] == n + 1, grey[rows, columns], 256)
        counts = graycomatrix(patch, [1], ANGLES, levels=257, symmetric=True)[:256, :256]
        matrix = counts / np.maximum(counts.sum(axis=(0, 1), keepdims=True), 1)
        values[n] = [graycoprops(matrix, name).sum() / len(OFFSETS) for name in TEXTURE_NAMES]
    return values


def _boxes(labels: Labels) -> list[tuple[slice, slice]]:
    return list(find_objects(labels))


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
    """Return the peak memory of evaluations of two slides, and the second over the first."""
    figures = {}
    with tempfile.TemporaryDirectory() as name:
        for height in heights:
            folder = Path(name) / str(height)
            folder.mkdir()
            make_slides(tiles, folder, width, height)
            command = [sys.executable, "-m", "bench.speed.evaluation", "--peak", str(folder)]
            done = subprocess.run(
                [*command, "--metrics", ",".join(only)],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            figures[f"rss_mb_{height}_rows"] = float(done.stdout)
    first, second = figures.values()
    return {"rss_ratio_height": second / first, **figures}


def make_slides(tiles: Sequence[Path], folder: Path, width: int, height: int) -> None:
    """Write hr.tif, sr.tif and lr.tif: real tiles side by side, JPEG, pyramids of two levels."""
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


def peak_rss_mb(folder: Path, only: Sequence[str]) -> float:
    """Evaluate the slides of `make_slides` whole, with a report; return this process's peak, MB."""
    slides = (folder / f"{name}.tif" for name in ("sr", "hr", "lr"))
    evaluate(*slides, metrics=only, count=None, out=folder / "report")
    # ru_maxrss would carry over what the process that started this one had before exec
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/self/status has no VmHWM; this needs Linux")


def measure(
    tiles: Sequence[Path],
    slides: tuple[Path, Path, Path] | None = None,
    parts: Sequence[str] = PARTS,
    rounds: int = 3,
) -> dict[str, float]:
    """Return one flat table of the chosen PARTS; `slides` are SR, HR and LR."""
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
    """Print the table, write the JSON; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.speed.evaluation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tiles", type=Path, default=DATA / "tiles" / "test", help="real tiles")
    parser.add_argument("--limit", type=int, default=20, help="that many tiles, spread evenly")
    parser.add_argument("--slides", type=Path, nargs=3, metavar=("SR", "HR", "LR"))
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--peak", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--metrics", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        if options.peak is not None:
            print(peak_rss_mb(options.peak, options.metrics.split(",")))
            return 0
        parts = options.parts.split(",")
        if unknown := set(parts) - set(PARTS):
            raise UsageError(f"--parts {','.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
        slides = tuple(options.slides) if options.slides else None
        figures = measure(list_tiles(options.tiles, options.limit), slides, parts, options.rounds)
    except WsisrError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    width = max(map(len, figures))
    for name, value in figures.items():
        print(f"{name:<{width}}{value:12.4g}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
