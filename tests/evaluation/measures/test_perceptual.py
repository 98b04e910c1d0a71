"""LPIPS, DISTS and MUSIQ against step-by-step computations, with random backbones."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wsisr.errors import ModelError
from wsisr.evaluation import weights
from wsisr.evaluation.measures import musiq, perceptual
from wsisr.evaluation.measures.pixels import Image
from wsisr.evaluation.networks.vgg import ALEXNET, VGG16

needs_heads = pytest.mark.skipif(
    bool(weights.why_missing("lpips", "dists")),
    reason="WSISR_WEIGHTS holds no lpips and dists (wsisr models fetch lpips dists)",
)
# from lpips 0.1.4 and DISTS-pytorch 0.1 themselves, on the same random backbones and images
LPIPS_PACKAGE = 0.0099487705
DISTS_PACKAGE = 0.0085266829
ALEX_SHAPES = ((64, 3, 11), (192, 64, 5), (384, 192, 3), (256, 384, 3), (256, 256, 3))


def random_backbone(shapes: dict[int, tuple[int, int, int]]) -> dict[str, Tensor]:
    torch.manual_seed(5)
    state = {}
    for number, (outputs, inputs, size) in shapes.items():
        deviation = math.sqrt(2 / (inputs * size * size))
        state[f"features.{number}.weight"] = torch.randn(outputs, inputs, size, size) * deviation
        state[f"features.{number}.bias"] = torch.randn(outputs) * 0.1
    return state


def alexnet() -> dict[str, Tensor]:
    return random_backbone({n: s for (n, *_), s in zip(ALEXNET, ALEX_SHAPES, strict=True)})


def vgg16() -> dict[str, Tensor]:
    numbers = [number for level in VGG16 for number in level]
    widths = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    shapes = {n: (widths[i + 1], widths[i], 3) for i, n in enumerate(numbers)}
    return random_backbone(shapes)


@pytest.fixture
def backbones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Registers random backbones beside the real heads of LPIPS and DISTS."""
    for name in ("lpips", "dists"):
        (tmp_path / name).symlink_to(weights.folder_of(name))
    for name, state in (("alexnet", alexnet()), ("vgg16", vgg16())):
        (tmp_path / name).mkdir()
        torch.save(state, tmp_path / name / f"{name}.pth")
        entry = weights.REGISTRY[name]
        free = weights.Weights(name, dict.fromkeys(entry.files), entry.origin, entry.licence)
        monkeypatch.setitem(weights.REGISTRY, name, free)
    monkeypatch.setenv(weights.WEIGHTS_VARIABLE, str(tmp_path))


@pytest.fixture
def pair(noise: Image) -> tuple[Image, Image]:
    return np.roll(noise, 1, axis=1), noise


@needs_heads
def test_lpips_equals_a_step_by_step_computation(
    backbones: None, pair: tuple[Image, Image]
) -> None:
    state = {name: value.double() for name, value in alexnet().items()}
    heads = torch.load(weights.folder_of("lpips") / "alex.pth", "cpu", weights_only=True)

    def levels(image: Image) -> list[Tensor]:
        x = torch.from_numpy(image.astype(np.float64)).permute(2, 0, 1)[None]
        for channel, (shift, scale) in enumerate(
            zip((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450), strict=True)
        ):
            x[:, channel] = (x[:, channel] / 127.5 - 1 - shift) / scale
        found = []
        for layer in ("conv 0 4 2", "conv 3 1 2", "conv 6 1 1", "conv 8 1 1", "conv 10 1 1"):
            number, stride, padding = (int(part) for part in layer.split()[1:])
            if number in (3, 6):
                x = F.max_pool2d(x, kernel_size=3, stride=2)
            weight, bias = state[f"features.{number}.weight"], state[f"features.{number}.bias"]
            x = F.conv2d(x, weight, bias, stride, padding).clamp(min=0)
            found.append(x)
        return found

    expected = 0.0
    for number, (a, b) in enumerate(zip(*(levels(image) for image in pair), strict=True)):
        a, b = (x / x.norm(dim=1, keepdim=True) for x in (a, b))
        head = heads[f"lin{number}.model.1.weight"].double().flatten()
        expected += float(((a - b) ** 2 * head[:, None, None]).sum(dim=1).mean())
    assert perceptual.lpips(*pair) == pytest.approx(expected, rel=1e-5)
    assert perceptual.lpips(*pair) == pytest.approx(LPIPS_PACKAGE, rel=1e-4)
    assert perceptual.lpips(pair[1], pair[1]) == 0.0


