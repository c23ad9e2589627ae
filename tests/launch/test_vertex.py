"""The command's way from flags to a job's end, with Google's own client and a loopback service."""

import datetime
import json
import logging
import sys
from types import SimpleNamespace

import pytest
from google.cloud import aiplatform_v1 as types

from launch import logs, settings, vertex
from tests.servers import vertex_server
from tests.servers.vertex_server import QUOTA, STOCKOUT, Fault
from trainer.config import flags
from trainer.errors import InputError

OWN = ["--name=nuclei", "--project=lab", "--bucket=gs://b", "--image=host/lab/r/trainer:1"]
OWN += ["--accelerator=l4", "--poll_seconds=0.01"]
TRAINERS = ["--data_dir=gs://b/data", "--batch_size=12", "--steps=100"]


@pytest.fixture
def service(monkeypatch):
    with vertex_server.serve() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("launch.cloud.FIRST_PAUSE", 0.01)
        yield server


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO, logger="absl")
    return caplog


def parse(*argv):
    return flags.parse(settings.Vertex, ["launch.vertex", *OWN, *argv])


def run(*argv, trainers=TRAINERS):
    """Runs the command and returns its exit status."""
    asked = parse(*argv)
    try:
        vertex.ACTIONS[asked.job.action](asked, trainers)
    except SystemExit as end:
        return end.code
    return 0


def created(service, collection="customJobs"):
    return service.bodies("POST", collection)


def states(service):
    return [types.JobState(job.state).name for job in service.jobs.values()]


def in_names(kind, body):
    """Returns a request's body with its enums by name, and no other change."""
    message = kind.from_json(json.dumps(body))
    return json.loads(
        kind.to_json(
            message, use_integers_for_enums=False, always_print_fields_with_no_presence=False
        )
    )


EVERYTHING = ["--workers=3", "--count=2", "--reduction_servers=4", "--spot", "--timeout=90m"]
EVERYTHING += ["--service_account=me@lab.iam", "--network=projects/1/global/networks/n"]
KEY = "projects/lab/locations/us-central1/keyRings/k/cryptoKeys/c"
EVERYTHING += [f"--kms_key={KEY}", "--labels=team=a,x=1", "--nfs=10.0.0.2:/vol1:data"]
EVERYTHING += ["--web_access", "--boot_disk_gb=200"]
RESERVATION = "projects/lab/zones/us-central1-a/reservations/gpus"
EVERYTHING += ["--tensorboard=projects/1/locations/us-central1/tensorboards/2", "--follow=false"]


@pytest.mark.parametrize(
    ("argv", "collection"),
    [
        (["--follow=false"], "customJobs"),
        (EVERYTHING, "customJobs"),
        (
            ["--persistent_resource=pool", "--network_attachment=vpc", "--follow=false"],
            "customJobs",
        ),
        ([f"--reservation={RESERVATION}", "--follow=false"], "customJobs"),
        (["--reservation=any", "--follow=false"], "customJobs"),
        (["--flex_start", "--max_wait=2h", "--disable_retries", "--follow=false"], "customJobs"),
        (["--accelerator=v5e", "--count=4", "--follow=false"], "customJobs"),
        (
            [
                "--tune=learning_rate:1e-4..1e-2:log,filters:16|32,warmup_steps:0..50",
                "--follow=false",
            ],
            "hyperparameterTuningJobs",
        ),
        (
            [
                "--tune=filters:16|32",
                "--algorithm=grid",
                "--early_stopping=curve",
                "--max_failed_trials=3",
                "--follow=false",
            ],
            "hyperparameterTuningJobs",
        ),
    ],
)
def test_what_the_client_sends_is_what_dry_run_prints(service, capsys, argv, collection):
    assert run(*argv, "--dry_run") == 0
    printed = json.loads(capsys.readouterr().out)
    assert service.requests == []
    assert run(*argv) == 0
    (sent,) = created(service, collection)
    kind = vertex_server.KINDS[collection]
    assert in_names(kind, sent) == printed
    assert kind.from_json(json.dumps(printed)) == kind.from_json(json.dumps(sent))


