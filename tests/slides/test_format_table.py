"""docs/formats.md, row by row: each has a file made here, which is read right, or refused."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from tests.slides.test_formats import patched, tissue_like
from tests.slides.test_general_reader import without
from tests.slides.test_ome import channels, document, image, ngff
from tests.slides.test_ome import write as write_ome
from wsisr.errors import SlideError
from wsisr.slides import open_slide

PAGE = Path(__file__).resolve().parents[2] / "docs/formats.md"
RGB = tissue_like(96, 128)
GREY = RGB[..., 0]
GREY_RGB = np.repeat(GREY[..., np.newaxis], 3, axis=2)
BITS = GREY > 120
BITS_RGB = np.repeat(np.where(BITS, 255, 0).astype(np.uint8)[..., np.newaxis], 3, axis=2)
DEEP = RGB.astype(np.uint16) << 8
TILES = {"tile": (64, 64)}

Maker = Callable[[Path], np.ndarray | None]
"""Makes a file, and gives what is to be read of it; None where only the size is known."""


def documented() -> dict[str, str]:
    """Gives {section: feature: result} of the tables, flat."""
    found = {}
    section = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = line[3:]
        row = re.fullmatch(r"\| (.+?) \| (read|refused: `.+`) \|", line)
        if row:
            found[f"{section}: {row[1]}"] = row[2]
    return found


def tiff(pixels: np.ndarray = RGB, expected: np.ndarray | None = RGB, **options: Any) -> Maker:
    def make(path: Path) -> np.ndarray | None:
        tifffile.imwrite(
            path, pixels, **{"photometric": "rgb", "metadata": None, **TILES, **options}
        )
        return expected

    return make


def pillow(source: Image.Image, expected: np.ndarray | None = RGB, **options: Any) -> Maker:
    def make(path: Path) -> np.ndarray | None:
        source.save(path, **options)
        return expected

    return make


def raw(data: bytes) -> Maker:
    def make(path: Path) -> None:
        path.write_bytes(data)

    return make


def ycbcr(path: Path) -> np.ndarray:
    tiff(photometric="ycbcr", compression="jpeg", subsampling=(1, 1))(path)
    return np.asarray(tifffile.imread(path))


def cut(maker: Maker) -> Maker:
    def make(path: Path) -> None:
        maker(path)
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])

    return make


def lacking(tag: int) -> Maker:
    def make(path: Path) -> np.ndarray:
        tifffile.imwrite(path, RGB, photometric="rgb", metadata=None)
        without(path, tag)
        return RGB

    return make


def changed(tag: int, value: int, maker: Maker) -> Maker:
    def make(path: Path) -> np.ndarray | None:
        expected = maker(path)
        patched(path, tag, value)
        return expected

    return make


def with_exif(source: Image.Image, **options: Any) -> Maker:
    exif = source.getexif()
    exif[274] = 3
    return pillow(source, RGB[::-1, ::-1], exif=exif, **options)


def pages(path: Path, *, mask_first: bool = False) -> np.ndarray:
    with tifffile.TiffWriter(path) as writer:
        if mask_first:
            writer.write(BITS, subfiletype=4, photometric="minisblack")
        writer.write(RGB, photometric="rgb", metadata=None)
        writer.write(RGB[::-1], photometric="rgb", metadata=None)
    return RGB


def tag_twice(path: Path) -> np.ndarray:
    tifffile.imwrite(path, RGB, photometric="rgb", metadata=None, software="x")
    with tifffile.TiffFile(path) as file:
        offset = file.pages.first.tags[305].offset
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(struct.pack("<HHII", 256, 4, 1, 7))
    return RGB


def cycle(path: Path) -> np.ndarray:
    tifffile.imwrite(path, RGB, photometric="rgb", metadata=None)
    data = bytearray(path.read_bytes())
    first = struct.unpack("<I", data[4:8])[0]
    count = struct.unpack("<H", data[first : first + 2])[0]
    data[first + 2 + 12 * count : first + 6 + 12 * count] = struct.pack("<I", first)
    path.write_bytes(data)
    return RGB


def longer_strip(path: Path) -> np.ndarray:
    tifffile.imwrite(
        path, iter([zlib.compress(RGB.tobytes() + b"more")]), shape=RGB.shape, dtype=np.uint8,
        photometric="rgb", compression=8, metadata=None, rowsperstrip=96,
    )  # fmt: skip
    return RGB


def sub_ifds(path: Path) -> np.ndarray:
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(RGB, photometric="rgb", subifds=1, metadata={"axes": "YXS"}, **TILES)
        writer.write(RGB[::2, ::2], photometric="rgb", subfiletype=1, **TILES)
    return RGB


def ome(data: str, kinds: str) -> Maker:
    def make(path: Path) -> np.ndarray:
        planes = [RGB[..., channel] for channel in range(3)]
        write_ome(path, document(image("a", 128, 96, data, kinds)), planes)
        return RGB

    return make


def bomb(path: Path) -> None:
    Image.fromarray(RGB).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">2I", 60000, 60000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)


def interlaced(path: Path) -> np.ndarray:
    """Pillow writes none: seven passes of rows, each with its filter byte."""
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
              (0, 1, 1, 2))  # fmt: skip
    rows = [b"\0" + row.tobytes() for x, y, dx, dy in passes for row in RGB[y::dy, x::dx]]
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", 128, 96, 8, 2, 0, 0, 1)),
        (b"IDAT", zlib.compress(b"".join(rows))),
        (b"IEND", b""),
    )
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
            for name, body in chunks
        )
    )
    return RGB


def gif(path: Path) -> np.ndarray:
    first, second = (Image.fromarray(GREY), Image.fromarray(255 - GREY))
    first.save(path, save_all=True, append_images=[second])
    return GREY_RGB


def half_transparent(mode: str) -> tuple[Image.Image, np.ndarray]:
    base = GREY_RGB if mode == "LA" else RGB
    alpha = np.zeros((96, 128, 1), np.uint8)
    alpha[48:] = 255
    pixels = np.concatenate([base[..., : len(mode) - 1], alpha], axis=2)
    expected = base.copy()
    expected[:48] = 255
    return Image.fromarray(pixels, mode), expected


def premultiplied() -> tuple[np.ndarray, np.ndarray]:
    source, expected = half_transparent("RGBA")
    pixels = np.asarray(source).copy()
    pixels[:48] = 0
    return pixels, expected


def clear_palette(path: Path) -> np.ndarray:
    picture = Image.fromarray(BITS.astype(np.uint8))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.save(path, transparency=0)
    return np.where(BITS[..., np.newaxis], (40, 50, 60), 255).astype(np.uint8)


def zarr_image(pixels: np.ndarray, expected: np.ndarray | None = RGB, **options: Any) -> Maker:
    def make(path: Path) -> np.ndarray | None:
        ngff(zarr.open_group(str(path), mode="w", zarr_format=2), pixels, **options)
        return expected

    return make


def zarr_array(pixels: np.ndarray, axes: Any, expected: np.ndarray, version: str = "") -> Maker:
    def make(path: Path) -> np.ndarray:
        group = zarr.open_group(str(path), mode="w", zarr_format=3 if version == "0.5" else 2)
        array = group.create_array(
            "0", shape=pixels.shape, chunks=pixels.shape, dtype=pixels.dtype.name
        )
        array[...] = pixels
        content = {"multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}]}
        group.attrs.update({"ome": {"version": "0.5", **content}} if version == "0.5" else content)
        return expected

    return make


def bioformats2raw(path: Path) -> np.ndarray:
    root = zarr.open_group(str(path), mode="w", zarr_format=2)
    root.attrs["bioformats2raw.layout"] = 3
    ngff(root.create_group("0"), np.moveaxis(RGB, 2, 0))
    return RGB


def group_with(**attributes: Any) -> Maker:
    def make(path: Path) -> None:
        zarr.open_group(str(path), mode="w", zarr_format=2).attrs.update(attributes)

    return make


COLOUR, LA, RGBA = Image.fromarray(RGB), half_transparent("LA"), half_transparent("RGBA")
CLEAR = premultiplied()
NAMED = [{"name": "c"}, {"name": "y"}, {"name": "x"}]
PLANES = np.ascontiguousarray(np.moveaxis(RGB, 2, 0))
TIFF: dict[str, Maker] = {
    "strips": tiff(tile=None, rowsperstrip=10),
    "tiles": tiff(),
    "BigTIFF": tiff(bigtiff=True),
    "big-endian": tiff(byteorder=">"),
    "LZW": tiff(compression="lzw"),
    "Deflate": tiff(compression="zlib"),
    "Zstandard": tiff(compression="zstd"),
    "PackBits": tiff(compression="packbits"),
    "JPEG, YCbCr": ycbcr,
    "JPEG, RGB": tiff(compression="jpeg"),
    "JPEG 2000": tiff(compression="jpeg2000"),
    "WebP": tiff(compression="webp", compressionargs={"lossless": True}),
    "CCITT group 4": pillow(Image.fromarray(BITS), BITS_RGB, compression="group4"),
    "predictor": tiff(compression="lzw", predictor=True),
    "planes of samples": tiff(PLANES, planarconfig="separate"),
    "three samples that are called grey": tiff(photometric="minisblack", planarconfig="contig"),
    "grey": tiff(GREY, GREY_RGB, photometric="minisblack"),
    "white is zero": tiff(255 - GREY, GREY_RGB, photometric="miniswhite"),
    "1 bit": tiff(BITS, BITS_RGB, photometric="minisblack", tile=None),
    "palette": tiff(
        GREY,
        GREY_RGB,
        photometric="palette",
        colormap=np.tile(np.arange(256) * 257, (3, 1)),
    ),
    "16 bit": tiff(DEEP, compression="zlib"),
    "16 bit in planes, tiled": tiff(np.moveaxis(DEEP, 2, 0), planarconfig="separate"),
    "12 bit": tiff(DEEP >> 8, bitspersample=12, tile=None),
    "signed samples": tiff(RGB.astype(np.int16)),
    "samples of 32 bit": tiff(RGB.astype(np.uint32)),
    "floating point": tiff(RGB.astype(np.float32)),
    "straight alpha": tiff(np.asarray(RGBA[0]), RGBA[1], extrasamples=["unassalpha"]),
    "associated alpha": tiff(CLEAR[0], CLEAR[1], extrasamples=["assocalpha"]),
    "five samples": tiff(
        np.zeros((96, 128, 5), np.uint8), photometric="minisblack", planarconfig="contig"
    ),
    "CMYK": pillow(COLOUR.convert("CMYK"), None),
    "CIELAB": pillow(COLOUR.convert("LAB"), None),
    "orientation": tiff(RGB, RGB[::-1, ::-1], extratags=[(274, 3, 1, 3, True)]),
    "a mask page before the image": lambda path: pages(path, mask_first=True),
    "several pages": pages,
    "no photometric interpretation": lacking(262),
    "no length of strips": lacking(279),
    "lengths of strips that are too large": changed(279, 1 << 28, tiff(tile=None)),
    "a tag twice": tag_twice,
    "a cycle of directories": cycle,
    "bytes behind the pixels of a strip": longer_strip,
    "LZMA": tiff(compression="lzma"),
    "LERC": tiff(compression="lerc"),
    "JPEG XL": tiff(compression="jpegxl"),
    "cut short": cut(tiff(compression="zlib")),
    "OME: pyramid in SubIFDs": sub_ifds,
    "OME: red, green and blue as three planes": ome("<TiffData/>", channels("", "", "")),
    "OME: other planes": ome("<TiffData/>", channels('Name="a"', 'Name="b"', 'Name="c"')),
    "OME: one file of a set without its images": ome(
        '<TiffData IFD="0"><UUID FileName="b.ome.tif">urn:uuid:b</UUID></TiffData>', ""
    ),
}


def fourth_sample(path: Path) -> np.ndarray:
    TIFF["straight alpha"](path)
    without(path, 338)
    return RGBA[1]


TIFF["a fourth sample without a meaning"] = fourth_sample
PLAIN: dict[str, Maker] = {
    "PNG: 1 bit": pillow(Image.fromarray(BITS), BITS_RGB),
    "PNG: palette": pillow(Image.fromarray(GREY).convert("P"), GREY_RGB),
    "PNG: palette with transparency": clear_palette,
    "PNG: grey": pillow(Image.fromarray(GREY), GREY_RGB),
    "PNG: grey with alpha": pillow(*LA),
    "PNG: RGB": pillow(COLOUR),
    "PNG: RGB with alpha": pillow(*RGBA),
    "PNG: 16 bit": pillow(Image.fromarray(DEEP[..., 0]), GREY_RGB),
    "PNG: interlaced": interlaced,
    "PNG: orientation": with_exif(COLOUR),
    "PNG: more pixels than its bytes can hold": bomb,
    "PNG: cut short": cut(pillow(COLOUR)),
    "JPEG: YCbCr": pillow(COLOUR, quality=98, subsampling=0),
    "JPEG: grey": pillow(Image.fromarray(GREY), GREY_RGB, quality=98),
    "JPEG: progressive": pillow(COLOUR, quality=98, subsampling=0, progressive=True),
    "JPEG: CMYK": pillow(COLOUR.convert("CMYK"), None),
    "JPEG: orientation": with_exif(COLOUR, quality=98, subsampling=0),
    "JPEG: cut short": cut(pillow(COLOUR)),
    "WebP: lossless": pillow(COLOUR, lossless=True),
    "WebP: alpha": pillow(*RGBA, lossless=True),
    "GIF: the first image": gif,
    "AVIF": pillow(COLOUR, quality=95, subsampling="4:4:4"),
    "HEIC": raw(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99)),
    "JPEG 2000": raw(imagecodecs.jpeg2k_encode(RGB)),
    "JPEG XL": raw(imagecodecs.jpegxl_encode(RGB)),
    "BMP": pillow(COLOUR),
}
ZARR: dict[str, Maker] = {
    "NGFF 0.4": zarr_image(PLANES),
    "NGFF 0.5": zarr_array(PLANES, NAMED, RGB, "0.5"),
    "NGFF 0.3": zarr_array(PLANES, ["c", "y", "x"], RGB),
    "grey": zarr_array(GREY, NAMED[1:], GREY_RGB),
    "blue before red": zarr_image(
        PLANES[::-1], omero={"channels": [{"color": c} for c in ("0000FF", "00FF00", "FF0000")]}
    ),
    "the folder of bioformats2raw": bioformats2raw,
    "a plate": group_with(plate={"wells": []}),
    "a well": group_with(well={"images": []}),
    "16 bit": zarr_array(np.moveaxis(DEEP, 2, 0), NAMED, RGB),
    "several depths": zarr_array(np.stack([GREY, GREY]), [{"name": "z"}, *NAMED[1:]], GREY_RGB),
    "no image": group_with(),
}
SUFFIXES = {"JPEG 2000": "jp2", "JPEG XL": "jxl"}
MAKERS = {
    f"{section}: {feature}": (maker, suffix(feature))
    for section, makers, suffix in (
        ("TIFF", TIFF, lambda feature: "ome.tif" if feature.startswith("OME") else "tif"),
        (
            "Plain images",
            PLAIN,
            lambda feature: SUFFIXES.get(feature, feature.split(":")[0].lower()),
        ),
        ("OME-Zarr", ZARR, lambda feature: "ome.zarr"),
    )
    for feature, maker in makers.items()
}


def test_every_row_has_a_file_and_every_file_a_row() -> None:
    assert documented().keys() == MAKERS.keys()


@pytest.mark.parametrize("row", MAKERS)
def test_a_row_of_the_table(tmp_path: Path, row: str) -> None:
    maker, suffix = MAKERS[row]
    path = tmp_path / f"a.{suffix}"
    expected = maker(path)
    result = documented()[row]
    if result != "read":
        message = re.escape(result.removeprefix("refused: ").strip("`"))
        with pytest.raises(SlideError, match=message) as caught, open_slide(path) as slide:
            slide.read(0, 0, 0, slide.width, slide.height)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
        return
    with open_slide(path) as slide:
        pixels = slide.read(0, 0, 0, slide.width, slide.height)
    assert pixels.shape == RGB.shape
    if expected is not None:
        difference = np.abs(pixels.astype(int) - expected)
        lossy = any(name in row for name in ("JPEG", "AVIF", "JPEG, "))
        assert difference.mean() <= (2 if lossy else 0), row
