"""Packs a folder of tiles below a size, to move a training to another machine.

    python -m train pack --data tiles --out pack --megabytes 50

Written are `OUT/train/pack-0000.tar`, `OUT/val/pack-0000.tar` and so on, each below 16 MB, with an
index and SHA-256 hashes (see `train.data.shards`), and `OUT/pack.json`, which says what was packed
and what was lost. Every training takes OUT as its --data.

Validation tiles keep their bytes, so figures stay comparable. Training tiles are coded anew
(`--codec webp` or `avif`, at `--quality`), or keep their bytes too (`--codec keep`); where they do
not fit, a random part of them is left out, the same for the same `--seed`.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, features

from train.data.shards import ShardWriter, Tile, find_tiles, packed_size
from train.data.tiles import MAX_UNREADABLE, read_image
from train.errors import DataError
from train.loop import make_parser, run_and_report
from wsisr.errors import UsageError
from wsisr.files import write_atomic

log = logging.getLogger("train")
CODECS = ("webp", "avif", "keep")
QUALITY = 80
RESERVE = 100_000
"""Bytes that are kept free for the ends of the tars and for pack.json."""


def recode(data: bytes, codec: str, quality: int) -> tuple[bytes, float]:
    """Codes an image file anew.

    Args:
        data: the file.
        codec: `webp` or `avif`.
        quality: of the codec, 1 to 100.

    Returns:
        The new file, and the PSNR in dB between the two as decoded.

    Raises:
        DataError: the file cannot be read.
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


@dataclass
class _Contents:
    """The coded tiles of a pack, and what was lost of them.

    Attributes:
        kept: split -> (name, coded bytes) of each tile.
        decibels: PSNR of each training tile to its original, dB.
        unreadable: names of tiles that could not be read.
        no_room: number of training tiles that did not fit.
    """

    kept: dict[str, list[tuple[str, bytes]]]
    decibels: list[float]
    unreadable: list[str]
    no_room: int = 0


def pack(
    data: Path,
    out: Path,
    megabytes: float = 50,
    codec: str = "webp",
    quality: int = QUALITY,
    seed: int = 0,
) -> dict[str, Any]:
    """Writes a pack. Where that fails, `out` is left as it was.

    Args:
        data: folder with train/ and val/.
        out: folder of the pack, new or empty.
        megabytes: size in 10^6 bytes that all its files together stay below.
        codec: codec of the training tiles, one of `CODECS`.
        quality: quality of the codec, 1 to 100.
        seed: of the choice of tiles that are kept where not all fit.

    Returns:
        What the pack holds; it stands in pack.json too.

    Raises:
        UsageError: the codec is unknown or missing, a number is out of range, or `out` is in use.
        DataError: the validation tiles alone do not fit, or more than 1 % of a split's tiles are
            unreadable; fewer are left out and counted.

    Memory:
        The coded bytes of the pack.
    """
    _check_options(out, megabytes, codec, quality, seed)
    contents = _collect(data, megabytes * 1e6 - RESERVE, codec, quality, seed)
    if not contents.kept["train"]:
        raise DataError(
            f"{data}: {len(contents.kept['val'])} validation tiles leave no room for training "
            f"tiles in {megabytes:g} MB; give more --megabytes"
        )
    with _all_or_nothing(out):
        for split, members in contents.kept.items():
            with ShardWriter(out / split / "pack") as writer:
                for name, coded in sorted(members):
                    writer.add(name, coded)
        facts = _describe(contents, out, codec, quality)
        write_atomic(out / "pack.json", (json.dumps(facts, indent=1) + "\n").encode())
    return facts


def _check_options(out: Path, megabytes: float, codec: str, quality: int, seed: int) -> None:
    """Refuses options that cannot be carried out."""
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


def _collect(data: Path, left: float, codec: str, quality: int, seed: int) -> _Contents:
    """Codes all validation tiles, and training tiles in a random order while bytes are left."""
    contents = _Contents({"train": [], "val": []}, [], [])
    validation = find_tiles(data / "val")
    for name, coded, _ in _coded(data / "val", validation, "keep", quality, contents.unreadable):
        contents.kept["val"].append((name, coded))
        left -= packed_size(name, coded)
    tiles = find_tiles(data / "train")
    order = np.random.default_rng(seed).permutation(len(tiles))
    shuffled = [tiles[i] for i in order]
    unreadable: list[str] = []
    for name, coded, decibels in _coded(data / "train", shuffled, codec, quality, unreadable):
        left -= packed_size(name, coded)
        if left < 0:
            contents.no_room = len(tiles) - len(contents.decibels) - len(unreadable)
            break
        contents.kept["train"].append((name, coded))
        contents.decibels.append(decibels)
    contents.unreadable += unreadable
    return contents


def _describe(contents: _Contents, out: Path, codec: str, quality: int) -> dict[str, Any]:
    """Says what the pack in `out` holds and what was lost."""
    facts: dict[str, Any] = {
        "tiles": {split: len(members) for split, members in contents.kept.items()},
        "left_out": {"no_room": contents.no_room, "unreadable": len(contents.unreadable)},
        "codec": codec,
        "bytes": sum(f.stat().st_size for f in out.rglob("*") if f.is_file()),
    }
    if codec != "keep":
        facts |= {"quality": quality, "psnr": round(float(np.mean(contents.decibels)), 2)}
        facts["psnr_worst"] = round(min(contents.decibels), 2)
    facts["shards_sha256"] = {
        shard.relative_to(out).as_posix(): hashlib.sha256(shard.read_bytes()).hexdigest()
        for shard in sorted(out.rglob("*.tar"))
    }
    return facts


@contextmanager
def _all_or_nothing(out: Path) -> Iterator[None]:
    """Leaves a folder, new or empty, as it was where what fills it fails."""
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
    """Yields `_code` of each tile that can be read; the names of the others go to `unreadable`."""
    for tile in tiles:
        try:
            coded = _code(tile, codec, quality)
        except (OSError, DataError) as error:
            unreadable.append(tile.name)
            log.warning("%s: left out, unreadable (%s)", tile.name, error)
            if len(unreadable) > MAX_UNREADABLE * len(tiles):
                raise DataError(
                    f"{folder}: {len(unreadable)} of {len(tiles)} tiles are unreadable, more than "
                    f"{MAX_UNREADABLE:.0%} (the last is {tile.name}); copy or make them again"
                ) from error
            continue
        yield coded


def _code(tile: Tile, codec: str, quality: int) -> tuple[str, bytes, float]:
    """Gives a tile's name and bytes in the pack, and the PSNR to its original in dB."""
    data = tile.read()
    if codec == "keep":
        read_image(data)  # to know that it can be
        return tile.name, data, float("inf")
    coded, decibels = recode(data, codec, quality)
    return str(Path(tile.name).with_suffix(f".{codec}")), coded, decibels


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = make_parser("pack", __doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and val/")
    parser.add_argument("--out", type=Path, required=True, help="folder of the pack")
    parser.add_argument(
        "--megabytes",
        type=float,
        default=50.0,
        help="size that all files together stay below, in 10^6 bytes",
    )
    parser.add_argument(
        "--codec", choices=CODECS, default="webp", help="codec of the training tiles"
    )
    parser.add_argument(
        "--quality", type=int, default=QUALITY, help="quality of the codec, 1 to 100"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice of tiles that fit")
    args = parser.parse_args(arguments)

    def work() -> None:
        facts = pack(args.data, args.out, args.megabytes, args.codec, args.quality, args.seed)
        print(json.dumps({k: v for k, v in facts.items() if k != "shards_sha256"}))

    return run_and_report(work, args.out)
