from __future__ import annotations

import builtins
import importlib
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from wsisr.engine.array import upscale_image
from wsisr.errors import ModelError, UsageError
from wsisr.models import load_upscaler
from wsisr.models.catalogue import summarise
from wsisr.models.published import single
from wsisr.models.published.single import import_spandrel, pixels_of_window
from wsisr.resize.weights import cubic_matrix, cubic_span

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("spandrel") is None, reason="spandrel is not installed"
)


def network(scale: int, *, quiet: bool = False) -> torch.nn.Module:
    """Real-ESRGAN's compact network; `quiet`, it repeats each pixel scale x scale times."""
    import_spandrel(Path("test"))
    module = importlib.import_module("spandrel.architectures.Compact.__arch.SRVGG")

    torch.manual_seed(0)
    net = module.SRVGGNetCompact(num_feat=8, num_conv=2, upscale=scale).eval()
    if quiet:
        torch.nn.init.zeros_(net.body[-1].weight)
        torch.nn.init.zeros_(net.body[-1].bias)
    return net


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("weights")
    torch.save({"params_ema": network(4).state_dict()}, place / "x4.pth")
    save_file(network(4, quiet=True).state_dict(), place / "quiet4.safetensors")
    save_file(network(2, quiet=True).state_dict(), place / "quiet2.safetensors")
    return place


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_one_window_has_the_networks_own_pixels(weights: Path) -> None:
    lr = noise(16, 16)
    out = upscale_image(lr, 4, model=str(weights / "x4.pth"), window=64, overlap=8)
    image = torch.from_numpy(lr).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        direct = network(4)(image).clamp(0, 1)[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(out - direct).max() <= 0.5 + 1e-3


@settings(max_examples=12, deadline=None)
@given(height=st.integers(2, 61), width=st.integers(2, 61), scale=st.sampled_from([2, 4]))
def test_no_pixel_is_displaced(weights: Path, height: int, width: int, scale: int) -> None:
    lr = noise(height, width)
    model = str(weights / f"quiet{scale}.safetensors")
    out = upscale_image(lr, scale, model=model, window=64, overlap=16)
    assert (out == lr.repeat(scale, 0).repeat(scale, 1)).all()


@settings(max_examples=40, deadline=None)
@given(size=st.integers(2, 90), start=st.integers(0, 5), scale=st.integers(2, 8))
def test_pixels_of_a_window(size: int, start: int, scale: int) -> None:
    whole, begin = size * scale, start * 24
    if begin >= whole:
        begin = 0
    span = cubic_span(begin, 64, whole, scale, size)
    up = torch.from_numpy(cubic_matrix(begin, 64, whole, scale, size, span))
    inside = np.arange(begin, begin + 64)
    inside = np.abs(inside) % (2 * (whole - 1))
    inside = np.minimum(inside, 2 * (whole - 1) - inside)
    expected = inside - span[0] * scale
    assert pixels_of_window(up, scale).tolist() == expected.tolist()


def test_tiles_blend_and_the_same_bytes_come_again(weights: Path) -> None:
    lr = noise(40, 52)
    model = str(weights / "x4.pth")
    out = upscale_image(lr, 4, model=model, window=128, overlap=64)
    image = torch.from_numpy(lr).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        whole = network(4)(image).clamp(0, 1)[0].permute(1, 2, 0).numpy() * 255
    # three pixels of context are missing at a window's edge, where its weight is small
    assert np.abs(out - whole).mean() < 0.5
    assert (out == upscale_image(lr, 4, model=model, window=128, overlap=64)).all()


def test_another_scale_is_refused_with_the_remedy(weights: Path) -> None:
    for scale in (2, 3, 4.5):
        with pytest.raises(UsageError, match="give scale 4"):
            upscale_image(noise(24, 24), scale, model=str(weights / "x4.pth"), window=64, overlap=8)


def test_described_with_its_hash(weights: Path) -> None:
    model = load_upscaler(str(weights / "x4.pth"), settings={"seed": 3})
    told = model.describe()
    assert told["architecture"] == "RealESRGAN Compact"
    assert told["settings"] == {"seed": 3, "consistency": "off", "precision": "fp32"}
    shown = summarise(str(weights / "x4.pth"))
    assert shown.scales == (4,)
    assert dict(shown.parts["network"].sha256) == told["weights_sha256"]


def test_soft_consistency_where_asked_for(weights: Path) -> None:
    lr = noise(16, 16)
    model = str(weights / "x4.pth")
    errors = []
    for consistency in ("off", "soft"):
        out = upscale_image(lr, 4, model=model, window=64, overlap=8, consistency=consistency)
        means = out.reshape(16, 4, 16, 4, 3).mean((1, 3))
        errors.append(np.abs(means - lr).mean())
    assert errors[1] < errors[0] / 2


def test_broken_files(weights: Path, tmp_path: Path) -> None:
    state = network(4).state_dict()
    bad = tmp_path / "bad.pth"
    state["body.0.weight"][0] = float("nan")
    torch.save(state, bad)
    with pytest.raises(ModelError, match=r"bad\.pth: .*not finite"):
        load_upscaler(str(bad))
    torch.save(dict(list(network(4).state_dict().items())[::2]), bad)
    with pytest.raises(ModelError, match=r"bad\.pth: ") as raised:
        load_upscaler(str(bad))
    assert "\n" not in str(raised.value)
    torch.save({"nonsense": torch.zeros(3)}, bad)
    with pytest.raises(ModelError, match="no network that spandrel"):
        load_upscaler(str(bad))
    bad.write_bytes(b"nothing of the kind")
    with pytest.raises(ModelError, match="refused"):
        load_upscaler(str(bad))


def test_without_spandrel(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "spandrel", raising=False)
    monkeypatch.setattr(single.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"needs the library spandrel: pip install"):
        load_upscaler(str(weights / "x4.pth"))


@pytest.mark.parametrize("error", [ImportError("none"), RuntimeError("nms does not exist")])
def test_a_torchvision_that_does_not_load_is_stood_in_for(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    real = builtins.__import__

    def importing(name: str, *args: object, **kwargs: object) -> object:
        if name.startswith("torchvision") and name not in sys.modules:
            raise error
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", importing)
    with single._torchvision_or_stand_in():
        from torchvision.transforms.functional import rotate
    with pytest.raises(ModelError, match="needs torchvision"):
        rotate()
    assert not any(name.partition(".")[0] == "torchvision" for name in sys.modules)
