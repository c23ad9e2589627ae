"""What TensorBoard shows beside scalars, written to the writer that is open.

docs/tensorboard.md shows it.
"""

import functools
import os
import shlex
import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import summary as custom_scalar
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import summary as hparams
from tensorboard.plugins.pr_curve import summary as pr_curve

from trainer import config, json_text
from trainer.data.dataset import schema
from trainer.drawing import captions, charts, overlays, panels, volumes
from trainer.evaluate import counting, metrics
from trainer.evaluate.cases import CaseSelector, panel_of
from trainer.evaluate.scores import Scores
from trainer.monitoring import graph, scalars
from trainer.training import losses

LOOKED_AT = {"learning_rate", "batch_size", "filters"}  # where all settings are the defaults
SHEET = 16  # examples of the first training batch
SHEET_COLUMNS = 4


def write_start(
    job: config.Job,
    run: Mapping[str, Any],
    model: keras.Model,
    batch: Mapping[str, np.ndarray],
    manifest: schema.Manifest,
) -> None:
    """Writes what is known before the first step: settings, run.json, network, training batch.

    Args:
        job: the settings.
        run: the content of run.json.
        model: the network.
        batch: examples of the first training batch, see `pipeline.training_stream`.
        manifest: of the data.
    """
    classes = [entry.name for entry in manifest.classes[1:]]
    terms = [term.name for term in losses.LOSSES[job.optimization.loss]]
    _write_proto(custom_scalar.pb(_layout(scalars.charts(classes, terms))))
    settings = {
        **{name: value for name, value, rule in config.walk(job) if rule["changes_result"]},
        **{name: run[name] for name in ("precision", "num_replicas")},
    }
    changed = {
        name
        for (name, value, _), (_, default, _) in zip(
            config.walk(job), config.walk(config.Job()), strict=True
        )
        if value != default
    }
    settings = {
        name: config.as_text(value) if isinstance(value, tuple) else value
        for name, value in settings.items()
        if value is not None
    }
    _write_proto(_experiment(settings, changed or LOOKED_AT))
    # The column is narrow: what tells runs apart comes first.
    above, name = os.path.split(job.run.run_dir.rstrip("/"))
    _write_proto(hparams.session_start_pb(settings, group_name=f"{name} in {above}"))
    tf.summary.text("command", textwrap.indent(shlex.join(run["command"]), "    "))
    tf.summary.text("run.json", _table(run))
    tf.summary.graph(graph.of_layers(model))
    image(
        "training_batch",
        _sheet(batch, manifest),
        "The first training batch as the network sees it: cropped, augmented and normalised, each "
        "picture stretched from black to white; masks as outlines.",
    )


def write_end() -> None:
    """Marks this run as ended in the table of runs."""
    _write_proto(hparams.session_end_pb(api_pb2.STATUS_SUCCESS))


def write_evaluation(
    scores: Scores,
    selected: CaseSelector,
    manifest: schema.Manifest,
    split: str,
    weights: Sequence[keras.Variable] = (),
) -> None:
    """Writes the pictures and curves of an evaluation, and histograms of `weights`."""
    names = manifest.splits[split].names
    for case in selected.cases("first"):
        image(f"val_cases/{names[case.index]}", panel_of(case, manifest, split), CASE)
    for rank, case in enumerate(selected.cases("worst"), 1):
        image(f"val_worst/{rank}", panel_of(case, manifest, split), WORST)
    classes = [entry.name for entry in manifest.classes]
    image("val_charts/confusion", charts.confusion_matrix(scores.confusions, classes), CONFUSION)
    calibrations = [counting.calibration(counts) for counts in scores.probabilities]
    image("val_charts/reliability", charts.reliability(calibrations, classes[1:]), RELIABILITY)
    for index, name in enumerate(classes[1:]):
        counts = counting.precision_recall(scores.probabilities[index])
        _write_proto(
            pr_curve.raw_data_pb(
                name,
                counts["true_positive"],
                counts["false_positive"],
                counts["true_negative"],
                counts["false_negative"],
                counts["precision"],
                counts["recall"],
                num_thresholds=counting.BINS + 1,
                description="Pixels of the whole split, at each hundredth of the probability.",
            )
        )
    for weight in weights:
        tf.summary.histogram(f"weights/{weight.path}", weight.value)