@needs_heads
def test_dists_equals_a_step_by_step_computation(
    backbones: None, pair: tuple[Image, Image]
) -> None:
    state = {name: value.double() for name, value in vgg16().items()}
    learnt = torch.load(weights.folder_of("dists") / "weights.pt", "cpu", weights_only=True)
    hann = torch.from_numpy(np.outer(*[np.hanning(5)[1:-1]] * 2))
    hann = hann / hann.sum()

    def levels(image: Image) -> list[Tensor]:
        first = torch.from_numpy(image.astype(np.float64)).permute(2, 0, 1)[None] / 255
        mean, std = (torch.tensor(v).view(3, 1, 1).double() for v in perceptual_constants())
        x, found = (first - mean) / std, [first]
        for convolutions in ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)):
            if convolutions[0]:
                squares = x.transpose(0, 1) ** 2
                pooled = F.conv2d(squares, hann[None, None], stride=2, padding=1)
                x = (pooled.transpose(0, 1) + 1e-12).sqrt()
            for n in convolutions:
                weight, bias = state[f"features.{n}.weight"], state[f"features.{n}.bias"]
                x = F.conv2d(x, weight, bias, padding=1).clamp(min=0)
            found.append(x)
        return found

    total, start = 0.0, 0
    for a, b in zip(*(levels(image) for image in pair), strict=True):
        for channel in range(a.shape[1]):
            p, q = a[0, channel], b[0, channel]
            texture = (2 * p.mean() * q.mean() + 1e-6) / (p.mean() ** 2 + q.mean() ** 2 + 1e-6)
            covariance = ((p - p.mean()) * (q - q.mean())).mean()
            deviations = ((p - p.mean()) ** 2).mean() + ((q - q.mean()) ** 2).mean()
            structure = (2 * covariance + 1e-6) / (deviations + 1e-6)
            alpha = learnt["alpha"].flatten()[start + channel]
            beta = learnt["beta"].flatten()[start + channel]
            total += float(alpha * texture + beta * structure)
        start += a.shape[1]
    assert start == learnt["alpha"].numel()
    expected = 1 - total / float(learnt["alpha"].sum() + learnt["beta"].sum())
    assert perceptual.dists(*pair) == pytest.approx(expected, abs=2e-5)
    assert perceptual.dists(*pair) == pytest.approx(DISTS_PACKAGE, abs=2e-5)
    assert perceptual.dists(pair[1], pair[1]) == pytest.approx(0.0, abs=1e-6)


