from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from wsisr.engine import upscale_array
from wsisr.evaluation.fidelity import area_downsample, psnr
from wsisr.evaluation.spectrum import hf_db
from wsisr.models import SHIPPED
from wsisr.models.loading import read_card


def test_it_is_small_and_described() -> None:
    folder = SHIPPED["tiny"]
    size = sum(f.stat().st_size for f in folder.rglob("*.safetensors"))
    assert size <= 32 * 2**20
    assert set(read_card(folder).scales) == {2, 4, 8}
    card = (folder / "README.md").read_text()
    assert "MIT licence" in card
    assert "Not for" in card


def test_it_beats_bicubic_on_slides_it_never_saw(data_dir: Path) -> None:
    tiles = sorted((data_dir / "tiles" / "val").rglob("*.jpg"))[::17]
    gains = {"restore": [], "tiny": []}
    detail = {"bicubic": [], "tiny": []}
    for tile in tiles:
        hr = np.asarray(Image.open(tile).convert("RGB"))
        lr = area_downsample(hr, 4)
        results = {m: upscale_array(lr, 4, model=m) for m in ("bicubic", "restore", "tiny")}
        for model, values in gains.items():
            values.append(psnr(results[model], hr) - psnr(results["bicubic"], hr))
        for model, values in detail.items():
            values.append(hf_db(results[model], hr))
    assert np.mean(gains["restore"]) >= 0.7
    assert np.mean(gains["tiny"]) >= -1
    assert abs(np.mean(detail["tiny"])) <= abs(np.mean(detail["bicubic"])) - 4
