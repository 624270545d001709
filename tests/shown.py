"""A run of the whole job as the command line shows it, on an engine of the tests' own."""

from __future__ import annotations

from pathlib import Path

from lipo_e_ray import job
from lipo_e_ray.app.display import Display
from lipo_e_ray.config import RunConfig
from lipo_e_ray.inputs import EngineSpec
from lipo_e_ray.job import Given
from lipo_e_ray.report.html import final_line
from lipo_e_ray.store.run_folder import RunFolder


def run_shown(config: RunConfig, folder: Path, engine: EngineSpec, address: str | None = None) -> None:
    """Run, or continue, the job and print what goes on and the last line."""
    with Display() as display:
        records = job.search(config, RunFolder(folder), display, Given(engine=engine), address)
    print(final_line(records))
