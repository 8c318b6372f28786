"""`python -m pipeline`: the command `soo` from a checkout."""

import sys

from pipeline.cli import main

sys.exit(main())
