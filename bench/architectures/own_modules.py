"""Shapes of network that no library names: written here in a few lines each, with PyTorch."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

__all__ = ["OWN"]


def _block(into: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(into, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU())


class Unet(nn.Module):
    """Three levels, transposed convolutions, skip concats."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([_block(3, 16), _block(16, 32), _block(32, 64)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(64, 32, 2, 2), nn.ConvTranspose2d(32, 16, 2, 2)])
        self.join = nn.ModuleList([_block(64, 32), _block(32, 16)])
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        a = self.down[0](image)
        b = self.down[1](nn.functional.max_pool2d(a, 2))
        x = self.down[2](nn.functional.max_pool2d(b, 2))
        x = self.join[0](torch.cat([self.up[0](x), b], 1))
        x = self.join[1](torch.cat([self.up[1](x), a], 1))
        return self.head(x)


class Recurrent(nn.Module):
    """Two layers over a sequence, the last step classified."""

    def __init__(self, cell: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.cells = cell(40, 64, num_layers=2, batch_first=True)
        self.head = nn.Linear(64, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(x)[0][:, -1])


class Tcn(nn.Module):
    """Dilated 1-d convolutions with residual adds and weight normalisation."""

    def __init__(self) -> None:
        super().__init__()
        into = [40, 64, 64, 64]
        self.layers = nn.ModuleList(
            nn.utils.parametrizations.weight_norm(nn.Conv1d(n, 64, 3, dilation=2**i, padding=2**i))
            for i, n in enumerate(into)
        )
        self.head = nn.Linear(64, 12)

    def forward(self, x: Tensor) -> Tensor:
        for i, layer in enumerate(self.layers):
            y = nn.functional.relu(layer(x))
            x = y if i == 0 else x + y
        return self.head(x.mean(2))


class Dcgan(nn.Module):
    """A generator: a vector becomes a picture of 64 x 64 by transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [100, 256, 128, 64, 32]
        layers: list[nn.Module] = []
        for i, (a, b) in enumerate(itertools.pairwise(sizes)):
            layers += [
                nn.ConvTranspose2d(a, b, 4, 1 if i == 0 else 2, 0 if i == 0 else 1, bias=False),
                nn.BatchNorm2d(b),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(32, 3, 4, 2, 1), nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z)


class EarlyExit(nn.Module):
    """A classifier that skips its second half where the first is sure (If)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(_block(3, 16), nn.MaxPool2d(2), _block(16, 32), nn.MaxPool2d(2))
        self.early = nn.Linear(32, 10)
        self.second = nn.Sequential(_block(32, 64), _block(64, 64))
        self.late = nn.Linear(64, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = self.first(image)
        guess = self.early(x.mean((2, 3)))
        if bool(guess.amax() > guess.mean() + 0.2):
            y = guess
        else:
            y = self.late(self.second(x).mean((2, 3)))
        return y


class DecoderLoop(nn.Module):
    """A loop over a sequence that feeds its state back (Loop)."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Linear(64, 128)
        self.mix = nn.Linear(192, 64)
        self.head = nn.Linear(64, 20)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.relu(self.front(x))
        state = torch.zeros(1, 64)
        for i in range(y.size(1)):
            state = torch.tanh(self.mix(torch.cat([y[:, i], state], 1)))
        return self.head(state)


OWN = {
    "unet": Unet,
    "lstm": lambda: Recurrent(nn.LSTM),
    "gru": lambda: Recurrent(nn.GRU),
    "tcn": Tcn,
    "dcgan": Dcgan,
    "early_exit": lambda: torch.jit.script(EarlyExit().eval()),
    "decoder_loop": lambda: torch.jit.script(DecoderLoop().eval()),
}