def test_settings_arrive_where_the_service_looks_for_them(service):
    run(*EVERYTHING)
    (job,) = service.jobs.values()
    chief, others, reducers = job.job_spec.worker_pool_specs
    assert [pool.replica_count for pool in (chief, others, reducers)] == [1, 2, 4]
    assert chief.machine_spec == others.machine_spec
    assert chief.machine_spec.machine_type == "g2-standard-24"
    assert chief.machine_spec.accelerator_type.name == "NVIDIA_L4"
    assert chief.machine_spec.accelerator_count == 2
    assert list(chief.container_spec.args) == [
        *TRAINERS,
        "--strategy=multi_worker",
        "--require=gpu:2",
        "--join_timeout=900",
        "--collectives=nccl",
    ]
    assert reducers.machine_spec.machine_type == "n1-highcpu-16"
    assert job.job_spec.scheduling.strategy.name == "SPOT"
    assert job.job_spec.scheduling.timeout.total_seconds() == 5400
    assert job.job_spec.network == "projects/1/global/networks/n"
    assert job.job_spec.base_output_directory.output_uri_prefix == "gs://b/runs/nuclei"
    assert job.encryption_spec.kms_key_name.endswith("/cryptoKeys/c")
    for pool in (chief, others):
        (mount,) = pool.nfs_mounts
        assert (mount.server, mount.path, mount.mount_point) == ("10.0.0.2", "/vol1", "data")
    assert not reducers.nfs_mounts
    assert dict(job.labels) == {"unet_run": "nuclei", "unet_attempt": "1", "team": "a", "x": "1"}


def test_reservations_and_interfaces_arrive_where_the_service_looks_for_them(service):
    run(f"--reservation={RESERVATION}", "--network_attachment=vpc", "--follow=false")
    (job,) = service.jobs.values()
    affinity = job.job_spec.worker_pool_specs[0].machine_spec.reservation_affinity
    assert affinity.reservation_affinity_type.name == "SPECIFIC_RESERVATION"
    assert affinity.key == "compute.googleapis.com/reservation-name"
    assert list(affinity.values) == [RESERVATION]
    assert job.job_spec.psc_interface_config.network_attachment == "vpc"


def test_a_job_is_followed_to_its_success(service, said):
    service.walks["us-central1"] = ("QUEUED", "PENDING", "RUNNING", "RUNNING", "SUCCEEDED")
    assert run() == 0
    shown = [record.getMessage().split()[0] for record in said.records]
    assert [word for word in shown if word in ("queued", "pending", "running", "succeeded")] == [
        "queued",
        "pending",
        "running",
        "succeeded",
    ]
    assert "nuclei has finished after 0:0" in said.text
    assert "tensorboard --logdir gs://b/runs/nuclei\n" in said.text
    assert "console.cloud.google.com/agent-platform/locations/us-central1/training/10" in said.text


@pytest.mark.parametrize(
    ("last", "status"),
    [
        ("FAILED: The replica workerpool0-0 exited with a non-zero status of 143.", 143),
        ("FAILED: The replica workerpool0-0 exited with a non-zero status of 2.", 2),
        ("FAILED: Internal error.", 1),
        ("CANCELLED", 1),
        ("PARTIALLY_SUCCEEDED", 1),
    ],
)
def test_every_last_state_ends_it_with_the_jobs_status(service, last, status):
    service.walks["us-central1"] = ("RUNNING", last)
    assert run() == status


def test_a_running_job_is_attached_to_and_not_started_again(service, said):
    service.walks["us-central1"] = ("RUNNING",) * 5 + ("SUCCEEDED",)
    assert run("--follow=false") == 0
    assert run(trainers=[*TRAINERS, "--crop=128"]) == 0
    assert len(created(service)) == 1
    assert "nuclei is queued already; attaching to it." in said.text
    assert "It runs with other flags: --data_dir=gs://b/data --batch_size=12" in said.text


