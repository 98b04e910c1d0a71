from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.quality.methods import Method
from bench.quality.plan import make_plan
from bench.quality.tiles import DataSet, block_means, list_tiles, slide_names
from wsisr.errors import UsageError
from wsisr_kernels.blocks import reference


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three slides: `a` of two tiles, `b` of four, `c` of one."""
    for name, count in (("a", 2), ("b", 4), ("c", 1)):
        (tmp_path / name).mkdir()
        for number in range(count):
            (tmp_path / name / f"{number}.png").touch()
    return tmp_path


def test_limit_spreads_over_the_list(tmp_path: Path) -> None:
    for number in range(9):
        (tmp_path / f"{number}.png").touch()
    assert [p.stem for p in list_tiles(tmp_path, limit=3)] == ["0", "3", "6"]
    assert slide_names(tmp_path) == ["."]


def test_slides_are_chosen_by_name_before_the_limit(folder: Path) -> None:
    def names(*slides: str, limit: int | None = None) -> list[str]:
        tiles = list_tiles(folder, slides, limit)
        return [path.relative_to(folder).as_posix() for path in tiles]

    assert names("c", "a") == ["a/0.png", "a/1.png", "c/0.png"]
    assert names("b", limit=2) == ["b/0.png", "b/2.png"]
    # more slides beside them change nothing
    (folder / "aa").mkdir()
    (folder / "aa" / "0.png").touch()
    assert names("b", limit=2) == ["b/0.png", "b/2.png"]


def test_a_slide_that_is_not_there_is_named_beside_those_that_are(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"slides d: .* has no slide of that name; it has a, b, c"):
        list_tiles(folder, ["a", "d"])


def test_data_sets_may_lack_some_of_the_slides(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "d").mkdir()
    (other / "d" / "0.png").touch()
    data, method = [DataSet("one", folder), DataSet("two", other)], Method("hr", "hr")
    plan = make_plan(data, [4], [method], slides=["a", "d"])
    found = {label: [path.parent.name for path in tiles] for label, tiles in plan.tiles.items()}
    assert found == {"one": ["a", "a"], "two": ["d"]}
    with pytest.raises(UsageError, match="slides e: no such slide"):
        make_plan(data, [4], [method], slides=["a", "e"])
    with pytest.raises(UsageError, match=r"slides a: .* has no slide of that name; it has d"):
        make_plan(data, [4], [method], slides=["a"])


@pytest.mark.parametrize("side", [1, 2, 3, 8])
def test_block_means_are_those_that_exact_promises(side: int) -> None:
    image = np.random.default_rng(side).integers(0, 256, (5 * side, 7 * side, 3), np.uint8)
    np.testing.assert_array_equal(block_means(image, side), reference.block_means(image, side))
    flipped = image[:, ::-1]
    np.testing.assert_array_equal(block_means(flipped, side), reference.block_means(flipped, side))
