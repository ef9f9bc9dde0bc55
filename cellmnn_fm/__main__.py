"""Of 0.1, for launchers: `-m cellmnn_fm.cli` now. Goes with 0.3."""

from .cli.__main__ import main

if __name__ == "__main__":
    main()
