"""What tests about files share: all that lies in a folder, and processes that are killed."""

import os
from pathlib import Path


def everything(folder):
    """All that lies in a folder, links as links, with its bytes."""
    return {
        path.relative_to(folder): path.read_bytes() if path.is_file() else path.is_symlink()
        for path in sorted(folder.rglob("*"))
    }


def exit_code_of_kill(at, task, calls=("rename", "replace", "fsync", "unlink", "rmdir", "mkdir")):
    """That of a child that does a task, and ends before the n-th of these calls of the system."""
    child = os.fork()
    if child == 0:  # pragma: no cover (ends at once)
        count = 0

        def killed_at(function):
            def call(*arguments, **options):
                nonlocal count
                count += 1
                if count == at:
                    os._exit(9)
                return function(*arguments, **options)

            return call

        for name in calls:
            setattr(os, name, killed_at(getattr(os, name)))
        if "rename" in calls:
            Path.rename = killed_at(Path.rename)
        try:
            task()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
