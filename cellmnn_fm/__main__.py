"""`cellmnn`, or `python -m cellmnn_fm`: an interruption at any moment ends in one line."""

from .interrupts import end_at_once


def main() -> None:
    """Run the command line."""
    end_at_once()  # importing the commands takes a second
    from .cli import app

    app()


if __name__ == "__main__":
    main()
