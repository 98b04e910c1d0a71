"""Images that are not decoded here are read by libvips, upright, with what their files say."""

from __future__ import annotations

import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps

from tests.slides.test_formats import patched, tissue_like, whole
from wsisr.errors import SlideError
from wsisr.slides import open_slide
from wsisr.slides.base import RGB
from wsisr.slides.tiff import layout
from wsisr.slides.turned import turned

RGB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


class Pixels:
    """A level that lies in memory."""

    def __init__(self, pixels: RGB) -> None:
        self.pixels = pixels
        self.height, self.width = pixels.shape[:2]

    def read(self, x: int, y: int, width: int, height: int) -> RGB:
        assert x >= 0
        assert y >= 0
        return self.pixels[y : y + height, x : x + width]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_region_of_a_turned_level_is_that_of_the_upright_image(orientation: int) -> None:
    image = Image.fromarray(tissue_like(13, 20))
    image.getexif()[274] = orientation
    upright = np.asarray(ImageOps.exif_transpose(image))
    level = turned(Pixels(tissue_like(13, 20)), orientation)
    assert (level.height, level.width) == upright.shape[:2]
    for x, y, w, h in ((0, 0, level.width, level.height), (2, 3, 7, 5), (0, 8, 1, 2)):
        np.testing.assert_array_equal(level.read(x, y, w, h), upright[y : y + h, x : x + w])


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "strips.tif", "tiles.tif"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_images_are_turned_upright(tmp_path: Path, name: str, orientation: int) -> None:
    pixels, path = tissue_like(50, 70), tmp_path / name
    if path.suffix == ".tif":
        tile = (32, 32) if name == "tiles.tif" else None
        extratags = [(274, 3, 1, orientation, True)]
        tifffile.imwrite(path, pixels, photometric="rgb", tile=tile, extratags=extratags)
    else:
        image = Image.fromarray(pixels)
        exif = image.getexif()
        exif[274] = orientation
        image.save(path, exif=exif, quality=95, **({"subsampling": 0} if name == "a.jpg" else {}))
    turns = 2 if orientation == 3 else 3
    assert np.abs(whole(path).astype(int) - np.rot90(pixels, turns)).mean() < 4


def test_a_tiff_pyramid_is_turned_at_every_level(tmp_path: Path) -> None:
    path, pixels = tmp_path / "a.tif", tissue_like(128, 192)
    with tifffile.TiffWriter(path) as writer:
        options = {"photometric": "rgb", "tile": (64, 64), "metadata": None}
        extratags = [(274, 3, 1, 6, True)]
        writer.write(pixels, extratags=extratags, **options)
        writer.write(pixels[::2, ::2], subfiletype=1, **options)
    with open_slide(path) as slide:
        assert [(level.width, level.height) for level in slide.levels] == [(128, 192), (64, 96)]
        np.testing.assert_array_equal(slide.read(0, 0, 0, 128, 192), np.rot90(pixels, 3))
        np.testing.assert_array_equal(slide.read(1, 0, 0, 64, 96), np.rot90(pixels[::2, ::2], 3))


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("tile", [None, (64, 64)])
def test_three_samples_that_are_called_grey_are_rgb(
    tmp_path: Path, planar: str, tile: tuple[int, int] | None
) -> None:
    """Through openslide they came out grey, and the pixel size was lost."""
    path, pixels = tmp_path / "a.tif", tissue_like(150, 201)
    tifffile.imwrite(
        path,
        pixels if planar == "contig" else np.moveaxis(pixels, 2, 0),
        photometric="minisblack",
        planarconfig=planar,
        tile=tile,
        resolution=(20000, 20000),
        resolutionunit="CENTIMETER",
        metadata=None,
    )
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx(0.5)
        np.testing.assert_array_equal(slide.read(0, 0, 0, 201, 150), pixels)


@pytest.mark.parametrize("dpi", [72, 300])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_print_resolution_is_no_pixel_size_whoever_reads_the_pixels(
    tmp_path: Path, dpi: int, bits: int
) -> None:
    pixels = tissue_like(64, 64).astype(f"u{bits // 8}")
    for name, tile in (("tiles.tif", (64, 64)), ("strips.tif", None)):
        tifffile.imwrite(
            tmp_path / name, pixels, photometric="rgb", tile=tile, resolution=(dpi, dpi),
            resolutionunit="INCH",
        )  # fmt: skip
        with open_slide(tmp_path / name) as slide:
            assert slide.mpp is None


