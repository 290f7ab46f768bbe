"""`python -m jrnn` is the command `jrnn`."""

import sys

from jrnn._cli import main

if __name__ == "__main__":
    sys.exit(main())
