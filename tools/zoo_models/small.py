"""Networks written here: recurrent ones, generators, and the shapes of block that libraries do not ship."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_models.case import Network
from zoo_models.weights import randomize


class LastState(nn.Module):
    """A recurrent net over features, then a classifier on its last step."""

    def __init__(self, kind: type[nn.RNNBase], *, last: str = "step", **options: object) -> None:
        super().__init__()
        self.rnn = kind(24, 48, batch_first=True, **options)
        width = 48 * (2 if self.rnn.bidirectional else 1)
        if isinstance(self.rnn, nn.LSTM) and self.rnn.proj_size:
            width = self.rnn.proj_size
        self.last = last
        self.inner = nn.Linear(48 if last == "hidden" else width, 40)
        self.head = nn.Linear(40, 10)

    def forward(self, x: Tensor) -> Tensor:
        steps, state = self.rnn(x)
        hidden = state[0] if isinstance(state, tuple) else state
        chosen = {"step": lambda: steps[:, -1], "hidden": lambda: hidden[-1], "all": lambda: steps}[
            self.last
        ]()
        return self.head(torch.relu(self.inner(chosen)))


class TimeFirst(nn.Module):
    """T x N x C, an embedding before and a mean over time behind."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 32)
        self.rnn = kind(32, 40, num_layers=2)
        self.head = nn.Linear(40, 10)

    def forward(self, tokens: Tensor) -> Tensor:
        steps, _ = self.rnn(self.embedding(tokens).transpose(0, 1))
        return self.head(steps.mean(0))


class GivenState(nn.Module):
    """The state comes in and goes out, as in streaming."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Linear(24, 32)
        self.rnn = nn.LSTM(32, 48, batch_first=True)
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        steps, (h, c) = self.rnn(torch.relu(self.before(x)), (h, c))
        return self.head(steps), h, c


class Seq2Seq(nn.Module):
    """An encoder whose state starts a decoder with dot-product attention."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(60, 32), nn.Embedding(60, 32)
        self.encoder = nn.GRU(32, 48, batch_first=True)
        self.decoder = nn.GRU(32, 48, batch_first=True)
        self.mix = nn.Linear(96, 48)
        self.head = nn.Linear(48, 60)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory, state = self.encoder(self.source(source))
        steps, _ = self.decoder(self.target(target), state)
        weights = torch.softmax(steps @ memory.transpose(1, 2) / 48**0.5, dim=-1)
        return self.head(torch.tanh(self.mix(torch.cat([steps, weights @ memory], dim=-1))))


class ConvLstm(nn.Module):
    """Four gates from one convolution, unrolled over a few frames."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.gates = nn.Conv2d(16 + 24, 4 * 24, 3, padding=1)
        self.head = nn.Linear(24, 10)

    def forward(self, frames: Tensor) -> Tensor:
        hidden = frames.new_zeros(frames.shape[0], 24, frames.shape[3], frames.shape[4])
        cell = hidden
        for step in range(3):
            x = torch.relu(self.stem(frames[:, step]))
            i, f, g, o = self.gates(torch.cat([x, hidden], dim=1)).chunk(4, dim=1)
            cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
            hidden = torch.sigmoid(o) * torch.tanh(cell)
        return self.head(hidden.mean((2, 3)))


class Unrolled(nn.Module):
    """An LSTM cell in a python loop."""

    def __init__(self, kind: type[nn.RNNCellBase]) -> None:
        super().__init__()
        self.cell = kind(24, 40)
        self.head = nn.Linear(40, 10)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(x.shape[0], 40)
        both = (state, state)
        for step in range(4):
            if isinstance(self.cell, nn.LSTMCell):
                both = self.cell(x[:, step], both)
                state = both[0]
            else:
                state = self.cell(x[:, step], state)
        return self.head(state)


class Crnn(nn.Module):
    """Convolutions, the height folded into channels, a bidirectional LSTM over the width: text recognition."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.rnn = nn.LSTM(32 * 4, 40, bidirectional=True, batch_first=True)
        self.head = nn.Linear(80, 20)

    def forward(self, images: Tensor) -> Tensor:
        x = self.features(images)
        x = x.permute(0, 3, 1, 2).flatten(2)
        return self.head(self.rnn(x)[0])


