"""The one exception that is shown to people as a sentence instead of a traceback."""


class InputError(ValueError):
    """Something that the person who ran the command can mend: what was found, and what to do.

    The command line prints it as one sentence and exits with status 2.
    """