def test_a_failed_job_is_started_again_and_a_finished_one_is_reported(service, said):
    service.walks["us-central1"] = ("FAILED: Internal error.",)
    assert run() == 1
    service.walks["us-central1"] = ("SUCCEEDED",)
    assert run() == 0
    assert "The last job was failed; its run resumes." in said.text
    assert [body["labels"]["unet_attempt"] for body in created(service)] == ["1", "2"]
    assert run() == 0
    assert len(created(service)) == 2
    assert run("--name=other") == 0
    assert len(created(service)) == 3


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("carried_out", [False, True])
def test_a_creation_that_fails_is_made_again_but_never_twice(service, said, status, carried_out):
    service.create_faults = [Fault(status, carried_out=carried_out), Fault(503)]
    service.get_faults = [503, 429]
    assert run() == 0
    assert len(service.jobs) == 1
    assert len(created(service)) == (1 if carried_out else 3)
    assert "Vertex AI is busy (" in said.text


def test_of_two_commands_at_the_same_time_one_starts_the_job(service, said):
    asked = parse()
    rival = vertex.Service("lab", "us-central1", 5)
    mine = vertex.Service("lab", "us-central1", 5)
    body = {"displayName": "nuclei", "labels": {"unet_run": "nuclei", "unet_attempt": "1"}}
    pool = {"machineSpec": {"machineType": "m"}, "replicaCount": "1"}
    body["jobSpec"] = {"workerPoolSpecs": [{**pool, "containerSpec": {"imageUri": "i"}}]}
    first = rival.create("customJobs", body)
    job, ours = vertex.submit.create(mine, "customJobs", lambda attempt: body, [], "nuclei")
    assert (job.name, ours) == (first.name, False)
    assert states(service) == ["JOB_STATE_QUEUED", "JOB_STATE_CANCELLING"]
    assert asked.job.name == "nuclei"


def test_patience_ends(service):
    service.create_faults = [Fault(503)] * 100
    with pytest.raises(InputError, match=r"^Vertex AI could not be made to create the job \(503"):
        run("--patience_seconds=0.05")


def test_a_service_that_is_not_reached_is_said_in_one_line(monkeypatch):
    monkeypatch.setenv("CLOUDSDK_API_ENDPOINT_OVERRIDES_AIPLATFORM", "http://127.0.0.1:9")
    with pytest.raises(InputError) as error:
        run("--patience_seconds=0")
    assert str(error.value) == (
        "Vertex AI could not be made to list jobs (not reached: ConnectionError); try again later, "
        "or raise --patience_seconds."
    )


def test_no_quota_and_no_machines_lead_to_the_next_place(service, said):
    service.create_faults = [Fault(429, QUOTA)]
    service.walks["us-east4"] = ("PENDING", f"FAILED: {STOCKOUT}")
    service.walks["us-west1"] = ("PENDING", "EXPIRED")
    assert run("--regions=us-central1,us-east4,us-west1,europe-west4") == 0
    regions = [name.split("/")[3] for name in service.jobs]
    assert regions == ["us-east4", "us-west1", "europe-west4"]
    assert said.text.count("No room in ") == 3
    assert "custom_model_training_nvidia_l4_gpus" in said.text


def test_accelerators_are_tried_in_turn_with_their_own_machines(service):
    service.create_faults = [Fault(429, QUOTA)] * 2
    argv = ["--accelerators=l4,t4", "--regions=us-central1,us-east4"]
    assert run(*argv) == 0
    (job,) = service.jobs.values()
    assert job.job_spec.worker_pool_specs[0].machine_spec.machine_type == "n1-standard-8"
    assert job.name.split("/")[3] == "us-central1"


