"""The two networks of the demo: deep, plain, and with nothing but their initializer to keep signals alive."""

from __future__ import annotations

from typing import Any


def mlp(kernel_init: Any, depth: int = 30, width: int = 128) -> Any:
    """`depth` dense layers with ReLU between them, for rows of 64 pixels."""
    from flax import linen as nn

    class MLP(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            for _ in range(depth - 1):
                x = nn.relu(nn.Dense(width, kernel_init=kernel_init)(x))
            return nn.Dense(10, kernel_init=kernel_init)(x)

    return MLP()


def cnn(kernel_init: Any, depth: int = 12, channels: int = 8) -> Any:
    """`depth - 1` convolutions with ReLU, the second half at a quarter of the pixels, and a dense layer."""
    from flax import linen as nn

    class CNN(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            x = x.reshape(-1, 8, 8, 1)
            for i in range(depth - 1):
                strides = (2, 2) if i == depth // 2 else (1, 1)
                x = nn.relu(nn.Conv(channels, (3, 3), strides, kernel_init=kernel_init)(x))
            return nn.Dense(10, kernel_init=kernel_init)(x.reshape(len(x), -1))

    return CNN()
