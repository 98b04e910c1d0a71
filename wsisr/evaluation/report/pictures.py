"""Pictures of a report: comparison strips and heatmaps."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from wsisr.errors import UsageError
from wsisr.evaluation.measures import Image
from wsisr.evaluation.nuclei import INVENTED, LOST, Labels, Segmenter, compare_nuclei
from wsisr.evaluation.pairing import Location, TileImages
from wsisr.resize import resize_to

PANEL = 384
"""Side of a panel of a strip, px."""
INSET_SOURCE, INSET_SIDE = 56, 168
"""Side of the piece an inset shows, in px of the tile, and how large it is drawn."""


def data_uri(image: Image, quality: int = 88) -> str:
    """Encodes an image as a JPEG data URI, so that a page needs no further file.

    Args:
        image: (h, w, 3) uint8 RGB.
        quality: of the JPEG, 0 to 100.

    Returns:
        The URI.

    Raises:
        UsageError: the array cannot be encoded.
    """
    done, encoded = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise UsageError(f"an image of shape {image.shape} cannot be drawn in the report")
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")


@dataclass(frozen=True)
class Panel:
    """One picture of a strip.

    Attributes:
        name: its heading.
        image: what it shows.
        outlined: pixels of the nuclei that are outlined, None for no outlines.
        colour: of the outlines, RGB.
    """

    name: str
    image: Image
    outlined: npt.NDArray[np.bool_] | None = None
    colour: tuple[int, int, int] = LOST


def strip(
    images: TileImages, mpp: float, segmenter: Segmenter, method: str = "sr"
) -> tuple[Image, list[str]]:
    """Draws the panels LR | bicubic | SR | others | HR side by side.

    Each panel has a three-fold inset of the busiest piece and a scale bar; in SR and the other
    results nuclei that HR lacks are outlined cyan, in HR nuclei that SR lacks yellow.

    Args:
        images: the images of one location.
        mpp: um/px of SR.
        segmenter: what finds nuclei.
        method: SR's label.

    Returns:
        The strip, (384, w, 3) uint8 RGB, and the names of its panels.
    """
    panels = list(_panels(images, mpp, segmenter, method))
    corner = _busiest(images.hr if images.hr is not None else images.sr)
    drawn = [_drawn(panel, corner, mpp) for panel in panels]
    gap = np.full((PANEL, 6, 3), 255, np.uint8)
    joined = [part for one in drawn for part in (one, gap)][:-1]
    return np.hstack(joined), [panel.name for panel in panels]


def _panels(images: TileImages, mpp: float, segmenter: Segmenter, method: str) -> Iterator[Panel]:
    height, width = images.sr.shape[:2]
    results = {"SR" if method == "sr" else method: images.sr, **images.also}
    invented: dict[str, npt.NDArray[np.bool_]] = {}
    lost: npt.NDArray[np.bool_] | None = None
    if images.hr is not None and segmenter.searches:
        reference = segmenter.against(images.hr, mpp)
        for name, image in results.items():
            own = reference.find(image)
            found = compare_nuclei(own, reference.labels)
            invented[name] = np.isin(own, found.invented())
            if image is images.sr:
                lost = np.isin(reference.labels, found.lost())
    if images.lr is not None:
        lr = cv2.resize(images.lr, (width, height), interpolation=cv2.INTER_NEAREST)
        yield Panel("LR", np.asarray(lr, np.uint8))
    if images.bicubic is not None:
        yield Panel("bicubic", images.bicubic)
    for name, image in results.items():
        yield Panel(name, image, invented.get(name), INVENTED)
    if images.hr is not None:
        yield Panel("HR", images.hr, lost, LOST)


def heatmap(
    thumbnail: Image,
    size: tuple[int, int],
    locations: Sequence[Location],
    values: Sequence[float],
) -> tuple[Image, float, float]:
    """Colours each tile on the thumbnail by its value.

    Colours (viridis) run from the 2nd to the 98th percentile; tiles without a finite value keep
    the thumbnail.

    Args:
        thumbnail: the slide, reduced.
        size: (width, height) of the slide, px.
        locations: the tiles.
        values: one a tile.

    Returns:
        The picture, and the limits of the colours.
    """
    finite = np.array([value for value in values if math.isfinite(value)])
    low, high = (float(v) for v in np.percentile(finite, [2, 98])) if finite.size else (0.0, 1.0)
    canvas = thumbnail.copy()
    fx, fy = thumbnail.shape[1] / size[0], thumbnail.shape[0] / size[1]
    for location, value in zip(locations, values, strict=True):
        if not math.isfinite(value):
            continue
        left, right = round(location.x * fx), max(round((location.x + location.width) * fx), 1)
        top, bottom = round(location.y * fy), max(round((location.y + location.height) * fy), 1)
        part = canvas[top:bottom, left:right]
        if part.size:
            colour = np.array(_viridis((value - low) / (high - low) if high > low else 0.5))
            part[:] = np.rint(0.25 * part + 0.75 * colour).astype(np.uint8)
    return canvas, low, high


def outlines(labels: Labels | npt.NDArray[np.bool_]) -> list[npt.NDArray[np.int32]]:
    """Finds the outer contours of the non-zero regions, each (n, 1, 2) of x, y."""
    mask = (labels > 0).astype(np.uint8)
    return list(cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0])


def _drawn(panel: Panel, corner: tuple[int, int], mpp: float) -> Image:
    """Draws a panel with the inset of the piece at `corner`."""
    image = panel.image
    height, width = image.shape[:2]
    zoom = PANEL / max(height, width)
    x, y = corner
    piece = image[y : y + INSET_SOURCE, x : x + INSET_SOURCE]
    small = resize_to(image, (round(width * zoom), round(height * zoom)))
    canvas = np.full((PANEL, PANEL, 3), 255, np.uint8)
    canvas[: small.shape[0], : small.shape[1]] = small
    if panel.outlined is not None:
        rings = outlines(panel.outlined)
        lines = [np.rint((line + 0.5) * zoom - 0.5).astype(np.int32) for line in rings]
        # a dark rim keeps the colour legible on pale stroma and on dark nuclei alike
        cv2.drawContours(canvas, lines, -1, (20, 20, 30), 4, cv2.LINE_AA)
        cv2.drawContours(canvas, lines, -1, panel.colour, 2)
    inset = cv2.resize(piece, (INSET_SIDE, INSET_SIDE), interpolation=cv2.INTER_NEAREST)
    canvas[PANEL - INSET_SIDE :, PANEL - INSET_SIDE :] = inset
    black = (0, 0, 0)
    edge = PANEL - INSET_SIDE - 1
    cv2.rectangle(canvas, (edge, edge), (PANEL - 1, PANEL - 1), black, 1)
    source = [round(v * zoom) for v in (x, y, x + piece.shape[1], y + piece.shape[0])]
    cv2.rectangle(canvas, (source[0], source[1]), (source[2], source[3]), black, 1)
    _scale_bar(canvas, mpp / zoom)
    return canvas


def _scale_bar(canvas: Image, mpp: float) -> None:
    microns = next((um for um in (50, 20, 10, 5, 2, 1) if um / mpp <= PANEL / 4), 1)
    length = round(microns / mpp)
    base = PANEL - 12
    cv2.rectangle(canvas, (8, base - 22), (16 + max(length, 46), base + 6), (255, 255, 255), -1)
    cv2.line(canvas, (12, base), (12 + length, base), (0, 0, 0), 3)
    # OpenCV's fonts hold no micro sign: a u with a stem of its own is one
    (before, _), _ = cv2.getTextSize(f"{microns} ", cv2.FONT_HERSHEY_SIMPLEX, 0.4, 1)
    cv2.line(canvas, (13 + before, base - 12), (13 + before, base - 4), (0, 0, 0), 1, cv2.LINE_AA)
    cv2.putText(
        canvas, f"{microns} um", (12, base - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1,
        cv2.LINE_AA,
    )  # fmt: skip


def _busiest(image: Image) -> tuple[int, int]:
    """Finds the corner of the piece with the most gradient energy, away from the inset."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    energy = np.abs(cv2.Sobel(grey, cv2.CV_32F, 1, 0)) + np.abs(cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    side = min(INSET_SOURCE, *grey.shape)
    summed = cv2.boxFilter(energy, -1, (side, side), anchor=(0, 0))
    limit = summed[: grey.shape[0] - side + 1, : grey.shape[1] - side + 1].copy()
    cover = round(grey.shape[0] * (1 - INSET_SIDE / PANEL)) - side
    if cover > 0:
        limit[cover:, cover:] = -1
    y, x = np.unravel_index(int(limit.argmax()), limit.shape)
    return int(x), int(y)


def _viridis(share: float) -> tuple[int, int, int]:
    level = np.array([[round(255 * min(1.0, max(0.0, share)))]], np.uint8)
    blue, green, red = cv2.applyColorMap(level, cv2.COLORMAP_VIRIDIS)[0, 0]
    return int(red), int(green), int(blue)
