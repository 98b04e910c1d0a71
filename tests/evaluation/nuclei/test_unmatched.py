from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsisr.errors import OutputError
from wsisr.evaluation import evaluate
from wsisr.evaluation.measures.pixels import Image
from wsisr.evaluation.nuclei import unmatched
from wsisr.evaluation.nuclei.agreement import compare_nuclei
from wsisr.evaluation.nuclei.classical import ClassicalSegmenter
from wsisr.evaluation.nuclei.given import GivenNuclei
from wsisr.evaluation.nuclei.unmatched import FOLDER, UnmatchedFiles, find_unmatched, outline
from wsisr.evaluation.pairing import Location, read_image
from wsisr.slides import open_slide


def save(path: Path, image: Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image[:, :, ::-1])
    return path


def read(path: Path) -> list[dict[str, Any]]:
    """The features of a file, each checked against what RFC 7946 and QuPath ask for."""
    content = json.loads(path.read_text(encoding="utf-8"))
    assert set(content) == {"type", "features"}
    assert content["type"] == "FeatureCollection"
    for feature in content["features"]:
        assert set(feature) == {"type", "geometry", "properties"}
        assert feature["type"] == "Feature"
        assert feature["geometry"]["type"] == "Polygon"
        (ring,) = feature["geometry"]["coordinates"]
        check_ring(np.array(ring))
        properties = feature["properties"]
        assert properties["objectType"] == "detection"
        assert properties["classification"] in (
            {"name": "lost", "color": [255, 230, 0]},
            {"name": "invented", "color": [0, 240, 255]},
        )
        assert properties["measurements"]["area um2"] > 0
        assert 0 <= properties["measurements"]["best IoU"] <= 0.5
    return list(content["features"])