CASE = (
    "A validation case with the outlines of truth and of prediction; below, the errors and the "
    "probability of what is predicted. The same cases at each evaluation."
)
WORST = "The cases with the lowest Dice at this evaluation."
CONFUSION = "Valid pixels of the split: of each true class, the shares that were predicted as each."
RELIABILITY = (
    "Pixels of the split in tenths of the probability they were given: below the diagonal the "
    "network is too sure. The gap is the mean distance to it, over pixels."
)


def image(tag: str, picture: np.ndarray, text: str) -> None:
    """Writes a picture, uint8 [H, W, 3], as JPEG.

    TensorFlow's own function writes PNG, which takes ten times as long and twice the space.
    """
    metadata = tf.compat.v1.SummaryMetadata(
        plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="images"),
        summary_description=text,
    )
    height, width = picture.shape[:2]
    value = [str(width).encode(), str(height).encode(), panels.encode_jpeg(picture)]
    tf.summary.write(tag, tf.constant(value), metadata=metadata)


def _sheet(batch: Mapping[str, np.ndarray], manifest: schema.Manifest) -> np.ndarray:
    masks = np.where(batch["valid"] > 0, batch["labels"], schema.IGNORE)
    draw, columns = panels.draw_example, SHEET_COLUMNS
    if manifest.volumes is not None:
        spacing = manifest.volumes.spacing or (1.0, 1.0, 1.0)  # crops do not say their own
        draw, columns = functools.partial(volumes.draw_example, spacing=spacing), 2
    tiles = [
        draw(picture, mask, caption=f"example {number}")
        for number, (picture, mask) in enumerate(zip(batch["images"], masks, strict=True))
    ]
    sheet = panels.grid(tiles, columns)
    names = [entry.name for entry in manifest.classes]
    entries = [(name, overlays.class_colour(k)) for k, name in enumerate(names) if k]
    return np.concatenate([sheet, captions.legend_lines(sheet.shape[1], entries)])


def _layout(charts: Mapping[str, Mapping[str, str]]) -> layout_pb2.Layout:
    """Returns categories of charts, see `scalars.charts`, as TensorBoard takes them."""
    return layout_pb2.Layout(
        category=[
            layout_pb2.Category(
                title=category,
                chart=[
                    layout_pb2.Chart(
                        title=title, multiline=layout_pb2.MultilineChartContent(tag=[tag])
                    )
                    for title, tag in shown.items()
                ],
            )
            for category, shown in charts.items()
        ]
    )


def _experiment(settings: Mapping[str, Any], first: Collection[str]) -> Any:
    """Returns the columns of the table of runs."""
    kinds = {bool: "DATA_TYPE_BOOL", str: "DATA_TYPE_STRING"}
    compared = {name: ("val", name) for name in (*metrics.tracked(), "loss")}
    compared["images/s"] = ("train", "images_per_second")  # column → (folder, figure)
    return hparams.experiment_pb(
        hparam_infos=[
            api_pb2.HParamInfo(
                name=name,
                type=kinds.get(type(value), "DATA_TYPE_FLOAT64"),
                differs=name in first,  # which puts it first
            )
            for name, value in settings.items()
        ],
        metric_infos=[
            api_pb2.MetricInfo(
                name=api_pb2.MetricName(group=folder, tag=scalars.tag(folder, figure)),
                display_name=f"{folder} {name}",
                description=scalars.description(figure),
            )
            for name, (folder, figure) in compared.items()
        ],
    )


def _table(run: Mapping[str, Any]) -> str:
    """Returns run.json as a table in Markdown."""
    rows = [("setting", "value"), ("---", "---")]
    for name, value in run.items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        rows += [(f"{name} {part}".strip(), json_text.dumps(entry)) for part, entry in parts]
    plain = str.maketrans({"|": "\\|", "\n": " "})
    cells = ((name.translate(plain), value.translate(plain)) for name, value in rows)
    return "\n".join(f"| {name} | {value} |" for name, value in cells)


def _write_proto(summary: Any) -> None:
    tf.summary.experimental.write_raw_pb(summary.SerializeToString())
