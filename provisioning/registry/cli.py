"""The `appliance-registry` command: what central ops publish model updates with.

Exit codes: 0 done, 1 refused or something is wrong, 2 wrong option or configuration.
"""

from __future__ import annotations

import click

from appliance import __version__
from appliance.commands.options import run
from appliance.errors import ConfigError
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
    run(registry, "appliance-registry", {ConfigError: 2})


if __name__ == "__main__":
    main()
