from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsisr.errors import SlideError, UsageError
from wsisr.evaluation.measures.pixels import Image
from wsisr.evaluation.pairing import features, registration
from wsisr.evaluation.pairing.features import find_features
from wsisr.evaluation.pairing.registration import Alignment, load_transform, register
from wsisr.evaluation.pairing.shifts import phase_shift, read_aligned
from wsisr.slides import open_slide


def rescan(image: Image, degrees: float, scale: float, seed: int) -> tuple[Image, np.ndarray]:
    """A second scan: rotated, scaled, restained, noisy; and the matrix from `image` to it."""
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, scale)
    matrix[:, 2] += (5.3, -7.6)
    moved = cv2.warpAffine(
        image, matrix, (width, height), flags=cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REFLECT
    )
    noise = np.random.default_rng(seed).normal(0, 2, moved.shape)
    return np.clip(moved * np.array([0.97, 1.02, 1.0]) + noise, 0, 255).astype(np.uint8), matrix


@pytest.fixture(scope="module")
def region(data_dir: Path) -> Image:
    with open_slide(data_dir / "slides" / "test_b_40x.tif") as slide:
        return slide.read(0, 1024, 1024, 1024, 1024)


def save(folder: Path, name: str, image: Image) -> Path:
    path = folder / name
    cv2.imwrite(str(path), image[:, :, ::-1])
    return path


@pytest.mark.parametrize(
    ("degrees", "scale"),
    [(5.0, 0.97), pytest.param(-3.0, 1.004, marks=pytest.mark.slow), (0.0, 1.03)],
)
def test_synthetic_rescans_are_registered_to_a_tenth_of_a_pixel(
    region: Image, tmp_path: Path, degrees: float, scale: float
) -> None:
    other, truth = rescan(region, degrees, scale, 1)
    with (
        open_slide(save(tmp_path, "a.png", region)) as sr,
        open_slide(save(tmp_path, "b.png", other)) as hr,
    ):
        found = register(sr, hr, 0.25, 0.25)
    random = np.random.default_rng(0).uniform(100, 924, (200, 2))
    matrix = np.array(found.matrix)
    mapped = random @ matrix[:, :2].T + matrix[:, 2]
    error = np.hypot(*(mapped - (random @ truth[:, :2].T + truth[:, 2])).T)
    assert np.median(error) <= 0.1
    assert found.accepted
    assert np.sqrt(np.linalg.det(matrix[:, :2])) == pytest.approx(scale, abs=5e-4)
    turned = np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0]))
    assert turned == pytest.approx(-degrees, abs=0.02)