class DeepSpeech(nn.Module):
    """1-D convolutions, stacked bidirectional GRUs with BatchNorm between them, a score per step."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(20, 48, 5, stride=2, padding=2)
        self.norm = nn.BatchNorm1d(48)
        self.first = nn.GRU(48, 40, bidirectional=True, batch_first=True)
        self.between = nn.BatchNorm1d(80)
        self.second = nn.GRU(80, 40, bidirectional=True, batch_first=True)
        self.head = nn.Linear(80, 30)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardtanh(self.norm(self.conv(x)), 0, 20).transpose(1, 2)
        x = self.first(x)[0]
        x = self.between(x.transpose(1, 2)).transpose(1, 2)
        return self.head(self.second(x)[0])


class Unet(nn.Module):
    """Down, up, and a concatenation on every level."""

    def __init__(self, *, transposed: bool) -> None:
        super().__init__()
        self.down1, self.down2, self.middle = self._block(3, 16), self._block(16, 32), self._block(32, 64)
        self.lift2 = nn.ConvTranspose2d(64, 32, 2, 2) if transposed else nn.Upsample(scale_factor=2)
        self.lift1 = nn.ConvTranspose2d(32, 16, 2, 2) if transposed else nn.Upsample(scale_factor=2)
        self.up2 = self._block(64 if transposed else 96, 32)
        self.up1 = self._block(32 if transposed else 48, 16)
        self.head = nn.Conv2d(16, 4, 1)

    @staticmethod
    def _block(i: int, o: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU(),
            nn.Conv2d(o, o, 3, padding=1), nn.InstanceNorm2d(o, affine=True), nn.LeakyReLU(0.1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        c = self.middle(F.max_pool2d(b, 2))
        b = self.up2(torch.cat([b, self.lift2(c)], 1))
        return self.head(self.up1(torch.cat([a, self.lift1(b)], 1)))


def dcgan() -> nn.Module:
    """A noise vector to an image by transposed convolutions."""
    return nn.Sequential(
        nn.Linear(32, 64 * 16), nn.Unflatten(1, (64, 4, 4)), nn.BatchNorm2d(64), nn.ReLU(),
        nn.ConvTranspose2d(64, 48, 4, 2, 1), nn.BatchNorm2d(48), nn.ReLU(),
        nn.ConvTranspose2d(48, 24, 4, 2, 1), nn.BatchNorm2d(24), nn.ReLU(),
        nn.ConvTranspose2d(24, 3, 4, 2, 1), nn.Tanh(),
    )  # fmt: skip


class SuperResolution(nn.Module):
    """Residual blocks with PReLU, then two pixel shuffles."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 5, padding=2)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.PReLU(32), nn.Conv2d(32, 32, 3, padding=1))
            for _ in range(3)
        )
        self.up = nn.Sequential(
            nn.Conv2d(32, 64, 3, padding=1), nn.PixelShuffle(2), nn.PReLU(),
            nn.Conv2d(16, 64, 3, padding=1), nn.PixelShuffle(2), nn.Conv2d(16, 3, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return self.up(x)


class Autoencoder(nn.Module):
    """The mean and the log variance from one linear layer, split; GroupNorm and SiLU."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, 1), nn.GroupNorm(4, 32), nn.SiLU(),
            nn.Conv2d(32, 64, 3, 2, 1), nn.GroupNorm(8, 64), nn.SiLU(), nn.Flatten(), nn.Linear(64 * 64, 32),
        )  # fmt: skip
        self.lift = nn.Linear(16, 64 * 64)
        self.decoder = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(64, 32, 3, padding=1), nn.SiLU(),
            nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(32, 3, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = self.encoder(x).chunk(2, 1)
        return self.decoder(self.lift(mean * torch.exp(0.1 * variance)).view(-1, 64, 8, 8))


class Wavenet(nn.Module):
    """Dilated causal 1-D convolutions, tanh x sigmoid gates, residual and skip paths."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, 32, 1)
        self.dilated = nn.ModuleList(nn.Conv1d(32, 64, 2, dilation=2**i) for i in range(4))
        self.residual = nn.ModuleList(nn.Conv1d(32, 32, 1) for _ in range(4))
        self.skip = nn.ModuleList(nn.Conv1d(32, 48, 1) for _ in range(4))
        self.head = nn.Sequential(nn.ReLU(), nn.Conv1d(48, 32, 1), nn.ReLU(), nn.Conv1d(32, 16, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        total: Tensor | float = 0.0
        for i, (dilated, residual, skip) in enumerate(
            zip(self.dilated, self.residual, self.skip, strict=True)
        ):
            a, b = dilated(F.pad(x, (2**i, 0))).chunk(2, 1)
            gated = torch.tanh(a) * torch.sigmoid(b)
            total = total + skip(gated)
            x = x + residual(gated)
        assert isinstance(total, Tensor)
        return self.head(total)


class Unet3d(nn.Module):
    """Volumes: 3-D convolutions, GroupNorm, a transposed one back up."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv3d(1, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU())
        self.middle = nn.Sequential(nn.Conv3d(16, 32, 3, 2, 1), nn.BatchNorm3d(32), nn.ReLU())
        self.up = nn.ConvTranspose3d(32, 16, 2, 2)
        self.head = nn.Conv3d(32, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down(x)
        return self.head(torch.cat([a, self.up(self.middle(a))], 1))


class TorchTransformer(nn.Module):
    """torch's own encoder layers on a projected sequence."""

    def __init__(self, *, norm_first: bool) -> None:
        super().__init__()
        self.first = nn.Linear(20, 64)
        layer = nn.TransformerEncoderLayer(
            64, 4, 128, batch_first=True, norm_first=norm_first, activation="gelu"
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.first(x)).mean(1))


class TorchSeq2Seq(nn.Module):
    """torch's own encoder-decoder with a causal mask."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(60, 64), nn.Embedding(60, 64)
        self.body = nn.Transformer(64, 4, 2, 2, 128, batch_first=True)
        self.head = nn.Linear(64, 60)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(12))

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.head(self.body(self.source(source), self.target(target), tgt_mask=self.mask))


class Ranker(nn.Module):
    """Tables for categories, features, crossed and deep parts: what recommends."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(20, 16) for _ in range(4))
        self.dense = nn.Sequential(nn.Linear(13, 64), nn.ReLU(), nn.Linear(64, 16), nn.ReLU())
        self.top = nn.Sequential(
            nn.Linear(16 + 10, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1)
        )

    def forward(self, features: Tensor, categories: Tensor) -> Tensor:
        x = self.dense(features)
        parts = torch.stack([x, *(table(categories[:, i]) for i, table in enumerate(self.tables))], 1)
        products = parts @ parts.transpose(1, 2)
        rows, columns = torch.tril_indices(5, 5, offset=-1)
        return self.top(torch.cat([x, products[:, rows, columns]], 1))


class GraphNet(nn.Module):
    """Two rounds of messages over a dense adjacency matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 48), nn.Linear(48, 48)
        self.head = nn.Linear(48, 5)

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        x = torch.relu(adjacency @ self.first(nodes))
        x = torch.relu(torch.einsum("bij,bjc->bic", adjacency, self.second(x))) + x
        return self.head(x.amax(1))


class PointNet(nn.Module):
    """Shared 1-D convolutions over points, the maximum over all of them, joined to each again."""

    def __init__(self) -> None:
        super().__init__()
        self.local = nn.Sequential(
            nn.Conv1d(3, 32, 1),
            nn.BatchNorm1d(32),
            nn.ReLU(),
            nn.Conv1d(32, 64, 1),
            nn.BatchNorm1d(64),
            nn.ReLU(),
        )
        self.head = nn.Sequential(nn.Conv1d(128, 64, 1), nn.ReLU(), nn.Conv1d(64, 6, 1))

    def forward(self, points: Tensor) -> Tensor:
        x = self.local(points)
        whole = x.amax(2, keepdim=True).expand(-1, -1, x.shape[2])
        return self.head(torch.cat([x, whole], 1))


class Perceptron(nn.Module):
    """Linear layers with BatchNorm and every common activation."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(20, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64), nn.Softplus(), nn.Linear(64, 64),
            nn.ELU(), nn.Linear(64, 64), nn.GELU(), nn.LayerNorm(64), nn.Linear(64, 64), nn.Mish(), nn.Linear(64, 5),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Siamese(nn.Module):
    """One tower for two images, compared by the cosine."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(
            nn.Conv2d(3, 24, 3, 2, 1), nn.ReLU(), nn.Conv2d(24, 48, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(), nn.Linear(48, 32),
        )  # fmt: skip

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (F.normalize(self.tower(a)) * F.normalize(self.tower(b))).sum(1)


def _numbers(*shape: int) -> Callable[[int], Tensor]:
    return lambda count: torch.randn(count, *shape)


def _tokens(*shape: int, below: int) -> Callable[[int], Tensor]:
    return lambda count: torch.randint(0, below, (count, *shape))


def _state(count: int) -> Tensor:
    return torch.randn(1, count, 48)


Sample = tuple[Callable[[int], Tensor], ...]
SEQUENCE: Sample = (_numbers(12, 24),)
SMALL_IMAGE: Sample = (_numbers(3, 32, 32),)

RECURRENT: dict[str, tuple[Callable[[], nn.Module], Sample]] = {
    "lstm": (lambda: LastState(nn.LSTM), SEQUENCE),
    "lstm_all_steps": (lambda: LastState(nn.LSTM, last="all"), SEQUENCE),
    "lstm_hidden": (lambda: LastState(nn.LSTM, last="hidden"), SEQUENCE),
    "lstm_stacked": (lambda: LastState(nn.LSTM, num_layers=3), SEQUENCE),
    "lstm_bidirectional": (lambda: LastState(nn.LSTM, bidirectional=True), SEQUENCE),
    "lstm_bidirectional_stacked": (
        lambda: LastState(nn.LSTM, num_layers=2, bidirectional=True, last="all"),
        SEQUENCE,
    ),
    "lstm_projected": (lambda: LastState(nn.LSTM, proj_size=32), SEQUENCE),
    "gru": (lambda: LastState(nn.GRU), SEQUENCE),
    "gru_stacked": (lambda: LastState(nn.GRU, num_layers=2), SEQUENCE),
    "gru_bidirectional": (lambda: LastState(nn.GRU, bidirectional=True, last="all"), SEQUENCE),
    "gru_hidden": (lambda: LastState(nn.GRU, last="hidden"), SEQUENCE),
    "rnn": (lambda: LastState(nn.RNN), SEQUENCE),
    "rnn_relu_bidirectional": (lambda: LastState(nn.RNN, nonlinearity="relu", bidirectional=True), SEQUENCE),
    "lstm_time_first": (lambda: TimeFirst(nn.LSTM), (_tokens(12, below=50),)),
    "gru_time_first": (lambda: TimeFirst(nn.GRU), (_tokens(12, below=50),)),
    "lstm_streaming": (GivenState, (_numbers(6, 24), _state, _state)),
    "seq2seq_attention": (Seq2Seq, (_tokens(10, below=60), _tokens(8, below=60))),
    "conv_lstm": (ConvLstm, (_numbers(3, 3, 16, 16),)),
    "lstm_cell": (lambda: Unrolled(nn.LSTMCell), SEQUENCE),
    "gru_cell": (lambda: Unrolled(nn.GRUCell), SEQUENCE),
    "crnn": (Crnn, (_numbers(1, 16, 64),)),
    "deep_speech": (DeepSpeech, (_numbers(20, 40),)),
}

OTHERS: dict[str, tuple[Callable[[], nn.Module], Sample]] = {
    "unet_transposed": (lambda: Unet(transposed=True), (_numbers(3, 32, 32),)),
    "unet_upsampled": (lambda: Unet(transposed=False), (_numbers(3, 32, 32),)),
    "unet_3d": (Unet3d, (_numbers(1, 16, 16, 16),)),
    "dcgan": (dcgan, (_numbers(32),)),
    "super_resolution": (SuperResolution, (_numbers(3, 24, 24),)),
    "autoencoder": (Autoencoder, SMALL_IMAGE),
    "wavenet": (Wavenet, (_numbers(1, 64),)),
    "transformer_post_norm": (lambda: TorchTransformer(norm_first=False), (_numbers(12, 20),)),
    "transformer_pre_norm": (lambda: TorchTransformer(norm_first=True), (_numbers(12, 20),)),
    "transformer_seq2seq": (TorchSeq2Seq, (_tokens(12, below=60), _tokens(12, below=60))),
    "ranker": (Ranker, (_numbers(13), _tokens(4, below=20))),
    "graph_net": (GraphNet, (_numbers(10, 12), _numbers(10, 10))),
    "point_net": (PointNet, (_numbers(3, 40),)),
    "perceptron": (Perceptron, (_numbers(20),)),
    "siamese": (Siamese, (_numbers(3, 32, 32), _numbers(3, 32, 32))),
}


def small_network(name: str) -> Network:
    """A network of this file with random weights."""
    torch.manual_seed(0)
    build, inputs = {**RECURRENT, **OTHERS}[name]
    module = build()

    def sample(count: int) -> tuple[Tensor, ...]:
        return tuple(one(count) for one in inputs)

    randomize(module, lambda: module(*sample(4)))
    free = {0: {1: "time"}} if inputs is SEQUENCE else {0: {2: "height", 3: "width"}}
    return Network(module, sample, free, {1: 1, 2: 1} if build is GivenState else {})
