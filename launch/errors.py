"""What Vertex AI says when a job cannot start or fails, by kind, and what helps."""

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Trouble:
    """A kind of error.

    Attributes:
        pattern: regular expression that its message matches.
        remedy: what the user can do; {name} and {role} are those of the service.
        kind: quota or capacity, for which another place may help; else other.
    """

    pattern: str
    remedy: str
    kind: str = "other"


TROUBLES = (
    Trouble(
        r"exceed(s|ed)? quota limits?|quota metrics? exceed|custom_model_training_\w+",
        "ask for more of this quota (console: IAM & Admin, Quotas), or name other --regions or "
        "--accelerators",
        "quota",
    ),
    Trouble(
        r"[Rr]esources are insufficient in region|STOCKOUT|does not have enough resources",
        "name several --regions or --accelerators, or use --flex_start",
        "capacity",
    ),
    Trouble(
        r"iam\.serviceAccounts\.actAs|act as service account",
        "give yourself roles/iam.serviceAccountUser on the --service_account",
    ),
    Trouble(
        r"SERVICE_DISABLED|has not been used in project|API is disabled",
        "gcloud services enable {name}.googleapis.com",
    ),
    Trouble(
        r"^403 |aiplatform\.\w+\.\w+' denied|PERMISSION_DENIED|Permission .* denied",
        "give yourself {role} in the project",
    ),
    Trouble(
        r"Failed to pull image|image .* not found|manifest unknown|ErrImagePull",
        "build it (--build=cloud), and let the service agent read the repository "
        "(roles/artifactregistry.reader)",
    ),
    Trouble(
        r"tensorboards?/\S* (is )?not found",
        "name a --tensorboard of the job's own region",
    ),
    Trouble(
        r"[Oo]ut of memory|OOMKilled|\b137\b",
        "use a larger --machine, a smaller --batch_size (of a prediction --tile), or "
        "--accumulate_steps",
    ),
    Trouble(
        r"non-zero status of 2\b",
        "the trainer refused its input: its last line in the logs says why",
    ),
)


def explain(
    message: str, name: str = "aiplatform", role: str = "roles/aiplatform.user"
) -> Trouble | None:
    """Returns the kind of error that a message of a service tells of, if it is a known one."""
    for trouble in TROUBLES:
        if re.search(trouble.pattern, message):
            remedy = trouble.remedy.format(name=name, role=role)
            return dataclasses.replace(trouble, remedy=remedy)
    return None


def kind_of(message: str) -> str:
    """Returns quota, capacity or other."""
    trouble = explain(message)
    return trouble.kind if trouble else "other"


def exit_status(message: str) -> int:
    """Returns the exit status of the replica that a failed job's message names, or 1."""
    found = re.search(r"non-zero status of (\d+)", message)
    status = int(found[1]) if found else 1
    return status if 0 < status < 256 else 1
