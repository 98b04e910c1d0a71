"""Writes the metadata of an OME-Zarr: groups, arrays, and the attributes of NGFF 0.4 and 0.5.

References:
    NGFF 0.4 and 0.5 (ngff.openmicroscopy.org); Zarr 2; Zarr 3, `sharding_indexed` 1.0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsisr.pyramid.metadata import ome_xml
from wsisr.pyramid.spec import PyramidSpec

OME_XML = Path("OME") / "METADATA.ome.xml"
ICC_PROFILE = Path("OME") / "profile.icc"
"""NGFF has no place for a colour profile; beside the OME-XML it harms nobody, and is not lost."""
METADATA_NAMES = frozenset(
    {".zgroup", ".zattrs", ".zarray", "zarr.json", OME_XML.name, ICC_PROFILE.name}
)
AXES = (
    {"name": "t", "type": "time"},
    {"name": "c", "type": "channel"},
    {"name": "z", "type": "space", "unit": "micrometer"},
    {"name": "y", "type": "space", "unit": "micrometer"},
    {"name": "x", "type": "space", "unit": "micrometer"},
)
CHANNELS = (("Red", "FF0000"), ("Green", "00FF00"), ("Blue", "0000FF"))
BLOSC_LEVEL = 3
SHARD_TILES = 8
"""A shard is at most this many tiles high and wide: 4096 px of 512."""


def is_sharded(spec: PyramidSpec) -> bool:
    """Tells whether the chunks of a level are gathered in shards."""
    return spec.zarr_version == "0.5"


def shard_tiles(spec: PyramidSpec, level: int) -> int:
    """Counts the tiles along a side of a shard, no more than the level has."""
    return min(SHARD_TILES, max(spec.grid(level)))


def write_metadata(
    root: Path, spec: PyramidSpec, fill: int, provenance: Mapping[str, Any]
) -> list[Path]:
    """Writes everything of an OME-Zarr but its chunks.

    Args:
        root: the folder that holds the chunks.
        spec: the pyramid.
        fill: value of chunks that are left out.
        provenance: what made the pixels.

    Returns:
        The files written.

    Raises:
        OSError: the disk refused.
    """
    import zarr

    group = zarr.open_group(root, mode="a", zarr_format=3 if is_sharded(spec) else 2)
    for level in range(len(spec.levels)):
        group.create_array(str(level), **_array_options(spec, level, fill))
    group.create_group(OME_XML.parent.name)
    group.attrs.update(ngff_attributes(spec, provenance))
    (root / OME_XML).write_text(ome_xml(spec, provenance, tiff=False), encoding="utf-8")
    if spec.icc_profile:
        (root / ICC_PROFILE).write_bytes(spec.icc_profile)
    return [path for path in root.rglob("*") if path.name in METADATA_NAMES]


def _array_options(spec: PyramidSpec, level: int, fill: int) -> dict[str, Any]:
    width, height = spec.levels[level]
    options: dict[str, Any] = {
        "shape": (1, 3, 1, height, width),
        "dtype": "uint8",
        "chunks": (1, 3, 1, spec.tile, spec.tile),
        "fill_value": fill,
    }
    if is_sharded(spec):
        import zarr

        side = shard_tiles(spec, level) * spec.tile
        blosc = zarr.codecs.BloscCodec(
            typesize=1, cname="zstd", clevel=BLOSC_LEVEL, shuffle="bitshuffle"
        )
        names = [axis["name"] for axis in AXES]
        return options | {
            "shards": (1, 3, 1, side, side),
            "dimension_names": names,
            "compressors": blosc,
        }
    import numcodecs

    return options | {
        "chunk_key_encoding": {"name": "v2", "separator": "/"},
        "compressors": numcodecs.Blosc("zstd", BLOSC_LEVEL, numcodecs.Blosc.BITSHUFFLE),
        "filters": None,
    }


def ngff_attributes(spec: PyramidSpec, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Makes the attributes of the root group, in the NGFF version that `spec` asks for.

    Args:
        spec: the pyramid.
        provenance: what made the pixels.

    Returns:
        Plain JSON values.
    """
    name = spec.name or "pyramid"
    multiscale: dict[str, Any] = {
        "name": name,
        "axes": list(AXES),
        "datasets": [_dataset(spec, level) for level in range(len(spec.levels))],
        "type": "mean",
    }
    omero = {
        "name": name,
        "channels": [_channel(label, colour) for label, colour in CHANNELS],
        "rdefs": {"model": "color", "defaultT": 0, "defaultZ": 0},
    }
    record = json.loads(json.dumps(dict(provenance), default=str))
    if spec.zarr_version == "0.5":
        ome = {"version": "0.5", "multiscales": [multiscale], "omero": omero}
        return {"ome": ome, "wsisr": record}
    multiscale["version"] = omero["version"] = "0.4"
    return {"multiscales": [multiscale], "omero": omero, "wsisr": record}


def _dataset(spec: PyramidSpec, level: int) -> dict[str, Any]:
    sizes = zip(spec.levels[0], spec.levels[level], strict=True)
    x, y = (full / own * spec.mpp for full, own in sizes)
    transforms: list[dict[str, Any]] = [{"type": "scale", "scale": [1.0, 1.0, 1.0, y, x]}]
    if level:
        # pixel centres: the first pixel of a level lies half a step further in than level 0's
        shift = [0.0, 0.0, 0.0, (y - spec.mpp) / 2, (x - spec.mpp) / 2]
        transforms.append({"type": "translation", "translation": shift})
    return {"path": str(level), "coordinateTransformations": transforms}


def _channel(label: str, colour: str) -> dict[str, Any]:
    return {
        "label": label,
        "color": colour,
        "active": True,
        "coefficient": 1,
        "family": "linear",
        "inverted": False,
        "window": {"start": 0, "end": 255, "min": 0, "max": 255},
    }
