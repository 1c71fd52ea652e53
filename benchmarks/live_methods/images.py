"""A synthetic image set that is harder than digits: what to recognise is moved, faded and overlaid."""

import numpy as np
from scipy.ndimage import gaussian_filter
from torch import nn

from orchestrator.tasks.arrays import divide, tensor_splits
from orchestrator.tasks.base import ClassificationTask, Splits
from orchestrator.tasks.networks import ConvNet

CLASSES = 10
SIDE = 12
"""Pixels along an edge."""
FORMS = 3
"""Different patterns that mean the same class."""
SHIFT = 2
"""Pixels, at most, by which a pattern is moved each way."""
OVERLAY = 0.6
"""Largest share of another class's pattern laid over the image."""
NOISE = 0.5
"""Deviation of the pixel noise, in deviations of a pattern."""
WRONG = 0.04
"""Share of labels replaced by a random one: what no network can learn and a large one can memorise."""


class SyntheticImages(ClassificationTask):
    """Ten classes of smooth random patterns, three to a class; every number above is our choice."""

    def __init__(self, examples: int = 2400, seed: int = 0, split_seed: int = 0) -> None:
        self.examples = examples
        self.seed = seed
        self.split_seed = split_seed

    def splits(self) -> Splits:
        """Images (1, 12, 12), scaled by the mean and deviation of all training pixels."""
        images, labels = draw(self.examples, np.random.default_rng(self.seed))
        parts = divide(self.examples, self.split_seed, labels)
        scaled = (images - images[parts[0]].mean()) / images[parts[0]].std()
        return tensor_splits(scaled[:, None], labels, parts)

    def model(self, width: int = 16, depth: int = 2, dropout: float = 0.0) -> nn.Module:  # type: ignore[override]
        """See :class:`~orchestrator.tasks.networks.ConvNet`."""
        return ConvNet(1, CLASSES, width=width, depth=depth, dropout=dropout)


def draw(examples: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Images (examples, SIDE, SIDE) and labels (examples,)."""
    patterns = smooth_patterns(CLASSES * FORMS, generator)
    labels = generator.integers(CLASSES, size=examples)
    others = (labels + generator.integers(1, CLASSES, size=examples)) % CLASSES
    strength = generator.uniform(0.5, 1.5, size=(examples, 1, 1))
    overlay = generator.uniform(0.0, OVERLAY, size=(examples, 1, 1))
    images = strength * placed(patterns, labels, generator) + overlay * placed(patterns, others, generator)
    images += NOISE * generator.standard_normal(images.shape)
    wrong = generator.random(examples) < WRONG
    return images, np.where(wrong, generator.integers(CLASSES, size=examples), labels)


def smooth_patterns(count: int, generator: np.random.Generator) -> np.ndarray:
    """Random fields (count, SIDE, SIDE), smooth over a pixel or two, with mean 0 and deviation 1."""
    fields = gaussian_filter(generator.standard_normal((count, SIDE, SIDE)), sigma=(0, 1.2, 1.2), mode="wrap")
    fields -= fields.mean(axis=(1, 2), keepdims=True)
    scaled: np.ndarray = fields / fields.std(axis=(1, 2), keepdims=True)
    return scaled


def placed(patterns: np.ndarray, labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """For each label one of its patterns, moved by up to SHIFT pixels each way (around the edge)."""
    chosen = patterns[labels * FORMS + generator.integers(FORMS, size=len(labels))]
    steps = generator.integers(-SHIFT, SHIFT + 1, size=(len(labels), 2))
    return np.stack([np.roll(image, tuple(step), axis=(0, 1)) for image, step in zip(chosen, steps, strict=True)])
