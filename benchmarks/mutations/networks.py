"""The networks of the healthy pool. Their parts are methods, so that a fault is one overridden method."""

import math

import torch
from torch import Tensor, nn


class DeepMLP(nn.Module):
    """``depth`` hidden ReLU layers of equal width."""

    def __init__(self, inputs: int, outputs: int, width: int = 64, depth: int = 6) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Flatten(), nn.Linear(inputs, width), nn.ReLU())
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.activation = nn.ReLU()
        self.head = nn.Linear(width, outputs)

    def hidden(self, state: Tensor) -> Tensor:
        for layer in self.layers:
            state = self.activation(layer(state))
        return state

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.hidden(self.stem(inputs)))


class PlainCNN(nn.Module):
    """Two convolutions without batch norm."""

    def __init__(self, classes: int, width: int = 16) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.second = nn.Sequential(nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.head = nn.Linear(8 * width, classes)

    def body(self, images: Tensor) -> Tensor:
        return self.second(self.first(images))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images).flatten(1))


class ResidualBlock(nn.Module):
    """Two convolutions whose sum with the input starts as the input (Goyal et al. 2017, section 5.1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm_one = nn.BatchNorm2d(width)
        self.two = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm_two = nn.BatchNorm2d(width)
        nn.init.zeros_(self.norm_two.weight)

    def branch(self, state: Tensor) -> Tensor:
        return self.norm_two(self.two(self.norm_one(self.one(state)).relu()))

    def forward(self, state: Tensor) -> Tensor:
        return (state + self.branch(state)).relu()


class ResidualNet(nn.Module):
    """Three zero-initialised residual blocks and an average pool."""

    def __init__(self, classes: int, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.blocks = nn.ModuleList(ResidualBlock(width) for _ in range(3))
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.head = nn.Linear(4 * width, classes)

    def body(self, state: Tensor) -> Tensor:
        for block in self.blocks:
            state = block(state)
        return state

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.pool(self.body(self.stem(images))))


class PatchAttention(nn.Module):
    """A small vision transformer over the 16 patches of 2x2 pixels of an 8x8 image."""

    def __init__(self, classes: int, width: int = 32, dropout: float = 0.1) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, stride=2)
        self.position = nn.Parameter(0.02 * torch.randn(1, 16, width))
        self.block = nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout=dropout, batch_first=True, norm_first=True, activation="gelu"
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        state = self.patches(images).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.block(state)).mean(dim=1))


class RowGRU(nn.Module):
    """Reads an image row by row; the last state decides."""

    def __init__(self, classes: int, width: int = 48) -> None:
        super().__init__()
        self.recurrent = nn.GRU(8, width, batch_first=True)
        self.head = nn.Linear(width, classes)

    def read(self, rows: Tensor) -> Tensor:
        return self.recurrent(rows)[0][:, -1]

    def forward(self, rows: Tensor) -> Tensor:
        return self.head(self.read(rows))


class TokenLSTM(nn.Module):
    """Embedding, bidirectional LSTM, mean over the positions."""

    def __init__(self, tokens: int, classes: int, width: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, width)
        self.recurrent = nn.LSTM(width, width, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * width, classes)

    def embed(self, tokens: Tensor) -> Tensor:
        return self.embedding(tokens)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.recurrent(self.embed(tokens))[0].mean(dim=1))


class CausalBlock(nn.Module):
    """Pre-norm causal self-attention and a feed-forward layer."""

    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.norm_one, self.norm_two = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def mask(self, length: int, device: torch.device) -> Tensor:
        """True where a position (row) must not look (column)."""
        return torch.ones(length, length, dtype=torch.bool, device=device).triu(1)

    def attend(self, state: Tensor) -> Tensor:
        examples, length, width = state.shape
        parts = self.project(state).view(examples, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(-1, -2) / math.sqrt(width // self.heads)
        scores = scores.masked_fill(self.mask(length, state.device), -math.inf)
        mixed = (scores.softmax(dim=-1) @ value).transpose(1, 2).reshape(examples, length, width)
        return self.out(mixed)

    def forward(self, state: Tensor) -> Tensor:
        state = state + self.attend(self.norm_one(state))
        return state + self.feed(self.norm_two(state))


class LanguageModel(nn.Module):
    """Two causal blocks; the output layer is the embedding's transpose (Press & Wolf 2017)."""

    def __init__(self, tokens: int, length: int, width: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, width)
        self.position = nn.Embedding(length, width)
        nn.init.normal_(self.embedding.weight, std=0.05)
        nn.init.normal_(self.position.weight, std=0.05)
        self.blocks = nn.ModuleList(CausalBlock(width) for _ in range(2))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        state = self.embedding(tokens) + self.position(places)
        for block in self.blocks:
            state = block(state)
        return self.norm(state) @ self.embedding.weight.T