def test_a_pyramid_that_is_not_decoded_here_keeps_its_levels_and_its_pixel_size(
    tmp_path: Path,
) -> None:
    path, pixels = tmp_path / "a.tif", tissue_like(128, 192)
    deep = pixels.astype(np.uint16) << 8
    with tifffile.TiffWriter(path) as writer:
        options = {
            "photometric": "rgb", "tile": (64, 64), "metadata": None, "compression": "zlib",
            "resolution": (20000, 20000), "resolutionunit": "CENTIMETER",
        }  # fmt: skip
        writer.write(deep, subifds=1, **options)
        writer.write(deep[::2, ::2], subfiletype=1, **options)
    with open_slide(path) as slide:
        assert (slide.vendor, slide.mpp, len(slide.levels)) == ("generic-tiff", 0.5, 2)
        np.testing.assert_array_equal(slide.read(0, 10, 20, 100, 90), pixels[20:110, 10:110])
        np.testing.assert_array_equal(slide.read(1, 0, 0, 96, 64), pixels[::2, ::2])


def test_threads_read_what_one_reads(tmp_path: Path) -> None:
    pixels = tissue_like(300, 400)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    places = [(x, y) for y in range(0, 260, 13) for x in range(0, 360, 17)]
    with open_slide(tmp_path / "a.png") as slide, ThreadPoolExecutor(8) as threads:
        found = threads.map(lambda place: slide.read(0, *place, 30, 30), places)
        for (x, y), region in zip(places, found, strict=True):
            np.testing.assert_array_equal(region, pixels[y : y + 30, x : x + 30])


def test_a_file_that_changed_is_read_anew(tmp_path: Path) -> None:
    for value in (10, 20):
        Image.new("RGB", (8, 8), (value, value, value)).save(tmp_path / "a.png")
        assert (whole(tmp_path / "a.png") == value).all()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs the list of open files")
def test_many_images_leave_no_file_open(tmp_path: Path) -> None:
    Image.fromarray(tissue_like(64, 64)).save(tmp_path / "a.png")
    whole(tmp_path / "a.png")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(50):
        whole(tmp_path / "a.png")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("mode", ["1", "P", "L", "RGB"])
def test_a_blank_png_is_no_bomb(tmp_path: Path, mode: str) -> None:
    """Of one bit a pixel, Deflate packs 8,256 pixels in a byte."""
    image = Image.new(mode, (6000, 6000))
    image.save(tmp_path / "a.png", optimize=True, **({"bits": 1} if mode == "P" else {}))
    assert not whole(tmp_path / "a.png").any()


def test_an_image_above_the_limit_of_pillow_is_read(tmp_path: Path) -> None:
    height, width = 14000, 13000
    path, packer = tmp_path / "a.png", zlib.compressobj(1)
    rows = [packer.compress(b"\0" + b"\xaa" * (width // 8)) for _ in range(height)]
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)),
        (b"IDAT", b"".join(rows) + packer.flush()),
        (b"IEND", b""),
    )
    data = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    assert height * width > 179_000_000
    with open_slide(path) as slide:
        assert (slide.read(0, width - 4, height - 2, 4, 2)[..., 0] == [255, 0, 255, 0]).all()


def test_a_raw_strip_above_a_gibibyte_is_read_in_parts(tmp_path: Path) -> None:
    path, (height, width) = tmp_path / "a.tif", (30000, 12000)
    tifffile.imwrite(
        path, shape=(height, width, 3), dtype=np.uint8, photometric="rgb", metadata=None,
        rowsperstrip=height,
    )  # fmt: skip
    with tifffile.TiffFile(path) as file:
        assert len(file.pages.first.dataoffsets) == 1
        offset = file.pages.first.dataoffsets[0]
    with path.open("r+b") as stream:
        stream.seek(offset + 3 * (29000 * width + 11000))
        stream.write(b"abc")
    with open_slide(path) as slide:
        assert bytes(slide.read(0, 11000, 29000, 1, 1)) == b"abc"


