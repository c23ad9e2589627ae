"""What is drawn on the pixels of an image: outlines of masks, errors, quantities as colours.

Classes have the colours of Okabe and Ito ("Color Universal Design", 2008), errors three others; all
ten can be told apart with any kind of colour vision.
"""

import numpy as np

from trainer.ignore_label import IGNORE

CLASS_COLOURS = (
    (230, 159, 0),  # orange
    (86, 180, 233),  # sky blue
    (0, 158, 115),  # bluish green
    (240, 228, 66),  # yellow
    (204, 121, 167),  # reddish purple
    (213, 94, 0),  # vermilion
    (0, 114, 178),  # blue
)
MISSED = (255, 255, 255)  # white: foreground in truth only
ADDED = (204, 0, 255)  # violet: foreground in prediction only
CONFUSED = (153, 255, 153)  # light green: another foreground class
IGNORED = (96, 96, 96)

# Of a quantity, low to high: cividis (Nuñez et al., 2018), whose lightness grows evenly.
RAMP = (
    (0, 34, 78),
    (53, 69, 108),
    (102, 105, 112),
    (148, 142, 119),
    (200, 184, 102),
    (254, 232, 56),
)


def class_colour(index: int) -> tuple[int, int, int]:
    """Returns the colour of a class; the background, 0, is never outlined."""
    return CLASS_COLOURS[(index - 1) % len(CLASS_COLOURS)]


def display(image: np.ndarray) -> np.ndarray:
    """Returns an image as colours that can be shown.

    8-bit grey, RGB and RGBA are shown as they are, without alpha. All else is stretched so that
    0.5 % of the values are black and 0.5 % white. Two channels are shown as green and magenta, the
    first three of more as red, green and blue.

    Args:
        image: any dtype [H, W, C] or [H, W].

    Returns:
        uint8 [H, W, 3].
    """
    values = image if image.ndim == 3 else image[..., np.newaxis]
    channels = values.shape[2]
    values = values[..., [0, 1, 0] if channels == 2 else [0, 0, 0] if channels == 1 else [0, 1, 2]]
    if values.dtype == np.uint8 and channels in (1, 3, 4):
        return values
    wide = values.astype(np.float32)
    low, high = np.percentile(wide, (0.5, 99.5))
    if high <= low:
        low, high = float(wide.min()), float(wide.max())
    scaled = (wide - low) / max(high - low, np.finfo(np.float32).tiny)
    return np.rint(255 * np.clip(scaled, 0, 1)).astype(np.uint8)


def outline(region: np.ndarray) -> np.ndarray:
    """Returns the pixels of a region that touch another region by a side: bool [H, W]."""
    padded = np.pad(region, 1, mode="edge")
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return region & ~inner


def draw_outlines(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns a picture with every foreground class outlined and ignored pixels greyed.

    Args:
        picture: uint8 [H, W, 3].
        mask: integers [H, W], class ids; IGNORE where a pixel does not count.
    """
    drawn = picture.copy()
    ignored = mask == IGNORE
    drawn[ignored] = _mixed(drawn[ignored], IGNORED, 0.75)
    edges = {int(k): outline(mask == k) for k in np.unique(mask[~ignored & (mask > 0)])}
    shadow = np.zeros(mask.shape, bool)  # without it, lines are lost on bright pictures
    for edge in edges.values():
        shadow |= _beside(edge)
    drawn[shadow] //= 2
    for index, edge in edges.items():
        drawn[edge] = class_colour(index)
    return drawn


def draw_overlay(picture: np.ndarray, mask: np.ndarray, opacity: float) -> np.ndarray:
    """Returns a picture with every foreground class tinted, and outlined from outside.

    No line is drawn on a class, so that what is a pixel wide can be seen through its tint. Without
    a tint, classes that touch could not be told apart, and it is `draw_outlines`.

    Args:
        picture: uint8 [H, W, 3].
        mask: integers [H, W], class ids.
        opacity: of the tint, from 0, outlines alone, to 1, the colour alone.
    """
    if not opacity:
        return draw_outlines(picture, mask)
    drawn = picture.copy()
    for index in np.unique(mask[mask > 0]).tolist():
        region = mask == index
        drawn[region] = _mixed(picture[region], class_colour(index), opacity)
        drawn[_beside(region) & (mask == 0)] = class_colour(index)
    return drawn


def paint(mask: np.ndarray) -> np.ndarray:
    """Returns a mask, integers [H, W], in the colours of its classes: uint8 [H, W, 3]."""
    colours = [class_colour(k) if k else (0, 0, 0) for k in range(int(mask.max(initial=0)) + 1)]
    return np.array(colours, np.uint8)[mask]


def _beside(edge: np.ndarray) -> np.ndarray:
    """Returns the pixels next to a line or region, by a side, and itself: bool [H, W]."""
    padded = np.pad(edge, 1)
    return edge | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]


def draw_errors(picture: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Returns a dimmed picture with wrong pixels in the colour of their kind of error.

    Args:
        picture: uint8 [H, W, 3].
        truth: integers [H, W], class ids; IGNORE where a pixel does not count.
        prediction: integers [H, W], class ids.
    """
    drawn = picture // 3
    counts = truth != IGNORE
    drawn[~counts] = IGNORED
    drawn[counts & (truth > 0) & (prediction == 0)] = MISSED
    drawn[counts & (truth == 0) & (prediction > 0)] = ADDED
    drawn[counts & (truth > 0) & (prediction > 0) & (truth != prediction)] = CONFUSED
    return drawn


def draw_quantity(shares: np.ndarray) -> np.ndarray:
    """Returns shares, floats [H, W] in [0, 1], as colours of `RAMP`: uint8 [H, W, 3]."""
    places = np.linspace(0, 1, len(RAMP))
    channels = np.transpose(RAMP)
    table = np.stack([np.interp(np.arange(256) / 255, places, x) for x in channels], -1)
    return np.rint(table).astype(np.uint8)[np.rint(255 * shares).astype(np.uint8)]


def _mixed(colours: np.ndarray, other: tuple[int, int, int], share: float) -> np.ndarray:
    mixture = (1 - share) * colours + share * np.array(other)
    return np.rint(mixture).astype(np.uint8)
