"""Runs and times the training step of a file that `trainer.preflight --export=FILE` wrote.

    python benchmarks/run_exported.py FILE [--pytorch=eager,compiled] [--rounds=10 --steps=10]

It needs jax and NumPy, this folder, and nothing of the package. The step runs on whatever jax
finds and carries its variables along, so it trains, on one random batch; weights are drawn like the
job's first. PyTorch's step of the same network (`pytorch_step.py`) takes its turns between ours, in
a process of its own.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs memory, too

import jax
import numpy as np
from jax import export

GIB = 2**30
FORMAT = 1
OURS = "exported"

# Of multiplications in bfloat16, without sparsity, by the data sheet of each device that jax names.
PEAK_TFLOPS = {
    "NVIDIA A100-SXM4-40GB": 312,
    "NVIDIA A100-SXM4-80GB": 312,
    "NVIDIA L4": 121,
    "NVIDIA H100 80GB HBM3": 989,
    "NVIDIA H200": 989,
    "TPU v5 lite": 197,
}


def main() -> None:
    """Lets the contenders take steps in turn and prints what they took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", help="written by python -m trainer.preflight --export=FILE")
    parser.add_argument("--rounds", type=int, default=10, help="turns of each contender")
    parser.add_argument("--steps", type=int, default=10, help="steps of each turn")
    parser.add_argument("--warmup", type=int, default=5, help="steps before the first turn")
    parser.add_argument("--seed", type=int, default=0, help="of the batch and the weights")
    parser.add_argument(
        "--pytorch", default="", help="eager, compiled or eager,compiled: PyTorch's step beside it"
    )
    parser.add_argument(
        "--peak_tflops", type=float, help="of the device, for MFU; known of a few: PEAK_TFLOPS"
    )
    parser.add_argument("--json", default="", help="also write the figures to this file")
    options = parser.parse_args()
    for name in ("rounds", "steps", "warmup"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}={getattr(options, name)} is less than 1; use 1 or more.")
    forms = [form for form in options.pytorch.split(",") if form]
    if not set(forms) <= {"eager", "compiled"}:
        parser.error(f"--pytorch={options.pytorch} is not of eager and compiled; use those.")
    try:
        header, program = read(options.file)
        found = run(header, program, options, forms)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    except jax.errors.JaxRuntimeError as error:  # it does not fit, for one
        kind, reason = jax.devices()[0].device_kind, str(error).splitlines()[0]
        parser.error(f"{kind} refuses the step: {reason}")
    print("\n".join(lines(header, found)))
    if options.json:
        text = json.dumps(found, indent=1, allow_nan=False) + "\n"
        pathlib.Path(options.json).write_text(text, encoding="utf-8")


