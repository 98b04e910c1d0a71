from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from wsisr.engine.array import upscale_image
from wsisr.evaluation import measure
from wsisr.evaluation.measures.fidelity import psnr
from wsisr.models import SHIPPED
from wsisr.models.files.card import read_card
from wsisr.resize import area_downsample


def test_they_are_small_and_described() -> None:
    files = [f for folder in SHIPPED.values() for f in folder.rglob("*.safetensors")]
    assert sum(f.stat().st_size for f in files) <= 32 * 2**20
    for name, folder in SHIPPED.items():
        assert read_card(folder).name == name
        assert set(read_card(folder).scales) == {2, 4, 8}
        card = (folder / "README.md").read_text()
        assert "MIT licence" in card
        assert "Not for" in card


def test_it_beats_bicubic_on_slides_it_never_saw(data_dir: Path) -> None:
    tiles = sorted((data_dir / "tiles" / "val").rglob("*.jpg"))[::17]
    gains: dict[str, list[float]] = {"restore": [], "tiny": [], "plain": []}
    detail: dict[str, list[float]] = {"bicubic": [], "tiny": [], "plain": []}
    for tile in tiles:
        hr = np.asarray(Image.open(tile).convert("RGB"))
        lr = area_downsample(hr, 4)
        results = {m: upscale_image(lr, 4, model=m) for m in {*gains, *detail}}
        for model, values in gains.items():
            values.append(psnr(results[model], hr) - psnr(results["bicubic"], hr))
        for model, values in detail.items():
            values.append(measure(results[model], hr, metrics="hf_db")["hf_db"])
    assert np.mean(gains["restore"]) >= 0.7
    for name in SHIPPED:
        assert np.mean(gains[name]) >= -1
        assert abs(np.mean(detail[name])) <= abs(np.mean(detail["bicubic"])) - 4
