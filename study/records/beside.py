"""What was measured of a record's network, in a file beside the record."""

import json
from dataclasses import asdict, fields
from pathlib import Path

from study.machine.folders import replacing


def write_beside(found, path: Path) -> Path:
    """Write what was measured of a record's network, a dataclass, as a file beside it; atomically, as :func:`write`."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(asdict(found), indent=1) + "\n", newline="\n")
    return Path(path)


def refuse_other_fields(raw: dict, kind: type) -> None:
    """Raise ValueError unless ``raw`` has the fields of the dataclass ``kind``, and no other."""
    names = {field.name for field in fields(kind)}
    if not isinstance(raw, dict) or set(raw) != names:
        raise ValueError(
            f"its fields are not those of {kind.__name__}: {sorted(set(raw) ^ names)}; "
            f"the fields of {kind.__name__} are {', '.join(sorted(names))}"
        )
