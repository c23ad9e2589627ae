"""How messages show what others say."""

from trainer.errors import first_line


def test_the_first_line_of_an_error_is_without_the_names_of_operations():
    said = "{{function_node __wrapped__SaveV2_device_/job:x}} a/b; No space left [Op:SaveV2]\nmore"
    assert first_line(OSError(said)) == "a/b; No space left"
    assert first_line(OSError("")) == "OSError"
    assert first_line(OSError("[Op:x] {{a}} b")) == "[Op:x] {{a}} b"