def check_ring(ring: np.ndarray) -> None:
    """Closed, positive area, and touching itself nowhere: every point is met once."""
    assert len(ring) >= 5
    assert tuple(ring[0]) == tuple(ring[-1])
    assert len(np.unique(ring[:-1], axis=0)) == len(ring) - 1
    x, y = ring.T
    assert (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() > 0


def names(features: list[dict[str, Any]]) -> list[str]:
    return [feature["properties"]["classification"]["name"] for feature in features]


def filled(ring: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The pixels whose centres lie in the ring, by crossing number."""
    rows, columns = np.indices(shape) + 0.5
    inside = np.zeros(shape, bool)
    for (x0, y0), (x1, y1) in itertools.pairwise(ring):
        if y0 != y1:
            crosses = (y0 > rows) != (y1 > rows)
            inside ^= crosses & (columns < (x1 - x0) * (rows - y0) / (y1 - y0) + x0)
    return inside


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), rows=st.integers(1, 12), columns=st.integers(1, 12))
def test_a_ring_holds_the_pixels_of_its_region(seed: int, rows: int, columns: int) -> None:
    mask = np.random.default_rng(seed).random((rows, columns)) < 0.6
    mask[0, 0] = True
    number, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    for label in range(1, number):
        region = labels == label
        ring = outline(region)
        check_ring(ring)
        padded = np.pad(region, 1).astype(np.uint8)
        outside = cv2.connectedComponents(1 - padded, connectivity=4)[1][1:-1, 1:-1]
        around = cv2.connectedComponents(1 - padded, connectivity=4)[1][0, 0]
        np.testing.assert_array_equal(filled(ring, region.shape), outside != around)


def test_a_region_on_all_borders_stays_inside_its_tile() -> None:
    ring = outline(np.ones((3, 4), bool))
    assert ring.min() == 0
    assert ring.max(axis=0).tolist() == [4, 3]


def test_what_touches_nothing_is_told_from_what_matches_badly() -> None:
    hr, sr = np.zeros((40, 60), np.int32), np.zeros((40, 60), np.int32)
    hr[5:15, 5:15], hr[5:15, 25:35], hr[25:35, 5:15] = 1, 2, 3
    sr[5:15, 5:15], sr[5:15, 30:40] = 1, 2
    assert compare_nuclei(sr, hr).unmatched() == {
        "lost": 2,
        "lost_overlapping": 1,
        "invented": 1,
        "invented_overlapping": 1,
    }
    found = find_unmatched(sr, hr, compare_nuclei(sr, hr))
    assert [(n.name, n.area_px) for n in found] == [("lost", 100), ("lost", 100), ("invented", 100)]
    # half of one lies on half of the other: 50 of 150 px, once lost and once invented
    assert [n.best_iou for n in found] == pytest.approx([1 / 3, 0, 1 / 3])
    np.testing.assert_array_equal(filled(found[2].outline, sr.shape), sr == 2)


@pytest.fixture(scope="module")
def slides(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A real region as HR, a shifted piece of it with an erased and an invented disc as SR."""
    folder = tmp_path_factory.mktemp("slides")
    with open_slide(data_dir / "slides" / "test_b_40x.tif") as slide:
        hr = slide.read(0, 1024, 1024, 800, 700)
    sr = hr[40:680, 60:730].copy()
    cv2.circle(sr, (300, 300), 60, (225, 175, 205), -1)
    cv2.circle(sr, (300, 300), 16, (85, 50, 120), -1)
    return {name: save(folder / f"{name}.png", image) for name, image in (("hr", hr), ("sr", sr))}


def test_slides_give_one_file_in_level_0_px_of_sr(slides: dict[str, Path], tmp_path: Path) -> None:
    transform = tmp_path / "t.json"
    transform.write_text(json.dumps({"matrix": [[1, 0, 60], [0, 1, 40]]}))
    result = evaluate(
        slides["sr"],
        slides["hr"],
        metrics="nuclei_recall",
        tile_size=256,
        out=tmp_path / "out",
        transform=transform,
        sr_mpp=0.25,
    )
    assert len(result.tiles) == 4
    path = tmp_path / "out" / FOLDER / "sr.geojson"
    assert [p.name for p in path.parent.iterdir()] == ["sr.geojson"]
    features = read(path)
    assert set(names(features)) == {"lost", "invented"}
    # read back as QuPath's objects are, tile by tile, the rings are the unmatched nuclei again
    sr, hr = read_image(slides["sr"]), read_image(slides["hr"])[40:680, 60:730]
    lost = [f for f in features if f["properties"]["classification"]["name"] == "lost"]
    alone = tmp_path / "lost.geojson"
    alone.write_text(json.dumps({"type": "FeatureCollection", "features": lost}))
    count = 0
    for tile in result.tiles:
        location = tile.location
        window = np.s_[location.y : location.y + 256, location.x : location.x + 256]
        reference = ClassicalSegmenter().against(np.ascontiguousarray(hr[window]), 0.25)
        own = reference.find(np.ascontiguousarray(sr[window]))
        missing = compare_nuclei(own, reference.labels).lost()
        back = GivenNuclei(alone).at(location.name, location.x, location.y, np.eye(3)[:2])
        labels = back.segment(np.ascontiguousarray(sr[window]), 0.25)
        np.testing.assert_array_equal(labels > 0, np.isin(reference.labels, missing))
        count += len(missing)
    assert count == len(lost) > 0
    counts = Counter(names(features))
    assert {name: result.unmatched["sr"][name] for name in counts} == counts
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert f"Of {counts['lost']} lost nuclei" in page
    assert "counts twice: as lost and as invented" in page
    assert any(
        np.abs(np.mean(f["geometry"]["coordinates"][0], axis=0) - 300.5).max() < 3
        for f in features
        if f["properties"]["classification"]["name"] == "invented"
    )


def test_folders_give_one_file_a_tile_and_replace_those_of_an_earlier_run(
    tiles: list[Image], tmp_path: Path
) -> None:
    hr = tiles[0][:256, :256]
    glass = np.full((256, 256, 3), 240, np.uint8)
    for name, sr in (("s/same.png", hr), ("s/gone.png", glass)):
        save(tmp_path / "hr" / name, hr)
        save(tmp_path / "sr" / name, sr)
    out = tmp_path / "out"
    old = out / FOLDER / "old.geojson"
    old.parent.mkdir(parents=True)
    old.write_text(unmatched._BEGIN)
    result = evaluate(
        tmp_path / "sr", tmp_path / "hr", tiles=True, metrics="nuclei_recall", out=out
    )
    assert not old.exists()
    assert read(out / FOLDER / "sr" / "s" / "same.geojson") == []
    gone = names(read(out / FOLDER / "sr" / "s" / "gone.geojson"))
    assert gone == ["lost"] * len(gone)
    assert len(gone) > 10
    assert result.methods["sr"]["nuclei_recall"] == 0.5


def test_a_run_that_fails_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    def run(out: Path, error: type[BaseException]) -> None:
        with UnmatchedFiles(out, 0.25, by_tile=False) as files:
            files.add(Location("t", "s", 0, 0, 8, 8), "sr", [])
            raise error

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, KeyboardInterrupt)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"^out .*file cannot be written"):
        run(tmp_path / "file", KeyboardInterrupt)
