"""Downloads that survive a cut connection: resumed where they stopped, from any address that answers, then verified."""

from __future__ import annotations

import contextlib
import hashlib
import http
import http.client
import os
import re
import urllib.request
from pathlib import Path

from study.machine.folders import no_link

CHUNK = 1 << 20  # bytes
TIMEOUT = 30  # seconds without an answer


def fetch(target: Path, urls: tuple[str, ...], *, size: int, sha256: str, remedy: str) -> None:
    """Download `target` from the first of `urls` that delivers exactly the expected bytes.

    Bytes are appended to `<target>.part`, which a later call, or the next address, goes on from; the finished file
    appears under its own name in one step. The checksum decides at the end, so mixing addresses is safe.

    size in bytes, sha256 in hex, remedy: the sentence that ends an error. Raises ConnectionError when no address
    delivers, OSError when the file cannot be written.
    """
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _exclusive(target.with_name(target.name + ".lock")):
            if target.exists():  # another process finished while this one waited
                return
            failures = _try_all(part, urls, size=size, sha256=sha256)
            if failures is None:
                os.replace(part, target)
                return
    except OSError as error:
        raise OSError(
            f"cannot write {target}: {error.strerror or error}. What has arrived is kept. Free some space or choose a "
            f"writable folder by ADVLIB_DATA. Or: {remedy[0].lower()}{remedy[1:]}."
        ) from error
    arrived = part.stat().st_size if part.exists() else 0
    kept = f"{arrived:,} of {size:,} bytes are kept in {part}; run again to go on from there. " if arrived else ""
    raise ConnectionError(
        f"cannot download {target.name}: " + "; ".join(failures) + f". {kept}Check the network. Or: {remedy}."
    )


def _try_all(part: Path, urls: tuple[str, ...], *, size: int, sha256: str) -> list[str] | None:
    """None once `part` is whole and verified, else one sentence for each address."""
    if _verified(part, size, sha256):
        return None
    failures = []
    for url in urls:
        for fresh in (False, True):
            resumed = not fresh and part.exists() and part.stat().st_size > 0
            if fresh:
                part.unlink(missing_ok=True)
            reason = _append(part, url, size)
            if reason is None and _verified(part, size, sha256):
                return None
            if reason is not None:
                failures.append(f"{url} failed ({reason})")
                break
            if not resumed:  # these bytes came from this address alone, so asking it again is pointless
                part.unlink(missing_ok=True)
                failures.append(f"{url} sent other bytes than published (checksum mismatch)")
                break
    return failures


def _append(part: Path, url: str, size: int, anew: bool = False) -> str | None:
    """Append what is missing of `part` from `url`, or ask it for all bytes anew; None when all are there, else why not.

    A resume that the server refuses, or answers with another part of the file, is asked for anew.
    """
    held = part.stat().st_size if part.exists() else 0
    if held >= size:  # nothing left to ask for: the checksum will tell
        return None
    start = 0 if anew else held
    try:
        request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except (OSError, http.client.HTTPException, ValueError) as error:
        if start and getattr(error, "code", None) == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return _append(part, url, size, anew=True)
        return str(getattr(error, "reason", None) or error)
    with response:
        begins = _first_byte(response, start)
        if begins in (0, start):
            return _take(part, response, size, held, begins)
    return _append(part, url, size, anew=True) if start else f"it sends the bytes from {begins:,} on"


def _first_byte(response, asked: int) -> int:
    """Where in the file an answer begins: 0 where the server ignored the range and sends the whole file."""
    if getattr(response, "status", None) != http.HTTPStatus.PARTIAL_CONTENT:
        return 0
    told = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(told[1]) if told else asked


def _take(part: Path, response, size: int, held: int, begins: int) -> str | None:
    """Put the answer, from byte `begins` on, into `part`, which holds `held` bytes; None once all are there.

    An error page or another release must not overwrite good bytes. So the announced size is compared first, and what
    does not go on from them, or announces no size, waits beside them until it is whole.
    """
    announced = getattr(response, "length", None)  # None, too, where it is no number
    if announced is not None and begins + announced != size:
        return f"it offers {begins + announced:,} bytes instead of {size:,}"
    if begins == held and (held or announced is not None):
        return _receive(response, part, size, held)
    beside = part.with_name(part.name + ".new")
    try:
        reason = _receive(response, beside, size, 0)
        if reason is None:
            os.replace(beside, part)
        return reason
    finally:
        beside.unlink(missing_ok=True)


def _receive(response, path: Path, size: int, start: int) -> str | None:
    """Write an answer to a file, from byte `start` on, with a progress bar; None once it has `size` bytes."""
    from study.machine.progress import progress

    bar = progress(desc=path.stem, total=size, initial=start, unit="B", unit_scale=True)
    with open(path, "ab" if start else "wb", opener=no_link) as handle, bar:
        while handle.tell() <= size:
            try:
                chunk = response.read(CHUNK)
            except (OSError, http.client.HTTPException) as error:
                return str(error) or type(error).__name__
            if not chunk:
                break
            handle.write(chunk)
            bar.update(len(chunk))
        arrived = handle.tell()
    if arrived > size:
        return f"it sends more than {size:,} bytes"
    return None if arrived == size else f"the connection ended after {arrived:,} of {size:,} bytes"


def _verified(part: Path, size: int, sha256: str) -> bool:
    return part.exists() and part.stat().st_size == size and sha256_of(part) == sha256


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@contextlib.contextmanager
def _exclusive(path: Path):
    """Let one process at a time download a file; several runs of a grid often start together."""
    try:
        import fcntl
    except ImportError:  # Windows: two downloads at once end in a checksum mismatch, not in wrong data
        yield
        return
    with open(path, "a", opener=no_link) as handle:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
