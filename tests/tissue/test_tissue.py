"""The tissue mask: stains, ink, borders, and masks from outside."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from wsisr.errors import OutputError, UsageError
from wsisr.slides import View, open_slide, select_view
from wsisr.slides.base import SlideInfo, StoredSlide
from wsisr.tissue.files import load_mask
from wsisr.tissue.find import find_tissue, tissue_mask
from wsisr.tissue.mask import TissueMask

GLASS = (243, 242, 244)
STAINS = {
    "haematoxylin and eosin": (205, 150, 190),
    "DAB": (150, 110, 80),
    "haematoxylin only": (190, 195, 215),
    "pale eosin": (238, 226, 236),
    "pale collagen": (236, 230, 236),
}


class ArrayLevel:
    """A level in memory."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels
        self.height, self.width = pixels.shape[:2]

    def read(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        return self.pixels[y : y + height, x : x + width]


def glass(height: int = 300, width: int = 400, seed: int = 1) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 1.2, (height, width, 3))
    return np.clip(noise + GLASS, 0, 255).astype(np.uint8)


def with_disc(colour: tuple[int, int, int], radius: int = 60) -> tuple[np.ndarray, np.ndarray]:
    pixels = glass()
    where = np.zeros(pixels.shape[:2], np.uint8)
    cv2.circle(where, (200, 150), radius, 1, -1)
    texture = np.random.default_rng(2).normal(0, 4, pixels.shape)
    stained = np.clip(texture + colour, 0, 255).astype(np.uint8)
    return np.where(where[..., None] > 0, stained, pixels).astype(np.uint8), where > 0


def view_of(pixels: np.ndarray, mpp: float | None = None) -> View:
    return select_view(StoredSlide(Path("memory"), [ArrayLevel(pixels)], SlideInfo("memory", mpp)))


@pytest.mark.parametrize("stain", STAINS)
def test_all_of_a_stained_disc_is_found_and_little_else(stain: str) -> None:
    pixels, where = with_disc(STAINS[stain])
    found = find_tissue(pixels)
    assert found[where].all()
    near = cv2.dilate(where.astype(np.uint8), np.ones((15, 15), np.uint8)) > 0
    assert not (found & ~near).any()


def test_glass_has_no_tissue_whatever_its_tint() -> None:
    assert not find_tissue(glass()).any()
    assert not find_tissue(np.full((200, 200, 3), 255, np.uint8)).any()
    assert not find_tissue((glass() - np.array((8, 10, 24))).astype(np.uint8)).any()


def test_tissue_without_glass_is_all_tissue() -> None:
    pixels = np.random.default_rng(0).normal((190, 120, 170), 15, (200, 200, 3))
    assert find_tissue(np.clip(pixels, 0, 255).astype(np.uint8)).all()


def test_white_that_the_scanner_filled_in_does_not_make_glass_tissue() -> None:
    pixels, where = with_disc(STAINS["pale eosin"])
    pixels[:, :100] = 255
    found = find_tissue(pixels)
    assert found[where].all()
    assert found.mean() < 1.3 * where.mean()


@pytest.mark.parametrize("ink", [(15, 20, 20), (20, 120, 50), (20, 40, 170)])
def test_ink_on_glass_is_no_tissue(ink: tuple[int, int, int]) -> None:
    pixels, where = with_disc(STAINS["haematoxylin and eosin"])
    cv2.line(pixels, (20, 20), (120, 280), ink, 9)
    found = find_tissue(cv2.GaussianBlur(pixels, (0, 0), 0.8))
    assert found[where].all()
    assert not found[:, :100].any()


def test_ink_over_tissue_costs_no_tissue() -> None:
    pixels, where = with_disc(STAINS["haematoxylin and eosin"])
    cv2.line(pixels, (20, 150), (150, 150), (20, 40, 170), 9)
    found = find_tissue(cv2.GaussianBlur(pixels, (0, 0), 0.8))
    under = np.zeros_like(where)
    under[144:157, :152] = True
    assert found[where & ~under].all()


def test_black_borders_are_no_tissue() -> None:
    pixels, where = with_disc(STAINS["DAB"])
    pixels[:25] = 0
    pixels[:, -30:] = 0
    found = find_tissue(pixels)
    assert found[where].all()
    assert not found[:20].any()
    assert not found[:, -25:].any()


