"""The same U-Net and loss in PyTorch, as its users would write them, of images or of volumes."""

import torch
from torch import nn

CONVOLUTION = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED_CONVOLUTION = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORMS = {
    ("batch", 2): nn.BatchNorm2d,
    ("batch", 3): nn.BatchNorm3d,
    ("instance", 2): nn.InstanceNorm2d,
    ("instance", 3): nn.InstanceNorm3d,
}
MAX_POOLING = {2: nn.functional.max_pool2d, 3: nn.functional.max_pool3d}


def conv_block(channels: int, filters: int, rank: int, norm: str) -> nn.Sequential:
    """Two convolutions of 3 along each axis, each with normalisation and ReLU."""
    layers: list[nn.Module] = []
    for width in (channels, filters):
        layers += [
            CONVOLUTION[rank](width, filters, 3, padding=1, bias=False),
            NORMS[norm, rank](filters, affine=True),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


def up_conv(channels: int, filters: int, rank: int, norm: str) -> nn.Sequential:
    """A transposed convolution of kernel and stride 2 with normalisation and ReLU."""
    return nn.Sequential(
        TRANSPOSED_CONVOLUTION[rank](channels, filters, 2, 2, bias=False),
        NORMS[norm, rank](filters, affine=True),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    """float32 [B, C, *S] → logits [B, K, *S]."""

    def __init__(
        self,
        channels: int,
        filters: int,
        depth: int,
        num_outputs: int = 1,
        *,
        rank: int = 2,
        norm: str = "batch",
    ):
        """Doubles `filters` at each of `depth` halvings."""
        super().__init__()
        style = {"rank": rank, "norm": norm}
        widths = [filters * 2**level for level in range(depth + 1)]
        above = list(reversed(widths[:-1]))
        pairs = list(zip([channels, *widths], widths, strict=False))
        self.down = nn.ModuleList(conv_block(*pair, **style) for pair in pairs)
        self.up = nn.ModuleList(up_conv(2 * width, width, **style) for width in above)
        self.merge = nn.ModuleList(conv_block(2 * width, width, **style) for width in above)
        self.head = CONVOLUTION[rank](filters, num_outputs, 1)
        self.pool = MAX_POOLING[rank]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the logits."""
        skips = []
        for block in self.down[:-1]:
            x = block(x)
            skips.append(x)
            x = self.pool(x, 2)
        x = self.down[-1](x)
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([skips.pop(), up(x)], 1))
        return self.head(x)


def ce_dice(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Returns cross-entropy + soft Dice over the classes, the background's included.

    Args:
        logits: float32 [B, K, *S]; of two classes, K = 1.
        labels: int64 [B, *S].
    """
    space = tuple(range(2, logits.ndim))
    if logits.shape[1] == 1:
        binary = labels[:, None].float()
        entropy = nn.functional.binary_cross_entropy_with_logits(logits, binary)
        foreground = torch.sigmoid(logits)
        pairs = ((foreground, binary), (1 - foreground, 1 - binary))
    else:
        entropy = nn.functional.cross_entropy(logits, labels)
        classes = nn.functional.one_hot(labels, logits.shape[1]).movedim(-1, 1).float()
        pairs = ((torch.softmax(logits, 1), classes),)
    dice = 0.0
    for p, y in pairs:
        both, squares = (p * y).sum(space), (p * p + y * y).sum(space)
        dice = dice + (2 * both / squares.clamp_min(1e-6)).mean() / len(pairs)
    return entropy + 1 - dice