class MaskedAttention(nn.Module):
    """Attention pooling over the real steps of a padded sequence; the last input channel says which are real."""

    def __init__(self, channels: int, classes: int, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(channels, width), nn.ReLU(), nn.Linear(width, width))
        self.score = nn.Linear(width, 1)
        self.head = nn.Linear(width, classes)

    def padding(self, inputs: Tensor) -> Tensor:
        return inputs[..., -1:] < 0.5

    def forward(self, inputs: Tensor) -> Tensor:
        state = self.embed(inputs[..., :-1])
        scores = self.score(state).masked_fill(self.padding(inputs), -1e9)
        return self.head((scores.softmax(dim=1) * state).sum(dim=1))


class CausalConvolution(nn.Module):
    """Dilated causal convolutions over a series (examples, steps, 1)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv1d(1 if dilation == 1 else width, width, 2, dilation=dilation) for dilation in (1, 2, 4)
        )
        self.head = nn.Conv1d(width, 1, 1)

    def forward(self, series: Tensor) -> Tensor:
        state = series.transpose(1, 2)
        for layer in self.layers:
            state = layer(nn.functional.pad(state, (layer.dilation[0], 0))).relu()
        return self.head(state).transpose(1, 2)


class TiedAutoencoder(nn.Module):
    """The decoder's matrix is the encoder's transpose; images in, flat pixels out."""

    def __init__(self, pixels: int, width: int = 32) -> None:
        super().__init__()
        self.encoder = nn.Linear(pixels, width)
        self.offset = nn.Parameter(torch.zeros(pixels))

    def forward(self, images: Tensor) -> Tensor:
        return self.encoder(images.flatten(1)).relu() @ self.encoder.weight + self.offset


class Segmenter(nn.Module):
    """Per-pixel logits (examples, 2, height, width)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.GroupNorm(4, width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(4, width), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))


class CategoryTable(nn.Module):
    """A float table whose first two columns are category codes, embedded; the rest are numbers."""

    def __init__(self, categories: int, numbers: int, outputs: int, width: int = 32) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(categories, 4) for _ in range(2))
        self.body = nn.Sequential(nn.Linear(8 + numbers, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.head = nn.Linear(width, outputs)

    def forward(self, table: Tensor) -> Tensor:
        codes = [embedding(table[:, column].long()) for column, embedding in enumerate(self.embeddings)]
        return self.head(self.body(torch.cat([*codes, table[:, 2:]], dim=1)))


class FrozenFeatures(nn.Module):
    """A backbone that is never trained below a trained head."""

    def __init__(self, directions: Tensor, classes: int, width: int = 32) -> None:
        super().__init__()
        features, pixels = directions.shape
        self.backbone = nn.Linear(pixels, features, bias=False)
        with torch.no_grad():
            self.backbone.weight.copy_(directions)
        self.backbone.requires_grad_(False)
        self.head = nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Linear(width, classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images.flatten(1)))


class PairEncoder(nn.Module):
    """Unit-length embeddings of both views: (examples, 2, pixels) to (examples, 2, width)."""

    def __init__(self, pixels: int, width: int = 16) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(pixels, 64), nn.ReLU(), nn.Linear(64, width))

    def forward(self, views: Tensor) -> Tensor:
        return nn.functional.normalize(self.body(views), dim=-1)
