"""Lets vLLM's Model Runner V2 run on a CPU: its Triton kernels are executed by Triton's own interpreter. For tests alone."""

import os

if os.environ.get("WMCHECK_TEST_TRITON_ON_CPU"):
    os.environ["TRITON_INTERPRET"] = "1"
    import numpy as np
    import triton.backends
    import triton.runtime.interpreter as interpreter

    class _Driver:
        @staticmethod
        def is_active():
            return True

    class _Backend:
        driver, compiler = _Driver, None

    triton.backends.backends["cpu"] = _Backend
    _builder = interpreter.InterpreterBuilder
    _load, _store = _builder.create_masked_load, _builder.create_masked_store

    def _masked_load(self, pointers, mask, *rest, **named):
        mask.data = mask.data.astype(np.bool_)
        return _load(self, pointers, mask, *rest, **named)

    def _masked_store(self, pointers, value, mask, *rest, **named):
        mask.data = mask.data.astype(np.bool_)
        return _store(self, pointers, value, mask, *rest, **named)

    _builder.create_masked_load, _builder.create_masked_store = _masked_load, _masked_store
