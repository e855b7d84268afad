"""The cohort that ships: decisions of public models on a public question set, without any of their words."""

from __future__ import annotations

from importlib.resources import files

COHORT = "speechmap"


def cohort_folder() -> str:
    """Folder of the bundled cohort; pass it to ``Cohort.load``."""
    return str(files(__name__).joinpath(COHORT))
