"""The commands of this package under one name: `unet COMMAND`, or `python -m trainer COMMAND`."""

import difflib
import runpy
import sys

COMMANDS = {
    "prepare": ("trainer.data.prepare", "images or volumes and masks to sharded TFRecords"),
    "inspect": ("trainer.data.inspect", "what is in a data folder; draws a sheet of it"),
    "plan": ("trainer.plan", "chooses the settings that suit the data and the device"),
    "train": ("trainer.task", "trains, evaluates and resumes a run"),
    "crossval": ("trainer.crossval", "trains folds and chooses by them"),
    "evaluate": ("trainer.evaluate", "scores a run on whole images"),
    "compare": ("trainer.compare", "paired comparison of two evaluated runs"),
    "predict": ("trainer.predict", "masks of new images"),
    "report": ("trainer.report", "a page of one run or several, which opens offline"),
    "export": ("trainer.export", "the model for serving: SavedModel, Keras, TFLite, ONNX"),
    "checkpoints": ("trainer.checkpointing", "lists or verifies a run's checkpoints"),
    "preflight": ("trainer.preflight", "compiles the step for a GPU or TPU that is not here"),
    "selfcheck": ("trainer.selfcheck", "whether N replicas train like one on these devices"),
    "launch": ("launch.vertex", "sends a run to Vertex AI"),
}


def main() -> None:
    """Runs a command as `python -m MODULE` would."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h", "-help", "--helpfull", "help"):
        from trainer import cli

        cli.show(describe())
        return
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        advice = f"did you mean {near[0]}?" if near else "unet --help lists them."
        sys.exit(_refusal(f"{name} is no command of unet; {advice}"))
    sys.argv = [name, *arguments]
    try:
        runpy.run_module(COMMANDS[name][0], run_name="__main__", alter_sys=True)
    except KeyboardInterrupt:  # while the command's modules are imported
        print("Stopped by Ctrl-C; the same command starts again.", file=sys.stderr)
        sys.exit(130)


def describe() -> str:
    """Returns the text of `unet --help`."""
    lines = ["unet COMMAND [--flag=value …]      (or python -m MODULE, as the pages have it)", ""]
    lines += [f"  {name:<12}{text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join([*lines, "", "unet COMMAND --help shows the flags."])


def _refusal(line: str) -> int:
    print(line, file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
