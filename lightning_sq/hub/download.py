"""Files over HTTP: into a .part file that a later call goes on with, and under their name once the checksum agrees."""

from __future__ import annotations

import errno
import re
import string
import time
import warnings
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import Request, urlopen

from lightning_sq import __version__
from lightning_sq.errors import InputError, one_line
from lightning_sq.paths import sha256
from lightning_sq.types import Progress

TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as cut."""
TRIES = 5
"""Requests in a row that bring nothing new before it is given up."""
PAUSE = 0.5
"""Seconds before the second of them; doubled from try to try."""
CHUNK = 1 << 20
SMALL = 1 << 20
"""Bytes that a list may have."""
PASSING = (408, 429, 500, 502, 503, 504)
"""States of a server that may be over in a moment."""
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EFBIG)
"""What goes wrong on this side."""


class UnreachableError(InputError):
    """No answer from there: no network, a wrong name, or a server that is down or has no time."""


def read_small_file(url: str, limit: int = SMALL) -> bytes:
    """The content at `url`.

    Raises: UnreachableError if nothing answers, not all of it comes, or the server cannot just now; InputError if it is
        no address or leads from https to http, there is no such file, or it has more than `limit` bytes.
    """
    try:
        with _open(url) as response:
            if url.startswith("https:") and not response.url.startswith("https:"):
                raise InputError(f"{url} leads to {response.url}, which is not encrypted. Do not use it.")
            content = response.read(limit + 1)
            if response.length and len(content) <= limit:  # bytes that were announced and did not come
                raise URLError("the connection was cut")
    except HTTPError as error:
        if error.code in PASSING:
            raise unreachable(url, URLError(f"the server answers {error.code}")) from error
        raise _refused(url, error.code) from error
    except (OSError, HTTPException) as error:
        raise unreachable(url, error) from error
    except InputError:
        raise
    except ValueError as error:  # of a host that no name can be
        raise _no_address(url, error) from error
    if len(content) > limit:
        raise InputError(f"{url} is larger than the {limit:,} bytes that such a list has. Is the address right?")
    return content


def check_address(url: str, instead: str) -> None:
    """Warn of what comes unencrypted and is held against no known checksum; on this machine nobody is in between.

    Args:
        url: From where.
        instead: The end of "Take https, or ...".
    Raises: InputError if it is no address.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise _no_address(url, error) from error
    if parts.scheme == "http" and not re.fullmatch(r"localhost|127\.[\d.]+|::1", parts.hostname or ""):
        warnings.warn(
            f"{url} comes over plain http: whoever is in between can put another model in its place. Take https, or "
            f"{instead}.",
            stacklevel=2,
        )


def unreachable(url: str, error: Exception) -> UnreachableError:
    """In a sentence."""
    return UnreachableError(f"{url} cannot be reached ({getattr(error, 'reason', None) or type(error).__name__}).")


def download(url: str, path: Path, digest: str, progress: Progress = lambda done, total: None) -> None:
    """Bring `url` to `path`, whole and with the right checksum, or not at all.

    What came before a connection was cut stays in `path`.part, where the next request, of this call or a later one,
    goes on. The checksum decides: not the length that the server claims.

    Args:
        url: http or https.
        path: Its folder exists.
        digest: SHA-256 in hexadecimal.
        progress: Called with (bytes that are there, bytes in all as far as known).
    Raises: UnreachableError if nothing answers; InputError for another file than the one wanted, which is removed.
    """
    part = path.with_name(f"{path.name}.part")
    idle, begun_anew = 0, False
    most = part.stat().st_size if part.exists() else 0
    while True:
        start = part.stat().st_size if part.exists() else 0
        whole, problem = _request(url, part, start, progress)
        have = part.stat().st_size if part.exists() else 0
        if have < start and not begun_anew:  # the server sends all of it again: what was there is of no use
            begun_anew, most = True, 0
        gained, most = have > most, max(most, have)  # if it always does, and is always cut, that is no gain
        if (whole or not gained) and part.exists():
            if sha256(part) == digest:
                part.replace(path)
                return
            if whole:
                size = part.stat().st_size
                part.unlink()
                if start == 0 or begun_anew:
                    raise InputError(
                        f"{url} is not the file that SHA256SUMS names: {size:,} bytes{problem} with another checksum. "
                        "Try again later, or ask whoever released it."
                    )
                begun_anew, most = True, 0  # what was there from an earlier time may have been of another file
                continue
        idle = 0 if gained else idle + 1
        if idle == TRIES:
            raise UnreachableError(f"{url} could not be downloaded: {problem}. {have:,} bytes are kept: try again.")
        if idle:
            time.sleep(PAUSE * 2 ** (idle - 1))


def _request(url: str, part: Path, start: int, progress: Progress) -> tuple[bool, str]:
    """One request for what is missing behind `start`, written into `part`.

    Returns: whether the server ended it as it had announced, and what to say of it: how a connection failed, or of
        which kind the content was.
    """
    try:
        with _open(url, start) as response:
            if start and not _goes_on_at(start, response):
                part.unlink()
                start = 0
            announced = response.headers.get("Content-Length")
            total = None if announced is None else start + int(announced)
            with part.open("ab" if start else "wb", buffering=0) as stream:  # what is killed has kept all that came
                while chunk := response.read1(CHUNK):
                    stream.write(chunk)
                    progress(stream.tell(), max(stream.tell(), total or 0))
                done = stream.tell()
            if total is not None and done < total:
                return False, "the connection was cut"
            return True, f" of {response.headers.get_content_type()}"
    except HTTPError as error:
        if error.code == 416 and start:  # nothing is missing, or what is there is not of this file
            return True, ""
        if error.code not in PASSING:
            raise _refused(url, error.code) from error
        return False, f"the server answers {error.code}"
    except (URLError, OSError, HTTPException, ValueError) as error:
        if getattr(error, "errno", None) in DISK:
            raise InputError(f"{part} cannot be written ({error}). Make room, or set LIGHTNING_SQ_CACHE.") from error
        return False, f"the connection was cut ({getattr(error, 'reason', None) or type(error).__name__})"


def _open(url: str, start: int = 0) -> HTTPResponse:
    headers = {"User-Agent": f"lightning_sq/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    return urlopen(Request(_in_ascii(url), headers=headers), timeout=TIMEOUT)


def _in_ascii(url: str) -> str:
    """As a server is asked: spaces and other letters of the path, which people type, by their numbers."""
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host}{slash}{quote(path, safe=string.punctuation)}"


def _goes_on_at(start: int, response: HTTPResponse) -> bool:
    """Whether the server sends what was asked for, and not all of it again."""
    span = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return response.status == 206 and span is not None and int(span[1]) == start


def _no_address(url: str, error: ValueError) -> InputError:
    return InputError(f"{url} is no address ({one_line(error)}). One is https://HOST/FOLDER/.")


def _refused(url: str, code: int) -> InputError:
    why = {401: "it wants to know who asks", 403: "it is not for everybody", 404: "there is no such file"}
    return InputError(f"{url} cannot be had: {why.get(code, 'the server refuses')} (HTTP {code}). Check the address.")
