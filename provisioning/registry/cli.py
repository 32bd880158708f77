"""The `appliance-registry` command: what central ops publish model updates with.

Exit codes: 0 done, 1 refused or something is wrong, 2 wrong option or configuration.
"""

from __future__ import annotations

import sys

import click

from appliance import __version__
from appliance.errors import ApplianceError, ConfigError
from provisioning.registry.commands import models, owners, releases, signing, upkeep


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def registry() -> None:
    """Publish signed model updates, give them to rings of boxes, and take them back."""


for command in (
    owners.init,
    owners.key,
    owners.team,
    owners.rotate,
    owners.refresh,
    signing.drafts,
    signing.export,
    signing.sign,
    signing.import_command,
    signing.drop,
    models.measure,
    models.publish,
    releases.promote,
    releases.rollback,
    releases.pause,
    releases.resume,
    releases.block,
    upkeep.status,
    upkeep.verify,
    upkeep.log,
    upkeep.diff,
    upkeep.gc,
    upkeep.serve,
    upkeep.mirror,
):
    registry.add_command(command)


def main() -> None:
    """Run the command; an error is one line on standard error."""
    try:
        registry.main(prog_name="appliance-registry", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
    except ApplianceError as error:
        click.echo(f"appliance-registry: {error.code}: {error}", err=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)


if __name__ == "__main__":
    main()
