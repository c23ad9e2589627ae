"""Vertex AI's job service on loopback, for Google's own client, with faults to order.

Bodies are parsed by the real protobuf types, which refuse unknown fields, and held to the service's
own rules. A job either walks through given states, one at each look, or is run by a `runner`. The
same server answers for Cloud Logging, Cloud Build and Artifact Registry, as far as they are asked.
"""

import contextlib
import dataclasses
import datetime
import hashlib
import http.server
import itertools
import json
import re
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

from google.cloud import aiplatform_v1 as types
from google.cloud.devtools import cloudbuild_v1
from google.protobuf import json_format
from google.rpc import code_pb2, status_pb2

from launch import client, cloud

KINDS = {
    "customJobs": types.CustomJob,
    "hyperparameterTuningJobs": types.HyperparameterTuningJob,
}
COLLECTION = re.compile(r"/v1/(projects/[^/]+/locations/([^/]+))/(\w+)")
ITEM = re.compile(r"/v1/(projects/[^/]+/locations/[^/]+/(\w+)/\d+)(:cancel)?")
REASONS = {400: "INVALID_ARGUMENT", 403: "PERMISSION_DENIED", 404: "NOT_FOUND"}
REASONS |= {429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE"}
QUOTA = (
    "The following quota metrics exceed quota limits: "
    "aiplatform.googleapis.com/custom_model_training_nvidia_l4_gpus"
)
STOCKOUT = "Resources are insufficient in region: {region}. Please try a different region."
STAMP = "%Y-%m-%dT%H:%M:%S.%fZ"
LOG_FIELDS = {"resourceNames", "filter", "orderBy", "pageSize", "pageToken"}
LOG_TERMS = (  # of the language of filters those that are understood here
    r'resource\.type="ml_job"',
    r'resource\.labels\.job_id="(?P<job>\d+)"',
    r'timestamp>="(?P<since>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z)"',
)
WALK = ("PENDING", "RUNNING", "SUCCEEDED")


class RefusedError(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, message: str):
        """Takes the HTTP status and the service's words."""
        super().__init__(message)
        self.status = status
        error = {"code": status, "message": message, "status": REASONS.get(status, "UNKNOWN")}
        self.body = {"error": error}


@dataclasses.dataclass
class Fault:
    """What goes wrong with one creation of a job.

    Attributes:
        status: of the answer.
        message: of it.
        carried_out: whether the job is created all the same, and only the answer lost.
    """

    status: int
    message: str = "injected"
    carried_out: bool = False


class Server:
    """The service; its attributes are what tests arrange and look at.

    Attributes:
        walks: region → the states that its jobs walk through; WALK where none is given.
        create_faults: of the next creations, in order.
        get_faults: statuses of the next descriptions, in order.
        cancel_faults: statuses of the next cancellations, in order.
        runner: what runs a job, if anything: called in a thread with the job and a setter.
        requests: (method, path, body) of all that was asked.
        jobs: name → job.
        entries: of the log.
        log_status: of answers to questions for the log.
        log_faults: statuses of the next of these answers, in order; 0: none comes.
        images: addresses of tags that the registry has.
        builds: bodies of builds.
        build_states: which a build walks through.
        build_faults: statuses of the next answers of the registry and about builds, in order.
    """

    def __init__(self, runner: Callable[..., None] | None = None):
        """Binds a free port of loopback."""
        self.walks: dict[str, tuple[str, ...]] = {}
        self.create_faults: list[Fault] = []
        self.get_faults: list[int] = []
        self.cancel_faults: list[int] = []
        self.runner = runner
        self.requests: list[tuple[str, str, Any]] = []
        self.jobs: dict[str, Any] = {}
        self.entries: list[dict[str, Any]] = []
        self.log_status = 200
        self.log_faults: list[int] = []
        self.images: set[str] = set()
        self.builds: list[dict[str, Any]] = []
        self.build_states = ["QUEUED", "WORKING", "SUCCESS"]
        self.build_faults: list[int] = []
        self._left: dict[str, list[str]] = {}
        self._ids = itertools.count(10**18)
        self._lock = threading.RLock()
        self._http = _http_server(self)
        self.address = f"http://127.0.0.1:{self._http.server_address[1]}"

    def environment(self) -> dict[str, str]:
        """Returns the variables that lead commands here."""
        services = (cloud.VERTEX_AI, cloud.LOGGING, cloud.BUILD, cloud.REGISTRY)
        return {service.variable: self.address for service in services}

    def bodies(self, method: str, ending: str) -> list[Any]:
        """Returns the bodies of requests whose path has this ending."""
        return [
            body for verb, path, body in self.requests if verb == method and path.endswith(ending)
        ]

    def log(
        self, job: Any, replica: str, line: str, seconds: float = 0, fast_by: float = 0
    ) -> None:
        """Writes a line into a job's log; JSON becomes a structured entry.

        Args:
            job: whose log it is.
            replica: that says it.
            line: what it says.
            seconds: from now, at which it arrives.
            fast_by: seconds by which the replica's clock is fast.
        """
        arrival = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(0, seconds)
        stamp = arrival + datetime.timedelta(0, fast_by)
        labels = {"job_id": job.name.rpartition("/")[2], "task_name": replica}
        entry: dict[str, Any] = {"insertId": f"{len(self.entries)}", "logName": f"logs/{replica}"}
        entry |= {"timestamp": f"{stamp:{STAMP}}", "receiveTimestamp": f"{arrival:{STAMP}}"}
        entry["resource"] = {"type": "ml_job", "labels": labels}
        try:
            payload = json.loads(line)
            entry |= {"severity": payload.pop("severity"), "jsonPayload": payload}
        except (ValueError, KeyError, TypeError, AttributeError):
            entry |= {"severity": "ERROR", "textPayload": line}
        with self._lock:
            self.entries.append(entry)

    def set_state(self, job: Any, state: str, error: str = "") -> None:
        """Brings a job into a state."""
        now = datetime.datetime.now(datetime.timezone.utc)
        with self._lock:
            if types.JobState(job.state).name.removeprefix(client.PREFIX) in client.ENDED:
                return
            job.state = types.JobState[client.PREFIX + state]
            if state == "RUNNING":
                job.start_time = now
            if state in client.ENDED:
                job.end_time = now
            if error:
                job.error = status_pb2.Status(code=code_pb2.INTERNAL, message=error)

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> dict[str, Any]:
        """Returns the answer to a request."""
        with self._lock:
            self.requests.append((method, path, body))
        if path == "/v2/entries:list":
            return self._read_log(body)
        if method == "GET" and self.build_faults and re.search("/builds|/repositories/", path):
            raise RefusedError(self.build_faults.pop(0), "injected")
        if "/builds" in path:
            return self._build(method, path, body)
        if "/repositories/" in path:
            if path.removeprefix("/v1/") not in self.images:
                raise RefusedError(404, "no such tag")
            return {"name": path}
        if found := COLLECTION.fullmatch(path):
            parent, region, collection = found.groups()
            if method == "POST":
                return self._create(parent, region, collection, body)
            return self._list(parent, collection, query["filter"])
        if found := ITEM.fullmatch(path):
            return self._item(method, *found.groups())
        raise RefusedError(404, f"no such method: {method} {path}")

    def _create(self, parent: str, region: str, collection: str, body: Any) -> dict[str, Any]:
        fault = self.create_faults.pop(0) if self.create_faults else None
        if fault and not fault.carried_out:
            raise RefusedError(fault.status, fault.message)
        try:
            job = KINDS[collection].from_json(json.dumps(body))
        except json_format.ParseError as error:
            raise RefusedError(400, f"Invalid JSON payload received. {error}") from None
        if wrong := broken_rule(job):
            raise RefusedError(400, wrong)
        with self._lock:
            job.name = f"{parent}/{collection}/{next(self._ids)}"
            job.create_time = datetime.datetime.now(datetime.timezone.utc)
            job.state = types.JobState.JOB_STATE_QUEUED
            self.jobs[job.name] = job
            self._left[job.name] = [] if self.runner else list(self.walks.get(region, WALK))
            answer = _json(job)
        if self.runner:
            threading.Thread(target=self.runner, args=(self, job), daemon=True).start()
        if fault:
            raise RefusedError(fault.status, fault.message)
        return answer

    def _list(self, parent: str, collection: str, condition: str) -> dict[str, Any]:
        named = re.fullmatch(r'labels\.unet_run="([^"]+)"', condition)
        if named is None and condition != "labels.unet_run:*":
            raise RefusedError(400, f"filter {condition!r} is not understood")
        with self._lock:
            found = [
                _json(job)
                for name, job in self.jobs.items()
                if name.startswith(f"{parent}/{collection}/")
                and (job.labels.get("unet_run") == named[1] if named else "unet_run" in job.labels)
            ]
        return {collection: found}

    def _item(self, method: str, name: str, collection: str, cancel: str | None) -> dict[str, Any]:
        job = self.jobs.get(name) or self._by_number(name)
        if job is None:
            raise RefusedError(404, f"{name} is not found.")
        name = job.name
        if cancel:
            if self.cancel_faults:
                raise RefusedError(self.cancel_faults.pop(0), "injected")
            self._left[name] = ["CANCELLED"]
            self.set_state(job, "CANCELLING")
            return {}
        if self.get_faults:
            raise RefusedError(self.get_faults.pop(0), "injected")
        if self._left[name]:
            state = self._left[name].pop(0)
            state, _, error = state.partition(": ")
            self.set_state(job, state, error.format(region=name.split("/")[3]))
        with self._lock:
            return _json(job)

    def _by_number(self, name: str) -> Any:
        """Returns a job that is named by its project's number, as the job itself knows it."""
        _, project, *rest = name.split("/")
        found = [job for key, job in self.jobs.items() if key.split("/")[2:] == rest]
        return found[0] if found and project.isdigit() else None

    def _read_log(self, body: Any) -> dict[str, Any]:
        if self.log_faults:
            raise RefusedError(self.log_faults.pop(0), "injected")
        if self.log_status != 200:
            raise RefusedError(self.log_status, "injected")
        if wrong := broken_rule_of_a_question(body):
            raise RefusedError(400, wrong)
        asked = {key: value for key, value in body.items() if key != "pageToken"}
        asked_by, _, start = body.get("pageToken", "").partition("@")
        made_of = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        if asked_by not in ("", made_of):
            raise RefusedError(400, "page_token doesn't match arguments from the request")
        terms = [re.fullmatch("|".join(LOG_TERMS), x) for x in body["filter"].split(" AND ")]
        values = {k: v for term in terms if term for k, v in term.groupdict().items() if v}
        with self._lock:
            found = [
                entry
                for entry in self.entries
                if entry["resource"]["labels"]["job_id"] == values["job"]
                and entry["timestamp"] >= values["since"].removesuffix("Z")
            ]
        found.sort(key=lambda entry: entry["timestamp"])
        first = int(start or 0)
        page = found[first : first + 2]  # small, so that pages are turned
        token = {"nextPageToken": f"{made_of}@{first + 2}"} if len(found) > first + 2 else {}
        return {"entries": page, **token}

    def _build(self, method: str, path: str, body: Any) -> dict[str, Any]:
        if method == "POST":
            try:
                cloudbuild_v1.Build.from_json(json.dumps(body))
            except json_format.ParseError as error:
                raise RefusedError(400, f"Invalid JSON payload received. {error}") from None
            self.builds.append(body)
        build = {"id": "1", "status": self.build_states.pop(0), "logUrl": f"{self.address}/log"}
        if method == "GET":
            return build
        kind = "type.googleapis.com/google.devtools.cloudbuild.v1.BuildOperationMetadata"
        return {"name": "operations/build/1", "metadata": {"@type": kind, "build": build}}


def broken_rule_of_a_question(body: Any) -> str:
    """Returns which rule of Cloud Logging's entries.list a question breaks, or nothing."""
    if unknown := body.keys() - LOG_FIELDS:
        return f"Invalid JSON payload received. Unknown name {min(unknown)!r}"
    names = body.get("resourceNames") or []
    if not 1 <= len(names) <= 100 or not all(re.fullmatch(r"projects/[^/]+", x) for x in names):
        return "resource_names: one to a hundred are required, as projects/ID"
    if body.get("orderBy", "timestamp asc") not in ("timestamp asc", "timestamp desc"):
        return f"order_by: {body['orderBy']!r} is not supported"
    size = body.get("pageSize", 50)
    if type(size) is not int or not 0 <= size <= 1000:
        return f"page_size: {size!r} is negative, above 1000 or no number"
    terms = body.get("filter", "").split(" AND ")
    if len(body.get("filter", "")) > 20_000 or not all(
        re.fullmatch("|".join(LOG_TERMS), term) for term in terms
    ):
        return f"Unparseable filter: {body.get('filter', '')[:100]}"
    return ""


def broken_rule_of_a_study(job: Any) -> str:
    """Returns which rule of hyperparameter tuning jobs one breaks, or nothing."""
    study = job.study_spec
    if not study.metrics or not study.parameters:
        return "metrics and parameters are required"
    if job.max_trial_count < 1 or not 1 <= job.parallel_trial_count <= job.max_trial_count:
        return "max_trial_count and parallel_trial_count are required"
    for parameter in study.parameters:
        name = parameter.parameter_id
        if not parameter._pb.WhichOneof("parameter_value_spec"):
            return f"{name}: values are required"
        if "categorical_value_spec" in parameter and parameter.scale_type:
            return f"{name}: a categorical parameter has no scale"
        if "double_value_spec" in parameter and study.algorithm == study.Algorithm.GRID_SEARCH:
            return f"{name}: a grid takes INTEGER, CATEGORICAL and DISCRETE parameters"
        values = list(parameter.discrete_value_spec.values)
        if values != sorted(values):
            return f"{name}: discrete values are to increase"
    return ""


def broken_rule(job: Any) -> str:
    """Returns which of the service's own rules a job breaks, or nothing."""
    spec = job.job_spec if isinstance(job, types.CustomJob) else job.trial_job_spec
    if not job.display_name or not 1 <= len(spec.worker_pool_specs) <= 4:
        return "display_name and one to four worker pools are required"
    if spec.worker_pool_specs[0].replica_count != 1:
        return "The replica count of workerpool0 must be 1."
    for number, pool in enumerate(spec.worker_pool_specs):
        machine = pool.machine_spec
        if not machine.machine_type or not pool.container_spec.image_uri:
            return f"workerpool{number}: machine_type and image_uri are required"
        if bool(machine.accelerator_count) != bool(machine.accelerator_type):
            return f"workerpool{number}: accelerator_type and accelerator_count go together"
        if machine.machine_type.startswith("ct5lp") and not machine.tpu_topology:
            return f"workerpool{number}: tpu_topology is required"
        affinity = machine.reservation_affinity
        specific = affinity.reservation_affinity_type == types.ReservationAffinity.Type(3)
        if specific != bool(affinity.key and affinity.values):
            return f"workerpool{number}: a specific reservation takes key and values, no other does"
        if len(pool.container_spec.env) > 100:
            return f"workerpool{number}: more than 100 environment variables"
        joined = spec.network or spec.psc_interface_config or spec.persistent_resource_id
        for mount in pool.nfs_mounts:
            if not (mount.server and mount.path.startswith("/") and mount.mount_point and joined):
                return f"workerpool{number}: an NFS mount takes server, path, mount point, network"
        if machine.tpu_topology and len(spec.worker_pool_specs) > 1:
            return "a TPU is one worker pool"
    if spec.tensorboard and not spec.service_account:
        return "tensorboard requires a service account"
    if spec.network and spec.psc_interface_config:
        return "network and psc_interface_config exclude each other"
    if not re.fullmatch(
        r"gs://[^/]+(/.+)?", spec.base_output_directory.output_uri_prefix or "gs://b"
    ):
        return "base_output_directory is no gs:// address"
    if isinstance(job, types.HyperparameterTuningJob) and (wrong := broken_rule_of_a_study(job)):
        return wrong
    if len(job.labels) > 64:
        return "more than 64 labels"
    for key, value in job.labels.items():
        if not re.fullmatch(r"[a-z0-9_-]{1,63}", key) or not re.fullmatch(
            r"[a-z0-9_-]{0,63}", value
        ):
            return f"label {key}={value} is not valid"
    return ""


@contextlib.contextmanager
def serve(runner: Callable[..., None] | None = None) -> Iterator[Server]:
    """Starts a server and stops it at the end."""
    server = Server(runner)
    # By itself it looks twice a second whether it is to stop, and each test waits for that.
    threading.Thread(target=server._http.serve_forever, args=[0.01], daemon=True).start()
    try:
        yield server
    finally:
        server._http.shutdown()
        server._http.server_close()


def _json(job: Any) -> dict[str, Any]:
    return json.loads(type(job).to_json(job, always_print_fields_with_no_presence=False))


def _http_server(server: Server) -> http.server.ThreadingHTTPServer:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Else a body waits for the acknowledgement of its headers, which the client delays.
        disable_nagle_algorithm = True

        def log_message(self, format: str, *args: object) -> None:
            """Stays silent."""

        def _answer(self) -> None:
            url = urllib.parse.urlsplit(self.path)
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            query = dict(urllib.parse.parse_qsl(url.query))
            status = 200
            try:
                body = json.loads(raw) if raw else None
                answer = server.answer(self.command, url.path, query, body)
            except RefusedError as error:
                status, answer = error.status, error.body
            if not status:  # the answer is lost
                self.close_connection = True
                return
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

    return http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
