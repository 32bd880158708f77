"""`appliance keys`: passwords of those who may connect."""

from __future__ import annotations

import sys

import click


@click.group()
def keys() -> None:
    """Make what those who connect log in with."""


@keys.command("listener-user")
@click.argument("name")
@click.option("--password-stdin", is_flag=True, help="read the password from standard input, one line")
def listener_user(name: str, password_stdin: bool) -> None:
    """Print a line for the file of listener.users_file: NAME with a salted hash of its password.

    Append it to the file; an appliance that runs reads it within seconds.
    """
    from appliance.mqtt.access import user_line

    if password_stdin:
        password = sys.stdin.readline().rstrip("\n")
    else:
        password = str(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
    click.echo(user_line(name, password))