def test_what_follows_the_pixels_in_a_strip_does_not_matter(tmp_path: Path) -> None:
    pixels = tissue_like(64, 64)
    longer = pixels.tobytes() + b"more than the rows that there are"
    encoded = {
        "lzw": (5, imagecodecs.lzw_encode(longer)),
        "zlib": (8, zlib.compress(longer)),
        "zlib and more": (8, zlib.compress(pixels.tobytes()) + b"\0\0\0"),
        "packbits": (32773, imagecodecs.packbits_encode(longer)),
    }
    for name, (code, data) in encoded.items():
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(
            path, iter([data]), shape=(64, 64, 3), dtype=np.uint8, photometric="rgb",
            compression=code, metadata=None, rowsperstrip=64,
        )  # fmt: skip
        np.testing.assert_array_equal(whole(path), pixels, err_msg=name)


def test_a_strip_that_claims_more_bytes_than_its_rows_take(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, tissue_like(64, 64), photometric="rgb", metadata=None)
    patched(path, 279, 1 << 30)
    np.testing.assert_array_equal(whole(path), tissue_like(64, 64))


def without(path: Path, tag: int) -> None:
    """Renames a tag to one that nobody knows."""
    with tifffile.TiffFile(path) as file:
        offset = file.pages.first.tags[tag].offset
    with path.open("r+b") as stream:
        stream.seek(offset)
        # private tags may stand anywhere for readers that do not mind the order
        stream.write(struct.pack("<H", 65000))


@pytest.mark.parametrize("tag", [262, 278, 279, 284, 338])
def test_tags_that_writers_leave_out(tmp_path: Path, tag: int) -> None:
    path, pixels = tmp_path / "a.tif", tissue_like(64, 64, 4)
    pixels[..., 3] = 255
    tifffile.imwrite(
        path, pixels, photometric="rgb", extrasamples=["unassalpha"], metadata=None,
        planarconfig="contig",
    )  # fmt: skip
    without(path, tag)
    np.testing.assert_array_equal(whole(path), pixels[..., :3])


def test_a_fourth_sample_without_a_meaning_is_alpha(tmp_path: Path) -> None:
    path, pixels = tmp_path / "a.tif", tissue_like(64, 64, 4)
    pixels[:32, :, 3], pixels[32:, :, 3] = 0, 255
    tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=["unassalpha"], metadata=None)
    without(path, 338)
    seen = whole(path)
    assert (seen[:32] == 255).all()
    np.testing.assert_array_equal(seen[32:], pixels[32:, :, :3])


def test_a_mask_page_is_no_level(tmp_path: Path) -> None:
    path, pixels = tmp_path / "a.tif", tissue_like(128, 128)
    with tifffile.TiffWriter(path) as writer:
        writer.write(np.ones((64, 64), bool), subfiletype=5, photometric="minisblack")
        writer.write(pixels, photometric="rgb", metadata=None)
        writer.write(pixels[::2, ::2], subfiletype=1, photometric="rgb", metadata=None)
        writer.write(np.ones((64, 64), bool), subfiletype=5, photometric="minisblack")
    with open_slide(path) as slide:
        assert [level.width for level in slide.levels] == [128, 64]
        np.testing.assert_array_equal(slide.read(0, 0, 0, 128, 128), pixels)


@pytest.mark.parametrize("kind", ["int8", "int16", "uint32", "float32"])
def test_samples_without_an_agreed_white_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, tissue_like(64, 64).astype(kind), photometric="rgb")
    with pytest.raises(SlideError, match="agreed black and white"):
        open_slide(path)


def cmyk(path: Path, profile: bytes | None = None) -> None:
    image = Image.fromarray(tissue_like(64, 64)).convert("CMYK")
    image.save(path, icc_profile=profile, **({"quality": 95} if path.suffix == ".jpg" else {}))


