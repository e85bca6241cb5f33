"""Where the project is."""

import pytest

from study.machine.folders import MARKS, project_folder


@pytest.mark.parametrize("mark", MARKS)
def test_a_folder_with_one_mark_of_a_project_is_none(tmp_path, mark):
    inner = tmp_path / "inner" / "most"
    for folder, marks in ((tmp_path, MARKS), (inner.parent, [mark])):
        for name in marks:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
    inner.mkdir()
    assert project_folder(inner) == tmp_path.resolve()