def test_pigment_within_tissue_stays_tissue() -> None:
    pixels, where = with_disc(STAINS["haematoxylin and eosin"])
    cv2.circle(pixels, (200, 150), 12, (20, 18, 20), -1)
    assert find_tissue(pixels)[where].all()


def test_a_thin_fibre_is_kept() -> None:
    pixels = glass()
    cv2.line(pixels, (50, 50), (350, 250), (215, 170, 200), 1)
    trace = np.zeros(pixels.shape[:2], np.uint8)
    cv2.line(trace, (50, 50), (350, 250), 1, 1)
    assert find_tissue(pixels)[trace > 0].all()


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("cmu-1-small-region.svs", 0.3, 0.65),
        ("tcga-cr-7395-01a-01-ts1.svs", 0.5, 0.8),
        ("test_a_40x.tif", 0.85, 1.0),
        ("test_a_5x.tif", 0.85, 1.0),
        ("test_b_10x.tif", 0.95, 1.0),
        ("multi_frame_jpeg_camelyon_challenge_image.dcm", 0.15, 0.5),
    ],
)
def test_real_slides(data_dir: Path, name: str, least: float, most: float) -> None:
    with open_slide(data_dir / "slides" / name) as slide:
        view = select_view(slide)
        mask = tissue_mask(view)
        assert max(mask.mask.shape) <= 2048
        assert least < mask.fraction < most
        # what is plainly stained is never missed
        side = 64
        rng = np.random.default_rng(0)
        for _ in range(60):
            x, y = (int(rng.integers(0, size - side)) for size in (view.width, view.height))
            window = view.read(x, y, side, side).astype(int)
            if np.mean(window.max(axis=2) - window.min(axis=2) > 40) > 0.1:
                assert mask.overlaps(x, y, side, side)


def test_a_view_and_its_slide_agree(data_dir: Path) -> None:
    with open_slide(data_dir / "slides" / "cmu-1-small-region.svs") as slide:
        full, quarter = tissue_mask(slide), tissue_mask(select_view(slide, input_mag=5))
    assert full.downsample * full.view_downsample == quarter.downsample * quarter.view_downsample
    np.testing.assert_array_equal(full.mask, quarter.mask)


@settings(max_examples=80, deadline=None)
@given(
    column=st.integers(0, 19),
    row=st.integers(0, 14),
    x=st.integers(-20, 180),
    y=st.integers(-20, 140),
    width=st.integers(1, 60),
    height=st.integers(1, 60),
)
def test_a_rectangle_over_tissue_overlaps(
    column: int, row: int, x: int, y: int, width: int, height: int
) -> None:
    mask = np.zeros((15, 20), bool)
    mask[row, column] = True
    left, top = column * 7.5, row * 7.5
    touches = left < x + width and x < left + 7.5 and top < y + height and y < top + 7.5
    far = left > x + width + 16 or x > left + 24 or top > y + height + 16 or y > top + 24
    overlaps = TissueMask(mask, 7.5).overlaps(x, y, width, height)
    assert overlaps or not touches
    assert not overlaps or not far


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 1000), density=st.floats(0.05, 0.95))
def test_geojson_written_and_read_keeps_all_tissue(
    tmp_path: Path, seed: int, density: float
) -> None:
    mask = np.random.default_rng(seed).random((30, 40)) < density
    view = view_of(np.full((300, 400, 3), 255, np.uint8), mpp=0.8)
    TissueMask(mask, 10.0).to_geojson(tmp_path / "mask.geojson", overwrite=True)
    content = json.loads((tmp_path / "mask.geojson").read_text())
    assert all(
        feature["properties"]["objectType"] == "annotation" for feature in content["features"]
    )
    read = load_mask(tmp_path / "mask.geojson", view)
    assert read.mask.shape == mask.shape
    assert read.mask[mask].all()
    near = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    assert not (read.mask & ~near).any()


def test_geojson_of_qupath_with_a_hole(tmp_path: Path) -> None:
    ring = [[100, 50], [300, 50], [300, 250], [100, 250], [100, 50]]
    hole = [[150, 100], [250, 100], [250, 200], [150, 200], [150, 100]]
    geometry = {"type": "MultiPolygon", "coordinates": [[ring, hole]]}
    (tmp_path / "a.geojson").write_text(
        json.dumps([{"type": "Feature", "id": "x", "geometry": geometry, "properties": {}}])
    )
    mask = load_mask(tmp_path / "a.geojson", view_of(glass())).mask
    assert mask[150, 110]
    assert not mask[150, 200]
    assert not mask[20, 20]


