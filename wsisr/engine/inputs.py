"""What a run reads and what it writes, and that the one is not the other."""

from __future__ import annotations

from pathlib import Path

from wsisr.engine.job import Job
from wsisr.engine.uncertainty import companion_path
from wsisr.errors import OptionError
from wsisr.guard import refuse_foreign, refuse_inputs, refuse_links
from wsisr.pyramid import written_paths
from wsisr.slides import slide_files
from wsisr.tissue import is_own_mask


def files_read(job: Job) -> list[Path]:
    """Lists the files and folders that a job reads: the slide, a mask, a model and its base.

    Raises:
        SlideError: the slide's files cannot be listed.
    """
    masks = [] if job.tissue in ("auto", "off") else _all_of(Path(job.tissue))
    weights = _weights(Path(job.model), "model.json")
    if job.base is not None:
        weights += _weights(Path(job.base), "unet")
    return [*_all_of(job.source), *masks, *weights]


def _weights(place: Path, mark: str) -> list[Path]:
    """Lists the files of a model; a folder without the mark only bears the name of one."""
    if place.is_file():
        return [place]
    if not (place / mark).exists():
        return []
    return sorted(path for path in place.rglob("*") if path.is_file())


def paths_written(job: Job) -> list[Path]:
    """Lists what a job writes, replaces or removes, beside the file of the mask."""
    maps = [] if job.uncertainty is None else written_paths(companion_path(job.output))
    return [*written_paths(job.output), *maps]


def check_outputs(job: Job) -> None:
    """Makes sure that no output of a job is one of its inputs, or another's file.

    Raises:
        UsageError: an output is an input, or would replace what wsisr did not make.
    """
    read, written = files_read(job), paths_written(job)
    refuse_inputs(written, read)
    mask = job.tissue_out
    if mask is None:
        return
    refuse_inputs([mask], read)
    if mask.resolve() in {path.resolve() for path in written}:
        raise OptionError("tissue_out", mask, f"is needed for {job.output}; choose another name")
    refuse_links([mask])
    # whether an older mask of ours may be replaced is known when this one is
    refuse_foreign(mask, is_own_mask, overwrite=job.overwrite or is_own_mask(mask))


def _all_of(source: Path) -> list[Path]:
    """Gives a path, and the files of a slide that do not lie in it."""
    if source.is_dir() or not source.exists():
        return [source]
    return [source, *slide_files(source)]
