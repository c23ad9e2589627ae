"""What an export says of itself: the model card, and commands that ask a server for masks."""

import json
import os
import re
import shlex
import textwrap
from collections.abc import Collection
from typing import Any

from trainer.evaluate import metrics
from trainer.storage import files

SERVING = "http://localhost:8501/v1/models/unet:predict"
VERTEX = (
    "https://$REGION-aiplatform.googleapis.com/v1/projects/$PROJECT/locations/$REGION/endpoints/"
    "$ENDPOINT:rawPredict"
)


def examples(signatures: Collection[str], rank: int) -> dict[str, str]:
    """Returns commands for a shell; `image.png` and what begins with $ are the user's.

    Where images cannot be sent as files, an array of one pixel represents them, or of one voxel
    where their rank is 3.
    """
    if "png" in signatures:
        request = (
            """printf '{"signature_name": "png", "instances": [{"image_bytes": {"b64": "%s"}}]}' """
            "\"$(base64 < image.png | tr -d '\\n')\""
        )
        mask = (
            """ | python3 -c "import base64, json, sys; sys.stdout.buffer.write(base64.b64decode("""
            """json.load(sys.stdin)['predictions'][0]['b64']))" > mask.png"""
        )
    else:
        one = "[" * (rank + 1) + "0" + "]" * (rank + 1)
        request, mask = f"""printf '{{"instances": [{one}]}}'""", ""
    header = '-H "Content-Type: application/json"'
    login = '-H "Authorization: Bearer $(gcloud auth print-access-token)"'
    return {
        "start_tensorflow_serving": (
            'docker run -p 8501:8501 -e MODEL_NAME=unet -v "$PWD/OUTPUT:/models/unet/1" '
            "tensorflow/serving"
        ),
        "ask_tensorflow_serving": f"{request} | curl -s {header} -d @- {SERVING}{mask}",
        "ask_vertex_ai": f"{request} | curl -s {header} {login} -d @- {VERTEX}{mask}",
    }


def volume_examples(signatures: Collection[str]) -> dict[str, str]:
    """Returns the same, and Python that asks a SavedModel for the mask of a volume."""
    return {
        **examples(signatures, rank=3),
        "python": "\n".join(
            (
                "import numpy as np",
                "import tensorflow as tf",
                "",
                'model = tf.saved_model.load("OUTPUT")',
                'volume = np.load("volume.npy")  # [D, H, W, C], in the units of the files',
                "volumes = tf.constant(volume[np.newaxis], tf.float32)",
                'found = model.signatures["serving_default"](volumes=volumes)',
                'np.save("mask.npy", found["mask"][0].numpy())',
            )
        ),
    }


def image_examples(signatures: Collection[str], dtype: str) -> dict[str, str]:
    """Returns what `examples` does, and Python that asks a SavedModel, and Keras, about an image.

    Args:
        signatures: of the SavedModel.
        dtype: of the training data.
    """
    of_floats = dtype == "float32"
    shape = f"  # {dtype} [H, W, C]"
    reading = (
        'np.load("image.npy")'
        if of_floats
        else f'np.atleast_3d(Image.open("image.png")).astype("{dtype}")'
    )
    pillow = () if of_floats else ("from PIL import Image",)
    return {
        **examples(signatures, rank=2),
        "python": "\n".join(
            (
                *("import numpy as np", "import tensorflow as tf", *pillow, ""),
                'model = tf.saved_model.load("OUTPUT")',
                f"image = {reading}{shape}",
                "images = tf.constant(image[np.newaxis])",
                'found = model.signatures["serving_default"](images=images)',
                'np.save("mask.npy", found["mask"][0].numpy())',
            )
        ),
        "python_with_keras_alone": "\n".join(
            (
                *("import keras", "import numpy as np", *pillow, ""),
                'model = keras.saving.load_model("OUTPUT/model.keras")',
                f"image = {reading}{shape}",
                "probabilities = model(image[np.newaxis])[0]  # [H, W, classes]",
                'np.save("probabilities.npy", probabilities)',
            )
        ),
    }


def difference_line(figures: dict[str, Any]) -> str:
    """Returns a measured difference as a sentence."""
    return (
        "over {images} images, probabilities differ by {mean_probability_difference:.2g} on "
        "average and {largest_probability_difference:.2g} at most; {pixels_of_another_class:.3%} "
        "of the pixels get another class; foreground Dice {dice:.4f}, of the original "
        "{dice_of_original:.4f}"
    ).format(**figures)


