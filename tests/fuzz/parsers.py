"""Every parser of this package's own: valid inputs to start from, and how each is run.

Parsers take bytes; those that read files or folders find them written into a folder of their own.
"""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import tifffile
import torch
from safetensors.torch import save

from tests.fuzz.mutation import mutated_bytes, mutated_json
from tests.hostile.test_zarr import CHUNK, zarr2, zarr3
from wsisr.errors import WsisrError
from wsisr.evaluation.networks.states import load_state as load_weights
from wsisr.evaluation.nuclei.given import GivenNuclei, read_labels
from wsisr.evaluation.pairing.registration import load_transform
from wsisr.evaluation.weights.store import MANIFEST, _read_pins
from wsisr.formats import declares_colour_space, j2k_header, jpeg_header, subsampled_j2k
from wsisr.formats.codestreams import DamagedPieceError
from wsisr.models.files import SHIPPED, network_class, read_card, read_checkpoint
from wsisr.models.files.checkpoint import read_safetensors
from wsisr.models.files.parts import empty_module, load_restoration
from wsisr.models.published.base import _prediction
from wsisr.parsing import MalformedError, parse_json, parse_xml, read_features
from wsisr.pyramid import PyramidSpec
from wsisr.pyramid.metadata import ome_xml
from wsisr.pyramid.ngff import OME_XML
from wsisr.pyramid.provenance import read_provenance
from wsisr.pyramid.records import (
    Record,
    check_match,
    describe_run,
    pack_header,
    pack_record,
    read_journal,
)
from wsisr.pyramid.resume import _plausible
from wsisr.scaleout.cohort.claims import _owner_of
from wsisr.scaleout.cohort.ledger import Ledger
from wsisr.scaleout.cohort.manifest import read_rows
from wsisr.scaleout.cohort.report import write_report
from wsisr.scaleout.remote.cache import Cache, make_room
from wsisr.slides import open_slide, select_view
from wsisr.slides.tiff import open_tiff, parse_ome
from wsisr.tissue.files import load_mask
from wsisr.urls import is_url, last_part, name_of, shown

Mutate = Callable[[bytes, Random], bytes]
Run = Callable[[bytes], object]


@dataclass(frozen=True)
class Parser:
    """A parser.

    Attributes:
        name: of the parser.
        seeds: valid inputs.
        run: parses an input.
        mutate: changes an input.
        allowed: what it may raise.
    """

    name: str
    seeds: tuple[bytes, ...]
    run: Run
    mutate: Mutate = mutated_bytes
    allowed: tuple[type[BaseException], ...] = (WsisrError,)


def all_parsers(folder: Path) -> list[Parser]:
    """Lists the parsers; their files are written below the folder."""
    return [
        *_texts(folder),
        *_models(folder),
        *_slides(folder),
        *_outputs(folder),
        *_evaluation(folder),
        *_cohorts(folder),
    ]


