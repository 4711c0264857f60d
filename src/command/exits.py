"""How every command ends: its exit code, and one line for a mistake.

Exit codes: 0 done; 1 a survey's member failed, or an error of ours; 2 wrong input; 3 tracking failed, results kept;
4 done, but a given ``budget.*`` is missed; 130 interrupted.
"""

from __future__ import annotations

import difflib
import errno
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from src.command.parents import end_with_starter
from src.contracts import InputError, TrackingError, first_line

CONF = Path(__file__).parent.parent.parent / "conf"
DONE, FAILED, WRONG_INPUT, TRACKING_FAILED, BUDGET_MISSED, INTERRUPTED = 0, 1, 2, 3, 4, 130


def run_command(task: Callable[[], int | None]) -> int:
    """Call ``task``, turn what it raises into one line on stderr, and return the exit code.

    ``HYDRA_FULL_ERROR=1`` in the environment keeps the stack trace.
    """
    full = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints by itself and exits with 1
    signal.signal(signal.SIGTERM, _interrupt)  # by itself Lightning waits for an epoch's end
    end_with_starter()
    try:
        return task() or DONE
    except KeyboardInterrupt:
        print("Interrupted. The same command resumes at the last checkpoint.", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if full:
            traceback.print_exc()
        line, code = explain(error)
        print(line, file=sys.stderr)
        return code


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def explain(error: BaseException) -> tuple[str, int]:
    """The line that says what is wrong and what to do, and the exit code."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(error, (InputError, TrackingError)):
        return str(error), WRONG_INPUT
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return explain_composition(error), WRONG_INPUT
    if isinstance(error, OSError):
        return explain_os(error), WRONG_INPUT
    last = traceback.extract_tb(error.__traceback__)[-1] if error.__traceback__ else None
    where = f" ({Path(last.filename).name}:{last.lineno})" if last else ""
    reason = first_line(error)
    return f"Unexpected {type(error).__name__}: {reason}{where}. HYDRA_FULL_ERROR=1 shows all of it.", FAILED


def explain_os(error: OSError) -> str:
    """A full disk, a folder that cannot be written, a file that is not there."""
    name = error.filename or error.filename2
    what = error.strerror or str(error)
    if error.errno == errno.ENOSPC and not name:
        what = "the disk is full: no space is left where this run writes its stages, results or tracking store"
    return f"{name}: {what}" if name else what


def explain_composition(error: BaseException) -> str:
    """Hydra's and OmegaConf's errors: the key at fault, and the nearest names that exist."""
    from hydra.errors import InstantiationException, MissingConfigException
    from omegaconf.errors import MissingMandatoryValue

    if isinstance(error, MissingConfigException):
        return _missing_config(error)
    text = str(error)
    cause = error.__cause__ or error.__context__
    if isinstance(error, InstantiationException):
        return explain_instantiation(error, "")
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key or text.rpartition(' ')[2]} must be given"
    wrong = re.search(r"Could not override '([^']+)'", text) or re.search(r"full_key: (\S+)", text)
    missing = re.search(r"Key '([^']+)' is not in struct", f"{text}\n{cause}")
    if missing:
        key = wrong.group(1) if wrong else missing.group(1)
        return f"There is no key '{key}'.{_nearest(missing.group(1), _siblings(error))}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("object_type", "reference_type", "full_key"))]
    return " ".join(kept) or type(error).__name__


def _missing_config(error: BaseException) -> str:
    missing = getattr(error, "missing_cfg_file", None) or ""
    options: Sequence[str] = getattr(error, "options", None) or []
    group, _, name = str(missing).rpartition("/")
    if not options and (CONF / group).is_dir():
        options = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    if not options:
        return first_line(error)
    return f"There is no {group or 'config'} '{name}'.{_nearest(name, options)}"


def _nearest(name: str, options: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, options, 3, 0.5)
    others = [option for option in options if option not in near]
    question = f" Did you mean {' or '.join(near)}?" if near else ""
    listed = f" {'Others' if near else 'There are'}: {', '.join(others)}." if others else ""
    return question + listed


def _siblings(error: BaseException) -> list[str]:
    """Names that stand beside a key that does not exist."""
    at: BaseException | None = error
    while at is not None:
        node = getattr(at, "parent_node", None)
        if node is not None and hasattr(node, "keys"):
            return sorted(str(key) for key in node)
        at = at.__cause__ or at.__context__
    return []


def explain_instantiation(error: BaseException, above: str) -> str:
    """``Error in call to target 'x': ValueError('sparsity must …')`` with the key below ``above`` in front."""
    text = str(error)
    key = re.search(r"full_key: (\S+)", text)
    prefix = ".".join(part for part in (above, key.group(1) if key else "") if part)
    raised = re.search(r"(?:Value|Input|Type)Error\((['\"])(.*)\1\)", text, re.DOTALL)
    if raised:
        return explain_constructor(raised.group(2).replace("\\'", "'").replace("\\n", " "), prefix)
    lost = re.search(r"Error locating target '([^']+)'", text)
    if lost:
        why = f" ({str(error.__cause__).splitlines()[-1]})" if error.__cause__ else ""
        return f"{prefix}: {lost.group(1)} cannot be imported{why}; its module must lie here or on PYTHONPATH"
    first = " ".join(line.strip() for line in text.splitlines() if line.strip() and not line.startswith("full_key"))
    return f"{prefix}: {first}" if prefix else first


def explain_constructor(message: str, key: str) -> str:
    """What a constructor refused, with the full ``key`` of its config in front."""
    unexpected = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", message)
    if unexpected:
        return f"{key}: {unexpected.group(1)} has no setting '{unexpected.group(2)}'"
    missing = re.search(r"(\w+)\.__init__\(\) missing .*?: (.*)", message)
    if missing:
        return f"{key}: {missing.group(1)} also needs {missing.group(2)}"
    return f"{key}.{message}" if re.match(r"[a-z_.]+[: ]", message) and key else message