def perceptual_constants() -> tuple[tuple[float, ...], tuple[float, ...]]:
    return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def random_musiq(width: int = 128, blocks: int = 2) -> dict[str, np.ndarray]:
    """A checkpoint of the published layout, narrow and shallow."""
    random = np.random.default_rng(2)
    heads = width // 64
    shapes: dict[str, tuple[int, ...]] = {
        "conv_root/kernel": (7, 7, 3, 64), "gn_root/scale": (1, 1, 1, 64),
        "gn_root/bias": (1, 1, 1, 64), "embedding/kernel": (8 * 8 * 256, width),
        "embedding/bias": (width,), "head/kernel": (width, 1), "head/bias": (1,),
        "Transformer/cls": (1, 1, width), "Transformer/encoder_norm/scale": (width,),
        "Transformer/encoder_norm/bias": (width,),
        "Transformer/posembed_input/pos_embedding": (1, 100, width),
        "Transformer/scaleembed_input/scale_embedding": (1, 3, width),
    }  # fmt: skip
    unit = "block1/unit1"
    for conv, norm, size in (
        ("conv_proj", "gn_proj", (1, 1, 64, 256)), ("conv1", "gn1", (1, 1, 64, 64)),
        ("conv2", "gn2", (3, 3, 64, 64)), ("conv3", "gn3", (1, 1, 64, 256)),
    ):  # fmt: skip
        shapes[f"{unit}/{conv}/kernel"] = size
        shapes[f"{unit}/{norm}/scale"] = shapes[f"{unit}/{norm}/bias"] = (1, 1, 1, size[-1])
    for number in range(blocks):
        block = f"Transformer/encoderblock_{number}"
        for name in ("LayerNorm_0", "LayerNorm_2"):
            shapes[f"{block}/{name}/scale"] = shapes[f"{block}/{name}/bias"] = (width,)
        attention = f"{block}/MultiHeadDotProductAttention_1"
        for part in ("query", "key", "value"):
            shapes[f"{attention}/{part}/kernel"] = (width, heads, 64)
            shapes[f"{attention}/{part}/bias"] = (heads, 64)
        shapes[f"{attention}/out/kernel"] = (heads, 64, width)
        shapes[f"{attention}/out/bias"] = (width,)
        shapes[f"{block}/MlpBlock_3/Dense_0/kernel"] = (width, 192)
        shapes[f"{block}/MlpBlock_3/Dense_0/bias"] = (192,)
        shapes[f"{block}/MlpBlock_3/Dense_1/kernel"] = (192, width)
        shapes[f"{block}/MlpBlock_3/Dense_1/bias"] = (width,)
    return {name: random.normal(0, 0.2, size).astype(np.float32) for name, size in shapes.items()}


