"""The settings of `launch.vertex`: default, help line and rule, each written once."""

import dataclasses
import re

from launch import attachments
from trainer.config.settings import Settings, as_text, setting
from trainer.errors import InputError

NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
LABEL = re.compile(r"[a-z0-9_-]{0,63}")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
OWN_LABELS = ("unet_run", "unet_attempt")
MOST_LABELS = 64
MOST_WORKERS_SECONDS = 7 * 86400  # what Vertex AI grants a job


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job(Settings):
    """What to start, and where. Flags of trainer.task or trainer.predict follow after a lone --."""

    action: str = setting(
        "run",
        "May also be given as the first word. run: train, or attach to what runs under this name. "
        "predict: the same, by trainer.predict.",
        choices=("run", "predict", "list", "attach", "cancel"),
        common=True,
    )
    name: str = setting(
        "",
        "The job's identity: its label, and its folder BUCKET/runs/NAME, of a prediction "
        "BUCKET/predictions/NAME.",
        common=True,
    )
    project: str = setting("", "Google Cloud project, by its id.", common=True)
    region: str = setting("us-central1", "Region.", common=True)
    regions: str = setting("", "Regions to try in turn, a,b,c, in place of --region.")
    bucket: str = setting(
        "", "gs://BUCKET, or a folder in it, for runs and what is built.", common=True
    )
    folder: str = setting("", "Folder in BUCKET/runs, or BUCKET/predictions; NAME if empty.")
    folds: int = setting(
        0,
        "Starts a job NAME-fold-K for each of so many folds of the data, whose run is "
        "BUCKET/runs/NAME/fold-K, and follows none; 0: one job.",
        low=0,
        high=100,
    )
    dry_run: bool = setting(
        False, "Print the request that would be sent, and send nothing.", common=True
    )
    preflight: bool = setting(
        False, "First compile the training step for the accelerator, and refuse what does not fit."
    )
    follow: bool = setting(True, "Stay until the job ends, showing its state and its logs.")
    logs: bool = setting(True, "Show the job's logs while following it.")
    poll_seconds: float = setting(10.0, "Seconds between two looks at the job.", low=0.01)
    patience_seconds: float = setting(
        600.0, "Seconds for which Vertex AI may not answer before this gives up.", low=0
    )

    def __post_init__(self) -> None:
        """Checks each field, and the forms of names."""
        super().__post_init__()
        if self.name and not NAME.fullmatch(self.name):
            raise InputError(
                f"--name={self.name} is not a label; use a small letter, then at most 62 small "
                "letters, digits, - and _."
            )
        if self.bucket and not re.fullmatch(r"gs://[^/]+(/[^/]+)*/?", self.bucket):
            raise InputError(f"--bucket={self.bucket} is not a bucket; write gs://BUCKET.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hardware(Settings):
    """The machines."""

    accelerator: str = setting(
        "cpu",
        "cpu, t4, l4, a100-40, a100-80, h100, h200, b200 or v5e: rows of --hardware.",
        common=True,
    )
    accelerators: str = setting("", "Accelerators to try in turn, in place of --accelerator.")
    count: int = setting(1, "Accelerators of each worker.", low=1, common=True)
    workers: int = setting(
        1,
        "Machines that train together, or predict a part of the images each.",
        low=1,
        high=1000,
        common=True,
    )
    machine: str = setting("", "Machine type, where the table has several; unset: its first.")
    reduction_servers: int = setting(
        0,
        "Reduction Servers that sum the workers' gradients (GPUs, several workers, an --image with "
        "Google's package).",
        low=0,
    )
    boot_disk_gb: int = setting(100, "Boot disk of each machine.", low=100, high=64000)
    hardware: str = setting("", "Another table of hardware; unset: launch/hardware.json.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Image(Settings):
    """The container."""

    image: str = setting(
        "", "Image to run; unset: that of this tree in REGION-docker.pkg.dev/PROJECT/REPOSITORY."
    )
    repository: str = setting("unet-trainer", "Artifact Registry repository of built images.")
    build: str = setting(
        "no",
        "Build the image of this tree unless the registry has it: by Cloud Build, or by docker "
        "here.",
        choices=("no", "cloud", "local"),
        common=True,
    )
    run_as: str = setting(
        "auto",
        "The user of that image. auto: root for --tune, whose trials can often report only so, and "
        "for TPUs, whose devices may be root's; else a user without rights.",
        choices=("auto", "user", "root"),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scheduling(Settings):
    """When it runs, and for how long."""

    spot: bool = setting(False, "Spot machines: cheaper, taken away at any time.", common=True)
    flex_start: bool = setting(False, "Wait for machines in the flex-start queue.")
    reservation: str = setting(
        "",
        "Reserved machines to run on: projects/…/zones/ZONE/reservations/NAME; any: those that "
        "fit, if there are any; none: no reserved ones. Unset: as Vertex AI decides.",
    )
    timeout: str = setting("24h", "Longest running time, as 90m, 24h or 7d.", common=True)
    max_wait: str = setting(
        "",
        "Longest wait for machines, as 30m, before the next place is tried; 0: no limit. Unset: a "
        "day in the flex-start queue, else no limit.",
    )
    restart_on_worker_restart: bool = setting(
        True,
        "Restart all workers with any of them, as training with several needs; those of a "
        "prediction are restarted one by one.",
    )
    disable_retries: bool = setting(False, "Do not retry after errors inside Vertex AI.")

    def __post_init__(self) -> None:
        """Checks each field, and which machines exclude each other."""
        super().__post_init__()
        if self.spot and self.flex_start:
            raise InputError("--spot and --flex_start exclude each other; drop one of them.")
        if attachments.reservation(self.reservation) and self.reservation != "none":
            for name in ("spot", "flex_start"):
                if getattr(self, name):
                    raise InputError(
                        f"--reservation={self.reservation} does not go with --{name}, which uses "
                        "other machines than reserved ones; drop one of them."
                    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Access(Settings):
    """The account it runs as, and what it has access to."""

    service_account: str = setting(
        "", "E-mail of the service account that the job runs as.", common=True
    )
    network: str = setting("", "VPC to peer with: projects/NUMBER/global/networks/NAME.")
    network_attachment: str = setting(
        "",
        "Private Service Connect interface into a VPC, in place of --network: the name of its "
        "network attachment, or projects/…/regions/…/networkAttachments/NAME.",
    )
    nfs: str = setting(
        "",
        "NFS shares to mount at /mnt/nfs/NAME: SERVER:/PATH:NAME,…; needs --network or "
        "--network_attachment.",
    )
    kms_key: str = setting("", "Key for encryption: projects/…/cryptoKeys/KEY.")
    labels: str = setting("", "Labels of the job, team=lab,cost=4711.")
    persistent_resource: str = setting("", "Id of a persistent resource to run on.")
    tensorboard: str = setting("", "Vertex AI TensorBoard to log to: projects/…/tensorboards/ID.")
    web_access: bool = setting(False, "Allow a shell into the running containers.")

    def __post_init__(self) -> None:
        """Checks each field, and the forms of resource names."""
        super().__post_init__()
        forms = {
            "network": r"projects/\d+/global/networks/[^/]+",
            "kms_key": r"projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+",
            "tensorboard": r"projects/[^/]+/locations/[^/]+/tensorboards/[^/]+",
            "service_account": r"[^@]+@[^@]+",
        }
        for name, form in forms.items():
            value = getattr(self, name)
            if value and not re.fullmatch(form, value):
                shape = re.sub(r"\[\^[/@]+\]\+|\\d\+", "…", form)
                raise InputError(f"--{name}={value} has another form than {shape}.")
        if self.tensorboard and not self.service_account:
            raise InputError(
                f"--tensorboard={self.tensorboard} needs a --service_account that may write to it."
            )
        if self.network_attachment and not attachments.ATTACHMENT.fullmatch(
            self.network_attachment
        ):
            raise InputError(
                f"--network_attachment={self.network_attachment} is not a network attachment; "
                "write its NAME, or projects/…/regions/…/networkAttachments/NAME."
            )
        if self.network and self.network_attachment:
            raise InputError(
                f"--network={self.network} and --network_attachment={self.network_attachment} are "
                "two ways into a VPC; drop one of them."
            )
        joined = self.network or self.network_attachment or self.persistent_resource
        if attachments.shares(self.nfs) and not joined:
            raise InputError(
                f"--nfs={self.nfs} needs --network or --network_attachment, by which the job "
                "reaches the server; add one."
            )
        parse_labels(self.labels)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuning(Settings):
    """A search for better settings, in place of one job."""

    tune: str = setting(
        "",
        "Flags of trainer.task to vary: learning_rate:1e-4..1e-2:log,filters:32|64.",
        common=True,
    )
    trials: int = setting(20, "Trials in all.", low=1, common=True)
    parallel: int = setting(4, "Trials at the same time.", low=1)
    metric: str = setting("val/dice:max", "What to make large or small, SPLIT/FIGURE:max or :min.")
    algorithm: str = setting(
        "bayesian",
        "How the next values are chosen; grid has whole numbers and choices only.",
        choices=("bayesian", "random", "grid"),
    )
    early_stopping: str = setting(
        "none",
        "Stop a trial whose best figure is below the median of the others so far (median), or "
        "whose curve is not expected to pass the best (curve).",
        choices=("none", "median", "curve"),
    )
    max_failed_trials: int = setting(
        0, "Failed trials after which the search fails; 0: as Vertex AI decides.", low=0
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost(Settings):
    """What it will cost; said before anything is sent."""

    prices: str = setting("", "Another list of prices; unset: launch/prices.json.")
    hours: float | None = setting(None, "Hours that you expect it to run.", low=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vertex:
    """Trains, or predicts, as a Vertex AI job: launch.vertex [predict] --name=… -- flags of it."""

    job: Job = dataclasses.field(default_factory=Job)
    hardware: Hardware = dataclasses.field(default_factory=Hardware)
    image: Image = dataclasses.field(default_factory=Image)
    scheduling: Scheduling = dataclasses.field(default_factory=Scheduling)
    access: Access = dataclasses.field(default_factory=Access)
    tuning: Tuning = dataclasses.field(default_factory=Tuning)
    cost: Cost = dataclasses.field(default_factory=Cost)

    def __post_init__(self) -> None:
        """Checks what needs more than one setting."""
        needed = ["project"] if self.job.action == "list" else ["name", "project"]
        if self.job.action in ("run", "predict"):
            needed.append("bucket")
        for name in needed:
            if not getattr(self.job, name):
                raise InputError(f"--{name} is missing; give it.")
        when = self.scheduling
        if not 0 < seconds("timeout", when.timeout) <= MOST_WORKERS_SECONDS:
            raise InputError(f"--timeout={when.timeout} is not above 0 and at most 7d.")
        if seconds("max_wait", when.max_wait or "0") and not (when.flex_start or self.job.follow):
            raise InputError(
                f"--max_wait={when.max_wait} needs someone who waits; drop --follow=false, or use "
                "--flex_start, where Vertex AI itself does."
            )
        self._check_persistent_resource()
        self._check_regions()
        self._check_prediction()
        if self.tuning.tune and self.tuning.parallel > self.tuning.trials:
            raise InputError(
                f"--parallel={self.tuning.parallel} is above --trials={self.tuning.trials}; "
                "lower it."
            )
        if self.job.folds == 1 or (self.job.folds and self.tuning.tune):
            raise InputError(
                f"--folds={self.job.folds} needs two folds or more, and no --tune; change one."
            )
        if self.image.image and self.image.run_as != "auto":
            raise InputError(
                f"--run_as={self.image.run_as} is of the image of this tree, and --image="
                f"{self.image.image} has a user of its own; drop one of them."
            )

    def _check_persistent_resource(self) -> None:
        """Raises InputError for ways to get machines, as those of a resource are there."""
        name, when = self.access.persistent_resource, self.scheduling
        ways = {"spot": when.spot, "flex_start": when.flex_start, "reservation": when.reservation}
        for way in (way for way, asked in ways.items() if name and asked):
            raise InputError(
                f"--{way} does not go with --persistent_resource={name}, whose machines exist "
                "already; drop one of them."
            )

    def _check_prediction(self) -> None:
        """Raises InputError for what only training has."""
        training = {
            "folds": self.job.folds,
            "preflight": self.job.preflight,
            "reduction_servers": self.hardware.reduction_servers,
            "tensorboard": self.access.tensorboard,
            "tune": self.tuning.tune,
        }
        for name, value in training.items():
            if value and self.job.action == "predict":
                raise InputError(
                    f"--{name}={as_text(value)} is for training and does not go with predict; drop "
                    "it."
                )

    def _check_regions(self) -> None:
        """Raises InputError for a resource in a region where the job may not run."""
        named = {
            "tensorboard": self.access.tensorboard,
            "kms_key": self.access.kms_key,
            "network_attachment": self.access.network_attachment,
            "reservation": self.scheduling.reservation,
        }
        for name, resource in named.items():
            region = attachments.region_of(resource)
            if region and set(self.regions()) != {region}:
                raise InputError(
                    f"--{name}={resource} is in {region}, where the job must be, and not in "
                    f"{','.join(self.regions())}; use --region={region}, or another --{name}."
                )

    def regions(self) -> list[str]:
        """Returns the regions to try, in order."""
        return _split(self.job.regions) or [self.job.region]

    def accelerators(self) -> list[str]:
        """Returns the accelerators to try, in order."""
        return _split(self.hardware.accelerators) or [self.hardware.accelerator]

    def runs_as_root(self, kind: str) -> bool:
        """Returns whether the image of this tree is to run as root on cpu, gpu or tpu."""
        needed = bool(self.tuning.tune) or kind == "tpu"
        return needed if self.image.run_as == "auto" else self.image.run_as == "root"

    def job_dir(self, kind: str = "runs") -> str:
        """Returns a job's folder, of `runs` or `predictions`; of a training it is the run's."""
        return f"{self.job.bucket.rstrip('/')}/{kind}/{self.job.folder or self.job.name}"

    def of_fold(self, fold: int) -> "Vertex":
        """Returns the settings of the job of one of --folds."""
        job = dataclasses.replace(
            self.job,
            name=f"{self.job.name}-fold-{fold}",
            folder=f"{self.job.folder or self.job.name}/fold-{fold}",
            folds=0,
            follow=False,
        )
        return dataclasses.replace(self, job=job)


def seconds(name: str, text: str) -> int:
    """Returns the seconds of a duration such as 90m, 24h or 7d.

    Raises:
        InputError: for any other form.
    """
    if text == "0":
        return 0
    found = re.fullmatch(r"(\d+)([smhd])", text)
    if found is None:
        raise InputError(f"--{name}={text} is not a duration; write 90m, 24h or 7d.")
    return int(found[1]) * SECONDS[found[2]]


def parse_labels(text: str) -> dict[str, str]:
    """Returns labels from `a=b,c=d`.

    Raises:
        InputError: for what Vertex AI would not accept, or what this command sets itself.
    """
    labels: dict[str, str] = {}
    if len(_split(text)) > MOST_LABELS - len(OWN_LABELS):
        raise InputError(
            f"--labels={text} are more than {MOST_LABELS - len(OWN_LABELS)}, which with this "
            "command's own Vertex AI accepts; drop some."
        )
    for entry in _split(text):
        key, equals, value = entry.partition("=")
        if not equals or not NAME.fullmatch(key) or not LABEL.fullmatch(value):
            raise InputError(
                f"--labels={text}: {entry!r} is not a label; write key=value in small letters, "
                "digits, - and _, at most 63 each, the key beginning with a letter."
            )
        if key in OWN_LABELS:
            raise InputError(f"--labels={text}: {key} is set by this command; choose another key.")
        labels[key] = value
    return labels


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
