"""What a campaign brings back: archives of records, weights and checkpoints, and how they are put in place.

Each part is whole at any moment, as the machine that packs it may be taken away at any second.
"""

import gzip
import io
import re
import sys
import tarfile
import zlib
from pathlib import Path

from study import records
from study.machine.folders import CHECKPOINT, HALVED, work_folder, write_whole

PART = 14 * 2**20  # bytes of a part at most
ROOM = 56 * 2**20  # bytes that weights or checkpoints may fill all parts up to: in 8 files, with what is not packed
UNPACKED = 256 * 2**20  # bytes of what is in a part at most: notebooks shrink to a third or less, weights do not
PREFIX, ENDING = "campaign-", ".tar.gz"  # of the name of a part


class Parts:
    """The files that come back: each an archive of its own, whole at any moment, of at most :data:`PART` bytes."""

    def __init__(self, out: Path):
        self.out, self.open, self.members = out, None, {}

    def add(self, members: dict[str, bytes]) -> Path:
        """Put files (name -> content) into the part that is open, or into a new one where they would not fit."""
        content = _archive(self.members | members)
        if self.open is None or (self.members and len(content) > PART):
            self.open, self.members, content = self._new(), {}, _archive(members)
        self.members |= members
        return write_whole(self.open, content)

    def add_large(self, name: str, content: bytes) -> list[Path]:
        """Put a file into as many new parts as it needs; none, if all would then be of more than :data:`ROOM`."""
        if sum(path.stat().st_size for path in self.out.iterdir()) + len(content) > ROOM:
            return []
        size = PART - 2**16  # an archive is a little more than what is in it
        pieces = [content[k : k + size] for k in range(0, len(content), size)]
        if len(pieces) == 1:
            return [self.add({name: content})]
        return [
            write_whole(self._new(), _archive({f"{name}.{k + 1}of{len(pieces)}": piece}))
            for k, piece in enumerate(pieces)
        ]

    def _new(self) -> Path:
        """The next free name: what an earlier campaign has left there stays."""
        numbers = [int(path.name.removeprefix(PREFIX).removesuffix(ENDING)) for path in parts_of(self.out)]
        return self.out / f"{PREFIX}{max(numbers, default=0) + 1:02d}{ENDING}"


def parts_of(folder: Path) -> list[Path]:
    """The parts in a folder, in the order in which they were begun."""
    return sorted(
        path
        for path in folder.glob(f"{PREFIX}*{ENDING}")
        if re.fullmatch(r"\d+", path.name[len(PREFIX) : -len(ENDING)])
    )


def unpack(folder: Path, root: Path) -> list[Path]:
    """Put what came back in its places, records below ``root``; what is there already stays. Returns the files put.

    Raises ValueError if there is no part, or one is damaged or holds what no campaign packs, or what stayed is another
    record than the one that came; the rest is unpacked.
    """
    if not parts_of(folder):
        raise ValueError(f"{folder} has no part of a campaign ({PREFIX}01{ENDING}): give the folder that came back")
    wrong, others, put, pieces = [], [], [], {}
    for part in parts_of(folder):
        try:
            members = _read(part, root)
        except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
            wrong.append(f"{part.name} ({error})")
            continue
        for name in sorted(members, key=lambda name: name.endswith("record.json")):  # a record comes when all is there
            if piece := re.fullmatch(r"(.+)\.(\d+)of(\d+)", name):
                pieces.setdefault((piece[1], int(piece[3])), {})[int(piece[2])] = members[name]
            elif why := _no_record(name, members[name], root):
                wrong.append(f"{part.name} ({why})")
            else:
                put += _put(name, members[name], root)
                if name.endswith("/record.json") and _place(name, root).read_bytes() != members[name]:
                    others.append(str(_place(name, root)))
    for (name, count), found in pieces.items():
        if len(found) == count:
            put += _put(name, b"".join(found[k + 1] for k in range(count)), root)
        else:
            print(f"{name}: {len(found)} of its {count} pieces came back, so it is left out", file=sys.stderr)
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: damaged, copy it again; all else is unpacked")
    if others:
        raise ValueError(
            f"{', '.join(others)}: another one is there, and stays; move it away and unpack again. The rest is unpacked"
        )
    return put


def _read(part: Path, root: Path) -> dict[str, bytes]:
    """What is in a part, by name. Raises TarError, among others, unless all of it is whole, and what a campaign packs.

    tarfile alone stops at the last member, and never sees the check sum, which is at the end of the stream.
    """
    with gzip.open(part) as stream:
        content = stream.read(UNPACKED + 1)
    if len(content) > UNPACKED:
        raise tarfile.TarError(f"there are more than {UNPACKED >> 20} MiB in it")
    whole = io.BytesIO(content)
    with tarfile.open(fileobj=whole, mode="r:") as archive:
        members = archive.getmembers()
        for member in members:
            kind, _, rest = member.name.partition("/")
            inside = rest and ".." not in Path(rest).parts and _inside(_place(member.name, root), _home(kind, root))
            if kind not in ("results", "work") or not member.isfile() or not inside:
                raise tarfile.TarError(f"{member.name} is nothing that a campaign packs")
        return {member.name: archive.extractfile(member).read() for member in members}


def _home(kind: str, root: Path) -> Path:
    return root if kind == "results" else work_folder("")


def _no_record(name: str, content: bytes, root: Path) -> str | None:
    """Why a file that came as a record is none, for any reader; None if it is one, or came as something else."""
    if name.endswith("/record.json"):
        try:
            records.parse(content.decode(), _place(name, root))
        except ValueError as error:
            return str(error)
    return None


def _place(name: str, root: Path) -> Path:
    kind, _, rest = name.partition("/")
    return _home(kind, root) / rest


def _inside(path: Path, folder: Path) -> bool:
    """Whether it is below the folder in truth, whatever is a link on the way."""
    return folder.resolve() in path.resolve().parents


def _put(name: str, content: bytes, root: Path) -> list[Path]:
    target = _place(name, root)
    if target.exists():
        return []
    if target.name == CHECKPOINT:  # the mark comes first: no halved checkpoint is ever without it
        content = _cast(content, "float32")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.with_name(HALVED).write_text("its checkpoint travelled in half precision\n")
    return [write_whole(target, content)]


def files_of(folder: Path, name: str) -> dict[str, bytes]:
    return {f"{name}/{path.name}": path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def _archive(members: dict[str, bytes]) -> bytes:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz", compresslevel=3) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return whole.getvalue()


def weights_in_half(path: Path) -> bytes:
    import torch
    from safetensors.torch import load_file, save

    from study.experiment.weights import narrowed

    return save({name: narrowed(t, torch.float16) for name, t in load_file(path).items()})


def checkpoint_in_half(path: Path) -> bytes:
    return _cast(path.read_bytes(), "float16")


def _cast(content: bytes, precision: str) -> bytes:
    """A checkpoint with the weights, the statistics and the optimiser's momenta in another precision."""
    import torch

    from study.experiment.weights import narrowed

    state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)

    def cast(value):
        if isinstance(value, torch.Tensor):
            return narrowed(value, getattr(torch, precision))
        if isinstance(value, dict):
            return {name: cast(item) for name, item in value.items()}
        return [cast(item) for item in value] if isinstance(value, list) else value

    made = io.BytesIO()
    torch.save(state | {name: cast(state[name]) for name in ("model", "optimizer")}, made)
    return made.getvalue()
