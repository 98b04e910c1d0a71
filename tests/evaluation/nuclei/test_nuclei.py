from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.segmentation import watershed

from wsisr.errors import UsageError
from wsisr.evaluation.measures.pixels import Image
from wsisr.evaluation.nuclei import classical as nuclei
from wsisr.evaluation.nuclei.agreement import compare_nuclei
from wsisr.evaluation.nuclei.classical import ClassicalSegmenter, keep_by_area
from wsisr.evaluation.nuclei.segmenter import Labels
from wsisr.resize import area_downsample, bicubic_upsample

STROMA, NUCLEUS = (232, 180, 210), (92, 60, 130)


def field(
    centres: list[tuple[int, int]], radius: int = 14, size: tuple[int, int] = (256, 320)
) -> tuple[Image, Labels]:
    """Dark discs on pink: an image with known nuclei."""
    image = np.full((*size, 3), STROMA, np.uint8)
    labels = np.zeros(size, np.int32)
    for number, centre in enumerate(centres, 1):
        cv2.circle(image, centre, radius, NUCLEUS, -1)
        cv2.circle(labels, centre, radius, number, -1)
    return image, labels


def segment_pair(sr: Image, hr: Image) -> tuple[Labels, Labels]:
    reference = ClassicalSegmenter().against(hr, 0.25)
    return reference.find(sr), reference.labels


def test_separate_and_touching_discs_are_each_found() -> None:
    centres = [(40, 40), (150, 60), (178, 60), (250, 180), (60, 200)]
    image, truth = field(centres)
    found = ClassicalSegmenter().segment(image, 0.25)
    result = compare_nuclei(found, truth)
    assert result.sr_count == len(centres)
    assert result.precision == result.recall == 1.0
    assert result.pq > 0.85


def test_peaks_and_flooding_equal_opencv_and_scikit_image(tiles: list[Image]) -> None:
    segmenter = ClassicalSegmenter()
    for image in tiles[:3]:
        mask = (segmenter.segment(image, 0.25) > 0).astype(np.uint8)
        depth = cv2.GaussianBlur(cv2.distanceTransform(mask, cv2.DIST_L2, 5), (0, 0), 1.5)
        peaks = nuclei._peaks(depth, mask, 2.0, nuclei._offsets(10))
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (21, 21))
        np.testing.assert_array_equal(
            peaks > 0, (depth >= cv2.dilate(depth, disc)) & (mask > 0) & (depth > 2)
        )
        markers = cv2.connectedComponents(peaks, connectivity=8)[1]
        found = markers.copy()
        nuclei._flood(found, depth, mask)
        levels = np.floor(depth * nuclei.LEVELS_PER_PX)
        expected = watershed(-levels, markers, mask=mask > 0)
        # the order of equal markers is free, so a few places on borders may go either way
        assert np.count_nonzero(found != expected) <= 2e-3 * mask.sum()
        np.testing.assert_array_equal(found > 0, expected > 0)


@pytest.mark.parametrize("area", [0, 7, 40.5])
def test_filled_holes_and_kept_areas_equal_opencv_and_numpy(area: float) -> None:
    random = np.random.default_rng(5)
    for _ in range(60):
        shape = random.integers(1, 40, 2)
        mask = (random.random(shape) < random.random()).astype(np.uint8)
        _, regions, stats, _ = cv2.connectedComponentsWithStats(1 - mask, connectivity=4)
        holes = stats[:, cv2.CC_STAT_AREA] < area
        holes[0] = False
        filled = mask.copy()
        nuclei._fill_holes(filled, area)
        np.testing.assert_array_equal(filled, mask | holes[regions])

        labels = cv2.connectedComponents(mask, connectivity=8)[1]
        areas = np.bincount(labels.ravel())
        keep = (areas >= area) & (areas <= 60)
        keep[0] = False
        expected = np.where(keep, np.cumsum(keep), 0)[labels]
        np.testing.assert_array_equal(keep_by_area(labels, area, 60), expected)


