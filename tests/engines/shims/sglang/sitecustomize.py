"""Stand-ins for SGLang's CUDA packages, so that its Python runs on a CPU; for tests only.

SGLang publishes no CPU wheel. On ``PYTHONPATH`` this module lets ``import sglang`` pass, and the model runs in plain torch.
"""

import importlib.abc
import importlib.machinery
import sys
import types

ABSENT = (
    "torchaudio", "flashinfer", "sgl_kernel", "cuda", "decord", "nvshmem", "torch_memory_saver", "tilelang", "sgl_deep_gemm",
    "deep_gemm", "deep_ep", "pynvml",
)


class _Nothing(type):
    """A class whose every attribute is another of its kind."""

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Nothing(name, (), {"__call__": lambda self, *args, **more: None})


class _Module(types.ModuleType):
    __path__ = ()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Nothing(name, (), {
            "__init__": lambda self, *args, **more: None, "__call__": lambda self, *args, **more: None,
            "__getattr__": lambda self, attribute: None,
        })


class _Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.split(".")[0] in ABSENT else None

    def create_module(self, spec):
        return _Module(spec.name)

    def exec_module(self, module):
        pass


class _Torchvision(importlib.abc.MetaPathFinder):
    """The CUDA build of torchvision declares its operators in a library that does not load here."""

    library = None

    def find_spec(self, name, path, target=None):
        if name == "torchvision" and _Torchvision.library is None:
            import torch

            _Torchvision.library = torch.library.Library("torchvision", "DEF")
            _Torchvision.library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _Torchvision.library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


sys.meta_path.insert(0, _Torchvision())
sys.meta_path.append(_Absent())
