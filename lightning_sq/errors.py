"""The exceptions that are shown to people as a sentence instead of a traceback."""

from __future__ import annotations

import errno

ERROR = "lightning-sq: error: "
"""Begins the line that the command line ends with where it fails."""
MENDABLE = (errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EACCES, errno.EPERM, errno.ELOOP, errno.EROFS)
"""What a person has done to a file, and can undo. What else a disk or a network says passes, and is tried again."""


class InputError(ValueError):
    """Something that the person who ran the command can mend: what was found, and what to do.

    The command line prints it as one sentence and exits with status 2.
    """


class ProcessLostError(RuntimeError):
    """Another process of the launch has gone. Nothing that was typed is wrong: the same command may end well.

    The command line prints it as one sentence and exits with status 1, by which a cluster starts the job again.
    """


def input_error_in(error: BaseException | None) -> InputError | None:
    """The InputError that `error` is or was raised because of: a parser wraps what a class refuses in its own error."""
    seen: set[int] = set()  # one error that is raised at two places makes a ring of what they were raised because of
    while error is not None and not isinstance(error, InputError):
        seen.add(id(error))
        error = error.__cause__ or error.__context__
        if id(error) in seen:
            return None
    return error