@settings(
    max_examples=200, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    content=st.recursive(
        st.one_of(
            st.none(),
            st.floats(),
            st.integers(-(10**30), 10**30),
            st.sampled_from(["Polygon", "MultiPolygon", "Feature", "FeatureCollection", "x"]),
            st.lists(st.lists(st.floats(-1e12, 1e12), min_size=2, max_size=2), max_size=5),
        ),
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.dictionaries(
                st.sampled_from(["type", "features", "geometry", "coordinates", "geometries"]),
                inner,
                max_size=4,
            ),
        ),
        max_leaves=20,
    )
)
def test_any_json_is_a_mask_or_a_usage_error(tmp_path: Path, content: object) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(content))
    try:
        assert load_mask(path, view_of(glass(40, 60))).mask.shape == (40, 60)
    except UsageError:
        return


@settings(
    max_examples=200, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_mask_or_a_usage_error(tmp_path: Path, data: bytes) -> None:
    polygon = b'{"type": "Polygon", "coordinates": [[[1, 1], [9, 1], [9, 9]]]}'
    for content in (data, polygon[:40] + data + polygon[40:], polygon + data):
        (tmp_path / "a.geojson").write_bytes(content)
        with suppress(UsageError):
            load_mask(tmp_path / "a.geojson", view_of(glass(40, 60)))


@pytest.mark.parametrize("text", ["", "{", "[" * 100000, "[1e999]", '{"type": "Polygon"', "null"])
def test_broken_json_is_a_usage_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.geojson").write_text(text)
    with pytest.raises(UsageError, match=r"a\.geojson"):
        load_mask(tmp_path / "a.geojson", view_of(glass()))


@pytest.mark.parametrize("scale", [0.1, 1, 3])
def test_mask_images_of_any_size(tmp_path: Path, scale: float) -> None:
    set_px = np.zeros((int(300 * scale), int(400 * scale)), np.uint8)
    set_px[int(100 * scale) : int(150 * scale), int(200 * scale) : int(260 * scale)] = 1
    Image.fromarray(set_px).save(tmp_path / "mask.png")
    mask = load_mask(tmp_path / "mask.png", view_of(glass())).mask
    assert mask[100:150, 200:260].all()
    assert mask.sum() == 50 * 60


def ring_of(left: int, top: int, right: int, bottom: int) -> list[list[int]]:
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]


@pytest.mark.parametrize(
    "classification",
    [
        {"name": "Ignore*"},
        {"names": ["Ignore*"]},
        {"name": "ignore*", "color": [1, 2, 3]},
        "Ignore*",
    ],
)
@pytest.mark.parametrize("order", [1, -1])
def test_what_qupath_ignores_is_no_tissue(
    tmp_path: Path, classification: object, order: int
) -> None:
    kinds = [(ring_of(100, 50, 300, 250), {"name": "Region*"}),
             (ring_of(150, 100, 250, 200), classification)]  # fmt: skip
    features = [
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]},
         "properties": {"objectType": "annotation", "classification": kind}}
        for ring, kind in kinds[::order]
    ]  # fmt: skip
    (tmp_path / "a.geojson").write_text(json.dumps(features))
    mask = load_mask(tmp_path / "a.geojson", view_of(glass())).mask
    assert mask[60:95, 110:290].all()
    assert not mask[102:198, 152:248].any()


def test_a_mask_that_marks_nothing_of_the_slide_is_refused(tmp_path: Path) -> None:
    far = {"type": "Polygon", "coordinates": [ring_of(9000, 9000, 9900, 9900)]}
    ignored = {
        "type": "Feature",
        "properties": {"classification": {"name": "Ignore*"}},
        "geometry": {"type": "Polygon", "coordinates": [ring_of(10, 10, 90, 90)]},
    }
    for name, content in (("far", far), ("ignored", ignored), ("none", [])):
        (tmp_path / f"{name}.geojson").write_text(json.dumps(content))
        with pytest.raises(UsageError, match="marks nothing"):
            load_mask(tmp_path / f"{name}.geojson", view_of(glass()))
    Image.new("L", (400, 300)).save(tmp_path / "black.png")
    with pytest.raises(UsageError, match="marks nothing"):
        load_mask(tmp_path / "black.png", view_of(glass()))


