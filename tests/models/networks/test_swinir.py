from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.models.conftest import small_restoration
from wsisr.models.networks.swinir import (
    SwinIR,
    relative_position_index,
    shifted_window_mask,
    window_merge,
    window_partition,
)


def test_the_papers_size() -> None:
    with torch.device("meta"):
        model = SwinIR()
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(15.79, abs=0.005)
    # the published files hold 732 keys: these and 72 buffers that follow from the shapes
    assert len(model.state_dict()) == 732 - 24 - 48


def test_windows_come_back() -> None:
    x = torch.rand(2, 16, 24, 3)
    windows = window_partition(x, 8)
    assert windows.shape == (2, 6, 64, 3)
    assert torch.equal(window_merge(windows, 8, 16, 24), x)
    assert torch.equal(windows[1, 4, :8], x[1, 8, 8:16])


def test_relative_positions() -> None:
    index = relative_position_index(8)
    assert index.shape == (64, 64)
    assert index.unique().numel() == 15 * 15
    assert (index.diagonal() == index[0, 0]).all()


def test_attention_is_the_plain_formula() -> None:
    torch.manual_seed(0)
    block = small_restoration().layers[0].residual_group.blocks[0]
    attention = block.attn
    x = torch.rand(1, 3, 64, 8)
    mask = torch.where(torch.rand(3, 64, 64) < 0.3, -100.0, 0.0)
    qkv = F.linear(x, attention.qkv.weight, attention.qkv.bias)
    out = torch.empty_like(x)
    bias = attention.relative_position_bias_table[relative_position_index(8)]
    for window in range(3):
        heads = []
        for head in range(2):
            q, k, v = (
                qkv[0, window, :, part * 8 + head * 4 : part * 8 + head * 4 + 4]
                for part in range(3)
            )
            scores = q @ k.T / 2 + bias[:, :, head] + mask[window]
            heads.append(scores.softmax(-1) @ v)
        out[0, window] = torch.cat(heads, -1)
    expected = F.linear(out, attention.proj.weight, attention.proj.bias)
    torch.testing.assert_close(attention(x, mask), expected, atol=1e-8, rtol=1e-5)


def test_shifted_windows_do_not_see_across_the_edge() -> None:
    mask = shifted_window_mask(16, 16, 8, 4)
    assert (mask[0] == 0).all()
    corner = mask[3].view(8, 8, 8, 8)
    assert (corner[:4, :4, :4, :4] == 0).all()
    assert (corner[:4, :4, 4:, :] == -100).all()


def test_output_has_the_size_of_the_input() -> None:
    model = small_restoration().eval()
    assert model(torch.rand(2, 3, 64, 128)).shape == (2, 3, 64, 128)
    with pytest.raises(ValueError, match="multiple of 64"):
        model(torch.rand(1, 3, 64, 72))


def test_a_residual_model_starts_at_its_input() -> None:
    model = SwinIR(8, (2,), (2,), num_feat=4, global_residual=True).eval()
    x = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(model(x), x)


def test_saved_and_loaded(tmp_path: object) -> None:
    model = small_restoration().eval()
    model.save_pretrained(tmp_path)
    again = SwinIR.from_pretrained(tmp_path, use_safetensors=True).eval()
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(model(x), again(x))