def naive_musiq(image: Image, state: dict[str, np.ndarray]) -> float:  # noqa: C901
    """The published network in numpy and loops, with the masked tokens left out."""

    def same(size: int, kernel: int, stride: int) -> tuple[int, int]:
        total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
        return total // 2, total - total // 2

    def conv(x: np.ndarray, name: str, stride: int = 1) -> np.ndarray:
        kernel = state[f"{name}/kernel"].astype(float)
        kernel = kernel - kernel.mean(axis=(0, 1, 2))
        kernel = kernel / (kernel.std(axis=(0, 1, 2)) + 1e-5)
        k = kernel.shape[0]
        x = np.pad(x, (same(x.shape[0], k, stride), same(x.shape[1], k, stride), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(0, 1))
        return np.einsum("yxcij,ijco->yxo", windows[::stride, ::stride], kernel)

    def group(x: np.ndarray, name: str, epsilon: float) -> np.ndarray:
        y = x.reshape(*x.shape[:2], 32, -1)
        mean, var = y.mean(axis=(0, 1, 3), keepdims=True), y.var(axis=(0, 1, 3), keepdims=True)
        y = ((y - mean) / np.sqrt(var + epsilon)).reshape(x.shape)
        return y * state[f"{name}/scale"].ravel() + state[f"{name}/bias"].ravel()

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return y * state[f"{name}/scale"] + state[f"{name}/bias"]

    def dense(x: np.ndarray, name: str) -> np.ndarray:
        return x @ state[f"{name}/kernel"] + state[f"{name}/bias"]

    def reduced(x: np.ndarray, side: int) -> np.ndarray:
        rows, columns = (round(s * side / max(x.shape[:2])) for s in x.shape[:2])
        out = np.zeros((rows, columns, 3))
        for axis_weights in ((rows, columns),):
            matrices = []
            for target, size in zip(axis_weights, x.shape[:2], strict=True):
                m = np.zeros((target, size))
                for i in range(target):
                    centre = (i + 0.5) * size / target
                    for j in range(size):
                        d = abs(j + 0.5 - centre)
                        m[i, j] = math.exp(-2 * d * d) if d < 1.5 else 0.0
                    m[i] /= m[i].sum()
                matrices.append(m)
            out = np.einsum("iy,jx,yxc->ijc", *matrices, x)
        return out

    scaled = image.astype(float) / 127.5 - 1
    tokens = [state["Transformer/cls"][0, 0].astype(float)]
    for scale, x in enumerate((reduced(scaled, 224), reduced(scaled, 384), scaled)):
        down, across = math.ceil(x.shape[0] / 32), math.ceil(x.shape[1] / 32)
        x = np.pad(x, (same(x.shape[0], 32, 32), same(x.shape[1], 32, 32), (0, 0)))
        for i in range(down):
            for j in range(across):
                patch = x[32 * i : 32 * i + 32, 32 * j : 32 * j + 32]
                y = np.maximum(group(conv(patch, "conv_root", 2), "gn_root", 1e-6), 0)
                y = np.pad(y, ((0, 1), (0, 1), (0, 0)))
                y = np.lib.stride_tricks.sliding_window_view(y, (3, 3), axis=(0, 1))
                y = y[::2, ::2].max(axis=(3, 4))
                u = "block1/unit1"
                shortcut = group(conv(y, f"{u}/conv_proj"), f"{u}/gn_proj", 1e-4)
                y = np.maximum(group(conv(y, f"{u}/conv1"), f"{u}/gn1", 1e-4), 0)
                y = np.maximum(group(conv(y, f"{u}/conv2"), f"{u}/gn2", 1e-4), 0)
                y = np.maximum(group(conv(y, f"{u}/conv3"), f"{u}/gn3", 1e-4) + shortcut, 0)
                token = dense(y.ravel(), "embedding")
                cell = math.floor(i * 10 / down) * 10 + math.floor(j * 10 / across)
                token = token + state["Transformer/posembed_input/pos_embedding"][0, cell]
                tokens.append(
                    token + state["Transformer/scaleembed_input/scale_embedding"][0, scale]
                )
    x = np.stack(tokens)
    for number in range(2):
        block = f"Transformer/encoderblock_{number}"
        attention = f"{block}/MultiHeadDotProductAttention_1"
        y = norm(x, f"{block}/LayerNorm_0")
        out = np.zeros_like(x)
        for head in range(state[f"{attention}/query/bias"].shape[0]):
            q, k, v = (
                y @ state[f"{attention}/{part}/kernel"][:, head]
                + state[f"{attention}/{part}/bias"][head]
                for part in ("query", "key", "value")
            )
            logits = q @ k.T / 8
            share = np.exp(logits - logits.max(axis=1, keepdims=True))
            share /= share.sum(axis=1, keepdims=True)
            out += share @ v @ state[f"{attention}/out/kernel"][head]
        x = x + out + state[f"{attention}/out/bias"]
        y = dense(norm(x, f"{block}/LayerNorm_2"), f"{block}/MlpBlock_3/Dense_0")
        y = 0.5 * y * (1 + np.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
        x = x + dense(y, f"{block}/MlpBlock_3/Dense_1")
    return float(dense(norm(x[0], "Transformer/encoder_norm"), "head")[0])


def test_musiq_equals_a_loop_over_patches(tmp_path: Path, noise: Image) -> None:
    state = random_musiq()
    prefixed = {f"opt/target/{name}": value for name, value in state.items()}
    np.savez(tmp_path / "random.npz", **prefixed, **{"opt/state/step": np.zeros(())})
    image = noise[:30, :120]
    with torch.inference_mode():
        found = float(musiq.predict(image, musiq.load_checkpoint(tmp_path / "random.npz")))
    expected = naive_musiq(image, state)
    assert abs(expected) > 0.1
    assert found == pytest.approx(expected, rel=2e-4, abs=2e-4)


def test_another_file_is_no_musiq_checkpoint(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    (tmp_path / "b.npz").write_bytes(b"no archive")
    np.savez(tmp_path / "c.npz", **{"opt/target/x": np.array([None])})
    for name in "abc":
        with pytest.raises(ModelError, match=rf"{name}\.npz is no"):
            musiq.load_checkpoint(tmp_path / f"{name}.npz")
