"""Which configurations are compared."""

import pytest

from trainer import config
from trainer.config import flags
from trainer.crossval import configurations
from trainer.errors import InputError


def read(folder, texts, *argv, names=None):
    """Reads the configurations of some flag files, whose texts are given by their names."""
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    paths = ",".join(str(folder / name) for name in names or texts)
    argv = ["crossval", "--data_dir=D", "--run_dir=CV", f"--configurations={paths}", *argv]
    return configurations.read(flags.parse(config.CrossValidation, argv))


def test_a_file_is_added_to_the_flags_and_named_after_it(tmp_path):
    texts = {"a.cfg": "# narrow\n--filters=8\n--run_dir=runs/a\n", "b.cfg": "--crop=32,64\n"}
    found = read(tmp_path, texts, "--filters=16", "--tensorboard_dir=T")
    assert list(found) == ["a", "b"]
    a, b = found.values()
    assert (a.model.filters, a.data.crop, a.run.run_dir) == (8, 256, "CV/a")
    assert (b.model.filters, b.data.crop, b.run.run_dir) == (16, (32, 64), "CV/b")
    assert (a.run.tensorboard_dir, b.data.data_dir) == ("T/a", "D")


def test_without_files_the_flags_are_the_only_configuration():
    asked = flags.parse(config.CrossValidation, ["crossval", "--filters=8"])
    assert configurations.read(asked) == {"": asked.job}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"a.cfg": "--filters=8"}, "names fewer than two files, and nothing to choose from"),
        ({"a.cfg": "", "b/a.txt": "--depth=3"}, "names two files a, whose runs would have one"),
        ({"fold-1.cfg": "", "b": "--depth=3"}, "fold-1 would be a folder that a cross-validation"),
        ({"a": "--depth=3", "b": "--depth=3"}, "a and b have the same settings; change one."),
        ({"a": "--filter=8", "b": ""}, "/a: --filter is not a flag; did you mean --filters?"),
        ({"a": "--data_dir=E", "b": ""}, "--data_dir=E is not that of the command line, D; all"),
        ({"a": "--fold=1", "b": ""}, "--fold=1 is not that of the command line, None; all"),
    ],
)
def test_files_that_are_not_to_be_compared_are_refused(tmp_path, texts, message):
    with pytest.raises(InputError) as error:
        read(tmp_path, texts)
    assert message in str(error.value)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="--flagfile=.*/b cannot be read: No such file"):
        read(tmp_path, {"a": "--depth=3"}, names=["a", "b"])
