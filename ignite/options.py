"""Settings as options of the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from shared.settings import Settings, SettingsError, load_settings

Command = Callable[..., Any]


def settings_options(*names: str) -> Callable[[Command], Command]:
    """An option for each setting, described as the setting is. Values are checked where all settings are."""

    def decorate(command: Command) -> Command:
        for name in reversed(names):
            field = Settings.model_fields[name]
            default = "" if field.default in (None, "") else f" [default: {field.default}]"
            command = click.option(f"--{name.replace('_', '-')}", name, help=f"{field.description}{default}")(command)
        return command

    return decorate


def settings_of(options: dict[str, Any]) -> Settings:
    try:
        return load_settings(options)
    except SettingsError as error:
        raise click.ClickException(str(error)) from None
