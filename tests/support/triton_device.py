"""Where the tests run Triton kernels: on a GPU, or else in Triton's interpreter on the CPU."""

from __future__ import annotations

import importlib.util
import os
import sys

import pytest
import torch


def triton_device() -> str:
    """The device of the kernels of this process; skips the calling module or test where there is no Triton.

    Triton decides while a kernel is defined whether it will be interpreted, its own library included, so the variable must be
    set while Triton and our kernels are first imported and used. It does not stay set, as other tests start processes.
    """
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed (pip install triton, Linux only)", allow_module_level=True)
    if torch.cuda.is_available():
        return "cuda"
    if "triton" not in sys.modules:
        before = os.environ.get("TRITON_INTERPRET")
        os.environ["TRITON_INTERPRET"] = "1"
        _first_kernel()
        if before is None:
            del os.environ["TRITON_INTERPRET"]
    from wmcheck.watermark.prf_triton import interpreted

    if not interpreted():
        pytest.skip("Triton was imported for a GPU before, and this machine has none", allow_module_level=True)
    return "cpu"


def _first_kernel() -> None:
    import wmcheck.watermark.kernels  # noqa: F401
    from wmcheck.watermark.prf import PrfKey
    from wmcheck.watermark.prf_triton import TritonPrf

    cpu = torch.device("cpu")
    TritonPrf([PrfKey(bytes(16), bytes(16))], cpu).digests(slice(None), torch.zeros(1, 1, 1, dtype=torch.int64))