def _written(path: Path, run: Callable[[], object]) -> Run:
    """Parses what is written to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)

    def parse(data: bytes) -> None:
        path.write_bytes(data)
        run()

    return parse


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


SQUARE = [[[10.5, 20], [90, 20], [90, 80], [10.5, 80], [10.5, 20]], [[20, 30], [40, 30], [30, 40]]]
GEOJSON = (
    {"type": "Polygon", "coordinates": SQUARE},
    {
        "type": "FeatureCollection",
        "features": [
            {"type": "Feature", "geometry": {"type": "MultiPolygon", "coordinates": [SQUARE] * 2},
             "properties": {"objectType": "annotation"}},
            {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": SQUARE[:1]},
             "nucleusGeometry": {"type": "Polygon", "coordinates": SQUARE[:1]}},
        ],
    },
    [{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": SQUARE}}],
)  # fmt: skip


def _texts(folder: Path) -> list[Parser]:
    texts = tuple(map(_json, GEOJSON))
    malformed = (MalformedError,)
    features = _written(folder / "a.geojson", lambda: list(read_features(folder / "a.geojson")))
    xml = ome_xml(spec(), {"a": 1}).encode()
    urls = (
        b"s3://user:pass@bucket/slide.svs?a=b#c",
        b"https://host:80/a%20b.tif",
        b"gs://x/y.zarr",
    )
    return [
        Parser("JSON", texts, parse_json, mutated_json, malformed),
        Parser("features of GeoJSON", texts, features, mutated_json, malformed),
        Parser(
            "XML",
            (xml,),
            lambda data: parse_xml(data.decode("utf-8", "replace")),
            allowed=malformed,
        ),
        Parser("URLs", urls, _name),
    ]


def _name(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    shown(text)
    last_part(text)
    if is_url(text):
        name_of(text)


def spec(**changes: Any) -> PyramidSpec:
    return PyramidSpec(**{"width": 300, "height": 200, "mpp": 0.25, "magnification": 40.0,
                          "tile": 64, **changes})  # fmt: skip


def _models(folder: Path) -> list[Parser]:
    tiny, swin = SHIPPED["tiny"], {"embed_dim": 12, "depths": [2, 2], "num_heads": [2, 2]}
    card = _written(folder / "card" / "model.json", lambda: read_card(folder / "card"))
    parsers = [Parser("model.json", ((tiny / "model.json").read_bytes(),), card, mutated_json)]
    for part, cls in (
        ("restoration", "PlainNet"),
        ("restoration", "SwinIR"),
        ("vae", "GuidedAutoencoderTiny"),
        ("vae", "AutoencoderTiny"),
        ("unet", "UNet2DConditionModel"),
        ("controlnet", "LatentControlNet"),
    ):
        shipped = (tiny / part / "config.json").read_bytes()
        seed = _json({**swin, "window_size": 8}) if cls == "SwinIR" else shipped
        place = folder / cls
        run = _written(place / "config.json", _maker(place, part, cls))
        parsers.append(Parser(f"config.json of {cls}", (seed,), run, mutated_json))
    named = folder / "named"
    run = _written(named / "config.json", lambda: load_restoration(named))
    network: Any = network_class("restoration", "PlainNet")(width=8, blocks=1)
    network.save_pretrained(named)
    seed = (named / "config.json").read_bytes()
    parsers.append(Parser("config.json of a stage 1", (seed,), run, mutated_json))
    base = folder / "base" / "scheduler" / "scheduler_config.json"
    run = _written(base, lambda: _prediction(folder / "base"))
    parsers.append(
        Parser("scheduler_config.json", (_json({"prediction_type": "epsilon"}),), run, mutated_json)
    )
    tensors = {"a": torch.ones(3, 4), "b.c": torch.zeros(2, dtype=torch.float16)}
    file = folder / "a.safetensors"
    run = _written(file, lambda: read_safetensors(file))
    parsers.append(Parser("safetensors", (save(tensors),), run))
    pickled = io.BytesIO()
    torch.save({"state_dict": tensors, "step": 5}, pickled)
    old = io.BytesIO()
    torch.save({"params": tensors}, old, _use_new_zipfile_serialization=False)
    file2 = folder / "a.pth"
    run = _written(file2, lambda: read_checkpoint(file2))
    parsers.append(Parser("checkpoint", (pickled.getvalue(), old.getvalue()), run))
    return parsers


def _maker(place: Path, part: str, cls: str) -> Callable[[], object]:
    # imported here, for that takes longer than an input may
    network = network_class(part, cls)
    return lambda: empty_module(place, network)


def _slides(folder: Path) -> list[Parser]:
    pixels = bytes(3 * CHUNK * CHUNK)
    two = zarr2(folder / "two.zarr", pixels)
    index = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
    blosc = {"cname": "lz4", "clevel": 1, "shuffle": "noshuffle", "blocksize": 0, "typesize": 1}
    codecs = [{"name": "bytes"}, {"name": "blosc", "configuration": blosc}]
    options = {"chunk_shape": [3, 64, 64], "codecs": codecs, "index_codecs": index}
    sharded = [{"name": "sharding_indexed", "configuration": options}]
    three = zarr3(folder / "three.zarr", pixels, sharded)
    parsers = []
    for root, name in ((two, ".zattrs"), (two, "0/.zarray"), (three, "zarr.json"),
                       (three, "0/zarr.json")):  # fmt: skip
        # a copy each, for the others are to stay whole
        own = folder / f"{root.name} {name.replace('/', ' ')}" / "a.zarr"
        (zarr2 if root == two else zarr3)(
            own, pixels, **({} if root == two else {"codecs": sharded})
        )
        for chunk in (own / "0").rglob("0*"):
            # chunks that are not stored are blank
            if chunk.is_file():
                chunk.unlink()
        run = _written(own / name, _reader(own))
        parsers.append(
            Parser(f"{name} of Zarr {root.stem}", ((root / name).read_bytes(),), run, mutated_json)
        )
    xml = two / "OME" / "METADATA.ome.xml"
    seeds = tuple(
        ome_xml(spec(associated={"label": np.zeros((4, 5, 3), np.uint8)}), {}, tiff=tiff).encode()
        for tiff in (True, False)
    )
    parsers.append(Parser("OME/METADATA.ome.xml", seeds[1:], _written(xml, _reader(two))))
    parsers.append(
        Parser("OME-XML", seeds, lambda data: parse_ome(data.decode("utf-8", "replace")))
    )
    tiffs = tuple(_tiff(folder / "seed.tif", **each) for each in _TIFFS)
    file = folder / "a.tif"
    parsers.append(
        Parser(
            "TIFF",
            tiffs,
            _written(file, lambda: _read_tiff(file)),
            allowed=(WsisrError, _not_direct()),
        )
    )
    parsers.append(
        Parser("heads of JPEG", (_stream("jpeg"),), _heads, allowed=(DamagedPieceError,))
    )
    parsers.append(
        Parser("heads of JPEG 2000", (_stream("j2k"),), _heads, allowed=(DamagedPieceError,))
    )
    return parsers


def _not_direct() -> type[BaseException]:
    from wsisr.slides.tiff import NotDirectError

    return NotDirectError


def _reader(path: Path) -> Callable[[], object]:
    def read() -> None:
        with open_slide(path) as slide:
            slide.read(0, 0, 0, min(slide.width, 128), min(slide.height, 128))

    return read


_TIFFS: tuple[dict[str, Any], ...] = (
    {"tile": (32, 32), "compression": "zlib", "predictor": True},
    {"rowsperstrip": 8},
    {"tile": (32, 32), "bigtiff": True, "byteorder": ">", "subifds": 1},
    {"tile": (32, 32), "description": "Aperio Image|AppMag = 20|MPP = 0.5", "compression": "lzw"},
    {"rowsperstrip": 100, "compression": "packbits", "planarconfig": "separate"},
    {"tile": (32, 32), "compression": "zstd", "extrasamples": ["unassalpha"]},
)


def _tiff(path: Path, **options: Any) -> bytes:
    description = options.get("description") or ome_xml(spec(width=70, height=50), {}).encode()
    pixels = np.random.default_rng(0).integers(0, 9, (50, 70, 4), np.uint8)
    if "extrasamples" not in options:
        pixels = pixels[..., :3]
    if options.get("planarconfig"):
        pixels = pixels.transpose(2, 0, 1)
    file_options = {name: options.pop(name) for name in ("bigtiff", "byteorder") if name in options}
    subifds = options.get("subifds", 0)
    options = {"photometric": "rgb", "metadata": None, **options, "description": description}
    with tifffile.TiffWriter(path, **file_options) as writer:
        writer.write(pixels, resolution=(20000, 20000), resolutionunit="CENTIMETER", **options)
        if subifds:
            options = {"photometric": "rgb", "metadata": None, "tile": (32, 32)}
            writer.write(pixels[::2, ::2], subfiletype=1, **options)
    return path.read_bytes()


def _read_tiff(path: Path) -> None:
    with open_tiff(path) as slide:
        slide.read(0, 0, 0, min(slide.width, 128), min(slide.height, 128))
        for name in slide.associated:
            slide.associated[name]


def _stream(kind: str) -> bytes:
    import imagecodecs

    pixels = np.zeros((16, 16, 3), np.uint8)
    codec: Any = imagecodecs
    return bytes(codec.jpeg8_encode(pixels) if kind == "jpeg" else codec.jpeg2k_encode(pixels))


def _heads(data: bytes) -> None:
    subsampled_j2k(data)
    declares_colour_space(data, data)
    jpeg_header(data)
    j2k_header(data)


def _outputs(folder: Path) -> list[Parser]:
    out = folder / "out.ome.tif"
    wanted = describe_run(spec(provenance={"a": {"b": [1, 2]}}), "ome-tiff", "abc")
    head = pack_header(wanted)
    journal = head + b"".join(
        pack_record(Record((0, 0, i), 1, 16 + i, 5, 0), len(head) + 42 * i) for i in range(3)
    )
    path = folder / "out.ome.tif.journal"

    def resume(data: bytes) -> None:
        path.write_bytes(data)
        found = read_journal(path)
        if found is not None:
            check_match(out, found[0], wanted)
            for record in found[1]:
                _plausible(spec(), record)

    def header(data: bytes) -> None:
        # a header whose checksum is right, whatever it holds
        check_match(out, _unpacked(path, data), wanted)

    written = folder / "made.zarr"
    xml = ome_xml(spec(), {"software": "wsisr", "seed": 0}, tiff=False).encode()
    return [
        Parser("journal", (journal,), resume),
        Parser("header of a journal", (_json(wanted),), header, mutated_json),
        Parser("provenance", (xml,), _written(written / OME_XML, lambda: read_provenance(written))),
    ]


def _unpacked(path: Path, body: bytes) -> dict[str, Any]:
    import struct

    from wsisr.pyramid.records import MAGIC, checksum

    packed = MAGIC + struct.pack("<I", len(body)) + body
    path.write_bytes(packed + struct.pack("<I", checksum(packed)))
    found = read_journal(path)
    return {} if found is None else found[0]


def _evaluation(folder: Path) -> list[Parser]:
    slide = open_slide(zarr2(folder / "mask.zarr", bytes(3 * CHUNK * CHUNK)))
    view = select_view(slide)
    mask, nuclei = folder / "mask.geojson", folder / "nuclei.geojson"
    labels, transform = folder / "labels.npy", folder / "transform.json"
    array = io.BytesIO()
    np.save(array, np.arange(12, dtype=np.int32).reshape(3, 4))
    weights = folder / "weights.pt"
    manifest = folder / "weights" / MANIFEST
    texts = tuple(map(_json, GEOJSON))
    matrix = _json({"matrix": [[1.0, 0.0, 5.5], [0, 1, -3]]})
    return [
        Parser("mask", texts, _written(mask, lambda: load_mask(mask, view)), mutated_json),
        Parser("nuclei", texts[1:], _written(nuclei, lambda: _nuclei(nuclei)), mutated_json),
        Parser("labels", (array.getvalue(),), _written(labels, lambda: read_labels(labels))),
        Parser(
            "transform",
            (matrix,),
            _written(transform, lambda: load_transform(transform)),
            mutated_json,
        ),
        Parser("TorchScript", (_torchscript(),), _written(weights, lambda: load_weights(weights))),
        Parser(
            "pins",
            (_json({"niqe/a.mat": "ab" * 32}),),
            _written(manifest, _read_pins),
            mutated_json,
        ),
    ]


def _nuclei(path: Path) -> None:
    given = GivenNuclei(path)
    given.at("a", 0, 0, np.array([[1.0, 0, 0], [0, 1, 0]])).segment(
        np.zeros((64, 64, 3), np.uint8), 0.25
    )


def _torchscript() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("m/constants.pkl", pickle.dumps(()))
        archive.writestr("m/data.pkl", pickle.dumps({"a": 1}, 2))
        archive.writestr("m/data/0", bytes(16))
    return packed.getvalue()


MANIFEST_CSV = (
    "slide,id,output,mpp,magnification,level,region,tissue,scale,model,seed\n"
    "seed.tif,a,a.ome.tif,0.5,20,0,\"1,2,30,40\",auto,4,tiny,7\n"
    "seed.tif,b,,,,,,off,,bicubic,\n"
)  # fmt: skip


def _cohorts(folder: Path) -> list[Parser]:
    manifest = folder / "manifest.csv"
    (folder / "seed.tif").touch()
    results = folder / "results"
    ledger = Ledger(results)
    row = {
        "id": "a",
        "slide": "a.svs",
        "output": "a.ome.tif",
        "status": "done",
        "reason": "",
        "seconds": 1.5,
        "mpix_per_s": 2.0,
        "tissue_tiles": 3,
        "peak_rss_mb": 5.0,
        "device": "cpu",
        "attempts": 1,
        "sha256_pixels": None,
        "figures": {"psnr": 30.0},
    }
    known = {"row": row, "request": "ab", "written": [5, 6], "command": "c"}
    owner = {"host": "h", "pid": 5, "started": 1.5, "command": "c", "beat": 1}
    cache = Cache(folder / "cache", 1000)
    cache.state.mkdir(parents=True, exist_ok=True)
    entry = cache.entry("wanted")

    def noted() -> None:
        found = ledger.read("a")
        if found is not None:
            write_report([found.row], results)

    rows = _written(manifest, lambda: read_rows([manifest], results))
    facts = _written(cache.state / "abc.json", lambda: make_room(entry, 10))
    return [
        Parser("manifest", (MANIFEST_CSV.encode(), MANIFEST_CSV.encode("utf-16")), rows),
        Parser("ledger", (_json(known),), _written(ledger.folder / "a.json", noted), mutated_json),
        Parser("claim", (_json(owner),), _claim, mutated_json),
        Parser("facts of the cache", (_json({"bytes": 5}),), facts, mutated_json),
    ]


def _claim(data: bytes) -> None:
    owner = _owner_of(data)
    if owner is not None:
        _ = owner.is_dead
