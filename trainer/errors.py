"""The one exception that is the user's to mend."""


class InputError(ValueError):
    """Input that breaks a rule: a flag, a file, a folder or an argument.

    The message is one line with name, value, rule and remedy. Commands print it and exit with
    status 2; any other exception is a defect and keeps its traceback.
    """
