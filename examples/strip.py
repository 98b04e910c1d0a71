"""LR | bicubic | wsisr | real 40x of one tile, side by side at 1:1 of the 40x pixels.

python examples/strip.py tile_40x.jpg docs/strip.png --scale 4 --crop 200,200,240,240
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from wsisr.engine import upscale_image
from wsisr.resize import area_downsample


def main() -> None:
    """Write the strip."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tile", type=Path, help="image at 40x")
    parser.add_argument("out", type=Path)
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--models", nargs="+", default=["bicubic", "tiny"])
    parser.add_argument("--crop", default="128,128,256,256", help="X,Y,W,H of the tile to show")
    args = parser.parse_args()
    real = np.asarray(Image.open(args.tile).convert("RGB"))
    height, width = (side // args.scale for side in real.shape[:2])
    real = real[: height * args.scale, : width * args.scale]
    lr = area_downsample(real, args.scale)
    pictures = {"low resolution": np.repeat(np.repeat(lr, args.scale, 0), args.scale, 1)}
    pictures |= {name: upscale_image(lr, args.scale, model=name) for name in args.models}
    pictures["real 40x"] = real
    x, y, w, h = (int(part) for part in args.crop.split(","))
    strip = Image.new("RGB", (len(pictures) * (w + 8) - 8, h + 18), "white")
    draw = ImageDraw.Draw(strip)
    for i, (name, picture) in enumerate(pictures.items()):
        strip.paste(Image.fromarray(picture[y : y + h, x : x + w]), (i * (w + 8), 18))
        draw.text((i * (w + 8) + 2, 3), name, fill="black")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    strip.save(args.out)


if __name__ == "__main__":
    main()
