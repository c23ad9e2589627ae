"""The same U-Net and loss in PyTorch, as its users would write them."""

import torch
from torch import nn


def conv_block(channels: int, filters: int) -> nn.Sequential:
    """Two 3×3 convolutions, each with BatchNorm and ReLU."""
    layers: list[nn.Module] = []
    for width in (channels, filters):
        layers += [
            nn.Conv2d(width, filters, 3, padding=1, bias=False),
            nn.BatchNorm2d(filters),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


def up_conv(channels: int, filters: int) -> nn.Sequential:
    """A 2×2 transposed convolution of stride 2 with BatchNorm and ReLU."""
    return nn.Sequential(
        nn.ConvTranspose2d(channels, filters, 2, 2, bias=False),
        nn.BatchNorm2d(filters),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    """float32 [B, C, H, W] → logits [B, K, H, W]."""

    def __init__(self, channels: int, filters: int, depth: int, num_outputs: int = 1):
        """Doubles `filters` at each of `depth` halvings."""
        super().__init__()
        widths = [filters * 2**level for level in range(depth + 1)]
        pairs = list(zip([channels, *widths], widths, strict=False))
        self.down = nn.ModuleList(conv_block(before, after) for before, after in pairs)
        self.up = nn.ModuleList(up_conv(2 * width, width) for width in reversed(widths[:-1]))
        self.merge = nn.ModuleList(conv_block(2 * width, width) for width in reversed(widths[:-1]))
        self.head = nn.Conv2d(filters, num_outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the logits."""
        skips = []
        for block in self.down[:-1]:
            x = block(x)
            skips.append(x)
            x = nn.functional.max_pool2d(x, 2)
        x = self.down[-1](x)
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([skips.pop(), up(x)], 1))
        return self.head(x)


def ce_dice(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy + soft Dice over both classes, logits and labels float32 [B, H, W]."""
    entropy = nn.functional.binary_cross_entropy_with_logits(logits, labels)
    probability = torch.sigmoid(logits)
    dice = 0.0
    for p, y in ((probability, labels), (1 - probability, 1 - labels)):
        both, squares = (p * y).sum((1, 2)), (p * p + y * y).sum((1, 2))
        dice = dice + (2 * both / squares.clamp_min(1e-6)).mean() / 2
    return entropy + 1 - dice
