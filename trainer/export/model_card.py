"""What an export says of itself: the model card, and commands that ask a server for masks."""

import json
import os
import re
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
    normalisation = _PREPARED if data.get("volumes") else _NORMALIZED[settings["normalize"]]
    lines = ["# Model card", ""]
    lines += [
        f"A {_plain(settings['model'])} that gives each pixel of an image one of "
        f"{len(run['classes'])} classes. {_plain(settings['filters'])} filters, depth "
        f"{_plain(settings['depth'])}, normalisation {_plain(run.get('norm', settings['norm']))}; "
        f"best weights of step {described['step']}, by {_plain(settings['best_metric'])} on the "
        "validation split.",
        "",
        "## Data",
        "",
        f"- Origin: {_plain(data['origin'] or 'not stated')}",
        f"- Licence of the data: {_plain(data['licence'] or 'not stated')}",
        f"- Images: {', '.join(f'{n} {_plain(name)}' for name, n in data['images'].items())}",
        f"- Pixels: {run['channels']} channels of {_plain(data['dtype'])}; fingerprint of the data "
        f"{_plain(run['data_fingerprint'][:12] or 'unknown')}",
        f"- Normalisation: {normalisation}",
        "",
        "## Classes",
        "",
        "| id | name | value in masks | share of training pixels |",
        "|---|---|---|---|",
    ]
    pixels = data["pixels"]["train"]
    for entry, count in zip(described["classes"], pixels, strict=True):
        share = f"{count / max(1, sum(pixels)):.1%}"
        lines.append(f"| {entry['id']} | {_plain(entry['name'])} | {entry['value']} | {share} |")
    if data["ignore_value"] is not None:
        lines += ["", f"Pixels of value {data['ignore_value']} were ignored in training."]
    lines += ["", "## Scores", "", *_scores(run_dir)]
    lines += ["", "## Files", ""]
    lines += [f"- `{name}`: {use}" for name, use in described["files"].items()]
    if described["differences"]:
        lines += ["", "Measured against the original on the test split (val where there is none):"]
        lines += [""]
        for name, figures in described["differences"].items():
            lines.append(f"- `{name}`: {difference_line(figures)}.")
    lines += ["", "## Limits", "", *_limits(settings, described)]
    lines += ["", "## Use", ""]
    for title, command in described["examples"].items():
        lines += [f"{title.replace('_', ' ').capitalize()}:", "", f"    {command}", ""]
    return "\n".join(lines)


_PREPARED = (
    "volumes come cropped, normalised and resampled, as `volumes` of signature.json says and "
    "`trainer.data.preprocessing` does"
)
_NORMALIZED = {
    "image": "each image by its own mean and standard deviation, channel by channel",
    "dataset": "by mean and standard deviation of the training split, channel by channel",
    "none": "by the range of the integer type only",
}


def _scores(run_dir: str) -> list[str]:
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
        f"On {_plain(summary['images'])} whole images of the {split} split:",
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


def _limits(settings: dict[str, Any], described: dict[str, Any]) -> list[str]:
    limits = [
        "Tested on images like those of the training data only; other stains, microscopes or "
        "scales may give worse masks without a warning.",
        "Probabilities are the network's own and were not calibrated.",
        "Objects that touch are one region: the classes are of pixels, not of objects.",
    ]
    if settings["normalize"] == "image" and not described["volumes"]:
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
