"""``gcp-analyze``: from the runs of a sweep to one model. Only click is imported until a command runs.

Exit codes: 0 ok, 1 failed, 2 bad usage or config, 3 nothing feasible.
"""

from __future__ import annotations

from gcp_core.extras import not_a_program

try:
    import click
except ModuleNotFoundError as exc:
    raise SystemExit(not_a_program("gcp-analyze", "analysis")) from exc

from analysis.cli.advise import advise
from analysis.cli.bench import bench
from analysis.cli.compare import compare
from analysis.cli.front import front
from analysis.cli.report import report
from analysis.cli.select import select
from analysis.cli.ship import export, register

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


@click.group(context_settings=_CONTEXT)
@click.version_option(package_name="gcp-sweep", prog_name="gcp-analyze")
def main() -> None:
    """Find, choose, prove and ship models from a sweep's accuracy-versus-cost front.

    SWEEP is the sweep's folder, or its name or id together with --tracking-uri, or a .csv or .parquet table.
    """


for command in (front, select, compare, advise, report, export, bench, register):
    main.add_command(command)
