"""A result file is whole or not there."""
import pytest

from utils.errors import WriteError
from utils.files.atomic import whole_file


def test_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "result.txt"
    with whole_file(path) as part:
        part.write_text("new")
        assert not path.exists() and part.suffix == ".txt"
    assert path.read_text() == "new" and len(list(path.parent.iterdir())) == 1


@pytest.mark.parametrize("error, seen_as", [(OSError(28, "No space left on device"), WriteError),
                                            (KeyError("a bug"), KeyError)])
def test_failure_leaves_the_earlier_file_and_nothing_else(tmp_path, error, seen_as):
    path = tmp_path / "result.txt"
    path.write_text("earlier")
    with pytest.raises(seen_as), whole_file(path) as part:
        part.write_text("half")
        raise error
    assert path.read_text() == "earlier" and len(list(tmp_path.iterdir())) == 1


def test_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(WriteError, match="result.txt"), whole_file(tmp_path / "result.txt"):
        pass