@pytest.mark.parametrize("name", ["a.jpg", "a.tif"])
def test_cmyk_becomes_srgb(tmp_path: Path, name: str) -> None:
    cmyk(tmp_path / name)
    with open_slide(tmp_path / name) as slide:
        assert slide.icc_profile is None
        seen = slide.read(0, 0, 0, 64, 64)
    # ink is duller than light: the order of light and dark is what must stay
    luma = [image.astype(float).mean(axis=2).ravel() for image in (seen, tissue_like(64, 64))]
    assert np.corrcoef(luma)[0, 1] > 0.95


def other_profile(space: bytes) -> bytes:
    return RGB_PROFILE[:16] + space + RGB_PROFILE[20:]


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
@pytest.mark.parametrize(
    ("profile", "fits"),
    [
        (RGB_PROFILE, True),
        (other_profile(b"GRAY"), False),
        (other_profile(b"CMYK"), False),
        (RGB_PROFILE[:200], False),
        (b"no profile at all", False),
    ],
)
def test_a_profile_is_kept_where_it_fits_the_pixels(
    tmp_path: Path, name: str, profile: bytes, fits: bool
) -> None:
    path, image = tmp_path / name, Image.fromarray(tissue_like(64, 64))
    image.save(path, icc_profile=profile)
    with open_slide(path) as slide:
        assert slide.icc_profile == (profile if fits else None)


def test_a_tag_beside_the_pixels_that_lies_nowhere_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(tissue_like(64, 64)).save(path, icc_profile=RGB_PROFILE)
    with tifffile.TiffFile(path) as file:
        tag = file.pages.first.tags[34675]
    with path.open("r+b") as stream:
        stream.seek(tag.offset + 8)
        stream.write(struct.pack("<I", 1 << 30))
    with open_slide(path) as slide:
        assert slide.icc_profile is None
        np.testing.assert_array_equal(slide.read(0, 0, 0, 64, 64), tissue_like(64, 64))


def test_a_size_that_libvips_does_not_see_is_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, tissue_like(64, 64).astype(np.uint16), photometric="rgb")
    real = layout.image_size
    monkeypatch.setattr(
        "wsisr.slides.tiff.indirect.image_size", lambda ifd: (real(ifd)[0] + 1, real(ifd)[1])
    )
    with pytest.raises(SlideError, match="libvips reads 64x64"):
        open_slide(path)


@pytest.mark.parametrize("compression", ["lzma", "jpegxl", "lerc"])
def test_tiles_that_libvips_cannot_decode_are_no_black_tiles(
    tmp_path: Path, compression: str
) -> None:
    """libvips paints them black, and tells of it in its log alone."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, tissue_like(128, 128), photometric="rgb", tile=(64, 64), compression=compression
    )
    with open_slide(path) as slide:
        for _ in range(2):
            with pytest.raises(SlideError, match=r"a\.tif cannot be decoded"):
                slide.read(0, 0, 0, 64, 64)


def test_a_damaged_tile_that_libvips_reads_is_an_error(tmp_path: Path) -> None:
    path, deep = tmp_path / "a.tif", tissue_like(128, 128).astype(np.uint16) << 8
    tifffile.imwrite(path, deep, photometric="rgb", tile=(64, 64), compression="zlib")
    with tifffile.TiffFile(path) as file:
        offset = file.pages.first.dataoffsets[3]
    with path.open("r+b") as stream:
        stream.seek(offset + 8)
        stream.write(bytes(64))
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read(0, 0, 0, 128, 64), tissue_like(128, 128)[:64])
        with pytest.raises(SlideError, match="cannot be decoded"):
            slide.read(0, 64, 64, 64, 64)


def test_threads_take_turns_at_tiles(tmp_path: Path) -> None:
    path, pixels = tmp_path / "a.tif", tissue_like(300, 400)
    tifffile.imwrite(
        path, pixels.astype(np.uint16) << 8, photometric="rgb", tile=(64, 64), compression="zlib"
    )
    places = [(x, y) for y in range(0, 260, 13) for x in range(0, 360, 17)]
    with open_slide(path) as slide, ThreadPoolExecutor(8) as threads:
        found = threads.map(lambda place: slide.read(0, *place, 30, 30), places)
        for (x, y), region in zip(places, found, strict=True):
            np.testing.assert_array_equal(region, pixels[y : y + 30, x : x + 30])
