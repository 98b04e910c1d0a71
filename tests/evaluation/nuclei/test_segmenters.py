"""Learned and given nuclei: the published layout, the separation, files of nuclei."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.evaluation.nuclei.test_nuclei import field
from wsisr.errors import ModelError, SlideError, UsageError
from wsisr.evaluation import evaluate, weights
from wsisr.evaluation.networks import hovernet
from wsisr.evaluation.nuclei import learned as segmenters
from wsisr.evaluation.nuclei.agreement import compare_nuclei
from wsisr.evaluation.nuclei.given import GivenNuclei, read_labels
from wsisr.evaluation.nuclei.learned import HoVerNetSegmenter, separate
from wsisr.evaluation.nuclei.segmenter import Labels

BATCH_NORM = ("weight", "bias", "running_mean", "running_var")


def published_layout(types: int | None) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the authors' checkpoints, written out from their description."""
    shapes: dict[str, tuple[int, ...]] = {"upsample2x.unpool_mat": (2, 2)}

    def conv(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"] = shape

    def norm(name: str, channels: int) -> None:
        shapes.update({f"{name}.{part}": (channels,) for part in BATCH_NORM})
        shapes[f"{name}.num_batches_tracked"] = ()

    conv("conv0./", 64, 3, 7, 7)
    norm("conv0.bn", 64)
    inputs = 64
    for stage, (width, units) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
        outputs = 4 * width
        conv(f"d{stage}.shortcut", outputs, inputs, 1, 1)
        for unit in range(units):
            name = f"d{stage}.units.{unit}"
            if unit:
                norm(f"{name}.preact/bn", inputs)
            conv(f"{name}.conv1", width, inputs, 1, 1)
            norm(f"{name}.conv1/bn", width)
            conv(f"{name}.conv2", width, width, 3, 3)
            norm(f"{name}.conv2/bn", width)
            conv(f"{name}.conv3", outputs, width, 1, 1)
            inputs = outputs
        norm(f"d{stage}.blk_bna.bn", outputs)
    conv("conv_bot", 1024, 2048, 1, 1)
    heads = {"np": 2, "hv": 2} | ({} if types is None else {"tp": types})
    for head, channels in heads.items():
        for level, inputs, width, units in (("u3", 1024, 256, 8), ("u2", 512, 128, 4)):
            name = f"decoder.{head}.{level}"
            conv(f"{name}.conva", width, inputs, 5, 5)
            for unit in range(units):
                norm(f"{name}.dense.units.{unit}.preact_bna/bn", width)
                conv(f"{name}.dense.units.{unit}.conv1", 128, width, 1, 1)
                norm(f"{name}.dense.units.{unit}.conv1/bn", 128)
                conv(f"{name}.dense.units.{unit}.conv2", 32, 32, 5, 5)
                width += 32
            norm(f"{name}.dense.blk_bna.bn", width)
            conv(f"{name}.convf", width, width, 1, 1)
        conv(f"decoder.{head}.u1.conva", 64, 256, 5, 5)
        norm(f"decoder.{head}.u0.bn", 64)
        conv(f"decoder.{head}.u0.conv", channels, 64, 1, 1)
        shapes[f"decoder.{head}.u0.conv.bias"] = (channels,)
    return shapes


def random_checkpoint(types: int | None) -> dict[str, Tensor]:
    torch.manual_seed(1)
    state = {}
    for name, shape in published_layout(types).items():
        if "running_var" in name:
            state[name] = torch.rand(shape) + 0.5
        elif len(shape) == 4:
            state[name] = torch.randn(shape) * (2 / np.prod(shape[1:])) ** 0.5
        else:
            state[name] = torch.rand(shape) * 0.4 + (0.8 if "weight" in name else -0.2)
    return state


@pytest.mark.parametrize("types", [None, 5])
def test_the_published_checkpoint_is_taken_as_it_is(types: int | None, tmp_path: Path) -> None:
    state = random_checkpoint(types)
    torch.save({"desc": state}, tmp_path / "h.tar")
    network = segmenters._hovernet(tmp_path / "h.tar")
    published = sum(
        tensor.numel() for name, tensor in state.items()
        if name.endswith((".weight", ".bias"))
    )  # fmt: skip
    assert sum(p.numel() for p in network.parameters()) == published
    assert list(network.decoder) == [*(["tp"] if types else []), "np", "hv"]
    older = {n.replace("conv0./", "conv0.conv").replace("/bn", "_bn"): v for n, v in state.items()}
    older = {name.replace("preact_bna_bn", "preact_bn"): v for name, v in older.items()}
    again = hovernet.build_hovernet(older, "older names").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in network.state_dict().items())
    del state["d2.units.5.conv2/bn.bias"]
    with pytest.raises(ModelError, match=r"the first is d2\.units\.5\.conv2_bn\.bias"):
        hovernet.build_hovernet(state, "broken")