def test_size_follows_the_resolution() -> None:
    image, _ = field([(40, 40), (150, 60), (250, 180)])
    assert ClassicalSegmenter().segment(image, 0.05).max() == 0  # 6 um2: too small for a nucleus
    half, truth = field([(40, 40), (150, 60), (250, 180)], radius=7)
    assert compare_nuclei(ClassicalSegmenter().segment(half, 0.5), truth).precision == 1.0


def test_an_empty_field_has_no_nuclei_in_either_image() -> None:
    flat = np.full((128, 128, 3), STROMA, np.uint8)
    glass = np.random.default_rng(0).integers(238, 244, (128, 128, 3)).astype(np.uint8)
    for image in (flat, glass):
        own, reference = segment_pair(image, image)
        result = compare_nuclei(own, reference)
        assert result.sr_count == result.hr_count == 0
        assert np.isnan([result.precision, result.recall, result.pq, result.area_difference]).all()


def test_invented_and_lost_nuclei_are_told_apart() -> None:
    hr_image, _ = field([(40, 40), (150, 60), (250, 180)])
    sr_image, _ = field([(40, 40), (150, 60), (60, 200), (200, 120), (100, 120)])
    own, reference = segment_pair(sr_image, hr_image)
    result = compare_nuclei(own, reference)
    assert result.precision == pytest.approx(2 / 5)
    assert result.recall == pytest.approx(2 / 3)
    assert result.count_difference == pytest.approx(2 / 3)
    assert len(result.invented()) == 3
    assert len(result.lost()) == 1


def test_a_uniformly_paler_image_does_not_gain_nuclei(tiles: list[Image]) -> None:
    for hr in tiles:
        pale = np.clip(255 - (255 - hr.astype(float)) * 0.7, 0, 255).astype(np.uint8)
        own, reference = segment_pair(pale, hr)
        assert own.max() <= reference.max()


def test_bicubic_keeps_most_nuclei_of_real_tiles(tiles: list[Image]) -> None:
    matched = expected = 0
    for hr in tiles:
        sr = bicubic_upsample(area_downsample(hr, 4), 4)
        result = compare_nuclei(*segment_pair(sr, hr))
        matched, expected = matched + len(result.iou), expected + result.hr_count
        same = compare_nuclei(*segment_pair(hr, hr))
        assert same.hr_count == 0 or same.pq == 1.0
    assert expected > 100
    assert 0.85 < matched / expected < 1.0


def naive_agreement(sr: Labels, hr: Labels) -> set[tuple[int, int]]:
    return {
        (a, b)
        for a in range(1, sr.max() + 1)
        for b in range(1, hr.max() + 1)
        if ((sr == a) & (hr == b)).sum() > 0.5 * ((sr == a) | (hr == b)).sum()
    }


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), rows=st.integers(1, 12), columns=st.integers(1, 12))
def test_matches_equal_the_naive_double_loop(seed: int, rows: int, columns: int) -> None:
    random = np.random.default_rng(seed)
    hr = keep_by_area(random.integers(0, 5, (rows, columns)), 1, 1000)
    flips = random.random((rows, columns)) < 0.2
    sr = keep_by_area(np.where(flips, random.integers(0, 5, (rows, columns)), hr), 1, 1000)
    result = compare_nuclei(sr, hr)
    assert {(int(a), int(b)) for a, b in result.matches} == naive_agreement(sr, hr)
    assert result.sr_area == np.count_nonzero(sr)
    assert set(result.lost()) | set(result.matches[:, 1]) == set(range(1, hr.max() + 1))


def test_bad_input_is_refused() -> None:
    image, labels = field([(40, 40)])
    with pytest.raises(UsageError, match="um/px"):
        ClassicalSegmenter().segment(image, 5.0)
    with pytest.raises(UsageError, match="differ in size"):
        compare_nuclei(labels, labels[:5])