def test_flags_and_preflight_are_checked_for_every_accelerator_that_may_be_had(
    service, monkeypatch
):
    compiled = []
    monkeypatch.setattr("launch.check.preflight", lambda place, args: compiled.append(place))
    argv = ["--accelerators=l4,v5e,t4", "--regions=us-central1,us-east4", "--count=1"]
    assert run(*argv, "--preflight", "--dry_run") == 0
    assert [place.accelerator for place in compiled] == ["l4", "v5e", "t4"]
    with pytest.raises(InputError, match=r"^--require=tpu:1 does not go with --strategy=mirrored"):
        run(*argv, trainers=[*TRAINERS, "--strategy=mirrored"])


def test_a_job_whose_time_is_up_is_not_started_elsewhere(service, said):
    service.walks["us-central1"] = ("PENDING", "RUNNING", "EXPIRED")
    assert run("--regions=us-central1,us-east4") == 1
    assert [name.split("/")[3] for name in service.jobs] == ["us-central1"]
    assert "It has run for as long as its --timeout lets it." in said.text
    assert "The same command starts it again, from its last checkpoint." in said.text
    assert "No room" not in said.text


def test_when_nothing_is_to_be_had_all_that_was_tried_is_said(service):
    service.create_faults = [Fault(429, QUOTA)] * 2
    with pytest.raises(InputError) as error:
        run("--regions=us-central1,us-east4")
    assert str(error.value) == (
        f"No machines were available (l4 in us-central1: {QUOTA}; l4 in us-east4: {QUOTA}); ask "
        "for more of this quota (console: IAM & Admin, Quotas), or name other --regions or "
        "--accelerators."
    )


def test_a_job_that_waits_too_long_for_machines_is_cancelled(service, monkeypatch):
    service.walks["us-central1"] = ("PENDING",) * 1000
    monkeypatch.setattr(
        "launch.watch.elapsed",
        lambda job: datetime.timedelta(0, 61 if job.region == "us-central1" else 59),
    )
    assert run("--max_wait=1m", "--regions=us-central1,us-east4") == 0
    assert states(service) == ["JOB_STATE_CANCELLING", "JOB_STATE_SUCCEEDED"]


def test_other_refusals_are_one_line_with_a_remedy(service):
    service.create_faults = [
        Fault(403, "Permission 'aiplatform.customJobs.create' denied on resource '//x'")
    ]
    with pytest.raises(InputError) as error:
        run()
    assert str(error.value) == (
        "Vertex AI refuses: Permission 'aiplatform.customJobs.create' denied on resource '//x'; "
        "give yourself roles/aiplatform.user in the project."
    )


def test_logs_are_shown_once_with_severity_and_replica(service, capsys):
    service.walks["us-central1"] = ("RUNNING",) * 4 + ("SUCCEEDED",)
    assert run("--follow=false") == 0
    (job,) = service.jobs.values()
    for number in range(5):
        line = json.dumps({"severity": "INFO", "message": f"step {number}"})
        service.log(job, "workerpool0-0", line)
    service.log(job, "workerpool1-0", "a plain line")
    assert run() == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if " | " in line]
    assert lines == [f"workerpool0-0 | step {number}" for number in range(5)] + [
        "workerpool1-0 | ERROR a plain line"
    ]


def test_a_long_log_is_turned_page_by_page_under_one_filter(service, capsys):
    service.walks["us-central1"] = ("RUNNING",) * 4 + ("SUCCEEDED",)
    assert run("--follow=false") == 0
    (job,) = service.jobs.values()
    for number in range(7):  # minutes apart, so that what is new begins elsewhere with each
        service.log(job, "workerpool0-0", f"line {number}", seconds=60 * number)
    assert run() == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if " | " in line]
    assert lines == [f"workerpool0-0 | ERROR line {number}" for number in range(7)]


def test_a_fast_clock_hides_nothing_that_others_say_after_it(service):
    run("--follow=false")
    (job,) = service.jobs.values()
    (described,) = vertex.Service("lab", "us-central1", 5).find("nuclei")
    log = logs.Log("lab", described)
    service.log(job, "workerpool1-0", "ahead", fast_by=3600)
    assert [entry.text for entry in log.new_entries()] == ["ahead"]
    service.log(job, "workerpool0-0", "after it")
    assert [entry.text for entry in log.new_entries()] == ["after it"]


