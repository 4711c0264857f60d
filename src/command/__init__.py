"""What the doors open: composition, execution, surveys, searching, bundling, and how a command ends."""

import sys

from src.command.environment import OLDEST, wrong_python

if sys.version_info < OLDEST:  # here, since other modules cannot even be imported
    print(wrong_python(), file=sys.stderr)
    raise SystemExit(2)

from src.command.streams import write_anywhere

write_anywhere()  # here, since every door imports this package before it prints
