"""`cellmnn`, or `python -m cellmnn_fm.cli`: an interruption at any moment ends in one line."""

import gc

from ..training.interrupts import end_at_once


def main() -> None:
    """Run the command line."""
    end_at_once()  # importing the commands takes a second
    # a third of the start would go on looking for garbage among modules, until `load_pipeline`
    gc.disable()
    from .app import app

    app()


if __name__ == "__main__":
    main()
