"""How often files are opened to be read."""
from __future__ import annotations

import builtins
import io
from collections import Counter
from pathlib import Path

import pytest
import torch


def count_opened(monkeypatch: pytest.MonkeyPatch, suffix: str = ".pth") -> Counter[str]:
    """Counts by name of the files with this suffix that are opened to be read from now on.

    Torch opens a path where Python does not see it, so that it must be handed a stream.
    """
    counts: Counter[str] = Counter()
    opened, load = io.open, torch.load

    def counting(file, mode="r", *args, **options):
        if str(file).endswith(suffix) and "r" in mode and "+" not in mode:
            counts[Path(file).name] += 1
        return opened(file, mode, *args, **options)

    def loading(source, *args, **options):
        assert hasattr(source, "read"), f"torch.load opens {source} itself"
        return load(source, *args, **options)

    monkeypatch.setattr(builtins, "open", counting)
    monkeypatch.setattr(io, "open", counting)
    monkeypatch.setattr(torch, "load", loading)
    return counts
