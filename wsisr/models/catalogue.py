"""What models there are and what a model folder holds, read without running anything."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from wsisr.errors import ModelError
from wsisr.files import file_sha256
from wsisr.models.files import (
    CHECKPOINT_SUFFIXES,
    CONFIGS,
    DEFAULT_MODEL,
    SHIPPED,
    find_folder,
    read_card,
    weight_files,
)

BICUBIC = "Cubic interpolation with a = -0.75 and nothing else: the baseline, without weights.\n"
MAX_CARD = 1 << 20
"""Characters of a model's README.md that are read."""


@dataclass(frozen=True)
class PartSummary:
    """One part of a model.

    Attributes:
        cls: class name in model.json.
        parameters: numbers in its weight files.
        bytes: size of its weight files.
        sha256: file name -> SHA-256.
    """

    cls: str
    parameters: int
    bytes: int
    sha256: Mapping[str, str]


@dataclass(frozen=True)
class ModelSummary:
    """What a model folder holds.

    Attributes:
        name: what the model is called in provenance records.
        place: its folder, or its file.
        scales: factors it was trained for.
        parts: part -> what it holds.
        schedule: arguments of `make_schedule`.
        sampling: the model's own values of `Settings` fields.
        card: the text of its README.md, if it has one.
        base: where parts that the folder lacks come from.
    """

    name: str
    place: str
    scales: tuple[float, ...]
    parts: Mapping[str, PartSummary]
    schedule: Mapping[str, Any]
    sampling: Mapping[str, Any]
    card: str | None
    base: str | None = None

    @property
    def parameters(self) -> int:
        """Numbers in the weight files of all parts."""
        return sum(part.parameters for part in self.parts.values())

    @property
    def bytes(self) -> int:
        """Size of all weight files in bytes."""
        return sum(part.bytes for part in self.parts.values())


def shipped_models() -> list[ModelSummary]:
    """Describes the models of the package."""
    return [summarise(name) for name in SHIPPED]


def summarise(name: str) -> ModelSummary:
    """Describes a model; weights are counted and hashed, not loaded.

    Args:
        name: of a shipped model or a description, `restore`, `bicubic`, a model folder, or a file
            of weights.

    Raises:
        ModelError: no such model, or a broken one.
    """
    if name in CONFIGS:
        return _description(name)
    if name == "bicubic":
        return ModelSummary(name, "built in", (), {}, {}, {}, BICUBIC)
    if name == "restore":
        whole = summarise(DEFAULT_MODEL)
        parts = {"restoration": whole.parts["restoration"]}
        text = f"Stage 1 of the model {DEFAULT_MODEL} alone: it restores, and adds no detail.\n"
        return replace(whole, name=name, parts=parts, sampling={"fidelity": 1.0}, card=text)
    if Path(name).is_file() and Path(name).suffix in CHECKPOINT_SUFFIXES:
        return _single(Path(name))
    folder = find_folder(name)
    card = read_card(folder)
    parts = {part: _part(folder / part, cls) for part, cls in card.parts.items()}
    if (folder / "prompt").is_dir():
        parts["prompt"] = _part(folder / "prompt", "Tensor")
    readme = folder / "README.md"
    return ModelSummary(
        name=card.name,
        place=str(folder),
        scales=card.scales,
        parts=parts,
        schedule=card.schedule,
        sampling=card.sampling,
        card=_text_of(readme) if readme.is_file() else None,
        base=card.base,
    )


def trained_scales(name: str) -> tuple[float, ...]:
    """Gives the factors that a model was trained for, without a look at its weights.

    Args:
        name: as `load_upscaler` takes it.

    Returns:
        The factors; none for interpolation, and for files of weights, which know their own.

    Raises:
        ModelError: no such model, or a broken one.
    """
    if name == "bicubic" or (Path(name).is_file() and Path(name).suffix in CHECKPOINT_SUFFIXES):
        return ()
    return read_card(find_folder(DEFAULT_MODEL if name == "restore" else name)).scales


def _text_of(file: Path) -> str:
    """Reads a text for people, of which a card's worth is shown."""
    with file.open(encoding="utf-8", errors="replace") as text:
        return text.read(MAX_CARD)


def as_lines(model: ModelSummary) -> list[str]:
    """Writes a summary as text for people, without the card."""
    lines = [f"{model.name}: {model.parameters / 1e6:.2f} M parameters, {model.place}"]
    if model.scales:
        lines.append(f"scales: {', '.join(f'{scale:g}' for scale in model.scales)}")
    for part, facts in model.parts.items():
        lines.append(f"{part}: {facts.cls}, {facts.parameters / 1e6:.2f} M parameters")
        lines += [f"  {file} sha256 {digest}" for file, digest in facts.sha256.items()]
    if model.base:
        lines.append(f"base: {model.base}")
    for title, values in (("schedule", model.schedule), ("settings", model.sampling)):
        if values:
            lines.append(f"{title}: {', '.join(f'{k} {v}' for k, v in values.items())}")
    return lines


def _description(name: str) -> ModelSummary:
    """Describes a configuration by what its networks would be."""
    from wsisr.models.files import build_parts

    card = read_card(CONFIGS[name])
    parts = {
        part: PartSummary(card.parts[part], sum(p.numel() for p in module.parameters()), 0, {})
        for part, module in build_parts(name).items()
    }
    text = "A description without weights: convert a published checkpoint, or train one.\n"
    return ModelSummary(
        name, str(CONFIGS[name]), (), parts, card.schedule, card.sampling, text, card.base
    )


def _single(file: Path) -> ModelSummary:
    """Describes the file of a network that spandrel knows."""
    from wsisr.models.published import describe_network

    network = describe_network(file)
    count = sum(p.numel() for p in network.model.parameters())
    name = network.architecture.name
    part = PartSummary(name, count, file.stat().st_size, {file.name: file_sha256(file)})
    return ModelSummary(
        file.name, str(file), (float(network.scale),), {"network": part}, {}, {}, None
    )


def _part(folder: Path, cls: str) -> PartSummary:
    files = weight_files(folder)
    return PartSummary(
        cls=cls,
        parameters=sum(_count(file) for file in files),
        bytes=sum(file.stat().st_size for file in files),
        sha256={file.name: file_sha256(file) for file in files},
    )


def _count(file: Path) -> int:
    try:
        with safe_open(file, "np") as tensors:
            names = tensors.keys()
            return sum(math.prod(tensors.get_slice(name).get_shape()) for name in names)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file}: not a readable safetensors file ({error})") from error
