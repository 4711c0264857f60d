"""The one owner of a folder."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from src.contracts import InputError
from src.files.owner import has_owner, owning

HOLD = (
    "from pathlib import Path; import sys, time; from src.files.owner import owning\nwith owning(Path(sys.argv[1])):\n"
)
HOLD += "    print('mine', flush=True); time.sleep(60)"


def test_a_folder_has_one_owner_at_a_time(tmp_path: Path) -> None:
    assert not has_owner(tmp_path)
    with owning(tmp_path):
        assert has_owner(tmp_path)
        with pytest.raises(InputError, match="belongs to another command"), owning(tmp_path):
            pass
        assert has_owner(tmp_path)
    assert not has_owner(tmp_path)
    with owning(tmp_path):
        pass


def test_a_killed_process_owns_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"mine\n"
    assert has_owner(tmp_path)
    with pytest.raises(InputError, match="belongs to another command"), owning(tmp_path):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not has_owner(tmp_path)
    with owning(tmp_path):
        pass