def read(path: str) -> tuple[dict[str, Any], bytes]:
    """Returns the description and the program of an exported step.

    Raises:
        ValueError: the file is none that this program reads.
        OSError: it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            header, program = json.loads(archive.read("step.json")), archive.read("step.mlirbc")
        if header["format"] != FORMAT:
            raise ValueError(f"it has format {header['format']}, and {FORMAT} is read")
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} is not of this release's python -m trainer.preflight --export=FILE: {error}; "
            "export the step again."
        ) from error
    return header, program


def run(
    header: dict[str, Any], program: bytes, options: argparse.Namespace, forms: Sequence[str]
) -> dict[str, Any]:
    """Lets the contenders take their turns; returns the figures of all.

    Raises:
        ValueError: a contender cannot take part, or does not train.
    """
    others = {f"PyTorch, {form}": Contender(options.file, form) for form in forms}
    start = time.perf_counter()
    step = compile_step(header, program)
    compile_seconds = time.perf_counter() - start
    contenders = {OURS: turns(header, step, draw(header["inputs"], options.seed))}
    contenders |= {name: other.take for name, other in others.items()}
    first = {name: take(1)["loss"] for name, take in contenders.items()}
    for take in contenders.values():
        take(options.warmup)
    rounds = [
        {name: take(options.steps) for name, take in contenders.items()}
        for _ in range(options.rounds)
    ]
    for other in others.values():
        other.close()
    device = jax.devices()[0]
    in_bfloat16 = header["network"]["precision"] == "bfloat16"
    peak = options.peak_tflops or (PEAK_TFLOPS.get(device.device_kind) if in_bfloat16 else None)
    rows = {}
    for name in contenders:
        check_training(name, first[name], rounds[-1][name]["loss"])
        ms = summarize([1e3 * turn[name]["seconds"] / options.steps for turn in rounds])
        rows[name] = {
            "ms": ms,
            "images_per_second": 1e3 * header["batch_size"] / ms["median"],
            "mfu": peak and header["flops"] / (ms["median"] * peak * 1e9),
            "peak_bytes": rounds[-1][name]["peak_bytes"],
            "loss": [first[name], rounds[-1][name]["loss"]],
            # Of turns that follow each other.
            "seconds_by_ours": summarize(
                [turn[name]["seconds"] / turn[OURS]["seconds"] for turn in rounds]
            ),
        }
    return {
        "step": header["title"],
        "device": device.device_kind,
        "versions": {"jax": jax.__version__, "NumPy": np.__version__}
        | ({"PyTorch": next(iter(others.values())).version} if others else {}),
        "compile_seconds": compile_seconds,
        "compiled_bytes": needed(step),
        "peak_tflops": peak,
        "rounds": options.rounds,
        "steps": options.steps,
        "rows": rows,
    }


def check_training(name: str, first: float, last: float) -> None:
    """Raises ValueError if a loss is not finite or stays as it is."""
    if not np.isfinite(last) or last == first:
        raise ValueError(
            f"{name}: the loss was {first} after the first step and is {last} after the last, so "
            "it does not train, and its time says nothing; export the step again."
        )


def summarize(samples: Sequence[float]) -> dict[str, float]:
    """Returns median, and first and third quartile."""
    q1, median, q3 = np.percentile(samples, (25, 50, 75)).tolist()
    return {"median": median, "q1": q1, "q3": q3}


def compile_step(header: dict[str, Any], program: bytes) -> Any:
    """Compiles the step for the device that jax finds.

    Returns:
        A function of two dicts of arrays by number of input, those that a step updates, which it
        takes over, and the others; it returns the figures and the updated dict.
    """
    jax.config.update("jax_enable_x64", True)  # as variables may have 64 bits
    inputs = [jax.ShapeDtypeStruct(one["shape"], one["dtype"]) for one in header["inputs"]]
    num_figures, updated = len(header["figures"]), header["updated"]
    figures = [jax.ShapeDtypeStruct((), "float32")] * num_figures
    results = [*figures, *(inputs[number] for number in updated)]

    # jax's own serialization needs a package more, so a function with the same inputs and results
    # is exported, and given the program.
    def alike(*_: jax.Array) -> list[jax.Array]:
        return [jax.numpy.zeros(result.shape, result.dtype) for result in results]

    exported = dataclasses.replace(
        export.export(jax.jit(alike, keep_unused=True))(*inputs), mlir_module_serialized=program
    )

    def step(
        state: dict[int, jax.Array], rest: dict[int, jax.Array]
    ) -> tuple[list[jax.Array], dict[int, jax.Array]]:
        arrays = state | rest
        outputs = exported.call(*(arrays[number] for number in range(len(inputs))))
        return outputs[:num_figures], dict(zip(updated, outputs[num_figures:], strict=True))

    state = {number: inputs[number] for number in updated}
    rest = {number: one for number, one in enumerate(inputs) if number not in state}
    return jax.jit(step, donate_argnums=0).lower(state, rest).compile()


def draw(inputs: Sequence[dict[str, Any]], seed: int) -> list[np.ndarray]:
    """Returns an array for each input, as its `draw` says (see `trainer.preflight.lowering`)."""
    generator = np.random.default_rng(seed)

    def one(shape: Sequence[int], rule: str, values: Any) -> Any:
        if rule == "normal":
            mean, deviation = values
            return mean + deviation * generator.standard_normal(shape, np.float32)
        if rule == "integers":
            return generator.integers(*values, shape)
        return np.broadcast_to(values, shape)

    return [
        np.asarray(one(each["shape"], *next(iter(each["draw"].items()))), each["dtype"])
        for each in inputs
    ]


def turns(
    header: dict[str, Any], step: Any, arrays: Sequence[np.ndarray]
) -> Callable[[int], dict[str, Any]]:
    """Returns a function that takes so many steps, from where the last ones ended.

    It returns the `seconds` that they took, the `loss` of the last, and `peak_bytes`, the most
    memory that was ever taken, where the device counts it.
    """
    updated, device = set(header["updated"]), jax.devices()[0]
    state = {i: jax.device_put(array) for i, array in enumerate(arrays) if i in updated}
    rest = {i: jax.device_put(array) for i, array in enumerate(arrays) if i not in updated}
    jax.block_until_ready((state, rest))

    def take(steps: int) -> dict[str, Any]:
        nonlocal state
        start = time.perf_counter()
        for _ in range(steps):
            figures, state = step(state, rest)
        jax.block_until_ready((figures, state))
        seconds = time.perf_counter() - start
        peak = (device.memory_stats() or {}).get("peak_bytes_in_use")
        return {"seconds": seconds, "loss": float(figures[0]), "peak_bytes": peak}

    return take


def needed(step: Any) -> int:
    """Returns the bytes that a compiled step needs at once, by its compiler."""
    memory = step.memory_analysis()
    names = ("argument", "output", "temp", "generated_code")
    total = sum(getattr(memory, f"{name}_size_in_bytes") for name in names)
    return total - memory.alias_size_in_bytes


class Contender:
    """PyTorch's step, in a process of its own: `benchmarks/pytorch_step.py`."""

    def __init__(self, path: str, form: str):
        """Starts it, on the kind of device that jax runs on.

        Raises:
            ValueError: it cannot take part.
        """
        root = pathlib.Path(__file__).resolve().parent.parent
        module, device = "benchmarks.pytorch_step", jax.devices()[0].platform
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, os.path.abspath(path), form, device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
        )
        self.version = self._answer()["version"]

    def take(self, steps: int) -> dict[str, Any]:
        """Lets it take so many steps; returns `seconds`, `loss` and, on a GPU, `peak_bytes`."""
        assert self._process.stdin
        print(steps, file=self._process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        """Lets it end."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise ValueError(
                f"PyTorch's step ended with status {self._process.wait()}, see above; leave "
                "--pytorch out, or mend it."
            )
        found = json.loads(line)
        if "error" in found:
            raise ValueError(found["error"])
        return found


def lines(header: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Returns the lines for people."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    table = [["", "ms/step", "images/s", "peak GiB", "MFU", "loss", "time / ours"]]
    for name, row in found["rows"].items():
        table.append(
            [
                name,
                spread(row["ms"]),
                f"{row['images_per_second']:.4g}",
                "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / GIB:.2f}",
                "" if row["mfu"] is None else f"{row['mfu']:.1%}",
                "{:.4f} → {:.4f}".format(*row["loss"]),
                "" if name == OURS else spread(row["seconds_by_ours"]),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        f"{header['title']}, lowered for {header['accelerator']}",
        f"{found['device']}; {versions}; median (quartiles) of {found['rounds']} turns, steps "
        f"of each: {found['steps']}; compiled in {found['compile_seconds']:.0f} s",
        "",
        *(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in table
        ),
        "",
        *by_preflight(header, found),
    ]


def spread(summary: dict[str, float]) -> str:
    """Returns a summary as text."""
    return f"{summary['median']:.4g} ({summary['q1']:.4g}–{summary['q3']:.4g})"


def by_preflight(header: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Returns the lines that hold what was found against what preflight expected."""
    estimate, own = header["estimate"] or {}, found["rows"][OURS]
    gib, of_whom = found["compiled_bytes"] / GIB, "by the compiler here"
    if own["peak_bytes"] is not None:
        gib, of_whom = own["peak_bytes"] / GIB, "at its peak"
    ms = own["ms"]["median"]
    return [
        f"memory {of_whom}: {gib:.2f} GiB{_ratio(gib, estimate.get('memory_gib'))}",
        f"step: {ms:.4g} ms{_ratio(ms, estimate.get('step_ms'))}",
    ]


def _ratio(value: float, expected: float | None) -> str:
    if expected is None:
        return ", of which preflight had no estimate"
    return f", {value / expected:.2f} × the {expected:.4g} of preflight"


if __name__ == "__main__":
    main()
