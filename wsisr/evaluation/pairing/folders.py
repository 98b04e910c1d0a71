"""Pairs of tiles from folders of image files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from wsisr.errors import SlideError, UsageError
from wsisr.evaluation.measures import Image
from wsisr.evaluation.pairing.locations import Location, TileImages
from wsisr.resize import area_downsample, bicubic_upsample
from wsisr.slides import open_slide

TILE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True, eq=False)
class FolderPairs:
    """Pairs of image files of the same relative name (suffixes may differ) in two folders.

    Attributes:
        sr: folder of the result.
        hr: folder of the real tiles.
        lr: folder of the inputs. Without it LR tiles are area averages of HR by `scale`.
        scale: how many SR px an LR px is wide; without it and `lr` there are no LR tiles.
        mpp: um/px of SR.
        also: {label: folder of another result}.

    Raises:
        UsageError: a folder holds no images, or the folders do not match.
    """

    sr: Path
    hr: Path
    lr: Path | None = None
    scale: int | None = None
    mpp: float = 0.25
    also: Mapping[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for folder in filter(None, (self.hr, self.lr, *self.also.values())):
            _refuse_unmatched(self.sr, self._files[self.sr], folder, self._files[folder])

    @cached_property
    def _files(self) -> dict[Path, dict[str, Path]]:
        folders = (self.sr, self.hr, self.lr, *self.also.values())
        return {folder: image_files(folder) for folder in folders if folder}

    @property
    def size(self) -> None:
        """Gives None: tiles of a folder do not lie on one slide."""
        return

    @property
    def thumbnail(self) -> None:
        """Gives None, as `size`."""
        return

    @property
    def matrix(self) -> None:
        """Gives None, as `size`."""
        return

    @cached_property
    def locations(self) -> tuple[Location, ...]:
        """Gives one location a file, grouped by sub-folder."""
        return tuple(
            Location(key, str(Path(key).parent), 0, 0, 0, 0) for key in sorted(self._files[self.sr])
        )

    def load(self, location: Location) -> TileImages:
        """Reads the images of a location.

        Args:
            location: one of `locations`.

        Returns:
            Its images.

        Raises:
            SlideError: a file cannot be decoded or has another size.
        """
        hr = read_image(self._files[self.hr][location.name])
        sr = self._read_like(hr, self.sr, location)
        also = {label: self._read_like(hr, folder, location) for label, folder in self.also.items()}
        if self.lr is not None:
            lr = read_image(self._files[self.lr][location.name])
            scale = sr.shape[0] // max(1, lr.shape[0])
            if scale < 1 or (lr.shape[0] * scale, lr.shape[1] * scale) != sr.shape[:2]:
                raise SlideError(f"{self.lr / location.name} is no whole fraction of its SR tile")
        elif self.scale is not None:
            scale, lr = self.scale, area_downsample(hr, self.scale)
        else:
            return TileImages(sr, hr, None, None, also)
        return TileImages(sr, hr, lr, bicubic_upsample(lr, scale), also)

    def _read_like(self, hr: Image, folder: Path, location: Location) -> Image:
        path = self._files[folder][location.name]
        image = read_image(path)
        if image.shape != hr.shape:
            raise SlideError(
                f"{path} is {image.shape[1]}x{image.shape[0]} px, its reference "
                f"{hr.shape[1]}x{hr.shape[0]} px; make both the same size"
            )
        return image


def read_image(path: Path) -> Image:
    """Reads an image file.

    Args:
        path: a file of any format that `open_slide` reads, by the same rules.

    Returns:
        (h, w, 3) uint8 RGB.

    Raises:
        SlideError: it cannot be decoded.
    """
    with open_slide(path) as image:
        return image.read(0, 0, 0, image.width, image.height)


def image_files(folder: Path) -> dict[str, Path]:
    """Lists the images below a folder; hidden files and folders are left out.

    Args:
        folder: the folder.

    Returns:
        {relative path without suffix: file}.

    Raises:
        UsageError: it is no folder, holds no images, or two whose names differ in the suffix.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder of tiles")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.suffix.lower() not in TILE_SUFFIXES or _is_hidden(inside):
            continue
        other = found.setdefault(inside.with_suffix("").as_posix(), path)
        if other != path:
            raise UsageError(
                f"{other} and {path} have one name; tiles pair by relative name without the "
                "suffix: remove one of them"
            )
    if not found:
        raise UsageError(f"{folder} holds no image files ({', '.join(sorted(TILE_SUFFIXES))})")
    return found


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _refuse_unmatched(
    first: Path, own: Mapping[str, Path], second: Path, other: Mapping[str, Path]
) -> None:
    for folder, lacking in (
        (second, sorted(own.keys() - other.keys())),
        (first, sorted(other.keys() - own.keys())),
    ):
        if lacking:
            more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
            raise UsageError(
                f"{folder} lacks {', '.join(lacking[:5])}{more}; tiles pair by relative name"
            )
