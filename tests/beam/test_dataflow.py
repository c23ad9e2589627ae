"""What Dataflow would be sent: by Beam's own translation, with a bucket on loopback."""

import functools
import json

import pytest
from apache_beam.portability.api import beam_runner_api_pb2

from tests.beam.conftest import run
from trainer.distributed import beam_runner
from trainer.errors import InputError

IMAGE = "europe-docker.pkg.dev/my-project/tiles/trainer-beam:1"


def options(bucket, *others):
    given = (
        *("--project=my-project", "--region=europe-west4", f"--temp_location={bucket}/tmp"),
        *(f"--sdk_container_image={IMAGE}", "--job_name=tiles"),
    )
    return " ".join([*given, *others])


def touch(folder, key):
    """Stands for work: the job is not run."""
    raise AssertionError


def test_the_job_is_what_beams_translation_makes_of_it(gcs, bucket, tmp_path):
    template = tmp_path / "template.json"
    beam = beam_runner.parse("dataflow", options(bucket, f"--template_location={template}"), 0)
    beam.check([("output", f"{bucket}/out")])
    beam.each("reading", functools.partial(touch, f"{bucket}/out"), ["a", "b"])
    job = json.loads(template.read_text())
    assert job["name"] == "tiles-reading"
    (pool,) = job["environment"]["workerPools"]
    images = [one["containerImage"] for one in pool["sdkHarnessContainerImages"]]
    assert images == [IMAGE]
    asked = job["environment"]["sdkPipelineOptions"]["options"]
    assert (asked["project"], asked["number_of_worker_harness_threads"]) == ("my-project", 1)
    (name,) = [name for name in gcs.names(f"{bucket}/tmp") if name.endswith("pipeline.pb")]
    pipeline = beam_runner_api_pb2.Pipeline.FromString(gcs.read(f"{bucket}/tmp{name}"))
    steps = {one.unique_name for one in pipeline.components.transforms.values()}
    assert "reading" in steps
    # Nothing of an image goes through the engine: the keys are all that is created.
    assert len(gcs.read(f"{bucket}/tmp{name}")) < 64 * 1024


def test_a_dry_run_prints_what_beam_takes_and_what_the_account_needs(gcs, bucket, capsys):
    beam = beam_runner.parse("dataflow", options(bucket), 0)
    beam.check([])
    lines = beam.described().splitlines()
    assert lines[0] == "--runner=DataflowRunner"
    assert f"--sdk_container_image={IMAGE}" in lines
    assert "--job_name=tiles-STEP" in lines
    assert (
        "gcloud projects add-iam-policy-binding my-project --member=serviceAccount:ACCOUNT "
        "--role=roles/dataflow.worker" in lines
    )


@pytest.mark.parametrize(
    ("left_out", "said"),
    [
        ("project", "Beam refuses --runner_options: Missing required option: project"),
        ("sdk_container_image", "--runner=dataflow needs this package on its machines; build the"),
    ],
)
def test_what_is_missing_is_named_before_anything_is_sent(gcs, bucket, left_out, said):
    kept = [one for one in options(bucket).split() if not one.startswith(f"--{left_out}=")]
    beam = beam_runner.parse("dataflow", " ".join(kept), 0)
    with pytest.raises(InputError) as error:
        beam.check([])
    assert str(error.value).startswith(said)


def test_pages_of_a_file_that_is_taken_apart_here_are_refused(gcs, bucket, tmp_path):
    import numpy as np

    for kind in ("images", "masks"):
        np.save(tmp_path / f"{kind}.npy", np.eye(8, dtype=np.uint8)[None].repeat(6, 0))
        gcs.write(f"{bucket}/{kind}.npy", (tmp_path / f"{kind}.npy").read_bytes())
    asked = [f"--images={bucket}/images.npy", f"--masks={bucket}/masks.npy"]
    asked += [f"--output={bucket}/out", "--runner=dataflow", f"--runner_options={options(bucket)}"]
    ended = run("trainer.data.prepare", *asked)
    assert ended.status == 2
    assert ended.said[-1] == (
        f"{bucket}/images.npy[0] is within a file that only --runner=local and direct take apart, "
        "and --runner=dataflow works on other machines; save each image as a file of its own."
    )