def naive_hovernet(state: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
    """The description of the paper on plain tensors under the published names."""

    def bn(x: Tensor, name: str) -> Tensor:
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        y = (x - mean[:, None, None]) / (var + 1e-5).sqrt()[:, None, None]
        return (y * state[f"{name}.weight"][:, None, None]
                + state[f"{name}.bias"][:, None, None]).clamp(min=0)  # fmt: skip

    def conv(x: Tensor, name: str, stride: int = 1, groups: int = 1) -> Tensor:
        return F.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), stride, 0, 1, groups)

    def middle(x: Tensor, side: int) -> Tensor:
        cut = (x.shape[-1] - side) // 2
        return x[..., cut : cut + side, cut : cut + side]

    def doubled(x: Tensor) -> Tensor:
        return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)

    x = bn(conv(x / 255, "conv0./"), "conv0.bn")
    stages = []
    for stage, units in enumerate((3, 4, 6, 3)):
        stride = 1 if stage == 0 else 2
        shortcut = conv(x, f"d{stage}.shortcut", stride)
        for unit in range(units):
            p = f"d{stage}.units.{unit}"
            y = bn(x, f"{p}.preact/bn") if unit else x
            y = bn(conv(y, f"{p}.conv1"), f"{p}.conv1/bn")
            once = stride if unit == 0 else 1
            y = F.pad(y, (0, 1, 0, 1) if once == 2 and y.shape[-1] % 2 == 0 else (1, 1, 1, 1))
            y = bn(conv(y, f"{p}.conv2", once), f"{p}.conv2/bn")
            x = shortcut = shortcut + conv(y, f"{p}.conv3")
        x = bn(x, f"d{stage}.blk_bna.bn")
        stages.append(x)
    bottom = conv(stages[3], "conv_bot")
    maps = {}
    for head in ("np", "hv"):
        x = bottom
        for level, units, skip, side in (("u3", 8, 2, 66), ("u2", 4, 1, 60)):
            p = f"decoder.{head}.{level}"
            x = conv(doubled(x) + middle(stages[skip], side), f"{p}.conva")
            for unit in range(units):
                u = f"{p}.dense.units.{unit}"
                y = bn(conv(bn(x, f"{u}.preact_bna/bn"), f"{u}.conv1"), f"{u}.conv1/bn")
                y = conv(y, f"{u}.conv2", groups=4)
                x = torch.cat([middle(x, y.shape[-1]), y], dim=1)
            x = conv(bn(x, f"{p}.dense.blk_bna.bn"), f"{p}.convf")
        x = doubled(x) + middle(stages[0], 80)
        x = conv(F.pad(x, (2, 2, 2, 2)), f"decoder.{head}.u1.conva")
        maps[head] = conv(bn(x, f"decoder.{head}.u0.bn"), f"decoder.{head}.u0.conv")
    return maps


@pytest.mark.slow
def test_hovernet_equals_a_step_by_step_computation() -> None:
    state = random_checkpoint(None)
    network = hovernet.build_hovernet(state, "random")
    x = torch.rand(1, 3, 270, 270) * 255
    with torch.inference_mode():
        expected, found = naive_hovernet(state, x), network(x)
    for name, values in expected.items():
        assert values.shape == (1, 2, 80, 80)
        scale = float(values.abs().max())
        torch.testing.assert_close(found[name] / scale, values / scale, rtol=0, atol=1e-4)


