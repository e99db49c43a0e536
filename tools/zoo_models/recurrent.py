"""Recurrent networks: uni- and bidirectional, stacked, streamed, unrolled, with attention."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_models.small import Entry, numbers, tokens


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


def _state(count: int) -> Tensor:
    return torch.randn(1, count, 48)


SEQUENCE = (numbers(12, 24),)
TIME = {0: {1: "time"}}

MODELS: dict[str, Entry] = {
    "lstm": Entry(lambda: LastState(nn.LSTM), SEQUENCE, TIME),
    "lstm_all_steps": Entry(lambda: LastState(nn.LSTM, last="all"), SEQUENCE, TIME),
    "lstm_hidden": Entry(lambda: LastState(nn.LSTM, last="hidden"), SEQUENCE, TIME),
    "lstm_stacked": Entry(lambda: LastState(nn.LSTM, num_layers=3), SEQUENCE, TIME),
    "lstm_bidirectional": Entry(lambda: LastState(nn.LSTM, bidirectional=True), SEQUENCE, TIME),
    "lstm_bidirectional_stacked": Entry(
        lambda: LastState(nn.LSTM, num_layers=2, bidirectional=True, last="all"), SEQUENCE, TIME
    ),
    "lstm_projected": Entry(lambda: LastState(nn.LSTM, proj_size=32), SEQUENCE, TIME),
    "gru": Entry(lambda: LastState(nn.GRU), SEQUENCE, TIME),
    "gru_stacked": Entry(lambda: LastState(nn.GRU, num_layers=2), SEQUENCE, TIME),
    "gru_bidirectional": Entry(lambda: LastState(nn.GRU, bidirectional=True, last="all"), SEQUENCE, TIME),
    "gru_hidden": Entry(lambda: LastState(nn.GRU, last="hidden"), SEQUENCE, TIME),
    "rnn": Entry(lambda: LastState(nn.RNN), SEQUENCE, TIME),
    "rnn_relu_bidirectional": Entry(
        lambda: LastState(nn.RNN, nonlinearity="relu", bidirectional=True), SEQUENCE, TIME
    ),
    "lstm_time_first": Entry(lambda: TimeFirst(nn.LSTM), (tokens(12, below=50),), TIME),
    "gru_time_first": Entry(lambda: TimeFirst(nn.GRU), (tokens(12, below=50),), TIME),
    "lstm_streaming": Entry(GivenState, (numbers(6, 24), _state, _state), TIME, {1: 1, 2: 1}),
    "seq2seq_attention": Entry(
        Seq2Seq, (tokens(10, below=60), tokens(8, below=60)), {0: {1: "source"}, 1: {1: "target"}}
    ),
    "conv_lstm": Entry(ConvLstm, (numbers(3, 3, 16, 16),)),
    "lstm_cell": Entry(lambda: Unrolled(nn.LSTMCell), SEQUENCE),
    "gru_cell": Entry(lambda: Unrolled(nn.GRUCell), SEQUENCE),
    "crnn": Entry(Crnn, (numbers(1, 16, 64),), {0: {3: "width"}}),
    "deep_speech": Entry(DeepSpeech, (numbers(20, 40),), {0: {2: "time"}}),
}