def test_a_mask_image_that_marks_everything_is_refused(tmp_path: Path) -> None:
    Image.new("L", (400, 300), 255).save(tmp_path / "white.png")
    with pytest.raises(UsageError, match="marks the whole slide"):
        load_mask(tmp_path / "white.png", view_of(glass()))


LABELS = np.zeros((300, 400), np.uint16)
LABELS[100:150, 200:260] = 3


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("first", [(255, 255, 255), (240, 10, 200), (0, 0, 0)])
def test_label_0_of_indexed_colours_is_no_tissue(
    tmp_path: Path, suffix: str, first: tuple[int, int, int]
) -> None:
    """QuPath exports label images with a palette whose first colour is white."""
    image = Image.fromarray(LABELS.astype(np.uint8))
    image.putpalette([*first, 10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.save(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(
        load_mask(tmp_path / f"a.{suffix}", view_of(glass())).mask, LABELS > 0
    )


def test_black_is_no_tissue_whatever_its_place_in_the_palette(tmp_path: Path) -> None:
    image = Image.fromarray((LABELS == 0).astype(np.uint8))
    image.putpalette([255, 255, 255, 0, 0, 0])
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(load_mask(tmp_path / "a.png", view_of(glass())).mask, LABELS > 0)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_what_is_transparent_in_an_overlay_is_no_tissue(tmp_path: Path, suffix: str) -> None:
    pixels = np.full((300, 400, 4), (255, 255, 255, 0), np.uint8)
    pixels[LABELS > 0] = 200, 30, 30, 128
    Image.fromarray(pixels, "RGBA").save(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(
        load_mask(tmp_path / f"a.{suffix}", view_of(glass())).mask, LABELS > 0
    )


@pytest.mark.parametrize("kind", ["uint16", "int32", "float32"])
def test_labels_of_any_depth(tmp_path: Path, kind: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", LABELS.astype(kind))
    np.testing.assert_array_equal(load_mask(tmp_path / "a.tif", view_of(glass())).mask, LABELS > 0)
    if kind == "uint16":
        Image.fromarray(LABELS).save(tmp_path / "a.png")
        found = load_mask(tmp_path / "a.png", view_of(glass())).mask
        np.testing.assert_array_equal(found, LABELS > 0)


@pytest.mark.parametrize("colour", [(20, 40, 220), (20, 160, 60), (90, 10, 10), (30, 30, 30)])
def test_fluorescence_is_no_ink(colour: tuple[int, int, int]) -> None:
    _, where = with_disc(colour)
    noise = np.random.default_rng(3).normal(4, 1.5, (*where.shape, 3))
    pixels = np.clip(noise + np.where(where[..., None], colour, 0), 0, 255).astype(np.uint8)
    found = find_tissue(pixels)
    assert found[where].all()
    assert found.mean() < 1.3 * where.mean()


def test_mask_files_that_cannot_be_used(tmp_path: Path) -> None:
    view = view_of(glass())
    with pytest.raises(UsageError, match="auto, off"):
        load_mask(tmp_path / "missing.png", view)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(UsageError, match="not a mask image"):
        load_mask(tmp_path / "text.png", view)
    Image.new("L", (400, 400)).save(tmp_path / "square.png")
    with pytest.raises(UsageError, match="another shape"):
        load_mask(tmp_path / "square.png", view)
    with pytest.raises(OutputError, match="missing"):
        TissueMask(np.ones((3, 3), bool), 1.0).to_geojson(tmp_path / "missing" / "a.geojson")


def test_the_share_of_a_rectangle_counts_mask_pixels() -> None:
    mask = np.zeros((10, 20), bool)
    mask[:, :5] = True
    tissue = TissueMask(mask, 4.0)
    assert tissue.share(0, 0, 20, 40) == 1.0
    assert tissue.share(0, 0, 40, 40) == 0.5
    assert tissue.share(24, 8, 8, 8) == 0.0
    assert tissue.share(4, 4, 1, 1) == 1.0  # less than a mask px
    assert tissue.share(-8, -8, 16, 16) == 1.0
    assert tissue.share(200, 0, 8, 8) == 0.0


def test_without_a_margin_the_mask_ends_where_tissue_ends() -> None:
    pixels, truth = with_disc(STAINS["haematoxylin and eosin"])
    wide, close = find_tissue(pixels), find_tissue(pixels, margin=0)
    assert (close <= wide).all()
    assert close.sum() < wide.sum()
    assert close[truth > 0].mean() > 0.99
    assert close.sum() == pytest.approx((truth > 0).sum(), rel=0.08)
