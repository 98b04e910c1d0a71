"""Inputs that parsers once failed on, by parser."""

from __future__ import annotations

import json
import zipfile
from io import BytesIO

DEEP = b"[" * 100_000
HUGE = b'{"a": ' + b"9" * 5000 + b"}"


def _archive() -> bytes:
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("m/constants.pkl", b"")
    return packed.getvalue().replace(b"PK\x01\x02", b"PK\x01\x00")


def _header(**changes: object) -> bytes:
    return json.dumps({"journal": 1, "format": "ome-tiff", **changes}).encode()


FOUND: tuple[tuple[str, bytes], ...] = (
    ("JSON", DEEP),
    ("JSON", HUGE),
    ("JSON", b"[1e999]"),
    ("JSON", b"NaN"),
    ("JSON", b"\xff\xfe["),
    ("JSON", b'"\\ud800"'),
    ("features of GeoJSON", DEEP),
    ("features of GeoJSON", b'{"features": [' + b'{"a":' * 70 + b"1" + b"}" * 70 + b"]}"),
    ("XML", b"<a>" * 100_000),
    ("XML", b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'),
    ("URLs", b"s3://]"),
    ("URLs", b"https://host[:80/a"),
    ("model.json", b'{"format": "wsisr-model", "version": 1, "name": {}, "parts": {}}'),
    ("model.json", DEEP),
    ("config.json of PlainNet", b'{"blocks": 1000000000}'),
    ("config.json of PlainNet", b'{"width": -64}'),
    ("config.json of PlainNet", b'{"width": 1e400}'),
    ("config.json of SwinIR", b'{"window_size": 0}'),
    ("config.json of SwinIR", b'{"embed_dim": 7, "num_heads": [0, 0], "depths": [1, 1]}'),
    ("config.json of UNet2DConditionModel", b'{"norm_num_groups": 0}'),
    ("config.json of UNet2DConditionModel", b'{"attention_head_dim": 0}'),
    ("config.json of AutoencoderTiny", b'{"num_encoder_blocks": []}'),
    ("scheduler_config.json", b'{"prediction_type": {"a": 1}}'),
    ("scheduler_config.json", b'{"prediction_type": [[0]]}'),
    (".zattrs of Zarr two", b'{"multiscales": [{"axes": [{"name": "x"}], "datasets": []}]}'),
    (".zattrs of Zarr two", b'{"multiscales": [{"axes": {}, "datasets": 5}]}'),
    ("header of a journal", _header(spec=[[]])),
    ("header of a journal", _header(spec="=1+1")),
    ("header of a journal", b"[]"),
    ("header of a journal", DEEP),
    ("mask", b'{"type": "Polygon", "coordinates": [[[1e999, 0], [0, 1]]]}'),
    ("mask", b'{"type": "Polygon", "coordinates": [[]]}'),
    ("mask", b'{"type": "Polygon", "coordinates": [[["' + b"x" * 9000 + b'", 1]]]}'),
    ("mask", b'{"type": "FeatureCollection", "features": [5]}'),
    ("nuclei", b'{"features": [5]}'),
    ("nuclei", b'{"features": [{"geometry": {"type": "Polygon", "coordinates": [[[1e300, 0]]]}}]}'),
    ("nuclei", b'{"features": [{"geometry": {"type": [], "coordinates": []}}]}'),
    ("labels", b"\x93NUMPY\x01\x00v\x00{'descr': '<i4', 'fortran_order': False, ["),
    ("labels", b"\x93NUMPY\x01\x00v\x00"),
    ("labels", b"PK\x05\x06" + bytes(18)),
    ("transform", b'{"matrix": [[1e308, 1], [9]]}'),
    ("transform", DEEP),
    ("TorchScript", _archive()),
    ("pins", b"[[1, 2]]"),
    ("pins", b"5"),
    ("ledger", b'{"row": {"output": "' + b"x" * 5000 + b'"}}'),
    ("ledger", b'{"row": []}'),
    ("ledger", b"[]"),
    ("claim", b'{"host": "h", "pid": 1e999, "started": 1, "command": ""}'),
    ("claim", b"[]"),
    ("claim", DEEP),
    ("facts of the cache", b'{"bytes": null}'),
    ("facts of the cache", b"[]"),
    ("manifest", b"slide,output\nseed.tif," + b"x" * 9000),
)