def test_failed_requests_for_the_log_end_nothing_and_lose_nothing(service, capsys):
    service.walks["us-central1"] = ("RUNNING",) * 8 + ("SUCCEEDED",)
    run("--follow=false")
    (job,) = service.jobs.values()
    for number in range(5):
        service.log(job, "workerpool0-0", f"line {number}", seconds=60 * number)
    service.log_faults = [503, 0, 429]
    assert run() == 0
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if " | " in line] == [
        f"workerpool0-0 | ERROR line {number}" for number in range(5)
    ]
    assert [line for line in said if "The log" in line] == [
        "The log does not answer (503 injected); each look asks again."
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resourceName": "x"}, "Unknown name 'resourceName'"),
        ({"resourceNames": ["lab"]}, "resource_names"),
        ({"orderBy": "timestamp"}, "order_by"),
        ({"pageSize": 1001}, "page_size"),
        ({"pageSize": "10"}, "page_size"),
        ({"filter": 'timestamp >= "now"'}, "Unparseable filter"),
        ({"pageToken": "made up@2"}, "page_token doesn't match"),
    ],
)
def test_the_services_log_refuses_what_the_real_one_does(service, change, message):
    run("--follow=false")
    (job,) = service.jobs.values()
    job_id = job.name.rpartition("/")[2]
    question = {
        "resourceNames": ["projects/lab"],
        "filter": f'resource.labels.job_id="{job_id}" AND timestamp>="2026-01-01T00:00:00Z"',
    }
    assert service.answer("POST", "/v2/entries:list", {}, question) == {"entries": []}
    with pytest.raises(vertex_server.RefusedError, match=message):
        service.answer("POST", "/v2/entries:list", {}, {**question, **change})


def test_shells_into_replicas_are_named_once(service, capsys):
    service.walks["us-central1"] = ("RUNNING",) * 3 + ("SUCCEEDED",)
    assert run("--web_access", "--follow=false") == 0
    (job,) = service.jobs.values()
    job.web_access_uris["workerpool0-0"] = "https://shell"
    assert run("--web_access") == 0
    assert capsys.readouterr().err.count("shell    workerpool0-0: https://shell\n") == 1


