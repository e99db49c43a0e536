"""Marks for tests whose outcome depends on CUDA."""

import onnxruntime
import pytest
from onnx_text import RELU

from onnxprune.errors import ProviderError
from onnxprune.session import open_session


def _why_no_cuda() -> str:
    try:
        open_session(RELU, provider="cuda")
    except ProviderError as error:
        return str(error)
    return ""


_INSTALLED = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
_WHY = _why_no_cuda()

needs_cuda = pytest.mark.skipif(bool(_WHY), reason=_WHY)
needs_no_cuda = pytest.mark.skipif(_INSTALLED, reason="the installed onnxruntime has a CUDA provider")
