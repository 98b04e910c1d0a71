"""OME-Zarr as zarr-python and ome-zarr-models see it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

from tests.pyramid.support import all_tiles, decode, feed, picture, reference_levels, write
from wsisr.errors import ExistsError, UsageError
from wsisr.pyramid import PyramidSpec, open_writer

VERSIONS = ("0.4", "0.5")


def spec_of(version: str, **options: object) -> PyramidSpec:
    settings = {"name": "case 7", "provenance": {"model": "tiny"}, "tile": 128, **options}
    return PyramidSpec(1201, 907, 0.25, 40, zarr_version=version, **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return picture(1201, 907)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_level_is_exact(version: str, tmp_path: Path, pixels: np.ndarray) -> None:
    spec = spec_of(version)
    out = write(tmp_path / "out.ome.zarr", spec, pixels, threads=2)
    wanted = reference_levels(pixels, len(spec.levels))
    for got, expected in zip(decode(out), wanted, strict=True):
        assert np.array_equal(got, expected)


@pytest.mark.parametrize("version", VERSIONS)
def test_ome_zarr_models_accepts_it(version: str, tmp_path: Path, pixels: np.ndarray) -> None:
    models = pytest.importorskip("ome_zarr_models")
    out = write(tmp_path / "out.ome.zarr", spec_of(version), pixels)
    image = models.open_ome_zarr(zarr.open_group(out, mode="r"))
    assert type(image).__name__ == "Image"
    assert image.ome_zarr_version == version
    attributes = image.ome_attributes if version == "0.5" else image.attributes
    scale = attributes.multiscales[0].datasets[0].coordinateTransformations[0].scale
    assert scale[-2:] == [0.25, 0.25]
    assert [axis.unit for axis in attributes.multiscales[0].axes][-2:] == ["micrometer"] * 2
    raw = dict(zarr.open_group(out, mode="r").attrs)
    channels = raw.get("ome", raw)["omero"]["channels"]
    assert [(channel["label"], channel["color"]) for channel in channels] == [
        ("Red", "FF0000"),
        ("Green", "00FF00"),
        ("Blue", "0000FF"),
    ]


@pytest.mark.parametrize("version", VERSIONS)
def test_metadata_ome_xml_holds_the_magnification(
    version: str, tmp_path: Path, pixels: np.ndarray
) -> None:
    ome_types = pytest.importorskip("ome_types")
    out = write(tmp_path / "out.ome.zarr", spec_of(version), pixels)
    xml = (out / "OME" / "METADATA.ome.xml").read_text(encoding="utf-8")
    ome_types.validate_xml(xml)
    ome = ome_types.from_xml(xml)
    assert ome.instruments[0].objectives[0].nominal_magnification == 40
    assert [channel.name for channel in ome.images[0].pixels.channels] == ["Red", "Green", "Blue"]


def test_a_tile_is_a_whole_chunk_and_shards_are_bounded(tmp_path: Path) -> None:
    pixels = picture(700, 600)
    spec = PyramidSpec(700, 600, 0.25, 40, tile=32, zarr_version="0.5")
    array = zarr.open_group(write(tmp_path / "a.ome.zarr", spec, pixels), mode="r")["0"]
    assert array.chunks == (1, 3, 1, 32, 32)
    assert array.shards == (1, 3, 1, 256, 256)
    flat = PyramidSpec(700, 600, 0.25, 40, tile=32)
    array = zarr.open_group(write(tmp_path / "b.ome.zarr", flat, pixels), mode="r")["0"]
    assert array.metadata.zarr_format == 2
    assert array.chunks == (1, 3, 1, 32, 32)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("background", [(255, 255, 255), (243, 240, 244)])
def test_background_is_read_back(
    version: str, background: tuple[int, int, int], tmp_path: Path
) -> None:
    pixels = picture(300, 200)
    pixels[:64, :160] = background
    spec = PyramidSpec(300, 200, 0.25, 40, tile=32, zarr_version=version, background=background)
    out = tmp_path / "out.ome.zarr"
    with open_writer(out, spec) as writer:
        for row, col in all_tiles(spec):
            if row < 2 and col < 5:
                writer.write_blank(row, col)
            else:
                feed(writer, pixels, [(row, col)])
        writer.finish()
    for got, wanted in zip(decode(out), reference_levels(pixels, len(spec.levels)), strict=True):
        assert np.array_equal(got, wanted)
    stored = (out / "0" / "0" / "0" / "0" / "0" / "0").exists()
    if version == "0.4":
        assert stored == (len(set(background)) > 1)


def test_overwriting_replaces_the_folder(tmp_path: Path) -> None:
    out = tmp_path / "out.ome.zarr"
    spec = PyramidSpec(100, 80, 0.25, 40, tile=32)
    write(out, spec, picture(100, 80, seed=1))
    with pytest.raises(ExistsError, match="give overwrite"):
        open_writer(out, spec)
    wanted = picture(100, 80, seed=2)
    write(out, spec, wanted, overwrite=True)
    assert np.array_equal(decode(out)[0], wanted)
    assert [path.name for path in tmp_path.iterdir()] == ["out.ome.zarr"]


def test_label_and_macro_are_refused(tmp_path: Path) -> None:
    spec = spec_of("0.4", associated={"label": picture(20, 20)})
    with pytest.raises(UsageError, match="label"):
        open_writer(tmp_path / "out.ome.zarr", spec)
    assert list(tmp_path.iterdir()) == []
