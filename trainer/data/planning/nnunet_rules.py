"""nnU-Net's rules: from the shapes and spacings of a data set to patch, batch and network.

They are those of its planner (Isensee et al., 2021, https://doi.org/10.1038/s41592-020-01008-z;
nnU-Net 2.8.1), in plain numbers: nothing is built or measured. Axes are in its order, in which the
one with the coarsest spacing is the first.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from trainer.data import preprocessing
from trainer.data.planning.fingerprint import Fingerprint

SMALLEST = 4  # sides of the deepest level
LOW_RESOLUTION = 0.25  # share of a volume: a patch that has less of it calls for a coarser stage
COARSER = 1.03  # by which its spacing grows in each attempt


@dataclasses.dataclass(frozen=True)
class Network:
    """What a planner reckons with: its network's size, and the memory of a reference.

    Attributes:
        convolutions: of each level of the encoder; a deeper level has those of the last.
        decoder: convolutions of each level of the decoder.
        residual: whether levels are residual blocks of two convolutions and have a stem before.
        elements: by rank, those of all feature maps that fit into `memory_gb`.
        memory_gb: of a GPU.
        covered: largest share of a data set's voxels in a batch.
        same_batch: whether a patch must fit twice, rather than as often as a reference batch has
            examples.
        features: of the first level; each below doubles them.
        most_features: by rank, at most.
    """

    convolutions: tuple[int, ...] = (2,)
    decoder: int = 2
    residual: bool = False
    elements: tuple[tuple[int, float], ...] = ((2, 85e6), (3, 560e6))
    memory_gb: float = 8
    covered: float = 0.05
    same_batch: bool = True
    features: int = 32
    most_features: tuple[tuple[int, int], ...] = ((2, 512), (3, 320))


_RESIDUAL = Network(
    convolutions=(1, 3, 4, 6),
    decoder=1,
    residual=True,
    elements=((2, 135e6), (3, 680e6)),
    covered=1,
    same_batch=False,
)
NETWORKS = {
    "plain": Network(),
    "resenc_m": _RESIDUAL,
    "resenc_l": dataclasses.replace(_RESIDUAL, elements=((2, 380e6), (3, 2100e6)), memory_gb=24),
    "resenc_xl": dataclasses.replace(_RESIDUAL, elements=((2, 560e6), (3, 3600e6)), memory_gb=40),
}
REFERENCE_BATCH = {2: 12, 3: 2}
FIRST_SIDE = {2: 2048, 3: 256}  # of a square or cube as large as the first patch


@dataclasses.dataclass(frozen=True)
class Topology:
    """Levels of a network for a patch, from the top.

    Attributes:
        patch: sides, multiples of `divisors`.
        strides: of each level to the one above; 1 at the top.
        kernels: of each level.
        divisors: products of the strides.
    """

    patch: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    divisors: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Configuration:
    """What a network of one resolution is trained with.

    Attributes:
        spacing: in mm along each axis.
        median_shape: of the volumes at that spacing, in voxels.
        topology: its levels.
        features: of each level.
        batch_size: examples.
        batch_dice: whether Dice is that of the batch as a whole.
        elements: of all feature maps of an example.
    """

    spacing: tuple[float, ...]
    median_shape: tuple[float, ...]
    topology: Topology
    features: tuple[int, ...]
    batch_size: int
    batch_dice: bool
    elements: int


@dataclasses.dataclass(frozen=True)
class Plans:
    """What nnU-Net plans for a data set.

    Attributes:
        axes: of the data (depth, height, width) in the order of the configurations.
        flat: of slices, or of images.
        full: of volumes; None where they are one slice deep.
        low: of volumes at a coarser spacing, where a patch would see little of one.
    """

    axes: tuple[int, ...]
    flat: Configuration
    full: Configuration | None = None
    low: Configuration | None = None


def plan(
    data: Fingerprint, memory_gb: float | None = None, network: Network = NETWORKS["plain"]
) -> Plans:
    """Returns the `Plans` for a data set.

    Args:
        data: its fingerprint.
        memory_gb: of a GPU; None: that of the network's reference.
        network: a row of NETWORKS.
    """
    target = data.target or preprocessing.target_spacing(
        np.array(data.spacings), np.array(data.shapes)
    )
    coarsest = int(np.argmax(target))
    axes = (coarsest, *(axis for axis in range(3) if axis != coarsest))
    shapes = [
        preprocessing.target_shape(shape, spacing, target)
        for shape, spacing in zip(data.shapes, data.spacings, strict=True)
    ]
    median = tuple(float(np.median(shapes, axis=0)[axis]) for axis in axes)
    spacing = tuple(target[axis] for axis in axes)
    voxels = math.prod(median) * data.num_cases
    reckoned = _Reckoning(data.num_classes, network, memory_gb or network.memory_gb)
    flat = reckoned.configure(spacing[1:], median[1:], voxels, batch_dice=True)
    if median[0] == 1:
        return Plans(axes, flat)
    full = reckoned.configure(spacing, median, voxels)
    low = _coarser(reckoned, full, data.num_cases)
    return Plans(axes, flat, dataclasses.replace(full, batch_dice=low is not None), low)


def _coarser(reckoned: "_Reckoning", full: Configuration, cases: int) -> Configuration | None:
    """Returns the stage of low resolution; None where a patch sees enough, or it would save little.

    The spacing grows, at first along the axes that are more than twice as fine as the coarsest.
    """
    found, voxels = full, math.prod(full.median_shape)
    spacing = np.array(full.spacing)
    while math.prod(found.topology.patch) / voxels < LOW_RESOLUTION:
        is_finer = spacing.max() / spacing > 2
        spacing[is_finer if is_finer.any() else slice(None)] *= COARSER
        shape = np.array(full.spacing) / spacing * np.array(full.median_shape)
        voxels = float(np.prod(shape))
        rounded = tuple(map(round, shape.tolist()))
        found = reckoned.configure(tuple(spacing.tolist()), rounded, voxels * cases)
    return None if math.prod(full.median_shape) / voxels < 2 else found


@dataclasses.dataclass(frozen=True)
class _Reckoning:
    """A network, its classes, and the memory that it may take."""

    num_classes: int
    network: Network
    memory_gb: float

    def configure(
        self,
        spacing: Sequence[float],
        median: Sequence[float],
        voxels: float,
        *,
        batch_dice: bool = False,
    ) -> Configuration:
        """Returns patch, levels and batch.

        Args:
            spacing: along each axis.
            median: shape of the volumes.
            voxels: of the whole data set.
            batch_dice: see `Configuration`.
        """
        rank = len(spacing)
        reference = dict(self.network.elements)[rank] * (self.memory_gb / self.network.memory_gb)
        batch = REFERENCE_BATCH[rank]
        found = levels(spacing, _first_patch(spacing, median))
        elements = self.elements(found)
        while elements * (2 / batch if self.network.same_batch else 1) > reference:
            found = _reduced(found, spacing, median)
            elements = self.elements(found)
        fitting = round(reference / elements * batch)
        most = round(voxels * self.network.covered / math.prod(found.patch))
        return Configuration(
            spacing=tuple(spacing),
            median_shape=tuple(median),
            topology=found,
            features=self.features(found),
            batch_size=max(min(fitting, most), 2),
            batch_dice=batch_dice,
            elements=elements,
        )

    def features(self, found: Topology) -> tuple[int, ...]:
        """Returns the features of each level."""
        most = dict(self.network.most_features)[len(found.patch)]
        return tuple(
            min(most, self.network.features * 2**level) for level in range(len(found.strides))
        )

    def elements(self, found: Topology) -> int:
        """Returns the number of values in all feature maps of an example.

        Those of every convolution count, of the transposed ones and of the last.
        """
        network = self.network
        size = list(found.patch)
        maps = []  # of one convolution of each level
        for stride, features in zip(found.strides, self.features(found), strict=True):
            size = [side // by for side, by in zip(size, stride, strict=True)]
            maps.append(math.prod(size) * features)
        total = self.num_classes * math.prod(found.patch)
        total += sum((network.decoder + 1) * each for each in maps[:-1])
        for level, each in enumerate(maps):
            count = network.convolutions[min(level, len(network.convolutions) - 1)]
            # Below the top a first residual block has a projection; at the top there is the stem.
            total += (2 * count + 1 if network.residual else count) * each
        return total


def _first_patch(spacing: Sequence[float], median: Sequence[float]) -> list[float]:
    """Returns the largest patch: as cubic as the spacing allows, no larger than the volumes."""
    inverse = 1 / np.array(spacing)
    rank = len(spacing)
    scaled = inverse * (FIRST_SIDE[rank] ** rank / np.prod(inverse)) ** (1 / rank)
    return [min(round(side), most) for side, most in zip(scaled.tolist(), median, strict=True)]


def levels(spacing: Sequence[float], patch: Sequence[float]) -> Topology:
    """Returns the levels of a network for a patch, which is rounded up to what they divide.

    As long as an axis is long enough, those are halved that are less than twice as coarse as the
    finest of the long ones. Kernels are flat along axes that are still coarser than that.
    """
    axes = range(len(patch))
    sizes, distances = list(patch), list(spacing)
    kernel = [1] * len(patch)
    strides, kernels = [(1,) * len(patch)], []
    while True:
        longer = [axis for axis in axes if sizes[axis] >= 2 * SMALLEST]
        finest = min((distances[axis] for axis in longer), default=0)
        halved = [axis for axis in longer if distances[axis] / finest < 2]
        if not halved or (len(halved) == 1 and sizes[halved[0]] < 3 * SMALLEST):
            break
        near = [distance / min(distances) < 2 for distance in distances]
        kernel = [3 if is_near else side for side, is_near in zip(kernel, near, strict=True)]
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if axis in halved else 1 for axis in axes))
        for axis in halved:
            distances[axis] *= 2
            sizes[axis] = math.ceil(sizes[axis] / 2)
    kernels.append((3,) * len(patch))
    divisors = tuple(map(math.prod, zip(*strides, strict=True)))
    rounded = tuple(
        math.ceil(side / divisor) * divisor for side, divisor in zip(patch, divisors, strict=True)
    )
    return Topology(rounded, tuple(strides), tuple(kernels), divisors)


def _reduced(found: Topology, spacing: Sequence[float], median: Sequence[float]) -> Topology:
    """Returns the levels of the next smaller patch: less along the axis that sees most of a volume.

    It loses as much there as the levels of the patch without it divide, for what they divide may
    be less.
    """
    patch = list(found.patch)
    shares = [side / whole for side, whole in zip(patch, median, strict=True)]
    axis = max(range(len(patch)), key=lambda axis: (shares[axis], axis))
    tried = list(patch)
    tried[axis] -= found.divisors[axis]
    patch[axis] -= levels(spacing, tried).divisors[axis]
    return levels(spacing, patch)
