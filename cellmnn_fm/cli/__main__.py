"""`cellmnn`, or `python -m cellmnn_fm.cli`: an interruption at any moment ends in one line."""

from ..training.interrupts import end_at_once


def main() -> None:
    """Run the command line."""
    end_at_once()  # importing the commands takes a second
    from .app import app

    app()


if __name__ == "__main__":
    main()
