"""Files made here: plain images, TIFF encodings, OME-TIFF, and what must be refused."""

from __future__ import annotations

import resource
import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from wsisr.errors import SlideError
from wsisr.slides import open_slide
from wsisr.slides.cache import TileCache
from wsisr.slides.tiff.bytes_at import BytesAt
from wsisr.slides.tiff.ifd import read_ifds
from wsisr.slides.tiff.layout import open_tiff
from wsisr.slides.tiff.ome_xml import parse_ome
from wsisr.slides.tiff.pieces import NotDirectError


def tissue_like(height: int, width: int, channels: int = 3) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = [127 + 100 * np.sin(x / (9 + 3 * k)) * np.cos(y / (7 + 2 * k)) for k in range(channels)]
    return np.stack(waves, axis=2).astype(np.uint8)


def whole(path: Path, level: int = 0) -> np.ndarray:
    with open_slide(path) as slide:
        size = slide.levels[level]
        return slide.read(level, 0, 0, size.width, size.height)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_png_of_any_mode(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(tissue_like(50, 70)).convert(mode)
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(whole(tmp_path / "a.png"), np.asarray(image.convert("RGB")))


def test_alpha_lies_on_white_and_never_on_black(tmp_path: Path) -> None:
    pixels = tissue_like(40, 60, 4)
    pixels[..., 3] = 128
    pixels[:20] = 0
    Image.fromarray(pixels, "RGBA").save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["unassalpha"])
    expected = np.floor(
        pixels[..., :3] * (pixels[..., 3:] / 255) + 255 - pixels[..., 3:].astype(float) + 0.5
    )
    for name in ("a.png", "a.tif"):
        seen = whole(tmp_path / name)
        assert (seen[:20] == 255).all()
        np.testing.assert_array_equal(seen, expected.astype(np.uint8))


def test_jpeg(tmp_path: Path) -> None:
    Image.fromarray(tissue_like(50, 70)).save(tmp_path / "a.jpg", quality=95, subsampling=0)
    assert np.abs(whole(tmp_path / "a.jpg").astype(int) - tissue_like(50, 70)).max() <= 12


