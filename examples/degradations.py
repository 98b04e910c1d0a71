"""Shows every degradation of the training, twice, beside the crop that it was made from.

python examples/degradations.py docs/degradations.png

By default the crop is of scikit-image's immunohistochemistry image; --tile takes any image.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import skimage
from PIL import Image

from train.data import KINDS, degrade, to_tensor
from train.loop import save_strip


def main() -> None:
    """Degrades a crop in every way and writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tile", type=Path, default=Path(skimage.__file__).parent / "data/ihc.png")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--seed", type=int, default=2)
    args = parser.parse_args()
    crop = np.array(Image.open(args.tile).convert("RGB"))[:160, :160]
    # enough copies that a quarter of them, which `scanner` roughens, is at least the rows shown
    hr = to_tensor(np.stack([crop] * 16))
    area = degrade(hr, args.scale, np.random.default_rng(args.seed), "area")
    images = {"crop": hr[:2]}
    for kind in KINDS:
        lr = degrade(hr, args.scale, np.random.default_rng(args.seed), kind)
        rough = (lr != area).flatten(1).any(1)
        images[kind] = (lr[rough] if kind == "scanner" else lr[::8])[:2]
    save_strip(args.out, images)


if __name__ == "__main__":
    main()
