"""Pack a folder of tiles below a size, to move a training to another machine.

    python -m train.data.pack --data tiles --out pack --megabytes 50

Written are `OUT/train/pack-0000.tar`, `OUT/val/pack-0000.tar` and so on, each below 16 MB, with an
index and SHA-256 hashes (see `train.data.shards`), and `OUT/pack.json`: what was packed and what was
lost. Every training takes OUT as its --data.

Validation tiles keep their bytes, so figures stay comparable. Training tiles are coded anew
(`--codec webp` or `avif`, at `--quality`), or keep their bytes too (`--codec keep`); where they do
not fit, a random part of them is left out, the same for the same `--seed`.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import logging
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, features

from train.data.shards import ShardWriter, Tile, find_tiles, packed_size, write_atomic
from train.data.tiles import CORRUPT, read_image
from train.errors import DataError
from train.loop import answer
from wsisr.errors import UsageError

log = logging.getLogger("train")
CODECS = ("webp", "avif", "keep")
QUALITY = 80
RESERVE = 100_000
"""Bytes for the ends of the tars and pack.json."""


def recode(data: bytes, codec: str, quality: int) -> tuple[bytes, float]:
    """An image file coded anew, and the PSNR in dB between the two as decoded.

    Raises:
        DataError: it cannot be read.
    """
    before = read_image(data)
    options: dict[str, Any] = {"webp": {"method": 6}, "avif": {"speed": 6}}[codec]
    buffer = io.BytesIO()
    before.save(buffer, codec, quality=quality, **options)
    with Image.open(buffer) as image:
        after = image.convert("RGB")
    difference = np.asarray(before, np.float32) - np.asarray(after, np.float32)
    error = max(float(np.square(difference).mean()), 1e-9)
    return buffer.getvalue(), 10 * float(np.log10(255**2 / error))


def pack(
    data: Path,
    out: Path,
    megabytes: float = 50,
    codec: str = "webp",
    quality: int = QUALITY,
    seed: int = 0,
) -> dict[str, Any]:
    """Write a pack; what it holds as a dict, which stands in pack.json too.

    Holds the coded bytes of the pack. Where it fails, `out` is left as it was.

    Args:
        data: folder with train/ and val/.
        out: folder of the pack, new or empty.
        megabytes: of 10^6 bytes, that all its files together stay below.
        codec: of the training tiles, one of `CODECS`.
        quality: of the codec, 1 to 100.
        seed: of the part that is kept where not all fit.

    Raises:
        UsageError: an unknown or missing codec, a number out of range, or `out` is in use.
        DataError: the validation tiles alone do not fit, or more than 1 % of a split's tiles are
            unreadable; fewer are left out and counted.
    """
    if codec not in CODECS or (codec != "keep" and not features.check(codec)):
        raise UsageError(f"--codec {codec}: this Pillow cannot write it; use webp or keep")
    if not 1 <= quality <= 100:
        raise UsageError(f"--quality {quality}: must lie between 1 and 100")
    if not megabytes > 0:
        raise UsageError(f"--megabytes {megabytes:g}: must be above 0")
    if seed < 0:
        raise UsageError(f"--seed {seed}: must be 0 or more")
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"--out {out}: is not empty; give another folder")
    left = megabytes * 1e6 - RESERVE
    kept: dict[str, list[tuple[str, bytes]]] = {"train": [], "val": []}
    unreadable: list[str] = []
    for name, coded, _ in _coded(
        data / "val", find_tiles(data / "val"), "keep", quality, unreadable
    ):
        kept["val"].append((name, coded))
        left -= packed_size(name, coded)
    tiles = find_tiles(data / "train")
    order = np.random.default_rng(seed).permutation(len(tiles))
    corrupt: list[str] = []
    loss, full = [], False
    for name, coded, decibels in _coded(
        data / "train", [tiles[i] for i in order], codec, quality, corrupt
    ):
        left -= packed_size(name, coded)
        if left < 0:
            full = True
            break
        kept["train"].append((name, coded))
        loss.append(decibels)
    if not kept["train"]:
        raise DataError(
            f"{data}: {len(kept['val'])} validation tiles leave no room for training tiles in "
            f"{megabytes:g} MB; give more --megabytes"
        )
    with _all_or_nothing(out):
        for split, members in kept.items():
            with ShardWriter(out / split / "pack") as writer:
                for name, coded in sorted(members):
                    writer.add(name, coded)
        facts: dict[str, Any] = {
            "tiles": {split: len(members) for split, members in kept.items()},
            "left_out": {
                "no_room": full * (len(tiles) - len(loss) - len(corrupt)),
                "unreadable": len(corrupt) + len(unreadable),
            },
            "codec": codec,
            "bytes": sum(f.stat().st_size for f in out.rglob("*") if f.is_file()),
        }
        if codec != "keep":
            facts |= {"quality": quality, "psnr": round(float(np.mean(loss)), 2)}
            facts["psnr_worst"] = round(min(loss), 2)
        facts["shards_sha256"] = {
            shard.relative_to(out).as_posix(): hashlib.sha256(shard.read_bytes()).hexdigest()
            for shard in sorted(out.rglob("*.tar"))
        }
        write_atomic(out / "pack.json", (json.dumps(facts, indent=1) + "\n").encode())
    return facts


@contextmanager
def _all_or_nothing(out: Path) -> Iterator[None]:
    """Leave a folder, new or empty, as it was where what fills it fails."""
    new = not out.exists()
    try:
        yield
    except BaseException:
        for split in ("train", "val"):
            shutil.rmtree(out / split, ignore_errors=True)
        with suppress(OSError):
            (out / "pack.json").unlink(missing_ok=True)
            if new:
                out.rmdir()
        raise


def _coded(
    folder: Path, tiles: Sequence[Tile], codec: str, quality: int, unreadable: list[str]
) -> Iterator[tuple[str, bytes, float]]:
    """`_code` of each tile that can be read; the names of the others go to `unreadable`."""
    for tile in tiles:
        try:
            coded = _code(tile, codec, quality)
        except (OSError, DataError) as error:
            unreadable.append(tile.name)
            log.warning("%s: left out, unreadable (%s)", tile.name, error)
            if len(unreadable) > CORRUPT * len(tiles):
                raise DataError(
                    f"{folder}: {len(unreadable)} of {len(tiles)} tiles are unreadable, more than "
                    f"{CORRUPT:.0%} (the last is {tile.name}); copy or make them again"
                ) from error
            continue
        yield coded


def _code(tile: Tile, codec: str, quality: int) -> tuple[str, bytes, float]:
    """Name and bytes in the pack, and PSNR in dB."""
    data = tile.read()
    if codec == "keep":
        read_image(data)  # to know that it can be
        return tile.name, data, float("inf")
    coded, decibels = recode(data, codec, quality)
    return str(Path(tile.name).with_suffix(f".{codec}")), coded, decibels


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and val/")
    parser.add_argument("--out", type=Path, required=True, help="folder of the pack")
    parser.add_argument("--megabytes", type=float, default=50.0, help="of all files together")
    parser.add_argument("--codec", choices=CODECS, default="webp", help="of the training tiles")
    parser.add_argument("--quality", type=int, default=QUALITY)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)

    def work() -> None:
        facts = pack(args.data, args.out, args.megabytes, args.codec, args.quality, args.seed)
        print(json.dumps({k: v for k, v in facts.items() if k != "shards_sha256"}))

    return answer(work, args.out)


if __name__ == "__main__":
    sys.exit(main())