def write(
    run_dir: str, run: dict[str, Any], data: dict[str, Any], described: dict[str, Any]
) -> str:
    """Returns the text of model_card.md.

    Args:
        run_dir: the run folder, whose evaluation is quoted where there is one.
        run: the content of its run.json.
        data: what run.json says of the data.
        described: what signature.json says.
    """
    settings = run["settings"]
    of_volumes = data.get("volumes") is not None
    pixel, image = ("voxel", "volume") if of_volumes else ("pixel", "image")
    origin, licence = (_plain(data[key] or "not stated") for key in ("origin", "licence"))
    counts = ", ".join(f"{n} {_plain(name)}" for name, n in data["images"].items())
    lines = ["# Model card", ""]
    lines += [
        f"A {_plain(settings['model'])} that gives each {pixel} of "
        f"{'a' if of_volumes else 'an'} {image} one of {len(run['classes'])} classes. "
        f"{_plain(settings['filters'])} filters, depth {_plain(settings['depth'])}, "
        f"normalisation {_plain(run.get('norm', settings['norm']))}; "
        f"best weights of step {described['step']}, by {_plain(settings['best_metric'])} on the "
        "validation split.",
        "",
        "## Data",
        "",
        f"- Origin: {origin}",
        f"- Licence of the data: {licence}",
        f"- {image.capitalize()}s: {counts}",
        f"- {pixel.capitalize()}s: {run['channels']} channels of {_plain(data['dtype'])}; "
        "fingerprint of the data "
        f"{_plain(run['data_fingerprint'][:12] or 'unknown')}",
        *(_prepared(described["volumes"]) if of_volumes else _normalised(settings)),
        "",
        "## Training",
        "",
        *_training(run),
        "",
        "## Classes",
        "",
        f"| id | name | value in masks | share of training {pixel}s |",
        "|---|---|---|---|",
    ]
    pixels = data["pixels"]["train"]
    for entry, count in zip(described["classes"], pixels, strict=True):
        share = f"{count / max(1, sum(pixels)):.1%}"
        lines.append(f"| {entry['id']} | {_plain(entry['name'])} | {entry['value']} | {share} |")
    if data["ignore_value"] is not None:
        lines += [
            "",
            f"{pixel.capitalize()}s of value {data['ignore_value']} were ignored in training.",
        ]
    lines += ["", "## Scores", "", *_scores(run_dir, image)]
    lines += ["", "## Files", ""]
    lines += [f"- `{name}`: {use}" for name, use in described["files"].items()]
    if described["differences"]:
        lines += ["", "Measured against the original on the test split (val where there is none):"]
        lines += [""]
        for name, figures in described["differences"].items():
            lines.append(f"- `{name}`: {difference_line(figures)}.")
    lines += [
        "",
        "## Limits",
        "",
        f"- Tested on {image}s like those of the training data only{_domain(data)}; others, such "
        "as those of another device, place or scale, may give worse masks without a warning.",
        *(_limits_of_volumes(described) if of_volumes else _limits(settings, described)),
    ]
    lines += ["", "## Use", ""]
    for title, command in described["examples"].items():
        lines += [
            f"{title.replace('_', ' ').capitalize()}:",
            "",
            textwrap.indent(command, "    "),
            "",
        ]
    return "\n".join(lines)


