"""NRQM against what another implementation found, and its forests against a walk by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import io

from wsisr.errors import ModelError, UsageError
from wsisr.evaluation import weights
from wsisr.evaluation.measures import nrqm, selection
from wsisr.evaluation.measures.pixels import Image
from wsisr.evaluation.measures.sample import Sample

LOCAL = np.array(
    [
        0.3203, 1.0671625, 2.4286961, 1.2616064, 0.41743893, 0.10746145, 0.32163333, 0.61067361,
        2.4321789, 1.5028279, 0.47306273, 0.14664203, 0.34633334, 0.70472222, 2.2080436, 1.4051619,
        0.36319612, 0.099115498
    ]
)  # fmt: skip
BANDS = np.array(
    [
        2.21, 2.645, 2.487, 2.0840001, 2.6440001, 2.401, 1.4680001, 2.6949999, 2.178, 1.122, 2.3,
        2.53, 0.74000001, 0.71399999, 0.69700003, 0.63599998, 0.676, 0.67999995, 0.27033341,
        0.28344911, 0.28283151, 0.26739885, 0.2837406, 0.28509366, 0.14726604, 0.15357813,
        0.15455793, 0.13806495, 0.15302221, 0.16841727, 0.9008221, 0.65831099, 0.53120905,
        0.56270779, 0.366451, 0.82906535, 0.63716037, 0.68209918, 0.57495191, 0.8910061, 0.8193472,
        0.6849553, 0.89059296, 0.64161304, 0.83386217
    ]
)  # fmt: skip
PATCHES = np.array(
    [
        50.288192, 6.9805278, 5.6813974, 3.4635902, 3.2301854, 2.4350538, 2.2562405, 2.0994773,
        1.9573089, 1.6928505, 1.4955646, 1.4820151, 1.320383, 1.2850591, 1.2383991, 1.1893048,
        1.1541976, 1.1085286, 1.0598468, 1.0349186, 0.98722304, 0.97025827, 0.94810172, 0.9230703,
        0.893484, 24.308402, 4.6684104, 4.5084616, 1.9831799, 1.7451154, 1.3758984, 1.1658381,
        1.0921648, 1.0255552, 0.96465247, 0.86744223, 0.82658092, 0.73343307, 0.68599454,
        0.59989791, 0.55123762, 0.49215441, 0.43498097, 0.41038902, 0.35165351, 0.3328382,
        0.31904055, 0.2991192, 0.29054117, 0.25618615, 11.845638, 2.3385897, 2.08896, 1.1848738,
        1.0134709, 0.86458665, 0.85411755, 0.78228221, 0.66141857, 0.56383537, 0.4680539,
        0.40730384, 0.36420059, 0.29839966, 0.25745691, 0.20339381, 0.19709492, 0.17901113,
        0.14802909, 0.09999042, 0.081364297, 0.072693279, 0.058606556, 0.052005855, 0.021514471
    ]
)  # fmt: skip
"""Features of `patchwork` by pyiqa 0.1.16 in float64, to eight digits."""


def patchwork() -> Image:
    """Blocks with noise, of odd size; multiples of 8, so that no luma lies between two levels."""
    rng = np.random.default_rng(7)
    coarse = rng.integers(0, 256, (13, 14, 3)).repeat(8, 0).repeat(8, 1)[:97, :106]
    return ((coarse * 3 + rng.integers(0, 256, coarse.shape)) // 32 * 8).astype(np.uint8)


def test_features_are_those_of_another_implementation() -> None:
    local, bands, patches = nrqm.features(patchwork())
    np.testing.assert_allclose(local, LOCAL, rtol=2e-7)
    np.testing.assert_allclose(patches, PATCHES, rtol=2e-7)
    # the other one builds its pyramid from tables and resizes in single precision, which moves a
    # shape at times to the next of its grid of 0.001
    np.testing.assert_allclose(bands[:18], BANDS[:18], atol=1.01e-3)
    np.testing.assert_allclose(bands[18:], BANDS[18:], rtol=1e-5)


def test_shapes_of_known_distributions() -> None:
    rng = np.random.default_rng(0)
    laplace, normal = rng.laplace(size=(1, 200_000)), rng.normal(3, 2, (1, 200_000))
    found = nrqm.generalized_gaussian_shape(np.concatenate([laplace, normal]))
    assert found == pytest.approx([1, 2], abs=0.02)


def made_up(counts: tuple[int, int, int]) -> tuple[dict[str, NDArray[np.generic]], float]:
    """Return the authors' layout with trees of depth two, and the score of `patchwork`."""
    rng = np.random.default_rng(3)
    features = nrqm.features(patchwork())
    forests = np.empty((1, 3), dtype=object)
    scores = [1.0]
    fields = ("lDau", "rDau", "nodestatus", "nrnodes", "upper", "avnode", "mbest")
    for number, count in enumerate(counts):
        trees = 5
        left = np.tile(np.array([[2], [4], [0], [0], [0]], dtype=np.int32), trees)
        right = np.tile(np.array([[3], [5], [0], [0], [0]], dtype=np.int32), trees)
        feature = rng.integers(1, count + 1, (5, trees)).astype(np.int32)
        feature[2:] = 1
        upper = rng.normal(1, 0.5, (5, trees))
        value = rng.uniform(0, 10, (5, trees))
        walked = []
        for tree in range(trees):
            node = 0
            while left[node, tree]:
                chosen = features[number][(feature[node, tree] - 1) % len(features[number])]
                side = left if chosen <= upper[node, tree] else right
                node = side[node, tree] - 1
            walked.append(value[node, tree])
        scores.append(float(np.mean(walked)))
        held = np.empty((1, 1), dtype=[(field, object) for field in fields])
        status = np.ones_like(left, dtype=np.int8)
        held[0, 0] = (left, right, status, np.array([[5]]), upper, value, feature)
        forests[0, number] = held
    linear = np.array([[0.5], [0.2], [-0.1], [0.7]])
    model = np.empty((1, 1), dtype=[("rf", object), ("linear", object)])
    model[0, 0] = (forests, linear)
    return {"model": model}, float(np.array(scores) @ linear.ravel())


