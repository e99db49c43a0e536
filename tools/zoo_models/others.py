"""Networks that libraries do not ship: generators, segmenters, volumes, sets, tables, graphs."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_models.small import Entry, numbers, tokens


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


IMAGE = (numbers(3, 32, 32),)
SIZE = {0: {2: "height", 3: "width"}}

MODELS: dict[str, Entry] = {
    "unet_transposed": Entry(lambda: Unet(transposed=True), IMAGE, SIZE),
    "unet_upsampled": Entry(lambda: Unet(transposed=False), IMAGE, SIZE),
    "unet_3d": Entry(Unet3d, (numbers(1, 16, 16, 16),)),
    "dcgan": Entry(dcgan, (numbers(32),)),
    "super_resolution": Entry(SuperResolution, (numbers(3, 24, 24),), SIZE),
    "autoencoder": Entry(Autoencoder, IMAGE),
    "wavenet": Entry(Wavenet, (numbers(1, 64),), {0: {2: "time"}}),
    "transformer_post_norm": Entry(lambda: TorchTransformer(norm_first=False), (numbers(12, 20),)),
    "transformer_pre_norm": Entry(
        lambda: TorchTransformer(norm_first=True), (numbers(12, 20),), {0: {1: "time"}}
    ),
    "transformer_seq2seq": Entry(TorchSeq2Seq, (tokens(12, below=60), tokens(12, below=60))),
    "ranker": Entry(Ranker, (numbers(13), tokens(4, below=20))),
    "graph_net": Entry(GraphNet, (numbers(10, 12), numbers(10, 10))),
    "point_net": Entry(PointNet, (numbers(3, 40),), {0: {2: "points"}}),
    "perceptron": Entry(Perceptron, (numbers(20),)),
    "siamese": Entry(Siamese, (numbers(3, 32, 32), numbers(3, 32, 32))),
}
