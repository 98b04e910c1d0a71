"""What OME-XML and NGFF say of images, beyond the plain case."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from tests.slides.test_formats import tissue_like
from wsisr.errors import SlideError
from wsisr.slides import open_slide
from wsisr.slides.tiff import parse_ome

NAMESPACE = 'xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"'
RGB_CHANNEL = '<Channel ID="Channel:0:0" SamplesPerPixel="3"/>'


def image(
    name: str, width: int, height: int, data: str, channels: str = RGB_CHANNEL, more: str = ""
) -> str:
    return (
        f'<Image Name="{name}"><Pixels SizeX="{width}" SizeY="{height}" SizeC="3" SizeZ="1" '
        f'SizeT="1" DimensionOrder="XYZCT" Type="uint8" {more}>{channels}{data}</Pixels></Image>'
    )


def document(*images: str, root: str = "") -> str:
    return f"<OME {NAMESPACE} {root}>{''.join(images)}</OME>"


def write(path: Path, text: str, pages: list[np.ndarray], **options: Any) -> None:
    with tifffile.TiffWriter(path) as writer:
        for number, pixels in enumerate(pages):
            description = text.encode() if number == 0 else None
            grey = pixels.ndim == 2
            writer.write(
                pixels, photometric="minisblack" if grey else "rgb", tile=(64, 64), metadata=None,
                description=description, compression="zlib", **options,
            )  # fmt: skip


def test_a_prefix_of_the_namespace(tmp_path: Path) -> None:
    text = document(image("a", 150, 128, '<TiffData IFD="0"/>', more='PhysicalSizeX="0.5"'))
    prefixed = text.replace("<OME xmlns=", "<ome:OME xmlns:ome=").replace("</OME>", "</ome:OME>")
    for tag in ("Image", "Pixels", "Channel", "TiffData"):
        prefixed = prefixed.replace(f"<{tag}", f"<ome:{tag}").replace(f"</{tag}", f"</ome:{tag}")
    write(tmp_path / "a.ome.tif", prefixed, [tissue_like(128, 150)])
    with open_slide(tmp_path / "a.ome.tif") as slide:
        assert (slide.vendor, slide.mpp) == ("ome-tiff", 0.5)


def test_of_a_set_the_image_of_this_file_is_taken(tmp_path: Path) -> None:
    """The larger image lies in another file, and the directory of that number is here, too."""
    other = '<TiffData IFD="0"><UUID FileName="b.ome.tif">urn:uuid:b</UUID></TiffData>'
    own = '<TiffData IFD="0"><UUID FileName="a.ome.tif">urn:uuid:a</UUID></TiffData>'
    text = document(
        image("b", 900, 900, other, more='PhysicalSizeX="9"'),
        image("a", 150, 128, own, more='PhysicalSizeX="0.5"'),
        root='UUID="urn:uuid:a"',
    )
    write(tmp_path / "a.ome.tif", text, [tissue_like(128, 150)])
    with open_slide(tmp_path / "a.ome.tif") as slide:
        assert (slide.width, slide.mpp) == (150, 0.5)
    (tmp_path / "a.ome.tif").rename(tmp_path / "renamed.ome.tif")
    with open_slide(tmp_path / "renamed.ome.tif") as slide:
        assert slide.mpp == 0.5
    write(tmp_path / "c.ome.tif", document(image("b", 150, 128, other)), [tissue_like(128, 150)])
    with pytest.raises(SlideError, match="one file of a set"):
        open_slide(tmp_path / "c.ome.tif")


@pytest.mark.parametrize(
    ("unit", "expected"),
    [("nm", 500.0), ("mm", 5e-4), ("Å", 5000.0), ("in", 0.5 / 25400), ("m", 5e-7), ("km", 5e-10),
     ("pixel", None), ("reference frame", None)],
)  # fmt: skip
def test_units_of_length(unit: str, expected: float | None) -> None:
    size = 0.5 if expected is None else expected
    (found,) = parse_ome(
        document(image("a", 9, 9, "", more=f'PhysicalSizeX="{size!r}" PhysicalSizeXUnit="{unit}"'))
    )
    assert found.mpp_x == (None if expected is None else pytest.approx(0.5))


def channels(*kinds: str) -> str:
    return "".join(f'<Channel ID="Channel:0:{n}" {kind}/>' for n, kind in enumerate(kinds))


@pytest.mark.parametrize(
    ("kinds", "order"),
    [
        (("", "", ""), "rgb"),
        (('Name="Red"', 'Name="Green"', 'Name="Blue"'), "rgb"),
        (('Name="blue"', 'Name="green"', 'Name="red"'), "bgr"),
        (('Color="16711935"', 'Color="65535"', 'Color="-16776961"'), "gbr"),
    ],
)
@pytest.mark.parametrize("shuffled", [False, True])
def test_rgb_as_three_planes(
    tmp_path: Path, kinds: tuple[str, ...], order: str, shuffled: bool
) -> None:
    pixels = tissue_like(128, 150)
    planes = [pixels[..., "rgb".index(colour)] for colour in order]
    data = "<TiffData/>"
    if shuffled:
        data = "".join(f'<TiffData IFD="{2 - c}" FirstC="{c}" PlaneCount="1"/>' for c in range(3))
        planes = planes[::-1]
    text = document(image("a", 150, 128, data, channels(*kinds), 'PhysicalSizeX="0.25"'))
    write(tmp_path / "a.ome.tif", text, planes)
    with open_slide(tmp_path / "a.ome.tif") as slide:
        assert slide.mpp == 0.25
        np.testing.assert_array_equal(slide.read(0, 0, 0, 150, 128), pixels)


def test_planes_of_a_pyramid(tmp_path: Path) -> None:
    pixels, path = tissue_like(128, 192), tmp_path / "a.ome.tif"
    text = document(image("a", 192, 128, "<TiffData/>", channels("", "", "")))
    with tifffile.TiffWriter(path) as writer:
        for channel in range(3):
            options = {"photometric": "minisblack", "tile": (64, 64), "metadata": None}
            description = text.encode() if channel == 0 else None
            plane = pixels[..., channel]
            writer.write(plane, subifds=1, description=description, **options)
            writer.write(plane[::2, ::2], subfiletype=1, **options)
    with open_slide(path) as slide:
        assert [level.width for level in slide.levels] == [192, 96]
        np.testing.assert_array_equal(slide.read(1, 0, 0, 96, 64), pixels[::2, ::2])


def test_planes_that_are_no_colours_are_refused(tmp_path: Path) -> None:
    text = document(
        image("a", 150, 128, "<TiffData/>", channels('Name="DAPI"', 'Name="FITC"', 'Name="Cy5"'))
    )
    write(tmp_path / "a.ome.tif", text, [tissue_like(128, 150)[..., c] for c in range(3)])
    with pytest.raises(SlideError, match="3 planes"):
        open_slide(tmp_path / "a.ome.tif")


PIXELS = np.random.default_rng(0).integers(0, 256, (3, 150, 200), np.uint8)


def ngff(group: zarr.Group, pixels: np.ndarray = PIXELS, **more: Any) -> None:
    array = group.create_array("0", shape=pixels.shape, chunks=(3, 64, 64), dtype="uint8")
    array[...] = pixels
    scale = {"type": "scale", "scale": [1, 0.5, 0.5]}
    multiscale = {
        "axes": [{"name": "c"}, *({"name": a, "unit": "micrometer"} for a in "yx")],
        "datasets": [{"path": "0", "coordinateTransformations": [scale]}],
    }
    omero = more.pop("omero", None)
    multiscale.update(more)
    group.attrs["multiscales"] = [multiscale]
    if omero is not None:
        group.attrs["omero"] = omero


def new(path: Path) -> zarr.Group:
    return zarr.open_group(str(path), mode="w", zarr_format=2)


def test_transformations_at_both_levels(tmp_path: Path) -> None:
    shared = [{"type": "scale", "scale": [1, 0.5, 0.5]}, {"type": "translation", "translation": []}]
    ngff(new(tmp_path / "a.zarr"), coordinateTransformations=shared)
    with open_slide(tmp_path / "a.zarr") as slide:
        assert slide.mpp == 0.25


@pytest.mark.parametrize(
    ("unit", "mpp"), [("nanometer", 5e-4), ("inch", 12700), ("um", 0.5), ("Micrometer", 0.5),
                      ("parsec", None), (None, None)],
)  # fmt: skip
def test_units_of_axes(tmp_path: Path, unit: str | None, mpp: float | None) -> None:
    axes = [{"name": "c"}, *({"name": a} | ({"unit": unit} if unit else {}) for a in "yx")]
    ngff(new(tmp_path / "a.zarr"), axes=axes)
    with open_slide(tmp_path / "a.zarr") as slide:
        assert slide.mpp == (None if mpp is None else pytest.approx(mpp))


@pytest.mark.parametrize("axes", [None, ["c", "y", "x"]])
def test_axes_of_older_versions(tmp_path: Path, axes: list[str] | None) -> None:
    group = new(tmp_path / "a.zarr")
    pixels = PIXELS if axes else PIXELS[np.newaxis, :, np.newaxis]
    array = group.create_array("0", shape=pixels.shape, chunks=pixels.shape, dtype="uint8")
    array[...] = pixels
    multiscale = {"datasets": [{"path": "0"}]} | ({"axes": axes} if axes else {})
    group.attrs["multiscales"] = [multiscale]
    with open_slide(tmp_path / "a.zarr") as slide:
        assert slide.mpp is None
        np.testing.assert_array_equal(slide.read(0, 0, 0, 200, 150), PIXELS.transpose(1, 2, 0))


def test_the_order_of_channels(tmp_path: Path) -> None:
    omero = {"channels": [{"color": "0000FF"}, {"color": "00ff00"}, {"color": "FF0000"}]}
    ngff(new(tmp_path / "a.zarr"), omero=omero)
    with open_slide(tmp_path / "a.zarr") as slide:
        expected = PIXELS.transpose(1, 2, 0)[..., ::-1]
        np.testing.assert_array_equal(slide.read(0, 5, 6, 90, 80), expected[6:86, 5:95])


@pytest.mark.parametrize("listed", [True, False])
def test_the_root_of_bioformats2raw(tmp_path: Path, listed: bool) -> None:
    root = new(tmp_path / "a.zarr")
    root.attrs["bioformats2raw.layout"] = 3
    for name, side in (("0", 40), ("1", 100), ("2", 150)):
        ngff(root.create_group(name), PIXELS[:, :side])
    ome = root.create_group("OME")
    if listed:
        ome.attrs["series"] = ["0", "1", "2"]
    sides = (("macro", 40), ("slide", 100), ("label", 150))
    images = [
        image(name, 200, side, "<MetadataOnly/>").replace(
            "<Pixels", f'<ObjectiveSettings ID="Objective:{number}"/><Pixels'
        )
        for number, (name, side) in enumerate(sides)
    ]
    objectives = "".join(
        f'<Objective ID="Objective:{number}" NominalMagnification="{number * 20}"/>'
        for number in range(3)
    )
    text = document(f"<Instrument>{objectives}</Instrument>", *images)
    (tmp_path / "a.zarr" / "OME" / "METADATA.ome.xml").write_text(text)
    with open_slide(tmp_path / "a.zarr") as slide:
        assert (slide.height, slide.mpp, slide.magnification) == (100, 0.5, 20.0)
        np.testing.assert_array_equal(
            slide.read(0, 0, 0, 200, 100), PIXELS.transpose(1, 2, 0)[:100]
        )


@pytest.mark.parametrize("kind", ["plate", "well"])
def test_plates_are_many_images(tmp_path: Path, kind: str) -> None:
    new(tmp_path / "a.zarr").attrs[kind] = {"images": [], "wells": []}
    with pytest.raises(SlideError, match=f"is a {kind} of many images; give"):
        open_slide(tmp_path / "a.zarr")
