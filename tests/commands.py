"""What tests of commands have in common."""

import pytest


def refused(capsys, main, arguments):
    """The one line that a refused command prints."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def without_times(results):
    return {name: value for name, value in results.items() if "seconds" not in name}
