"""A residual network on made-up images of 32x32 pixels: as much work as CIFAR-10, and nothing to download."""

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from orchestrator import ClassificationTask, Splits

CLASSES = 10
NOISE = 2.0
"""Standard deviation of a pixel around its class's pattern, whose own is 1."""


class ResidualImages(ClassificationTask):
    """Each class is a smooth random pattern; an image is its class's, shifted and with noise.

    Args:
        examples: to train on; a quarter as many to validate, and as many to test.
    """

    def __init__(self, examples: int = 20_000) -> None:
        self.examples = examples

    def splits(self) -> Splits:
        generator = torch.Generator().manual_seed(0)
        coarse = torch.randn(CLASSES, 3, 8, 8, generator=generator)
        patterns = nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear")
        sizes = (self.examples, self.examples // 4, self.examples // 4)
        return Splits(*(_images(patterns, size, generator) for size in sizes))

    def model(self, width: int = 32, depth: int = 3) -> nn.Module:
        """``depth`` stages of two residual blocks; each stage has twice the channels and half the height."""
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
        for stage in range(depth):
            wider = width * 2**stage
            layers += [Block(channels, wider, 1 if stage == 0 else 2), Block(wider, wider, 1)]
            channels = wider
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES))


def _images(patterns: Tensor, count: int, generator: torch.Generator) -> TensorDataset:
    targets = torch.randint(CLASSES, (count,), generator=generator)
    shifts = torch.randint(32, (count,), generator=generator)
    images = torch.stack([patterns[t].roll(int(s), 2) for t, s in zip(targets.tolist(), shifts, strict=True)])
    return TensorDataset(images + NOISE * torch.randn(images.shape, generator=generator), targets)


class Block(nn.Module):
    """Two convolutions and a way past them (He et al. 2015, arXiv 1512.03385)."""

    def __init__(self, channels: int, wider: int, stride: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(channels, wider, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(wider),
            nn.ReLU(),
            nn.Conv2d(wider, wider, 3, padding=1, bias=False),
            nn.BatchNorm2d(wider),
        )
        same = channels == wider and stride == 1
        self.past = nn.Identity() if same else nn.Conv2d(channels, wider, 1, stride, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Keep the shape, but for channels and stride."""
        return nn.functional.relu(self.inner(inputs) + self.past(inputs))
