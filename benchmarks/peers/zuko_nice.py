"""zuko's NICE (PyTorch, eager), whose couplings are affine: a RealNVP."""

import importlib
import math
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.contenders import LEARNING_RATE, Layers

# zuko bounds a log scale r by r / (1 + |r| / _BOUND).
_BOUND = -math.log(1e-3)


def functions(
    couplings: list[Layers], log_scale: float, batch: np.ndarray
) -> tuple[dict[str, Callable[[int], None]], float]:
    """What `benchmarks.flow` times, by name, and the loss at the start.

    Args:
        couplings: from data to noise, the layers of each; see `benchmarks.flow.draw_couplings`.
        log_scale: of every coupling.
        batch: [batch_size, num_dims].
    """
    zuko = importlib.import_module("zuko")
    torch.manual_seed(0)
    hidden = [kernel.shape[1] for kernel, _ in couplings[0][:-1]]
    flow = zuko.flows.NICE(
        features=batch.shape[1], transforms=len(couplings), hidden_features=hidden
    )
    for transform, layers in zip(flow.transform.transforms, couplings, strict=True):
        _set(transform.hyper, layers, log_scale)
    x = torch.from_numpy(batch)
    optimizer = torch.optim.Adam(flow.parameters(), lr=LEARNING_RATE, fused=True)

    def loss() -> torch.Tensor:
        return -flow().log_prob(x).mean()

    with torch.no_grad():
        start = loss().item()

    def train(num_steps: int) -> None:
        for _ in range(num_steps):
            optimizer.zero_grad(set_to_none=True)
            loss().backward()
            optimizer.step()

    def log_prob(num_steps: int) -> None:
        with torch.no_grad():
            for _ in range(num_steps):
                flow().log_prob(x)

    def sample(num_steps: int) -> None:
        with torch.no_grad():
            for _ in range(num_steps):
                flow().sample((len(batch),))

    return {"training step": train, "log_prob": log_prob, "sample": sample}, start


def _set(network: torch.nn.Module, layers: Layers, log_scale: float) -> None:
    """Copy the layers; the last has a shift and a log scale for each dimension, side by side."""
    linears = [module for module in network.children() if hasattr(module, "weight")]
    for linear, (kernel, bias) in zip(linears[:-1], layers[:-1], strict=True):
        linear.weight.data = torch.tensor(kernel.T).contiguous()
        linear.bias.data = torch.tensor(bias)
    kernel, bias = layers[-1]
    raw = log_scale / (1 - abs(log_scale) / _BOUND)
    weight = np.stack([kernel.T, np.zeros_like(kernel.T)], axis=1)
    linears[-1].weight.data = torch.tensor(weight.reshape(-1, kernel.shape[0]))
    linears[-1].bias.data = torch.tensor(
        np.stack([bias, np.full_like(bias, raw)], axis=1).reshape(-1)
    )
