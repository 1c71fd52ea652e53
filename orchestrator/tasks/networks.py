"""The small networks of the shipped tasks."""

from itertools import pairwise

from torch import Tensor, nn


class MLP(nn.Module):
    """``depth`` hidden ReLU layers of ``width`` units; inputs are flattened."""

    def __init__(self, inputs: int, outputs: int, *, width: int, depth: int, dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        sizes = [inputs, *[width] * depth]
        for size, following in pairwise(sizes):
            layers += [nn.Linear(size, following), nn.ReLU(), nn.Dropout(dropout)]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(sizes[-1], outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs of shape (examples, outputs)."""
        result: Tensor = self.head(self.body(inputs))
        return result


class ConvNet(nn.Module):
    """``depth`` blocks of convolution, batch norm, ReLU and pooling; channels double with each block."""

    def __init__(self, channels: int, classes: int, *, width: int, depth: int, dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        sizes = [channels, *(width * 2**block for block in range(depth))]
        for size, following in pairwise(sizes):
            layers += [
                nn.Conv2d(size, following, kernel_size=3, padding=1, bias=False),
                nn.BatchNorm2d(following),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(dropout))
        self.head = nn.Linear(sizes[-1] * 4, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits of shape (examples, classes) for images (examples, channels, height, width)."""
        result: Tensor = self.head(self.body(inputs))
        return result
