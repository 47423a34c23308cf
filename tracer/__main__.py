"""`python -m tracer`, from a bare checkout."""

import sys

from tracer.main import main

if __name__ == "__main__":
    sys.exit(main())
