"""Several machines that predict one set of images, each a part of it."""

import hashlib
import os
import re
import unicodedata
from dataclasses import dataclass

from trainer.errors import InputError
from trainer.storage import files

FOLDER = "parts"
OF_REPLICA = "auto"  # `--part` of a replica of a Vertex AI job, see `replicas`


@dataclass(frozen=True)
class Part:
    """The images of one machine.

    Attributes:
        number: of the part, from 1.
        count: of all parts.
    """

    number: int = 1
    count: int = 1

    def has(self, name: str) -> bool:
        """Whether an image is of this part, by its name alone.

        Names that some file systems take for one are of one part.
        """
        folded = unicodedata.normalize("NFC", name).casefold()
        digest = hashlib.sha256(folded.encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest, "big") % self.count == self.number - 1

    @property
    def folder(self) -> str:
        """What the part's own files are in, below the folder of all masks; empty if it is all."""
        return f"{FOLDER}/{self.number}-of-{self.count}" if self.count > 1 else ""

    def may_meet(self, folder: str) -> bool:
        """Whether another part, which has such a folder, may have images of this one."""
        return not folder.endswith(f"-of-{self.count}")


def folders(path: str) -> list[str]:
    """Returns what the parts that have been begun keep their files in, below the folder."""
    names = files.list_folder(os.path.join(path, FOLDER))
    return [f"{FOLDER}/{name}" for name in names if re.fullmatch(r"\d+-of-\d+", name)]


def remove(path: str) -> None:
    """Removes the files that parts keep for themselves."""
    found = folders(path)
    for folder in found:
        files.remove_folder(os.path.join(path, folder))
    if found and not files.is_remote(path):
        files.remove_empty_folder(os.path.join(path, FOLDER))


def parse(text: str) -> Part:
    """Returns the part that `--part` names: all if it is empty.

    Raises:
        InputError: if it names none.
    """
    if not text:
        return Part()
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    number, count = map(int, found.groups()) if found else (0, 0)
    if not 1 <= number <= count:
        raise InputError(
            f"--part={text} is not I/N with 1 ≤ I ≤ N; write --part=1/8 to --part=8/8 for eight "
            "machines."
        )
    return Part(number, count)
