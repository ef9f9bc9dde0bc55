"""What the decorator makes of a function: options, JSON, one line for what goes wrong."""

import inspect
import json

import pytest
import typer
from typer.testing import CliRunner

from cellmnn_fm import InputError, TimeKey
from cellmnn_fm.cli.app import app
from cellmnn_fm.cli.options import Asked, OfCourse, OfFit, command
from cellmnn_fm.cli.output import Terminal
from cellmnn_fm.data.options import FitReading, ReadingOptions

READING = set(ReadingOptions.__dataclass_fields__)
QUESTIONS = [
    *("interpolate", "trajectory", "annotate", "fates", "growth", "perturb", "compare", "grn"),
    *("screen", "grn-evaluate", "report"),
]


def run(function, *words):
    single = typer.Typer()
    single.command()(function)
    return CliRunner().invoke(single, list(words))


def options_of(name):
    commands = {one.name: one.callback for one in app.registered_commands}
    return set(inspect.signature(commands[name]).parameters)


def test_reading_and_terminal_become_options():
    kept = {}

    @command
    def look(number: int, reading: OfFit, terminal: Terminal) -> None:
        kept["options"] = reading.options
        terminal.say(f"number {number}", number=number)

    words = ["3", "--time-key", "day", "--layer", "raw", "--growth", "learned"]
    assert run(look, *words).output == "number 3\n"
    assert kept["options"] == FitReading(time_key="day", layer="raw", growth=True)
    assert json.loads(run(look, *words, "--json").output) == {"number": 3}
    assert run(look, *words, "-q").output == ""


def test_what_goes_wrong_ends_in_one_line():
    @command
    def fail(reading: Asked, terminal: Terminal) -> None:
        raise InputError("number", "3", 4, "give three")

    result = run(fail)
    assert result.exit_code == 2
    assert result.stderr == "error: number: expected 3, found 4; give three\n"


def test_a_time_map_goes_with_the_column_or_that_of_the_fit():
    kept = []

    @command
    def look(reading: Asked, terminal: Terminal) -> None:
        kept.append(reading.options.time_key)

    run(look, "--time-map", "late=3")
    run(look, "--time-key", "stage", "--time-map", "late=3")
    assert kept == [TimeKey("", {"late": 3.0}), TimeKey("stage", {"late": 3.0})]


def test_a_course_needs_its_column_of_times():
    @command
    def look(reading: OfCourse, terminal: Terminal) -> None:
        """Nothing."""

    assert run(look).exit_code == 2
    assert run(look, "--time-key", "day").exit_code == 0


@pytest.mark.parametrize("name", [*QUESTIONS, "fit", "finetune", "adapt", "evaluate"])
def test_every_command_reads_in_the_same_way(name):
    assert options_of(name) >= READING
    assert {"as_json", "quiet", "time_map"} <= options_of(name)


def test_json_is_a_flag_everywhere():
    for registered in app.registered_commands:
        parameter = inspect.signature(registered.callback).parameters["as_json"]
        assert parameter.default is False