def test_forests_are_walked_as_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(weights.WEIGHTS_VARIABLE, str(tmp_path))
    content, score = made_up((18, 45, 75))
    (tmp_path / "nrqm").mkdir()
    io.savemat(tmp_path / "nrqm" / nrqm.FILE, content)
    assert nrqm.nrqm(patchwork()) == pytest.approx(score, rel=1e-12)
    chosen, _ = selection.available_metrics(["nrqm"])
    found = selection.measure_tile(Sample(patchwork()), chosen)
    assert found["nrqm"].value == pytest.approx(score, rel=1e-12)


def test_another_file_holds_no_forests(tmp_path: Path) -> None:
    content, _ = made_up((18, 45, 90))
    for name, held in (("other", {"model": np.ones((1, 1))}), ("features", content)):
        io.savemat(tmp_path / f"{name}.mat", held)
    content, _ = made_up((18, 45, 75))
    io.savemat(tmp_path / "whole.mat", content, do_compression=True)
    nrqm.load_regression(tmp_path / "whole.mat")
    whole = (tmp_path / "whole.mat").read_bytes()
    spoilt = {
        "empty": b"",
        "torn": whole[:100],
        "half": whole[: len(whole) // 2],
        "flipped": whole[:400] + bytes(40) + whole[440:],
        "newer": b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + bytes(400),
    }
    for name, held in spoilt.items():
        (tmp_path / f"{name}.mat").write_bytes(held)
    for name in ("other", "features", "absent", *spoilt):
        with pytest.raises(ModelError, match=f"{name}.mat holds .*fetch it again"):
            nrqm.load_regression(tmp_path / f"{name}.mat")


def test_flat_and_small_images() -> None:
    content = nrqm.features(np.full((80, 90, 3), 200, np.uint8))
    forest = nrqm.Forest(*(np.ones((1, 1), np.int64),) * 5)
    score = nrqm.predict(content, nrqm.Regression((forest,) * 3, np.ones(4)))
    assert np.isnan(score)
    with pytest.raises(UsageError, match="NRQM needs at least 64 px"):
        nrqm.features(np.zeros((63, 90, 3), np.uint8))
