"""Of the commands only the one that is asked for: typer makes the options of all, which takes longer than some run."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import typer
from typer.main import get_command_name
from typer.models import CommandInfo

from cbdm_cli.app import app

__all__ = ["app_for"]


def app_for(arguments: Sequence[str]) -> typer.Typer:
    """The program with the one command that these arguments name, or whole where they name none."""
    named = [c for c in app.registered_commands if arguments and arguments[0] == _name(c)]
    if not named:
        return app
    small = copy(app)
    small.registered_commands = named
    return small


def _name(command: CommandInfo) -> str:
    assert command.callback is not None
    return command.name or get_command_name(command.callback.__name__)
