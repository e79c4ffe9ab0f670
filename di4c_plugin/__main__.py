"""`python -m di4c_plugin` is the program `di4c`."""

import sys

from di4c_plugin.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