def true_maps(labels: Labels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a perfect HoVer-Net gives: distances to the centre, -1..1 within each nucleus."""
    horizontal, vertical = (np.zeros(labels.shape, np.float32) for _ in "hv")
    for number in range(1, labels.max() + 1):
        rows, columns = np.nonzero(labels == number)
        for plane, places in ((horizontal, columns), (vertical, rows)):
            offset = places - places.mean()
            plane[rows, columns] = offset / np.abs(offset).max()
    return np.where(labels > 0, 0.9, 0.1).astype(np.float32), horizontal, vertical


def test_touching_nuclei_are_separated_by_their_distance_maps() -> None:
    _, truth = field([(60, 60), (88, 60), (74, 84), (200, 60), (250, 180), (250, 207)], radius=15)
    found = separate(*true_maps(truth))
    result = compare_nuclei(found, truth)
    assert result.sr_count == result.hr_count == 6
    assert result.precision == result.recall == 1.0
    assert result.pq > 0.85
    assert cv2.connectedComponents((truth > 0).astype(np.uint8))[0] - 1 == 3


def test_no_nuclei_come_from_empty_maps() -> None:
    empty = np.zeros((64, 64), np.float32)
    assert separate(empty, empty, empty).max() == 0


class PerfectHoVerNet(nn.Module):
    """Sees dark pixels of the 80 px middle as nuclei, one centre a patch: tests the tiling."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        inside = (x[:, 0, 95:175, 95:175] < 150).float() * 20 - 10
        grid = torch.linspace(-1, 1, 80).expand(len(x), 80, 80)
        hv = torch.stack([grid, grid.transpose(1, 2)], dim=1)
        return {"np": torch.stack([-inside, inside], dim=1), "hv": hv}


@pytest.mark.parametrize("mpp", [0.25, 0.5])
def test_hovernet_patches_cover_the_tile(
    mpp: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, truth = field([(20, 20), (150, 60), (250, 180), (310, 250)], 14, (256, 320))
    monkeypatch.setattr(segmenters, "_hovernet", lambda path: PerfectHoVerNet())
    found = HoVerNetSegmenter(tmp_path / "x").segment(image, mpp)
    assert found.shape == truth.shape
    overlap = ((found > 0) & (truth > 0)).sum() / ((found > 0) | (truth > 0)).sum()
    assert overlap > 0.85


class ToyInstanSeg(nn.Module):
    """One nucleus: everything darker than the middle of the scaled range."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.mean(dim=1, keepdim=True) < 0.5).float()


def test_instanseg_runs_from_its_file(tmp_path: Path) -> None:
    image, truth = field([(60, 60)], 20, (130, 150))
    torch.jit.save(torch.jit.script(ToyInstanSeg()), str(tmp_path / "i.pt"))
    segmenter = segmenters.InstanSegSegmenter(tmp_path / "i.pt")
    reference = segmenter.against(image, 0.25)
    assert reference.labels.shape == truth.shape
    assert compare_nuclei(reference.labels, truth).pq > 0.9
    assert np.array_equal(reference.find(image), reference.labels)
    assert "SHA-256" in segmenter.convention
    (tmp_path / "j.pt").write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"j\.pt is no TorchScript"):
        segmenters.InstanSegSegmenter(tmp_path / "j.pt").segment(image, 0.25)
    torch.jit.save(torch.jit.script(nn.Flatten()), str(tmp_path / "k.pt"))
    with pytest.raises(ModelError, match="does not behave as InstanSeg"):
        segmenters.InstanSegSegmenter(tmp_path / "k.pt").segment(image, 0.25)


def test_names_and_paths_choose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(weights.WEIGHTS_VARIABLE, str(tmp_path / "none"))
    assert segmenters.choose_segmenter("classical").searches
    assert not segmenters.choose_segmenter(str(tmp_path)).searches
    for name in ("hovernet", "instanseg"):
        with pytest.raises(ModelError, match="weights missing"):
            segmenters.choose_segmenter(name)
    with pytest.raises(UsageError, match="segmenter nope: neither classical"):
        segmenters.choose_segmenter("nope")


def test_label_images_serve_the_nuclear_measures(tmp_path: Path) -> None:
    image, truth = field([(40, 40), (150, 60), (250, 180)])
    blurred = cv2.GaussianBlur(image, (0, 0), 3)
    noisy = np.clip(image + np.random.default_rng(0).normal(0, 9, image.shape), 0, 255)
    for folder in ("sr", "hr", "labels"):
        (tmp_path / folder).mkdir()
    for name in ("a", "b", "c"):
        cv2.imwrite(str(tmp_path / "sr" / f"{name}.png"), blurred)
        cv2.imwrite(str(tmp_path / "hr" / f"{name}.png"), noisy.astype(np.uint8))
    cv2.imwrite(str(tmp_path / "labels" / "a.png"), (truth * 700).astype(np.uint16))
    np.save(tmp_path / "labels" / "b.npy", np.zeros_like(truth))
    tifffile.imwrite(tmp_path / "labels" / "c.tif", truth.astype(np.int32))
    result = evaluate(
        tmp_path / "sr",
        tmp_path / "hr",
        tiles=True,
        segmenter=GivenNuclei(tmp_path / "labels"),
        out=tmp_path / "report",
    )
    assert not result.failed
    assert result.methods["sr"]["l1_texture"] > 0
    assert result.undefined["sr"]["l1_texture"] == 1  # tile b has no nuclei
    assert "nuclei_precision" not in result.methods["sr"]
    assert "a segmenter that finds nuclei" in result.not_run["nuclei_precision"]
    assert "given by labels" in result.conventions["nuclei"]
    assert str(tmp_path) not in result.json()
    (tmp_path / "labels" / "c.tif").unlink()
    np.save(tmp_path / "labels" / "b.npy", np.zeros((3, 3), np.int32))
    result = evaluate(
        tmp_path / "sr", tmp_path / "hr", tiles=True, segmenter=str(tmp_path / "labels")
    )
    assert "no label image of tile c" in result.failed["c"]
    assert "is 3x3 px" in result.failed["b"]


def test_label_images_are_renumbered_and_checked(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[0, 9], [4, 9]]))
    assert read_labels(tmp_path / "a.npy").tolist() == [[0, 2], [1, 2]]
    np.save(tmp_path / "b.npy", np.array([[7, 7]], np.uint8))
    assert read_labels(tmp_path / "b.npy").tolist() == [[1, 1]]
    for values in (np.zeros((2, 2, 3), np.uint8), np.array([[-1]]), np.array([[0.5]])):
        np.save(tmp_path / "c.npy", values)
        with pytest.raises(SlideError, match="no label image"):
            read_labels(tmp_path / "c.npy")
    (tmp_path / "d.png").write_bytes(b"no")
    with pytest.raises(SlideError, match=r"d\.png"):
        read_labels(tmp_path / "d.png")


@pytest.mark.parametrize("kind", ["uint8", "uint16", "uint32", "int32"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_label_images_of_any_depth_stand_upright(
    tmp_path: Path, kind: str, orientation: int
) -> None:
    labels = np.arange(12, dtype=kind).reshape(3, 4) * 20
    upright = labels if orientation == 1 else np.rot90(labels, 3)
    tags = [(274, 3, 1, orientation, True)]
    tifffile.imwrite(tmp_path / "a.tif", labels, photometric="minisblack", extratags=tags)
    assert (read_labels(tmp_path / "a.tif") == upright // 20).all()
    if kind == "uint16" and orientation == 1:
        cv2.imwrite(str(tmp_path / "a.png"), labels)
        assert (read_labels(tmp_path / "a.png") == labels // 20).all()


def test_label_images_in_colours_are_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(SlideError, match="3 channels and not one"):
        read_labels(tmp_path / "a.png")


def square(x: float, y: float, side: float) -> list[list[float]]:
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]


def test_geojson_of_qupath_is_drawn_where_it_lies(tmp_path: Path) -> None:
    def feature(kind: str, coordinates: object) -> dict[str, object]:
        geometry = {"type": kind, "coordinates": coordinates}
        properties = {"objectType": "detection"}
        return {"type": "Feature", "geometry": geometry, "properties": properties}

    cell = feature("Polygon", [square(100, 100, 60)])
    cell["nucleusGeometry"] = {"type": "Polygon", "coordinates": [square(130, 140, 10)]}
    features = [
        cell,
        feature("Polygon", [square(110, 104, 20)]),
        feature("MultiPolygon", [[square(172, 120, 8)], [square(900, 900, 9)]]),
        feature("Polygon", [square(90, 120, 20)]),  # half beyond the tile
        feature("Point", [3, 4]),
    ]
    path = tmp_path / "n.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    image = np.zeros((50, 40, 3), np.uint8)
    # HR is twice as fine as SR and shifted by 20 px
    matrix = np.array([[2.0, 0, 20], [0, 2.0, 20]])
    placed = GivenNuclei(path).at("t", 40, 40, matrix)
    labels = placed.against(image, 0.5).labels
    areas = np.bincount(labels.ravel())[1:].tolist()
    expected = np.zeros((50, 40), bool)
    expected[20:25, 15:20] = True  # (130 - 20) / 2 - 40 = 15
    expected[2:12, 5:15] = True
    expected[10:14, 36:40] = True
    expected[10:20, 0:5] = True
    assert np.array_equal(labels > 0, expected)
    assert sorted(areas) == [16, 25, 50, 100]
    with pytest.raises(UsageError, match="HR's nuclei alone"):
        placed.against(image, 0.5).find(image)
    with pytest.raises(UsageError, match="needs slides"):
        GivenNuclei(path).at("t", 0, 0, None).against(image, 0.5)
    for text in ("{", '{"a": 1}', '{"features": []}', '{"features": [{"geometry": 3}]}'):
        path.write_text(text)
        with pytest.raises(UsageError, match=r"n\.geojson"):
            _ = GivenNuclei(path).outlines
