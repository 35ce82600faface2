"""Which int8 kernels this processor has: without dot products of bytes (AVX2 alone), sums of 8-bit products saturate."""

from __future__ import annotations

import pytest

from edgectl.device_profiles.machine import probe

__all__ = ["DOT_PRODUCTS", "needs_dot_products"]

_EXACT = {"isa:avx512_vnni", "isa:avx_vnni", "isa:dotprod"}

DOT_PRODUCTS = bool(_EXACT & probe().facts)

needs_dot_products = pytest.mark.skipif(
    not DOT_PRODUCTS,
    reason="this processor has no dot products of bytes: what is quantized for them to 8 bits saturates here",
)
