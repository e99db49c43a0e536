"""A small encoder-decoder Transformer (Vaswani et al. 2017, LayerNorm before each part)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PAD = 0
WIDTH, HEADS, HIDDEN, LAYERS = 128, 4, 512, 2
LENGTH = 24  # tokens, both sides
WORDS = 3000  # known in each language


class Attention(nn.Module):
    """(n, t, 128) queries, (n, s, 128) keys and values, mask bool (.., t, s), True where unseen -> (n, t, 128)."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.value, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.heads, self.scale = HEADS, (WIDTH // HEADS) ** -0.5

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        query, key, value = (
            layer(y).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, y in ((self.query, x), (self.key, memory), (self.value, memory))
        )
        scores = (query @ key.transpose(-2, -1) * self.scale).masked_fill(mask, -1e9)
        y: Tensor = self.out((scores.softmax(-1) @ value).transpose(1, 2).flatten(-2))
        return y


class Layer(nn.Module):
    """Attention to its own side, to the other side where there is one, two linear layers; each beside a shortcut."""

    def __init__(self, *, crossing: bool) -> None:
        super().__init__()
        self.norm1, self.own = nn.LayerNorm(WIDTH), Attention()
        if crossing:
            self.norm2, self.other = nn.LayerNorm(WIDTH), Attention()
        self.norm3, self.up, self.down = (
            nn.LayerNorm(WIDTH),
            nn.Linear(WIDTH, HIDDEN),
            nn.Linear(HIDDEN, WIDTH),
        )
        self.drop = nn.Dropout(0.1)

    def forward(
        self, x: Tensor, mask: Tensor, memory: Tensor | None = None, seen: Tensor | None = None
    ) -> Tensor:
        y = self.norm1(x)
        x = x + self.drop(self.own(y, y, mask))
        if memory is not None and seen is not None:
            x = x + self.drop(self.other(self.norm2(x), memory, seen))
        y = self.down(F.relu(self.up(self.norm3(x))))
        return x.add(self.drop(y))


class Translator(nn.Module):
    """Tokens int64 `source` (n, s) and `target` (n, t), at most 24 each -> logits of the next one (n, t, 3000)."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(WORDS, WIDTH), nn.Embedding(WORDS, WIDTH)
        self.positions = nn.Embedding(LENGTH, WIDTH)
        self.encoder = nn.ModuleList(Layer(crossing=False) for _ in range(LAYERS))
        self.decoder = nn.ModuleList(Layer(crossing=True) for _ in range(LAYERS))
        self.norm_source, self.norm_target = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.drop = nn.Dropout(0.1)
        self.out = nn.Linear(WIDTH, WORDS)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        unseen = (source == PAD)[:, None, None]
        future = torch.ones(target.shape[1], target.shape[1], dtype=torch.bool).triu(1)
        memory = self.drop(self.source(source) + self.positions(torch.arange(source.shape[1])))
        for layer in self.encoder:
            memory = layer(memory, unseen)
        memory = self.norm_source(memory)
        y = self.drop(self.target(target) + self.positions(torch.arange(target.shape[1])))
        for layer in self.decoder:
            y = layer(y, future, memory, unseen)
        logits: Tensor = self.out(self.norm_target(y))
        return logits


def build() -> Translator:
    """The network, untrained; embeddings start at a standard deviation of 0.1."""
    network = Translator()
    for part in (network.source, network.target, network.positions):
        nn.init.normal_(part.weight, std=0.1)
    return network
