"""Pack what a borrowed GPU machine needs into one folder: the committed code, the images, the wheels that are missing.

    python tools/gpu_pack.py            # or: make gpu-pack

There, without network or git: ``bash gpu-pack/start.sh campaign --budget brief --minutes 9 --out DIR``. Here, when DIR
has come back: ``python -m study unpack DIR``. Models, records of other budgets, the book and the tests stay at home,
and what needs them (`measure` of published networks, make book, make test) does not work there.
"""

import argparse
import io
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from study.data.cifar import CIFAR10
from study.data.jpeg import CIFAR10_JPEG
from study.data.places import search_folders
from study.machine.folders import project_folder
from study.plan.catalogue import GPU_BUDGETS

LIMIT = 60 * 2**20  # bytes: 64 MiB is what a narrow door lets through, and a file system adds to it
CODE = (
    "advlib",
    "study",
    "notebooks",
    "benchmarks",
    "_config.yml",
    "pyproject.toml",
    *(f"results/{b}" for b in GPU_BUDGETS),
)
ARCHIVES = tuple(archive.filename for source in (CIFAR10, CIFAR10_JPEG) for archive in source.archives)
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux1_x86_64")


def pack(folder: Path, *, data: bool = True, wheels: bool = True) -> int:
    """Fill ``folder`` in the place of an earlier pack; the bytes of it.

    Raises RuntimeError, with the remedy, if the code is not committed, images or wheels are not to be had, or it is
    too large.
    """
    project = project_folder()
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "start.sh").is_file():
        raise RuntimeError(f"{folder} has something else in it than a pack: name another folder by --folder")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "code.tar.gz").write_bytes(code(project))
    shutil.copy(project / "tools" / "start_on_gpu.sh", folder / "start.sh")
    if data:
        shutil.copy(smallest_archive(), folder)
    if wheels:
        download(project / "requirements-gpu.lock", folder / "wheels")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > LIMIT:
        raise RuntimeError(
            f"{folder} is of {size / 2**20:.1f} MiB, and {LIMIT / 2**20:.0f} get through: leave records at home"
        )
    return size


def code(project: Path) -> bytes:
    """The committed files that a run needs, and COMMIT, which says what they are where there is no git."""
    if changed := _git(project, "status", "--porcelain", "--untracked-files=no"):
        raise RuntimeError(f"commit first, so that records can say what made them:\n{changed}")
    names = _git(project, "ls-files", "-z", "--", *CODE).split("\0")
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as archive:
        for name in filter(None, names):
            archive.add(project / name, name)
        commit = (_git(project, "rev-parse", "HEAD") + "\n").encode()
        member = tarfile.TarInfo("COMMIT")
        member.size = len(commit)
        archive.addfile(member, io.BytesIO(commit))
    return whole.getvalue()


def smallest_archive() -> Path:
    """CIFAR-10 as it is here: the original, or the copy. RuntimeError if there is none."""
    found = [folder / name for name in ARCHIVES for folder in search_folders() if (folder / name).is_file()]
    if not found:
        raise RuntimeError(
            f"neither {' nor '.join(ARCHIVES)} is here: put one into data/, or name its folder in ADVLIB_DATA"
        )
    return min(found, key=lambda path: path.stat().st_size)


def download(lock: Path, folder: Path) -> None:
    """The wheels of a lock file for Python 3.12 on x86-64. RuntimeError if pip cannot have them."""
    platforms = [part for name in PLATFORMS for part in ("--platform", name)]
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--python-version", "3.12", "--implementation", "cp", *platforms]
    done = subprocess.run(
        [*command, "--dest", folder, "--requirement", lock], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"pip could not download what {lock.name} names: {done.stderr.strip()}")


def _git(project: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", project, *arguments], capture_output=True, text=True, check=True).stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("gpu-pack"))
    parser.add_argument("--no-data", action="store_true", help="for runs on digits, or where the images are there")
    parser.add_argument("--no-wheels", action="store_true", help="for a machine that has papermill")
    options = parser.parse_args()
    try:
        size = pack(options.folder, data=not options.no_data, wheels=not options.no_wheels)
    except RuntimeError as error:
        print(f"gpu_pack: {error}", file=sys.stderr)
        return 1
    for path in sorted(options.folder.iterdir()):
        inside = sum(file.stat().st_size for file in ([path] if path.is_file() else path.iterdir()))
        print(f"{path}  {inside / 2**20:.1f} MiB")
    print(
        f"{size / 2**20:.1f} MiB in all; carry the folder, and start it there by `bash gpu-pack/start.sh campaign ...`"
    )
    print("Where the checkout travels too: git sparse-checkout set --no-cone '/*' '!/models/' (disable brings it back)")
    print("Left at home: models, records of other budgets, book, tests. What needs them does not work there.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
