"""confusion.csv."""

import numpy as np
import pytest

from trainer.errors import InputError
from trainer.evaluate import confusion


def test_a_table_of_confusions_is_read_as_it_was_written(tmp_path):
    counts = np.array([[5, 1], [2, 3_000_000_000]])
    assert confusion.read(str(tmp_path)) is None
    confusion.write(str(tmp_path), counts, ["background", 'a,"b'])
    text = (tmp_path / "confusion.csv").read_text()
    assert text.splitlines()[:2] == ['truth / prediction,background,"a,""b"', "background,5,1"]
    np.testing.assert_array_equal(confusion.read(str(tmp_path)), counts)


@pytest.mark.parametrize("text", ["", "a,b\nb,x\n", "a,b,c\nb,1\n", "a,b,c\nb,1,2\n"])
def test_a_damaged_table_of_confusions_is_refused(tmp_path, text):
    (tmp_path / "confusion.csv").write_text(text)
    with pytest.raises(InputError, match=r"confusion\.csv is not a table of confusions"):
        confusion.read(str(tmp_path))
