"""Convolutions of channel-last maps and their derivatives, each by what is fastest for it.

On a processor colours are convolved by bands, planes and inner maps by the entries that are not 0.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input, conv2d_weight

from metagrad.compiled import bands, sparse_conv


def readable(picture: Tensor, dtype: torch.dtype, convolved: bool) -> Tensor:
    """Bytes stay bytes where compiled code convolves them."""
    stays = convolved and picture.dtype == torch.uint8 and picture.is_cpu
    return picture if stays else picture.to(dtype)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolution of channel-last maps ``[B, h, w, C]``."""
    if x.is_cpu:
        return (bands if bands.fits(x) else sparse_conv).convolve(x, weight, bias)
    return F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=weight.shape[-1] // 2).permute(0, 2, 3, 1).contiguous()


def input_gradient(d: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Derivative of ``sum(d * convolve(x, weight, bias))`` with respect to ``x``."""
    if x.is_cpu:
        return sparse_conv.input_gradient(d, weight)
    shape, pad = x.permute(0, 3, 1, 2).shape, weight.shape[-1] // 2
    return conv2d_input(shape, weight, d.permute(0, 3, 1, 2), padding=pad).permute(0, 2, 3, 1).contiguous()


def kernel_gradient(d: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """The same with respect to the weight."""
    if x.is_cpu:
        return (bands if bands.fits(x) else sparse_conv).kernel_gradient(x, d, weight.shape[-1])
    pad = weight.shape[-1] // 2
    return conv2d_weight(x.permute(0, 3, 1, 2), weight.shape, d.permute(0, 3, 1, 2), padding=pad)
