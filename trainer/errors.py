"""The exceptions that are the user's to mend."""


class InputError(ValueError):
    """Input that breaks a rule: a flag, a file, a folder or an argument.

    The message is one line with name, value, rule and remedy. Commands print it and exit with
    status 2; any other exception is a defect and keeps its traceback.
    """


class PassingError(InputError):
    """What another start may find otherwise: a store, a device, a port, the lease of a folder."""


class UnreachableError(PassingError):
    """A store that has not answered for long; what goes on in the background may try again."""
