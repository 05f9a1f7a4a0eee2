"""Settings as options of the command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from shared.settings import Settings, SettingsError, load_settings

Command = Callable[..., Any]

REPEATABLE = frozenset({"model"})
"""Options that may be given several times, each a part of the setting."""


def settings_options(*names: str) -> Callable[[Command], Command]:
    """Adds one option per setting, with the setting's description as its help. `load_settings` checks the values. A
    boolean option without a value means true.
    """

    def decorate(command: Command) -> Command:
        for name in reversed(names):
            field = Settings.model_fields[name]
            default = "" if field.default in (None, "") else f" [default: {field.default}]"
            option = f"--{name.replace('_', '-')}"
            about = f"{field.description}{default}"
            if "bool" in str(field.annotation):
                command = click.option(option, name, help=about, is_flag=False, flag_value="true")(command)
            elif name in REPEATABLE:
                command = click.option(option, name, help=about, multiple=True, callback=comma_separated)(command)
            else:
                command = click.option(option, name, help=about)(command)
        return command

    return decorate


def comma_separated(_: click.Context, __: click.Parameter, values: Sequence[str]) -> str | None:
    return ",".join(values) or None


def settings_of(options: dict[str, Any]) -> Settings:
    """Returns the settings from options, environment and ignite.toml; a wrong value ends the command with a message."""
    try:
        return load_settings(options)
    except SettingsError as error:
        raise click.ClickException(str(error)) from None
