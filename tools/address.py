"""Set or check the repository's address: the one in pyproject.toml holds, and every other mention must agree with it.

python tools/address.py owner/name     rewrites pyproject.toml and every file that shows the address
python tools/address.py --check        exits 1 and names each mention that differs (a test runs this)
"""

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHOWN_IN = (
    "pyproject.toml",
    "_config.yml",
    "README.md",
    "CITATION.cff",
    "notebooks/*.ipynb",
    "book/**/*.md",
    "docs/*.md",
    "results/**/run.ipynb",
)
SLUG = r"([\w.-]+/[\w-][\w.-]*?)"
# The places where an address is ours; a link to somebody else's repository looks like none of them.
OURS = {
    "page of the docs": rf"https://github\.com/{SLUG}/blob/main/docs/",
    "badge": rf"colab\.research\.google\.com/github/{SLUG}/blob/",
    "install cell": rf"advlib(?:\[study\])? @ git\+https://github\.com/{SLUG}(?:\.git)?(?=[@\"'\\\s])",
    "clone command": rf"git clone https://github\.com/{SLUG}(?:\.git)?(?=[\s`]|$)",
    "folder of the clone": r"git clone https://github\.com/([\w.-]+)/\S+\s+cd ([\w.-]+)",
    "book repository": rf"(?m)^\s*url: [\"']?https://github\.com/{SLUG}[\"']?\s*$",
    "citation": rf"(?m)^repository-code: [\"']?https://github\.com/{SLUG}[\"']?\s*$",
}


def current(root: Path = ROOT) -> str:
    """The address in pyproject.toml, as `owner/name`."""
    text = (root / "pyproject.toml").read_text(encoding="utf-8")  # no tomllib: the system's Python may be an old one
    return re.search(rf'(?m)^Repository = "https://github\.com/{SLUG}/?"$', text).group(1)


def files(root: Path = ROOT) -> list[Path]:
    """The files that may show the address, those that exist."""
    return sorted({path for pattern in SHOWN_IN for path in root.glob(pattern) if path.is_file()})


def mentions(root: Path = ROOT) -> list[tuple[Path, str, str]]:
    """Each place that shows our address: (file, kind of place, `owner/name` shown there)."""
    return [
        (path, kind, "/".join(found.groups()))
        for path in files(root)
        for kind, pattern in OURS.items()
        for found in re.finditer(pattern, path.read_text(encoding="utf-8"))
    ]


def rewrite(new: str, root: Path = ROOT) -> list[Path]:
    """Write `new` wherever the old address stands, Pages address included; returns the files that changed."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", new):
        raise ValueError(f"{new!r} is not an address: give owner/name, as in `make address REPO=owner/name`")
    old = current(root)
    swaps = [
        (rf"(?<![\w.-]){re.escape(old)}(?![\w-])", new),
        (rf"(?<![\w.-]){re.escape(old.replace('/', '.github.io/'))}(?![\w-])", new.replace("/", ".github.io/")),
        (rf"(?<=\ncd ){re.escape(old.partition('/')[2])}(?=\n)", new.partition("/")[2]),  # after `git clone`
    ]
    changed = []
    for path in files(root):
        before = after = path.read_text(encoding="utf-8")
        for was, becomes in swaps:
            after = re.sub(was, becomes, after)
        if after != before:
            path.write_text(after, encoding="utf-8")
            changed.append(path)
    return changed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repo", nargs="?", help="the new address, owner/name")
    parser.add_argument("--check", action="store_true", help="change nothing; fail where a mention differs")
    arguments = parser.parse_args()
    if bool(arguments.repo) == arguments.check:
        parser.error("say the new address (make address REPO=owner/name), or --check")
    if arguments.check:
        wrong = [m for m in mentions() if m[2] != current()]
        for path, kind, slug in wrong:
            print(f"{path.relative_to(ROOT)}: {kind} shows {slug}, pyproject.toml says {current()} (run make address)")
        return bool(wrong)
    try:
        changed = rewrite(arguments.repo)
    except ValueError as error:
        parser.error(str(error))
    print(f"{arguments.repo} now stands in {len(changed)} files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