def _training(run: dict[str, Any]) -> list[str]:
    """Returns when and with what a run was trained, as far as run.json says, and its command."""
    versions = run.get("versions") or {}
    found = {
        "Started": run.get("started"),
        "Ended": run.get("ended"),
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    lines = [f"- {title}: {_plain(text)}" for title, text in found.items() if text]
    return [*lines, "- Command:", "", textwrap.indent(shlex.join(run["command"]), "      ")]


def _domain(data: dict[str, Any]) -> str:
    return f" ({_plain(data['origin'])})" if data["origin"] else ""


_NORMALIZED = {
    "image": "each image by its own mean and standard deviation, channel by channel",
    "dataset": "by mean and standard deviation of the training split, channel by channel",
    "none": "by the range of the integer type only",
}


def _normalised(settings: dict[str, Any]) -> list[str]:
    return [f"- Normalisation: {_NORMALIZED[settings['normalize']]}"]


def _prepared(volumes: dict[str, Any]) -> list[str]:
    """Returns how volumes are prepared, and by whom."""
    spacing = volumes["spacing"]
    lines = [
        "- Axes: depth, height, width, channel; of NIfTI and DICOM z, y, x, as SimpleITK has them"
    ]
    if spacing is None:
        lines.append("- Spacing: each volume keeps its own; nothing is resampled")
    else:
        lines.append(
            f"- Spacing along them: {'×'.join(f'{mm:g}' for mm in spacing)} mm; the SavedModel "
            "does not resample: give it volumes of this spacing"
        )
    lines.append(
        "- Crop, inside the SavedModel: to what is nonzero in any channel; the rest is background"
    )
    for channel in volumes["channels"]:
        how = _SCHEMES[channel["scheme"]].format(**channel)
        lines.append(f"- Normalisation of {_plain(channel['name'])}, inside the SavedModel: {how}")
    return lines


_SCHEMES = {
    "ct": "clipped to {low:.6g} … {high:.6g}, then minus {mean:.6g} and divided by {std:.6g}",
    "zscore": "by the cropped volume's own mean and standard deviation",
    "nonzero": "by mean and standard deviation of the nonzero voxels of each volume and of those "
    "that they enclose; 0 elsewhere",
    "none": "none",
}


def _scores(run_dir: str, image: str) -> list[str]:
    """Returns a table of the last evaluation on the test split, or on val."""
    for split in ("test", "val"):
        path = os.path.join(run_dir, "evaluation", split, "summary.json")
        if files.exists(path):
            with files.open_file(path, "r") as file:
                summary = json.loads(file.read())
            break
    else:
        return ["Not evaluated: `python -m trainer.evaluate` would say."]
    columns = list(metrics.columns(summary))
    lines = [
        f"On {_plain(summary['images'])} whole {image}s of the {split} split:",
        "",
        f"| class | {' | '.join(_plain(column.head) for column in columns)} |",
        "|---" * (1 + len(columns)) + "|",
    ]
    for name, entry in summary["classes"].items():
        values = (_plain(column.shown(entry)) for column in columns)
        lines.append(f"| {_plain(name)} | {' | '.join(values)} |")
    return lines


def _plain(value: Any) -> str:
    """Returns Markdown that shows a value of a file as it is, on one line."""
    line = " ".join(str(value).split())
    return re.sub(r"[\\`*\[\]<>|&#~]|(?<!\w)_|_(?!\w)", r"\\\g<0>", line)


def _calibrated(described: dict[str, Any]) -> str:
    """Returns how far probabilities may be taken as such."""
    if described["temperature"] is None:
        return "Probabilities are the network's own and were not calibrated."
    return (
        f"Logits are divided by the temperature {described['temperature']:.4g}, fitted on the "
        "validation split: probabilities are calibrated for such data, on average over all of it."
    )


def _limits_of_volumes(described: dict[str, Any]) -> list[str]:
    limits = [
        _calibrated(described),
        "Objects that touch are one region: the classes are of voxels, not of objects.",
        "`model.keras` takes volumes that were cropped, normalised and resampled, and computes "
        "each as a whole; the scores are those of windows of the training crop's size.",
    ]
    if described["volumes"]["spacing"] is not None:
        limits.append(
            "Volumes of another spacing than the above give worse masks without a warning. "
            "Preparation normalises before it resamples: who resamples does both in this order "
            "and asks the signature `prepared`, which only predicts."
        )
    return [f"- {limit}" for limit in limits]


def _limits(settings: dict[str, Any], described: dict[str, Any]) -> list[str]:
    limits = [
        _calibrated(described),
        "Objects that touch are one region: the classes are of pixels, not of objects.",
    ]
    if settings["normalize"] == "image":
        limits.append(
            "Each image is normalised by its own pixels: a window cut out of an image may get "
            "another mask than the same place in the whole image."
        )
    if described["tile"] and settings["norm"] in ("group", "instance"):
        limits.append(
            f"Images longer than {described['tile']} are computed in tiles, whose statistics "
            f"--norm={_plain(settings['norm'])} takes by themselves: tiles can differ."
        )
    return [f"- {limit}" for limit in limits]
