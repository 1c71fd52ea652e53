"""``python run.py stage=lr``: see ``python run.py --help``."""

import sys

from orchestrator.app.main import main

if __name__ == "__main__":
    sys.exit(main())
