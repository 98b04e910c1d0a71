"""Shows low resolution, bicubic, wsisr and the real 40x of one tile, side by side at 1:1.

python examples/strip.py tile_40x.jpg docs/strip.png --scale 4 --crop 200,200,240,240
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import wsisr


def main() -> None:
    """Makes the low resolution of the tile, upscales it with each model, and writes the strip."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tile", type=Path, help="image at 40x")
    parser.add_argument("out", type=Path, help="image to write")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--models", nargs="+", default=["bicubic", "tiny"])
    parser.add_argument("--crop", default="128,128,256,256", help="X,Y,W,H of the tile to show")
    args = parser.parse_args()
    real = Image.open(args.tile).convert("RGB")
    width, height = (side // args.scale * args.scale for side in real.size)
    real = real.crop((0, 0, width, height))
    low = real.reduce(args.scale)
    pictures = {"low resolution": low.resize(real.size, Image.Resampling.NEAREST)}
    for model in args.models:
        pixels = wsisr.upscale_image(np.array(low), args.scale, model=model)
        pictures[model] = Image.fromarray(pixels)
    pictures["real 40x"] = real
    x, y, w, h = (int(part) for part in args.crop.split(","))
    strip = Image.new("RGB", (len(pictures) * (w + 8) - 8, h + 18), "white")
    draw = ImageDraw.Draw(strip)
    for i, (name, picture) in enumerate(pictures.items()):
        strip.paste(picture.crop((x, y, x + w, y + h)), (i * (w + 8), 18))
        draw.text((i * (w + 8) + 2, 3), name, fill="black")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    strip.save(args.out)


if __name__ == "__main__":
    main()
