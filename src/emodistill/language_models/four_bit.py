"""bitsandbytes, imported without PyTorch's compiler.

bitsandbytes 0.50 passes two of its functions to `torch.compile` when it is imported, which loads the compiler: a second
or two of every start. They serve devices for which it has no kernels of its own; it has some for CPUs and for CUDA.
Afterwards `torch.compile` compiles as ever.
"""

import os

_SWITCH = "TORCHDYNAMO_DISABLE"

_before = os.environ.get(_SWITCH)
os.environ[_SWITCH] = "1"
try:
    import bitsandbytes as bnb
finally:
    if _before is None:
        del os.environ[_SWITCH]
    else:
        os.environ[_SWITCH] = _before

__all__ = ["bnb"]
