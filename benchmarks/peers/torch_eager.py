"""(d) PyTorch, eager."""

import itertools
import math

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from benchmarks.contenders import LEARNING_RATE, Contender, Layers, Sizes


class Vae(nn.Module):
    """Encoder and decoder."""

    def __init__(self, encoder: Layers, decoder: Layers) -> None:
        """Start at copies of the given layers."""
        super().__init__()
        self.encoder = _network(encoder)
        self.decoder = _network(decoder)

    def forward(self, x: torch.Tensor, num_samples: int) -> torch.Tensor:
        """Minus the importance-weighted bound of x [batch, num_dims]."""
        loc, log_scale = self.encoder(x)[:, None].chunk(2, dim=-1)
        noise = torch.randn(x.shape[0], num_samples, loc.shape[-1])
        z = loc + log_scale.exp() * noise
        logits = self.decoder(z)
        data = x[:, None].expand_as(logits)
        cross_entropy = binary_cross_entropy_with_logits(logits, data, reduction="none").sum(-1)
        log_prior_ratio = (0.5 * noise**2 + log_scale - 0.5 * z**2).sum(-1)
        bound = torch.logsumexp(log_prior_ratio - cross_entropy, dim=1) - math.log(num_samples)
        return -bound.mean()


def contender(
    sizes: Sizes, num_samples: int, encoder: Layers, decoder: Layers, batch: np.ndarray
) -> Contender:
    """PyTorch's VAE (K = 1) or IWAE (K > 1)."""
    torch.manual_seed(0)
    x = torch.from_numpy(batch)
    model = Vae(encoder, decoder)
    start = Vae(encoder, decoder)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)

    def run(num_steps: int) -> None:
        for _ in range(num_steps):
            optimizer.zero_grad(set_to_none=True)
            model(x, num_samples).backward()
            optimizer.step()

    def losses(num_draws: int) -> np.ndarray:
        with torch.no_grad():
            return np.array([start(x, num_samples).item() for _ in range(num_draws)])

    return Contender("PyTorch eager", run, losses)


def _network(layers: Layers) -> nn.Sequential:
    modules: list[nn.Module] = []
    for kernel, bias in layers:
        linear = nn.Linear(*kernel.shape)
        linear.weight.data = torch.tensor(kernel.T).contiguous()
        linear.bias.data = torch.tensor(bias)
        modules += [linear, nn.Tanh()]
    return nn.Sequential(*itertools.islice(modules, len(modules) - 1))
