"""A borrowed machine with a time limit: make what tells most, stop in time, pack it up, and go on on the next machine.

``python -m advlib campaign --budget full --minutes 9 --out DIR`` runs what is missing, most informative first. When the
time is over, whatever still trains writes its checkpoint. Records, notebooks and checkpoints are packed into parts that
fit through a narrow door; ``--start-from DIR`` unpacks such parts first.
"""

import io
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

from advlib import catalogue, grid
from advlib.folders import CHECKPOINT, HALVED, replacing, work_folder
from advlib.grid import Run, State
from advlib.progress import progress

PART = 14 * 2**20  # bytes of a part at most
NAME = "campaign.tar.part"
GRACE = 25  # seconds before the end in which a run saves, and all is packed
POLL = 0.2


def campaign(
    wanted: Sequence[Run], root: Path, *, minutes: float, out: Path, jobs: int = 1, start_from: Path | None = None
) -> list[State]:
    """Run what is missing of ``wanted`` below ``root`` until ``minutes`` are over; the states afterwards.

    Raises ValueError if there is no time for anything, or ``start_from`` holds no complete campaign.
    """
    end = time.monotonic() + 60 * minutes - GRACE
    if end <= time.monotonic():
        raise ValueError(f"--minutes {minutes}: {GRACE} s of it are for saving and packing, so nothing could run")
    if start_from:
        unpack(start_from, root)
    before = {run.where for run in wanted if grid.state(run, root).state == "done"}
    waiting = [run for run in most_informative_first(wanted) if run.where not in before]
    _work_off(waiting, root, end, jobs)
    states = [grid.state(run, root) for run in wanted]
    pack([found for found in states if found.run.where not in before], root, out)
    return states


def most_informative_first(wanted: Sequence[Run]) -> list[Run]:
    """Table 1 under both protocols, then Table 2, the paper's other rows, the steps between, the extensions.

    All of them with seed 0, then Table 1 with the other seeds, then the rest: a table with a hole says less than one
    with wide intervals.
    """
    others = max(run.seed for run in wanted) if wanted else 0

    def rank(run: Run) -> tuple:
        row = catalogue.rows().get(run.key)
        kind = {1: 0, 2: 1, None: 2}[row.paper_table] if row else 4
        if run.protocol not in catalogue.PROTOCOLS:
            kind = 3
        return (run.seed if run.seed == 0 or kind == 0 else others + run.seed, kind)

    return sorted(wanted, key=rank)


def _work_off(waiting: list[Run], root: Path, end: float, jobs: int) -> None:
    """Keep ``jobs`` runs going until all are done or the time is over; then ask those under way to save."""
    under_way: list[subprocess.Popen] = []
    with progress(total=len(waiting), desc="campaign", unit="run") as bar:
        queue = list(waiting)
        while (queue or under_way) and time.monotonic() < end:
            ended = [run for run in under_way if run.poll() is not None]
            bar.update(len(ended))
            under_way = [run for run in under_way if run.poll() is None]
            while queue and len(under_way) < jobs:
                command = [sys.executable, "-m", "advlib", "run", *queue.pop(0).arguments, "--results", str(root)]
                under_way.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
            time.sleep(POLL)
    for run in under_way:
        run.send_signal(signal.SIGTERM)
    for run in under_way:
        try:
            run.wait(timeout=GRACE - 5)
        except subprocess.TimeoutExpired:
            run.kill()  # its last checkpoint stays


def pack(states: Sequence[State], root: Path, out: Path) -> list[Path]:
    """Records and notebooks of what is done, checkpoints of what is not, as parts of at most :data:`PART` bytes."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as archive:
        for found in states:
            where, work = found.run.where, work_folder(found.run.where)
            if found.state == "done":
                archive.add(root / where, f"results/{where}")
            elif (work / CHECKPOINT).is_file():
                _add(archive, f"work/{where}/{CHECKPOINT}", _in_half(work / CHECKPOINT))
    content = whole.getvalue()
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob(f"{NAME}*"):
        old.unlink()
    count = max(1, -(-len(content) // PART))
    parts = [out / f"{NAME}{k + 1}of{count}" for k in range(count)]
    for k, part in enumerate(parts):
        with replacing(part) as partial:
            partial.write_bytes(content[k * PART : (k + 1) * PART])
    return parts


def unpack(folder: Path, root: Path) -> None:
    """Put the runs of a packed campaign in their places; what is there already stays.

    Raises ValueError if a part is missing or damaged, or the archive holds what no campaign packs.
    """
    parts = sorted(folder.glob(f"{NAME}*"), key=lambda part: int(part.name.removeprefix(NAME).split("of")[0]))
    if not parts or len(parts) != int(parts[0].name.split("of")[-1]):
        raise ValueError(f"{folder} has {len(parts)} parts of a campaign, and not all of them: copy it again")
    content = io.BytesIO(b"".join(part.read_bytes() for part in parts))
    try:
        with tarfile.open(fileobj=content, mode="r:gz") as archive:
            for member in archive.getmembers():
                _put(archive, member, root)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"the campaign in {folder} is damaged ({error}): copy it again") from error


def _put(archive: tarfile.TarFile, member: tarfile.TarInfo, root: Path) -> None:
    kind, _, rest = member.name.partition("/")
    if member.isdir():
        return
    if kind not in ("results", "work") or not member.isfile() or ".." in Path(rest).parts:
        raise tarfile.TarError(f"{member.name} is nothing that a campaign packs")
    target = (root if kind == "results" else work_folder("")) / rest
    if target.exists():
        return
    with archive.extractfile(member) as source, replacing(target) as partial, open(partial, "wb") as file:
        shutil.copyfileobj(source, file)
    if target.name == CHECKPOINT:
        _in_full(target)
        target.with_name(HALVED).write_text("its checkpoint travelled in half precision\n")


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _in_half(path: Path) -> bytes:
    content = io.BytesIO()
    _torch().save(_cast(path, "float16"), content)
    return content.getvalue()


def _in_full(path: Path) -> None:
    state = _cast(path, "float32")
    with replacing(path) as partial:
        _torch().save(state, partial)


def _cast(path: Path, precision: str) -> dict:
    """A checkpoint with the weights, the statistics and the optimiser's momenta in another precision."""
    torch = _torch()
    state = torch.load(path, map_location="cpu", weights_only=True)

    def cast(value):
        if isinstance(value, torch.Tensor):
            return value.to(getattr(torch, precision)) if value.is_floating_point() else value
        if isinstance(value, dict):
            return {name: cast(item) for name, item in value.items()}
        return [cast(item) for item in value] if isinstance(value, list) else value

    return state | {name: cast(state[name]) for name in ("model", "optimizer")}


def _torch():
    import torch

    return torch
