"""Every command by one name: ``dnn-compress run +experiment=cifar_prune`` is ``python -m src.run …``."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path

HERE = Path(__file__).parent
COMMANDS = sorted(path.stem for path in HERE.glob("*.py") if path.stem not in ("__init__", "__main__", "api"))


def main() -> int:
    """Call the command that the first word names; return its exit code."""
    from src.command import exits

    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return exits.DONE
    if words[0] == "--completion":
        print(_completion(exits.CONF))
        return exits.DONE
    command = words[0].replace("-", "_")
    if command not in COMMANDS:
        print(f"There is no command '{words[0]}'.{exits.nearest(command, COMMANDS)}", file=sys.stderr)
        return exits.WRONG_INPUT
    sys.argv = [str(HERE / f"{command}.py"), *words[1:]]
    if str(Path.cwd()) not in sys.path:  # as after python -m, so that networks and methods beside the user are found
        sys.path.insert(0, str(Path.cwd()))
    code: int = importlib.import_module(f"src.{command}").main()
    return code


def _help() -> str:
    """The commands, each with the first line of its module."""
    lines = ["dnn-compress COMMAND ...    (COMMAND --help says more; --completion prints it for bash and zsh)", ""]
    for command in COMMANDS:
        text = ast.get_docstring(ast.parse((HERE / f"{command}.py").read_text(encoding="utf-8"))) or ""
        lines.append(f"  {command:<16}{text.splitlines()[0].partition(': ``')[0]}")
    return "\n".join(lines)


def _completion(conf: Path) -> str:
    """A script for bash and zsh (after ``bashcompinit``): the commands, then files of ``conf/`` as ``group=file``."""
    files = [(path.parent.name, path.stem) for path in sorted(conf.glob("*/*.yaml"))]
    chosen = [f"{'+' if group in ('experiment', 'search') else ''}{group}={name}" for group, name in files]
    return f"""\
COMP_WORDBREAKS=${{COMP_WORDBREAKS//=/}}
_dnn_compress() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" words="{" ".join(chosen)}"
    [ "$COMP_CWORD" -eq 1 ] && words="{" ".join(COMMANDS)}"
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _dnn_compress dnn-compress"""


if __name__ == "__main__":
    sys.exit(main())
