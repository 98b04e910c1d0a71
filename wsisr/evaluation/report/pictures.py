"""Pictures of a report: comparison strips, heatmaps, a perception-distortion plot."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from wsisr.errors import UsageError
from wsisr.evaluation.measures import Image
from wsisr.evaluation.nuclei import INVENTED, LOST, Labels, Segmenter, compare_nuclei
from wsisr.evaluation.pairing import Place, Views
from wsisr.resize import resize_to

PANEL = 384
"""Side of a panel of a strip, px."""
INSET_SOURCE, INSET_SIDE = 56, 168
"""Side of the piece an inset shows, in px of the tile, and how large it is drawn."""


def data_uri(image: Image, quality: int = 88) -> str:
    """Return the image as a JPEG data URI, so that a page needs no further file."""
    done, encoded = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise UsageError(f"an image of shape {image.shape} cannot be drawn in the report")
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")


def strip(
    views: Views, mpp: float, segmenter: Segmenter, method: str = "sr"
) -> tuple[Image, list[str]]:
    """Return the panels LR | bicubic | SR | others | HR side by side, and their names.

    Each panel has a three-fold inset of the busiest piece and a scale bar; in SR and the other
    results nuclei that HR lacks are outlined cyan, in HR nuclei that SR lacks yellow. `method` is
    SR's label.
    """
    height, width = views.sr.shape[:2]
    results = {"SR" if method == "sr" else method: views.sr, **views.also}
    invented: dict[str, npt.NDArray[np.bool_]] = {}
    lost: npt.NDArray[np.bool_] | None = None
    if views.hr is not None and segmenter.searches:
        reference = segmenter.against(views.hr, mpp)
        for name, image in results.items():
            own = reference.find(image)
            found = compare_nuclei(own, reference.labels)
            invented[name] = np.isin(own, found.invented())
            if image is views.sr:
                lost = np.isin(reference.labels, found.lost())
    lr = None
    if views.lr is not None:
        lr = cv2.resize(views.lr, (width, height), interpolation=cv2.INTER_NEAREST)
    candidates: list[tuple[str, Image | None, npt.NDArray[np.bool_] | None, tuple[int, int, int]]]
    candidates = [
        ("LR", lr, None, LOST),
        ("bicubic", views.bicubic, None, LOST),
        *((name, image, invented.get(name), INVENTED) for name, image in results.items()),
        ("HR", views.hr, lost, LOST),
    ]
    x, y = _busiest(views.hr if views.hr is not None else views.sr)
    panels = [
        _panel(image, outline, colour, (x, y), mpp)
        for _, image, outline, colour in candidates
        if image is not None
    ]
    gap = np.full((PANEL, 6, 3), 255, np.uint8)
    joined = [part for panel in panels for part in (panel, gap)][:-1]
    return np.hstack(joined), [name for name, image, _, _ in candidates if image is not None]


def heatmap(
    thumbnail: Image,
    size: tuple[int, int],
    places: Sequence[Place],
    values: Sequence[float],
) -> tuple[Image, float, float]:
    """Return the thumbnail with each tile coloured by its value, and the limits of the colours.

    `size` is that of the slide in px. Colours (viridis) run from the 2nd to the 98th percentile;
    tiles without a finite value keep the thumbnail.
    """
    finite = np.array([value for value in values if math.isfinite(value)])
    low, high = (float(v) for v in np.percentile(finite, [2, 98])) if finite.size else (0.0, 1.0)
    canvas = thumbnail.copy()
    fx, fy = thumbnail.shape[1] / size[0], thumbnail.shape[0] / size[1]
    for place, value in zip(places, values, strict=True):
        if not math.isfinite(value):
            continue
        left, right = round(place.x * fx), max(round((place.x + place.width) * fx), 1)
        top, bottom = round(place.y * fy), max(round((place.y + place.height) * fy), 1)
        part = canvas[top:bottom, left:right]
        if part.size:
            colour = np.array(_viridis((value - low) / (high - low) if high > low else 0.5))
            part[:] = np.rint(0.25 * part + 0.75 * colour).astype(np.uint8)
    return canvas, low, high


def perception_distortion(
    points: Mapping[str, tuple[float, float]], x_label: str, y_label: str
) -> str:
    """Return an SVG plot with one labelled point a method: distortion across, perception up."""
    usable = {name: p for name, p in points.items() if all(map(math.isfinite, p))}
    if not usable:
        return ""
    xs, ys = zip(*usable.values(), strict=True)
    (x0, x1), (y0, y1) = _padded(xs), _padded(ys)
    parts = [
        '<svg viewBox="0 0 520 320" width="520" height="320" role="img" '
        'aria-label="perception-distortion plot">',
        '<rect x="60" y="16" width="440" height="250" fill="none" stroke="#999"/>',
        f'<text x="280" y="308" text-anchor="middle">{html.escape(x_label)}</text>',
        f'<text transform="translate(14 141) rotate(-90)" text-anchor="middle">'
        f"{html.escape(y_label)}</text>",
    ]
    for share in (0.0, 0.5, 1.0):
        px, py = 60 + 440 * share, 266 - 250 * share
        parts.append(
            f'<text x="{px:.0f}" y="284" text-anchor="middle">{x0 + (x1 - x0) * share:.3g}</text>'
            f'<text x="54" y="{py + 4:.0f}" text-anchor="end">{y0 + (y1 - y0) * share:.3g}</text>'
        )
    for name, (x, y) in usable.items():
        px, py = 60 + 440 * (x - x0) / (x1 - x0), 266 - 250 * (y - y0) / (y1 - y0)
        # away from the nearer edge, so that no name leaves the frame
        side, anchor = (8, "start") if px < 280 else (-8, "end")
        parts.append(
            f'<circle cx="{px:.1f}" cy="{py:.1f}" r="5" fill="#35608d"/>'
            f'<text x="{px + side:.1f}" y="{py - 6:.1f}" text-anchor="{anchor}">'
            f"{html.escape(name)}</text>"
        )
    return "".join([*parts, "</svg>"])


def outlines(labels: Labels | npt.NDArray[np.bool_]) -> list[npt.NDArray[np.int32]]:
    """Return the outer contours of the non-zero regions, each (n, 1, 2) of x, y."""
    mask = (labels > 0).astype(np.uint8)
    return list(cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0])


def _panel(
    image: Image,
    outline: npt.NDArray[np.bool_] | None,
    colour: tuple[int, int, int],
    corner: tuple[int, int],
    mpp: float,
) -> Image:
    height, width = image.shape[:2]
    zoom = PANEL / max(height, width)
    x, y = corner
    piece = image[y : y + INSET_SOURCE, x : x + INSET_SOURCE]
    small = resize_to(image, (round(width * zoom), round(height * zoom)))
    canvas = np.full((PANEL, PANEL, 3), 255, np.uint8)
    canvas[: small.shape[0], : small.shape[1]] = small
    if outline is not None:
        lines = [np.rint((line + 0.5) * zoom - 0.5).astype(np.int32) for line in outlines(outline)]
        # a dark rim keeps the colour legible on pale stroma and on dark nuclei alike
        cv2.drawContours(canvas, lines, -1, (20, 20, 30), 4, cv2.LINE_AA)
        cv2.drawContours(canvas, lines, -1, colour, 2)
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
    """Return the corner of the piece with the most gradient energy, away from the inset."""
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


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.15 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin
