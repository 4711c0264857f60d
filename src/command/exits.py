"""How every command ends: its exit code, and one line for a mistake.

Exit codes: 0 done; 1 a survey's member failed, a runtime refused a file, or an error of ours; 2 wrong input; 3 tracking
failed, results kept; 4 done, but a given ``budget.*`` is missed; 130 interrupted; 141 nobody reads the output
(``| head``).
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
from typing import Any

from src.command.environment import wrong_python
from src.command.parents import end_with_starter
from src.contracts import InputError, TrackingError, first_line

SOURCE = Path(__file__).parent.parent
CONF = next(folder for folder in (SOURCE / "conf", SOURCE.parent / "conf") if folder.is_dir())  # the first in a wheel
FINE_TUNE = "; a file for a method's own training is given to it: training@method.fine_tune=fine_tune_adam"
DONE, FAILED, WRONG_INPUT, TRACKING_FAILED, BUDGET_MISSED, INTERRUPTED, UNREAD = 0, 1, 2, 3, 4, 130, 141


def run_command(task: Callable[[], int | None]) -> int:
    """Call ``task``, turn what it raises into one line on stderr, and return the exit code.

    ``HYDRA_FULL_ERROR=1`` in the environment keeps the stack trace.
    """
    if line := wrong_python():
        print(line, file=sys.stderr)
        return WRONG_INPUT
    full = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints by itself and exits with 1
    signal.signal(signal.SIGTERM, _interrupt)  # by itself Lightning waits for an epoch's end
    end_with_starter()
    try:
        code = task() or DONE
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is written when Python ends
        return UNREAD
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
    if type(error).__module__.startswith("yaml."):
        return explain_yaml(error), WRONG_INPUT
    if isinstance(error, OSError):
        return explain_os(error), WRONG_INPUT
    last = traceback.extract_tb(error.__traceback__)[-1] if error.__traceback__ else None
    where = f" ({Path(last.filename).name}:{last.lineno})" if last else ""
    reason = first_line(error)
    return f"Unexpected {type(error).__name__}: {reason}{where}. HYDRA_FULL_ERROR=1 shows all of it.", FAILED


def explain_yaml(error: BaseException) -> str:
    """Where a file is no YAML: its name, the line, and what the reader says."""
    mark: Any = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or first_line(error)
    where = f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
    return f"{where}this is no YAML: {problem}"


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
    if line := _retyped(text):
        return line
    wrong = re.search(r"Could not override '([^']+)'", text) or re.search(r"full_key: (\S+)", text)
    missing = re.search(r"Key '([^']+)' is not in struct", f"{text}\n{cause}")
    if missing:
        key = wrong.group(1) if wrong else missing.group(1)
        return f"There is no key '{key}'.{nearest(missing.group(1), _siblings(error, key))}{_before_sweep(key)}"
    lines = [line.strip() for line in f"{text}\n{_reason(text, cause)}".splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("object_type", "reference_type", "full_key", "See https:"))]
    key = getattr(error, "full_key", None)
    if "Recursive interpolation" in text:
        return f"{key} is calculated from itself{FINE_TUNE if key and key.startswith('training.') else ''}"
    said = " ".join(kept) or type(error).__name__
    return f"{key}: {said}" if key and key not in said else said


def _reason(text: str, cause: BaseException | None) -> str:
    """Why an override cannot be merged; Hydra says it in the cause alone."""
    return str(cause) if text.startswith("Error merging override") and cause is not None else ""


def _retyped(text: str) -> str | None:
    """Hydra's errors for which another way of typing is the answer."""
    several = re.search(r"Ambiguous value for argument '([^=']+)=(.*)'\n", text)
    if several:
        key, values = several.groups()
        if Path(sys.argv[0]).stem != "run":
            return f"{key}={values} is several values, and this command takes one"
        if (CONF / key.lstrip("+")).is_dir():
            return f"{key}={values} is several names. A run for each: -m {key}={values}"
        return (
            f"{key}={values} is several values. A run for each: -m {key}={values}; one list: {key}=[{values}]; "
            f"one text with commas: '{key}=\"{values}\"'"
        )
    chosen = re.search(r"Multiple values for (\S+)\. To override a value use 'override \S+: (\S+)'", text)
    if chosen and re.search(rf"(^|\s)\+{chosen.group(1)}=", " ".join(sys.argv[1:])):
        return f"{chosen.group(1)} is chosen already: write {chosen.group(1)}={chosen.group(2)}, without the plus"
    added = re.search(r"No match in the defaults list\.\s+To append to your default list use (\S+)", text)
    if added:
        return f"{added.group(1).lstrip('+')} needs a plus in front: {added.group(1)}"
    present = re.search(r"Could not append to config\. An item is already at '(\S+)'", text)
    if present:
        return f"{present.group(1)} is there already: write {present.group(1)}=…, without the plus"
    return None


def _before_sweep(key: str) -> str:
    """Hydra looks a key up once before it composes a sweep's members."""
    group = key.partition(".")[0]
    swept = {"-m", "--multirun"} & set(sys.argv) and any(re.match(rf"{group}=.*,", each) for each in sys.argv)
    return f" For a key of the swept {group} write ++{key}=…" if swept else ""


def _missing_config(error: BaseException) -> str:
    missing = getattr(error, "missing_cfg_file", None) or ""
    options: Sequence[str] = getattr(error, "options", None) or []
    group, _, name = str(missing).rpartition("/")
    if not options and (CONF / group).is_dir():
        options = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    if not options:
        return first_line(error)
    return f"There is no {group or 'config'} '{name}'.{nearest(name, options)}"


def nearest(name: str, options: Sequence[str]) -> str:
    """The options that ``name`` may be a misspelling of, then all others; begins with a space."""
    near = difflib.get_close_matches(name, options, 3, 0.5)
    others = [option for option in options if option not in near]
    question = f" Did you mean {' or '.join(near)}?" if near else ""
    listed = f" {'Others' if near else 'There are'}: {', '.join(others)}." if others else ""
    return question + listed


def _siblings(error: BaseException, key: str) -> list[str]:
    """Names that stand beside a key that does not exist."""
    at: BaseException | None = error
    while at is not None:
        node = getattr(at, "parent_node", None)
        if node is not None and hasattr(node, "keys"):
            return [*sorted(map(str, node)), *(["+experiment", "+search"] if "." not in key else [])]
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