@pytest.mark.parametrize("tile", [None, (64, 64)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize(
    ("compression", "predictor"),
    [
        (None, None),
        ("lzw", True),
        ("zlib", None),
        ("zlib", True),
        ("zstd", True),
        ("packbits", None),
    ],
)
def test_lossless_tiffs(
    tmp_path: Path,
    compression: str | None,
    predictor: bool | None,
    planar: str,
    channels: int,
    tile: tuple[int, int] | None,
) -> None:
    pixels = tissue_like(150, 201, channels)
    stored = pixels[..., 0] if channels == 1 else pixels
    contiguous = planar == "contig" or channels == 1
    tifffile.imwrite(
        tmp_path / "a.tif",
        stored if contiguous else np.moveaxis(stored, 2, 0),
        photometric="minisblack" if channels == 1 else "rgb",
        planarconfig=None if channels == 1 else planar,
        compression=compression,
        predictor=predictor,
        tile=tile,
        rowsperstrip=None if tile else 150,
        metadata=None,
    )
    np.testing.assert_array_equal(whole(tmp_path / "a.tif"), np.broadcast_to(pixels, (150, 201, 3)))


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize("photometric", ["rgb", "ycbcr"])
def test_jpeg_tiffs_have_the_colours_tifffile_sees(
    tmp_path: Path, photometric: str, subsampling: tuple[int, int]
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        tissue_like(150, 201),
        photometric=photometric,
        compression="jpeg",
        compressionargs={"level": 95},
        subsampling=subsampling if photometric == "ycbcr" else None,
        tile=(64, 64),
    )
    assert np.abs(whole(path).astype(int) - tifffile.imread(path)).max() <= 2


def test_jpeg2000_tiff(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif",
        tissue_like(150, 201),
        photometric="rgb",
        compression="jpeg2000",
        tile=(64, 64),
    )
    np.testing.assert_array_equal(whole(tmp_path / "a.tif"), tissue_like(150, 201))


def write_pyramid(path: Path, **options: object) -> np.ndarray:
    pixels = tissue_like(400, 600)
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        settings = {"photometric": "rgb", "tile": (128, 128), "compression": "zlib"}
        writer.write(pixels, subifds=2, **settings, **options)
        writer.write(pixels[::2, ::2], subfiletype=1, **settings)
        writer.write(pixels[::4, ::4], subfiletype=1, **settings)
    return pixels


def test_ome_tiff_with_sub_ifds(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    pixels = write_pyramid(
        path,
        metadata={
            "axes": "YXS",
            "PhysicalSizeX": 500.0,
            "PhysicalSizeXUnit": "nm",
            "PhysicalSizeY": 0.5,
            "PhysicalSizeYUnit": "µm",
        },
    )
    with open_slide(path) as slide:
        assert slide.vendor == "ome-tiff"
        assert slide.mpp == pytest.approx(0.5)
        assert [level.downsample for level in slide.levels] == [1.0, 2.0, 4.0]
        np.testing.assert_array_equal(slide.read(1, 0, 0, 300, 200), pixels[::2, ::2])
        np.testing.assert_array_equal(slide.read(2, 0, 0, 150, 100), pixels[::4, ::4])


def test_ome_magnification_and_associated_images() -> None:
    text = """<?xml version="1.0" encoding="UTF-8"?>
    <OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">
      <Instrument ID="Instrument:0"><Objective ID="Objective:0" NominalMagnification="20.0"/>
        <Objective ID="Objective:1" NominalMagnification="40.0"/></Instrument>
      <Image ID="Image:0" Name="main"><ObjectiveSettings ID="Objective:1"/>
        <Pixels SizeX="600" SizeY="400" SizeC="3" SizeZ="1" SizeT="1" PhysicalSizeX="0.25">
          <Channel SamplesPerPixel="3"/><TiffData IFD="0" PlaneCount="1"/></Pixels></Image>
      <Image ID="Image:1" Name="label"><Pixels SizeX="60" SizeY="40" SizeC="3">
          <Channel SamplesPerPixel="3"/><TiffData/></Pixels></Image>
    </OME>"""
    main, label = parse_ome(text)
    assert (main.magnification, main.mpp_x, main.mpp_y, main.planes) == (40.0, 0.25, None, 1)
    assert (label.name, label.ifd, label.width) == ("label", 1, 60)


def test_a_print_resolution_is_no_pixel_size(tmp_path: Path) -> None:
    for name, resolution in (("print.tif", (300, 300)), ("slide.tif", (50800, 50800))):
        tifffile.imwrite(
            tmp_path / name,
            tissue_like(64, 64),
            photometric="rgb",
            resolution=resolution,
            resolutionunit="INCH",
        )
    with open_slide(tmp_path / "print.tif") as slide:
        assert slide.mpp is None
    with open_slide(tmp_path / "slide.tif") as slide:
        assert slide.mpp == pytest.approx(0.5)


def test_a_tile_that_was_not_stored_is_background(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tiles = [tissue_like(64, 64) if index != 2 else None for index in range(6)]
    tifffile.imwrite(
        path,
        iter(tiles),
        shape=(128, 192, 3),
        dtype=np.uint8,
        photometric="rgb",
        tile=(64, 64),
        compression="zlib",
    )
    with tifffile.TiffFile(path) as tiff:
        assert tiff.pages[0].databytecounts[2] == 0
    pixels = whole(path)
    assert (pixels[:64, 128:] == 255).all()
    np.testing.assert_array_equal(pixels[64:, 128:], tissue_like(64, 64))


def test_what_is_no_slide(tmp_path: Path) -> None:
    (tmp_path / "empty.svs").touch()
    (tmp_path / "text.svs").write_text("no slide at all")
    (tmp_path / "folder").mkdir()
    Image.fromarray(tissue_like(64, 64)).save(tmp_path / "whole.png")
    data = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    for name in ("missing.svs", "empty.svs", "text.svs", "folder"):
        with pytest.raises(SlideError, match=name) as caught:
            open_slide(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(SlideError, match=r"cut\.png"):
        whole(tmp_path / "cut.png")


def test_a_png_that_declares_more_than_it_holds(tmp_path: Path) -> None:
    Image.fromarray(tissue_like(64, 64)).save(tmp_path / "bomb.png")
    data = bytearray((tmp_path / "bomb.png").read_bytes())
    data[16:24] = struct.pack(">2I", 9000, 9000)
    crc = zlib.crc32(data[12:29])
    data[29:33] = struct.pack(">I", crc)
    (tmp_path / "bomb.png").write_bytes(data)
    with pytest.raises(SlideError, match="exhaust memory"):
        open_slide(tmp_path / "bomb.png")


def patched(path: Path, tag: int, value: int) -> None:
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[0].tags[tag].overwrite(value)


@pytest.mark.parametrize(("tag", "value"), [(256, 60000), (257, 60000), (322, 64000), (277, 9)])
def test_a_lying_tag(tmp_path: Path, tag: int, value: int) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, tissue_like(128, 128), photometric="rgb", tile=(64, 64))
    patched(path, tag, value)
    with pytest.raises((SlideError, NotDirectError)), open_tiff(path) as slide:
        slide.read(0, 0, 0, slide.width, 64)


def test_a_jpeg_tile_that_declares_more_than_its_tile(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, tissue_like(64, 64), photometric="ycbcr", compression="jpeg", tile=(64, 64)
    )
    data = bytearray(path.read_bytes())
    start = data.find(b"\xff\xc0")
    data[start + 5 : start + 9] = struct.pack(">2H", 65000, 65000)
    path.write_bytes(data)
    with pytest.raises(SlideError, match=r"tile column 0 row 0.*65000x65000"):
        whole(path)


@pytest.mark.parametrize(
    ("compression", "message"),
    [("zlib", "would take 768 MB"), ("lzw", "would take 768 MB"), ("zstd", "would take 768 MB"),
     ("jpeg", "would take 768 MB"), ("jpeg2000", "stored in pieces of 16384x16384")],
)  # fmt: skip
def test_a_tile_of_few_bytes_that_declares_much_takes_no_memory(
    tmp_path: Path, compression: str, message: str
) -> None:
    """805 MB are declared; what is decoded is what the bytes hold."""
    small, path = np.zeros((64, 64, 3), np.uint8), tmp_path / "bomb.tif"
    encode = {
        "zlib": imagecodecs.zlib_encode,
        "lzw": imagecodecs.lzw_encode,
        "zstd": imagecodecs.zstd_encode,
        "jpeg": imagecodecs.jpeg8_encode,
        "jpeg2000": imagecodecs.jpeg2k_encode,
    }[compression]
    data = bytearray(encode(small if compression.startswith("jpeg") else small.tobytes()))
    if compression == "jpeg":
        start = data.find(b"\xff\xc0")
        data[start + 5 : start + 9] = struct.pack(">2H", 16384, 16384)
    tifffile.imwrite(
        path,
        iter([bytes(data)]),
        shape=(16384, 16384, 3),
        dtype=np.uint8,
        photometric="rgb",
        tile=(16384, 16384),
        compression=compression,
        metadata=None,
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SlideError, match=message), open_tiff(path) as slide:
        slide.read(0, 0, 0, 100, 100)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


def test_a_cycle_of_directories(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        for _ in range(2):
            writer.write(tissue_like(64, 64), photometric="rgb", tile=(64, 64), metadata=None)
    data = bytearray(path.read_bytes())
    first = struct.unpack("<I", data[4:8])[0]
    count = struct.unpack("<H", data[first : first + 2])[0]
    second = struct.unpack("<I", data[first + 2 + 12 * count :][:4])[0]
    count = struct.unpack("<H", data[second : second + 2])[0]
    data[second + 2 + 12 * count : second + 6 + 12 * count] = struct.pack("<I", first)
    path.write_bytes(data)
    np.testing.assert_array_equal(whole(path), tissue_like(64, 64))


@pytest.fixture(scope="module")
def small_tiff(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    path = tmp_path_factory.mktemp("fuzz") / "a.tif"
    pixels = tissue_like(96, 96)
    with tifffile.TiffWriter(path) as writer:
        options = {"photometric": "rgb", "tile": (32, 32), "metadata": None}
        writer.write(pixels, subifds=1, compression="zlib", **options)
        writer.write(pixels[::2, ::2], subfiletype=1, compression="zlib", **options)
    data = path.read_bytes()
    return path, data


@settings(
    max_examples=300, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    changes=st.lists(
        st.tuples(st.integers(0, 1 << 20), st.binary(min_size=1, max_size=8)), max_size=6
    ),
    cut=st.floats(0.0, 1.0),
    shorten=st.booleans(),
)
def test_a_mangled_tiff_is_read_or_refused(
    small_tiff: tuple[Path, bytes], changes: list[tuple[int, bytes]], cut: float, shorten: bool
) -> None:
    path, data = small_tiff
    mangled = bytearray(data)
    for position, value in changes:
        # most of the structure lies at the start and the end of the file
        at = position % 600 if position % 2 else len(data) - 1 - position % 1500
        mangled[max(at, 0) : max(at, 0) + len(value)] = value
    path.write_bytes(mangled[: int(len(mangled) * cut)] if shorten else mangled)
    try:
        with open_tiff(path) as slide:
            for index, level in enumerate(slide.levels):
                slide.read(index, 0, 0, min(level.width, 200), min(level.height, 200))
    except (SlideError, NotDirectError):
        pass


@settings(max_examples=200, deadline=2000)
@given(
    text=st.one_of(
        st.text(max_size=300), st.binary(max_size=300).map(lambda b: b.decode("latin-1"))
    )
)
def test_any_text_is_parsed_as_ome_or_not(text: str) -> None:
    for body in (text, f"<OME>{text}</OME>", f'<OME><Image><Pixels SizeX="{text}"/></Image></OME>'):
        assert isinstance(parse_ome(body), list)


@settings(max_examples=200, deadline=2000)
@given(data=st.binary(max_size=400))
def test_any_bytes_after_a_header_are_walked(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "walk.tif"
    for head in (b"II*\0\x08\0\0\0", b"MM\0+\0\x08\0\0\0\0\0\0\0\0\0\x10"):
        path.write_bytes(head + data)
        source = BytesAt(path)
        try:
            assert read_ifds(source)
        except SlideError:
            pass
        finally:
            source.close()


def test_the_cache_keeps_its_bound() -> None:
    cache = TileCache(1000)
    for key in range(10):
        cache.put(key, np.zeros(300, np.uint8))
        assert cache.nbytes <= 1000
    assert cache.get(0) is None
    assert cache.get(9) is not None
    cache.put("large", np.zeros(5000, np.uint8))
    assert cache.nbytes == 5000
    cache.put("small", np.zeros(10, np.uint8))
    assert (cache.nbytes, cache.get("large")) == (10, None)
