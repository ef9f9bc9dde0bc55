"""What is said of how files are read."""

import logging
import subprocess
import sys
import threading
import warnings

import cellmnn_fm
from cellmnn_fm.data.notices import gathered, notice

SCRIPT = """
import logging
from cellmnn_fm import set_verbosity
from cellmnn_fm.data.notices import notice
notice("first"), notice("second"), notice("first")
set_verbosity("WARNING")
notice("third")
set_verbosity("INFO")
logging.basicConfig(format="mine: %(message)s", level=logging.INFO)
notice("fourth")
"""


def test_each_once_and_as_a_program_wishes():
    said = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    assert said.stdout == ""
    assert said.stderr.splitlines() == ["cellmnn_fm: first", "cellmnn_fm: second", "mine: fourth"]


def test_notices_and_warnings_are_gathered(caplog):
    """Each once, in their order; of other packages' kinds of warnings nothing is known."""
    caplog.set_level(logging.INFO)
    with gathered() as (notices, alarms):
        for text in ("two", "one", "two"):
            notice(text)
            warnings.warn(f"about {text}", stacklevel=1)
        warnings.warn("no more", DeprecationWarning, stacklevel=1)
    assert notices == ["two", "one"]
    assert alarms == ["about two", "about one"]


def test_threads_gather_their_own():
    found = {}
    both = threading.Barrier(2)

    def gather(name):
        with gathered() as (notices, _):
            both.wait()
            notice(name)
            both.wait()
        found[name] = notices

    threads = [threading.Thread(target=gather, args=(name,)) for name in ("one", "other")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {"one": ["one"], "other": ["other"]}


def test_the_setting_is_at_the_top():
    assert "set_verbosity" in dir(cellmnn_fm)