def test_a_client_that_is_not_installed_and_credentials_that_are_not_there_are_said(monkeypatch):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere.json")
    with pytest.raises(
        InputError, match=r"^No credentials for Google Cloud were found; run gcloud"
    ):
        vertex.Service("lab", "us-central1", 5)
    monkeypatch.setattr("launch.client.importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"^google-cloud-aiplatform is not installed; install it:"):
        vertex.Service("lab", "us-central1", 5)


def test_logs_that_cannot_be_read_are_said_so_once(service, capsys):
    service.walks["us-central1"] = ("RUNNING", "RUNNING", "SUCCEEDED")
    service.log_status = 403
    assert run() == 0
    line = "The log cannot be read; the console shows it. Cloud Logging refuses: injected; give "
    line += "yourself roles/logging.viewer in the project.\n"
    assert capsys.readouterr().err.count(line) == 1


def test_ctrl_c_leaves_the_job_running_and_says_how_to_continue(service, said, monkeypatch):
    def interrupt(seconds):
        raise KeyboardInterrupt

    service.walks["us-central1"] = ("RUNNING",) * 9
    # Its own name for the module: a machine of the test before may sleep in a thread.
    monkeypatch.setattr("launch.watch.time", SimpleNamespace(sleep=interrupt))
    assert run() == 130
    assert states(service) == ["JOB_STATE_RUNNING"]
    for action in ("attach", "cancel"):
        command = f"python -m launch.vertex {action} --name=nuclei --project=lab"
        assert f"{command} --region=us-central1" in said.text


def test_list_attach_and_cancel(service, capsys, said):
    service.walks["us-central1"] = ("RUNNING",) * 9
    run("--follow=false")
    assert run("--action=list") == 0
    assert capsys.readouterr().out.split()[:2] == ["nuclei", "queued"]
    assert run("--action=cancel") == 0
    assert states(service) == ["JOB_STATE_CANCELLING"]
    assert run("--action=attach") == 1
    assert "The job was cancelled." in said.text
    assert "If nobody did that, it refused its input: its last line in the log says" in said.text
    with pytest.raises(InputError, match=r"^--name=no: there is no such job in us-central1; see"):
        run("--action=attach", "--name=no")


def test_clients_of_cloud_build_that_are_not_installed_are_named(service, monkeypatch):
    monkeypatch.setitem(sys.modules, "google.cloud.devtools", None)
    line = (
        r'^--build=cloud needs google\.cloud\.devtools; install it: pip install "\.\[vertex\]"\.$'
    )
    with pytest.raises(InputError, match=line):
        run("--image=", "--build=cloud")


@pytest.mark.slow
def test_a_cloud_build_is_made_of_the_tree_once(service, said, monkeypatch, gcs, bucket):
    for name, value in service.environment().items():
        monkeypatch.setenv(name, value)
    argv = ["--image=", f"--bucket={bucket}", "--build=cloud"]
    service.build_faults = [503, 404, 429, 0]  # once before the image is missed, then at two looks
    assert run(*argv) == 0
    assert "Artifact Registry is busy (503 injected); trying again" in said.text
    assert "Cloud Build is busy (not reached: ConnectionError); trying again" in said.text
    (build,) = service.builds
    (address,) = build["images"]
    assert address.startswith("us-central1-docker.pkg.dev/lab/unet-trainer/trainer-gpu:")
    options = ["--target=gpu", f"--tag={address}", "--build-arg=RUN_AS=1000"]
    assert build["steps"][0]["args"] == ["build", *options, "."]
    source = build["source"]["storageSource"]
    assert len(gcs.read(f"gs://{source['bucket']}/{source['object']}")) > 1e5
    (job,) = service.jobs.values()
    assert job.job_spec.worker_pool_specs[0].container_spec.image_uri == address
    path, _, tag = address.partition(":")
    _, project, repository, package = path.split("/")
    parent = f"projects/{project}/locations/us-central1/repositories/{repository}"
    service.images.add(f"{parent}/packages/{package}/tags/{tag}")
    assert run(*argv, "--name=second") == 0
    assert len(service.builds) == 1
    service.images.clear()
    service.build_states = ["QUEUED", "FAILURE"]
    with pytest.raises(InputError, match=r"^--build=cloud ended as FAILURE"):
        run(*argv, "--name=third")
    service.build_faults = [403]
    refused = (
        r"^Artifact Registry refuses: injected; give yourself roles/artifactregistry\.reader in"
    )
    with pytest.raises(InputError, match=refused):
        run(*argv, "--name=third")
    with pytest.raises(InputError, match=r"^--build=cloud cannot write its source to gs://absent/"):
        run(*argv, "--bucket=gs://absent", "--name=third")


def flag_of(body, name):
    (pool,) = body["jobSpec"]["workerPoolSpecs"]
    args = pool["containerSpec"]["args"]
    return [arg.partition("=")[2] for arg in args if arg.startswith(f"--{name}=")]


def test_folds_are_a_job_each_with_a_run_in_one_folder(service, capsys, said):
    assert run("--folds=3", "--dry_run") == 0
    printed = json.loads(capsys.readouterr().out)
    assert [body["displayName"] for body in printed] == [f"nuclei-fold-{k}" for k in range(3)]
    assert [flag_of(body, "fold") for body in printed] == [["0"], ["1"], ["2"]]
    folders = [body["jobSpec"]["baseOutputDirectory"]["outputUriPrefix"] for body in printed]
    assert folders == [f"gs://b/runs/nuclei/fold-{k}" for k in range(3)]
    assert not service.jobs
    assert run("--folds=3") == 0
    assert len(service.jobs) == 3
    assert [body["displayName"] for body in created(service)] == [
        body["displayName"] for body in printed
    ]
    assert said.messages[-1].startswith(
        "When all of them have ended, sum up by\npython -m trainer.crossval --folds=3 "
        "--run_dir=gs://b/runs/nuclei --data_dir=gs://b/data"
    )
    assert run("--folds=3") == 0  # attaches to those that run
    assert len(service.jobs) == 3


@pytest.mark.parametrize(
    ("argv", "trainers", "reason"),
    [
        (["--folds=3"], ["--fold=1"], "--folds=3 trains every fold; drop --fold after --."),
        (["--folds=1"], [], "--folds=1 needs two folds or more, and no --tune; change one."),
        (["--folds=2", "--tune=filters:16|32"], [], "--folds=2 needs two folds or more, and no"),
    ],
)
def test_folds_that_cannot_be_are_refused(service, argv, trainers, reason):
    with pytest.raises(InputError, match=reason):
        run(*argv, trainers=[*TRAINERS, *trainers])


PREDICTS = ["--run_dir=gs://b/runs/nuclei", "--images=gs://b/images", "--output=gs://b/masks"]


def test_a_prediction_is_one_job_whose_workers_have_a_part_each(service, said, capsys):
    assert (
        run("--action=predict", "--workers=3", "--spot", "--follow=false", trainers=PREDICTS) == 0
    )
    (body,) = created(service)
    chief, others = body["jobSpec"]["workerPoolSpecs"]
    assert (chief["replicaCount"], others["replicaCount"]) == ("1", "2")
    container = chief["containerSpec"]
    assert container["command"] == ["python", "-m", "trainer.predict"]
    assert {*PREDICTS, "--part=auto", "--require=gpu:1"} <= {*container["args"]}
    assert "restartJobOnWorkerRestart" not in body["jobSpec"]["scheduling"]
    folder = body["jobSpec"]["baseOutputDirectory"]["outputUriPrefix"]
    assert folder == "gs://b/predictions/nuclei"
    capsys.readouterr()
    with pytest.raises(InputError) as error:  # a training of that name
        run("--follow=false")
    assert str(error.value) == (
        "--name=nuclei is that of a prediction; choose another for this run."
    )


def test_a_dry_run_of_a_prediction_prints_what_is_sent(service, capsys):
    assert run("--action=predict", "--workers=3", "--dry_run", trainers=PREDICTS) == 0
    printed = json.loads(capsys.readouterr().out)
    assert run("--action=predict", "--workers=3", "--follow=false", trainers=PREDICTS) == 0
    (sent,) = created(service)
    assert in_names(types.CustomJob, sent) == printed


@pytest.mark.parametrize(
    ("argv", "predicts", "reason"),
    [
        ([], ["--part=1/2"], "--part follows from --workers; drop it after --."),
        ([], ["--require=gpu:1"], "--require follows from --accelerator and --count; drop it"),
        ([], ["--images=images"], "--images=images is a folder of this machine; copy it to a buck"),
        ([], ["--run_dir=runs/a"], "--run_dir=runs/a is a folder of this machine; copy it to a bu"),
        (
            [],
            ["--output=masks"],
            "--output=masks is no place for what the job writes; name a folde",
        ),
        ([], ["--output="], "--output is missing; give --run_dir, --images and --output."),
        ([], ["--tile=3"], "--tile=3 is below 64, its smallest value."),
        (["--folds=3"], [], "--folds=3 is for training and does not go with predict; drop it."),
        (["--tune=tile:64|128"], [], "--tune=tile:64|128 is for training and does not go with"),
        (["--preflight"], [], "--preflight=true is for training and does not go with predict; d"),
    ],
)
def test_a_prediction_that_cannot_be_is_refused_before_anything_is_sent(
    service, argv, predicts, reason
):
    with pytest.raises(InputError) as error:
        run("--action=predict", *argv, trainers=[*PREDICTS, *predicts])
    assert str(error.value).startswith(reason)
    assert not service.jobs