def test_features_of_parts_are_those_of_the_whole(
    region: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, descriptors = find_features(region)
    monkeypatch.setattr(features, "PART", 300)
    places, vectors = find_features(region)
    assert len(places) == pytest.approx(len(whole), rel=0.02)
    assert len(places) == len(vectors)
    distance = np.abs(places[:, None] - whole[None]).max(axis=2)
    # blobs as large as a margin are the few that differ
    assert (distance.min(axis=1) < 0.01).mean() > 0.97
    same = distance.argmin(axis=1)
    assert np.median(np.abs(vectors - descriptors[same]).max(axis=1)) <= 1
    glass = np.full((700, 300, 3), 240, np.uint8)
    assert [len(found) for found in find_features(glass)] == [0, 0]


def test_other_tissue_and_glass_are_refused(
    region: Image, tiles: list[Image], tmp_path: Path
) -> None:
    glass = np.full((600, 600, 3), 240, np.uint8)
    others = (np.hstack([tiles[0], tiles[1]]), glass)
    with open_slide(save(tmp_path, "a.png", region[:768, :768])) as sr:
        for number, image in enumerate(others):
            with (
                open_slide(save(tmp_path, f"{number}.png", image)) as hr,
                pytest.raises(SlideError, match="do not show the same tissue"),
            ):
                register(sr, hr, 0.25, 0.25)


def test_parts_of_one_slide_that_do_not_overlap_are_refused(data_dir: Path, tmp_path: Path) -> None:
    with open_slide(data_dir / "slides" / "test_a_40x.tif") as slide:
        parts = [slide.read(0, x, 4096, 1536, 1536) for x in (0, 4096)]
    with (
        open_slide(save(tmp_path, "a.png", parts[0])) as sr,
        open_slide(save(tmp_path, "b.png", parts[1])) as hr,
        pytest.raises(SlideError, match=r"no common part of it: .* features agree"),
    ):
        register(sr, hr, 0.25, 0.25)


def test_an_unknown_pixel_size_names_the_option(region: Image, tmp_path: Path) -> None:
    path = save(tmp_path, "a.png", region[:64, :64])
    with (
        open_slide(path) as sr,
        open_slide(path) as hr,
        pytest.raises(UsageError, match="hr_mpp"),
    ):
        register(sr, hr, sr_mpp=0.25)


def test_a_wrong_transform_shows_in_the_residual(region: Image, tmp_path: Path) -> None:
    path = save(tmp_path, "a.png", region)
    with open_slide(path) as sr, open_slide(path) as hr:
        right = register(sr, hr, transform=np.array([[1.0, 0, 0], [0, 1, 0]]))
        wrong = register(sr, hr, transform=np.array([[1.0, 0, 2], [0, 1, 0]]))
    assert right.residual_px < 0.01
    assert right.accepted
    assert wrong.residual_px == pytest.approx(2.0, abs=0.1)
    assert not wrong.accepted


@settings(max_examples=15, deadline=None)
@given(dx=st.floats(-20, 20), dy=st.floats(-20, 20))
def test_phase_shift_finds_any_sub_pixel_translation(dx: float, dy: float) -> None:
    random = np.random.default_rng(5)
    field = cv2.GaussianBlur(random.normal(size=(400, 400, 3)), (0, 0), 2.0)
    image = np.clip(128 + 400 * field, 0, 255).astype(np.uint8)
    first = image[70:326, 70:326].copy()
    matrix = np.array([[1.0, 0, 70 - dx], [0, 1, 70 - dy]])
    second = cv2.warpAffine(
        image, matrix, (256, 256), flags=cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP
    )
    (x, y), peak = phase_shift(first, second)
    assert abs(x - dx) < 0.1
    assert abs(y - dy) < 0.1
    assert peak > 0.1


def test_whole_pixel_motion_reads_the_pixels_untouched(region: Image, tmp_path: Path) -> None:
    with open_slide(save(tmp_path, "a.png", region)) as hr:
        matrix = np.array([[1.0, 0, 30], [0, 1, -10]])
        window = read_aligned(hr, matrix, 100, 200, 64, 48)
        np.testing.assert_array_equal(window, region[190:238, 130:194])
        beyond = read_aligned(hr, np.array([[1.0, 0, 0.5], [0, 1, 0]]), -40, 0, 64, 48)
        assert beyond.shape == (48, 64, 3)


def test_overviews_are_no_finer_than_either_slide(region: Image, tmp_path: Path) -> None:
    with open_slide(save(tmp_path, "a.png", region)) as slide:
        assert registration._coarse_mpp(slide, 0.25, slide, 0.25) == pytest.approx(0.25)
        assert registration._coarse_mpp(slide, 5.0, slide, 0.25) == 5.0
        assert registration._coarse_mpp(slide, 0.5, slide, 4.0) == 4.0


def test_transform_files(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"matrix": [[1, 0, 5], [0, 1, 6]]}))
    np.testing.assert_array_equal(load_transform(path), [[1, 0, 5], [0, 1, 6]])
    for text in ("{", "[]", '{"matrix": [[1, 2], [3, 4]]}', '{"matrix": [[1, 1, 0], [1, 1, 0]]}'):
        path.write_text(text)
        with pytest.raises(UsageError, match=r"^transform "):
            load_transform(path)


def test_no_measured_window_is_not_accepted() -> None:
    nothing = Alignment(((1, 0, 0), (0, 1, 0)), 0, 0, float("nan"), float("nan"))
    assert not nothing.accepted
