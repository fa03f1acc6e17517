"""The shim for machines without CUDA leaves machines with it alone."""

from __future__ import annotations

import os

import pytest

from throughline.training.shim import cpu_shim


def test_where_cuda_is_present_nothing_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.delenv("TORCHDYNAMO_DISABLE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    reset, current = torch.cuda.reset_peak_memory_stats, torch.cuda.current_device
    with cpu_shim() as applied:
        assert not applied
        assert (torch.cuda.reset_peak_memory_stats, torch.cuda.current_device) == (reset, current)
        assert "TORCHDYNAMO_DISABLE" not in os.environ


def test_without_cuda_it_ends_with_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    reset, current = torch.cuda.reset_peak_memory_stats, torch.cuda.current_device
    with cpu_shim() as applied:
        assert applied
        assert torch.cuda.current_device() == torch.device("cpu")
    assert (torch.cuda.reset_peak_memory_stats, torch.cuda.current_device) == (reset, current)
