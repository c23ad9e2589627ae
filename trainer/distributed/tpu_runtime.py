"""The TPU chips of this machine, and what their runtime needs; without TensorFlow."""

import importlib.metadata
import importlib.util
import os
import pathlib
from collections.abc import MutableMapping

GOOGLE = "0x1ae0"  # as a maker of PCI devices
CHIPS = {
    "0x0027": "v3",  # or v2
    "0x005e": "v4",
    "0x0062": "v5p",
    "0x0063": "v5e",
    "0x006f": "v6e",
    "0x0076": "tpu7x",
}
# Chips that TensorFlow reaches by PJRT; it drives the older ones by itself.
# docs.cloud.google.com/tpu/docs/runtimes
BY_PJRT = ("v5e", "v5p", "v6e")
LIBRARY = "TF_PLUGGABLE_DEVICE_LIBRARY_PATH"
# As keras.io's distributed_embedding_tf.py has them, which was written on a v6e.
XLA_FLAGS = (
    "--tf_mlir_enable_mlir_bridge=true",
    "--tf_mlir_enable_convert_control_to_data_outputs_pass=true",
    "--tf_mlir_enable_merge_control_flow_pass=true",
)


def attached_chips(devices: str = "/sys/bus/pci/devices") -> list[str]:
    """Returns the versions of the TPU chips of this machine, one entry for each."""
    found = []
    for vendor in sorted(pathlib.Path(devices).glob("*/vendor")):
        if vendor.read_text(encoding="ascii").strip() == GOOGLE:
            device = (vendor.parent / "device").read_text(encoding="ascii").strip()
            found += [CHIPS[device]] if device in CHIPS else []
    return found


def set_variables(
    chips: list[str], environment: MutableMapping[str, str] = os.environ, library: str | None = None
) -> None:
    """Sets what TensorFlow needs to reach chips by PJRT, where the user has not.

    To be called before TensorFlow is imported, which loads the library.

    Args:
        chips: of this machine.
        environment: is changed.
        library: path of libtpu.so; by default that of the package libtpu. Nothing is set where
            that is not installed, or a TensorFlow that is not built for TPUs, which could not load
            it.
    """
    if not set(chips) & set(BY_PJRT) or not (library := library or _installed_library()):
        return
    environment.setdefault("PJRT_DEVICE", "TPU")
    environment.setdefault("NEXT_PLUGGABLE_DEVICE_USE_C_API", "true")
    environment.setdefault(LIBRARY, library)
    given = environment.get("TF_XLA_FLAGS", "")
    missing = [flag for flag in XLA_FLAGS if flag.split("=")[0] not in given]
    environment["TF_XLA_FLAGS"] = " ".join([*given.split(), *missing])


def _installed_library() -> str | None:
    try:
        importlib.metadata.version("tensorflow-tpu")
    except importlib.metadata.PackageNotFoundError:
        return None
    found = importlib.util.find_spec("libtpu")  # without importing it, which sets a variable
    folders = found.submodule_search_locations if found else None
    path = pathlib.Path(next(iter(folders)), "libtpu.so") if folders else None
    return str(path) if path and path.exists() else None


def closed_devices(folder: str = "/dev") -> list[str]:
    """Returns the chips' device files that this process may not open."""
    root = pathlib.Path(folder)
    files = [*root.glob("vfio/[0-9]*"), *root.glob("accel[0-9]*")]
    return sorted(str(file) for file in files if not os.access(file, os.R_OK | os.W_OK))
