"""The exceptions that are shown to people as a sentence instead of a traceback."""

from __future__ import annotations

import errno

ERROR = "lightning-sq: error: "
"""Begins the line that the command line ends with where it fails."""
MENDABLE = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.EACCES,
    errno.EPERM,
    errno.ELOOP,
    errno.EROFS,
)
"""What a person has done to a file, and can undo. What else a disk or a network says passes, and is tried again."""
LONGEST_LINE = 300
"""Characters of `one_line`."""


class InputError(ValueError):
    """Something that the person who ran the command can mend: what was found, and what to do.

    The command line prints it as one sentence and exits with status 2.
    """


class ProcessLostError(RuntimeError):
    """Another process of the launch has gone. Nothing that was typed is wrong: the same command may end well.

    The command line prints it as one sentence and exits with status 1, by which a cluster starts the job again.
    """


class HostError(RuntimeError):
    """This host lacks what the job was given there. Shown, and followed by another start, like a `ProcessLostError`."""


def input_error_in(error: BaseException | None) -> InputError | None:
    """The InputError that `error` is or was raised because of: a parser wraps what a class refuses in its own error."""
    seen: set[int] = set()  # one error that is raised at two places makes a ring of what they were raised because of
    while error is not None and not isinstance(error, InputError):
        seen.add(id(error))
        error = error.__cause__ or error.__context__
        if id(error) in seen:
            return None
    return error


def one_line(error: BaseException, *, named: bool = False) -> str:
    """What `error` says, for the inside of a sentence: one line without a full stop; its type where it says nothing.

    Only the first paragraph counts, and no more than `LONGEST_LINE` characters of it: libraries put advice and traces
    behind it.

    Args:
        error: Of a library, whose words may go over many lines.
        named: Put its type before what it says, as a traceback does.
    """
    kind, paragraph = type(error).__name__, str(error).strip().split("\n\n")[0]
    said = " ".join(paragraph.split())[:LONGEST_LINE].rstrip(" .")
    return f"{kind}: {said}" if named and said else said or kind
