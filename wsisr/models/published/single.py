"""Any single-image super-resolution network that spandrel knows, as it was published.

The paper's baselines (Real-ESRGAN, BSRGAN, SwinIR-GAN, HAT …) go through the engine like the
dual-stage model: the same windows, blending and writing, and nothing done to their pixels unless
asked for. spandrel (optional: wsisr[spandrel]) tells the architecture from the weights, which are
read by `read_checkpoint` and so never run code.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from wsisr.errors import ModelError, OptionError
from wsisr.files import file_sha256
from wsisr.models.consistency import project
from wsisr.models.files import read_checkpoint
from wsisr.models.precision import PRECISIONS
from wsisr.models.settings import Settings
from wsisr.models.windows import WindowInput
from wsisr.resize import cubic_matrix

INSTALL = "pip install 'wsisr[spandrel]'"
LARGEST_MISFIT = 1e-3
"""Of bicubic weights, which differ by 0.01 and more between neighbouring pixels."""


class SingleNetwork:
    """A network from the low-resolution window to the window; an `Upscaler`.

    It sees the low-resolution pixels under its window (the bicubic margin of two pixels included)
    and no more, so that a window depends on itself alone; what the missing context does to the
    window's edge, the blending of overlaps fades out.

    Args:
        network: spandrel's descriptor: a callable (1, 3, h, w) -> (1, 3, scale h, scale w).
        identity: name and hash, for the provenance.
        settings: `consistency`, `precision` and `seed` count; a network adds no noise.
        device: where it is.
    """

    def __init__(
        self,
        network: Any,
        identity: Mapping[str, Any],
        settings: Settings,
        device: torch.device,
    ) -> None:
        self.network, self.scale = network, int(network.scale)
        self.identity, self.settings, self.device = identity, settings, device

    @torch.inference_mode()
    def __call__(self, windows: Sequence[WindowInput]) -> Tensor:
        """See `Upscaler`.

        Args:
            windows: see there.

        Raises:
            OptionError: the run's scale is not the network's.
        """
        # one by one: published networks are made for single images
        return torch.stack([self._upscale(window) for window in windows])

    def describe(self) -> Mapping[str, Any]:
        """See `Upscaler`."""
        used = {name: getattr(self.settings, name) for name in ("seed", "consistency", "precision")}
        return {**self.identity, "settings": used}

    def _upscale(self, window: WindowInput) -> Tensor:
        if self.scale == 1:
            image = self._run(window.resized())
        else:
            image = self._run(window.lr)
            rows = pixels_of_window(window.rows.up, self.scale)
            columns = pixels_of_window(window.columns.up, self.scale)
            image = image[:, rows][:, :, columns]
        if self.settings.consistency != "off":
            rows_map, columns_map = window.rows.to(self.device), window.columns.to(self.device)
            lr = window.lr.to(self.device)
            image = project(image[None], lr[None], rows_map, columns_map)[0]
        return image

    def _run(self, image: Tensor) -> Tensor:
        """Runs the network: (3, h, w) -> (3, scale h, scale w) float32 on the device."""
        dtype = PRECISIONS[self.settings.precision]
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            out: Tensor = self.network(image[None].to(self.device))
        return out[0].float()


def pixels_of_window(up: Tensor, scale: int) -> Tensor:
    """Finds which pixel of the upscaled low-resolution pixels each pixel of a window is.

    The window's bicubic weights tell: they are those of one pixel of the enlarged image each,
    mirrored and clipped at the slide's edge as they must be.

    Args:
        up: (tile, n) bicubic weights of the window.
        scale: of the network.

    Returns:
        (tile,) int64 indices into scale * n pixels.

    Raises:
        OptionError: the window has another scale.
    """
    n = up.shape[1]
    every = torch.from_numpy(cubic_matrix(0, scale * n, scale * n, scale, n, (0, n))).to(up)
    misfit, index = torch.cdist(up.double(), every.double()).min(1)
    if n > 1 and float(misfit.max()) > LARGEST_MISFIT:
        raise OptionError(
            "model", None, f"upscales by {scale} and by nothing else; give <scale> {scale}"
        )
    return index


def load_network(
    file: Path,
    *,
    device: str | torch.device = "cpu",
    settings: Mapping[str, Any] | None = None,
) -> SingleNetwork:
    """Loads a network from a .safetensors or pickled file of weights.

    Args:
        file: the weights.
        device: where to put it.
        settings: fields of `Settings`; consistency is off and precision fp32 unless given.

    Returns:
        The network as an `Upscaler`.

    Raises:
        ModelError: spandrel is missing or does not know the network; a file that is no
            checkpoint, is incomplete, or holds code; no network from RGB to RGB.
        OptionError: a setting out of range.
    """
    chosen = Settings(**({"consistency": "off"} | dict(settings or {})))
    network = describe_network(file)
    network.to(torch.device(device)).eval()
    identity = {
        "model": file.name,
        "architecture": network.architecture.name,
        "weights_sha256": {file.name: file_sha256(file)},
    }
    return SingleNetwork(network, identity, chosen, torch.device(device))


def describe_network(file: Path) -> Any:
    """Gives spandrel's descriptor of a file's network, on the CPU.

    Args:
        file: the weights.

    Raises:
        ModelError: see `load_network`.
    """
    spandrel = import_spandrel(file)
    state = dict(read_checkpoint(file).tensors)
    try:
        network = spandrel.ModelLoader().load_from_state_dict(state)
    except spandrel.UnsupportedModelError as error:
        raise ModelError(
            f"{file}: no network that spandrel {spandrel.__version__} knows; a checkpoint of the "
            "dual-stage family is made into a model folder by wsisr models convert"
        ) from error
    except Exception as error:  # each of its forty architectures fails in its own way
        line = " ".join(str(error).split())[:200]
        raise ModelError(f"{file}: weights missing or of the wrong shape ({line})") from error
    if not isinstance(network, spandrel.ImageModelDescriptor):
        raise ModelError(
            f"{file}: {network.architecture.name} is not a network from image to image"
        )
    if network.input_channels != 3 or network.output_channels != 3:
        raise ModelError(
            f"{file}: takes {network.input_channels} channels and gives "
            f"{network.output_channels}; slides have three (RGB)"
        )
    return network


def import_spandrel(file: Path) -> Any:
    """Imports the spandrel package.

    Two of its architectures, for faces and inpainting, import torchvision, whose wheels do not
    load beside every build of torch; without it the others work just the same.

    Args:
        file: the weights that it is wanted for, for the error.

    Raises:
        ModelError: it is not installed or broken; says how to get it.
    """
    if "spandrel" in sys.modules:
        return sys.modules["spandrel"]
    if importlib.util.find_spec("spandrel") is None:
        raise ModelError(f"{file}: a file of weights needs the library spandrel: {INSTALL}")
    try:
        with _torchvision_or_stand_in():
            import spandrel
    except ImportError as error:
        raise ModelError(f"{file}: spandrel cannot be imported ({error}); {INSTALL}") from error
    return spandrel


@contextmanager
def _torchvision_or_stand_in() -> Iterator[None]:
    """Gives an import torchvision, or empty modules of its name where it does not load."""
    try:
        import torchvision.transforms.functional  # noqa: F401
    except (ImportError, RuntimeError, OSError):
        pass
    else:
        yield
        return
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    modules = {name: ModuleType(name) for name in names}
    functional = modules[names[-1]]
    for missing in ("InterpolationMode", "rotate", "normalize"):
        setattr(functional, missing, _absent)
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in names:
            sys.modules.pop(name, None)


def _absent(*args: Any, **kwargs: Any) -> Any:
    raise ModelError("this network needs torchvision, which does not load beside this torch")
