"""Which tests a GPU decides over."""

import onnxruntime
import pytest

_HAS_CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()

needs_cuda = pytest.mark.skipif(not _HAS_CUDA, reason="the installed onnxruntime has no CUDA provider")
needs_no_cuda = pytest.mark.skipif(_HAS_CUDA, reason="the installed onnxruntime has a CUDA provider")
