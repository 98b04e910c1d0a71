"""A row of a cohort: what is asked for of one slide, and what is reported of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from wsisr.sharing import file_name, without_folders
from wsisr.slides import slide_stem
from wsisr.urls import last_part

Status = Literal["done", "skipped", "failed", "interrupted", "elsewhere"]


@dataclass(frozen=True)
class Row:
    """A slide that a cohort is to upscale.

    Attributes:
        id: its name in the cohort, which can be a file's; no two are the same, in any letter case.
        slide: path or URL of the input.
        output: path of the result.
        options: what is set for this slide alone, by the keywords of `wsisr.upscale`.
        hr: path or URL of the real scan that the result is judged against; None judges nothing.
    """

    id: str
    slide: str
    output: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    hr: str | None = None


@dataclass(frozen=True)
class ReportRow:
    """What became of a slide.

    Attributes:
        id: its name in the cohort.
        slide: path or URL of the input.
        output: path of the result.
        status: `done` in this run, `skipped` as it was finished before, `failed`, `interrupted`
            before its end, or computed by another command, `elsewhere`.
        reason: why there is no result, in one line; empty where there is one.
        seconds: duration of the attempts; None where this run computed nothing.
        mpix_per_s: output megapixels a second; None as above.
        tissue_tiles: windows that the model was run on; None as above.
        peak_rss_mb: largest resident set of the process that computed, in MB; None as above.
        device: where the model ran.
        attempts: how often the slide was started in this run.
        sha256_pixels: digest of the level-0 pixels; None where it is not known.
        figures: what `wsisr eval` measured, by name of the measure.
        anonymous: whether the id stands for the name of the input wherever it is written.
    """

    id: str
    slide: str
    output: Path
    status: Status
    reason: str = ""
    seconds: float | None = None
    mpix_per_s: float | None = None
    tissue_tiles: int | None = None
    peak_rss_mb: float | None = None
    device: str = ""
    attempts: int = 0
    sha256_pixels: str | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    anonymous: bool = False

    def shareable(self) -> ReportRow:
        """Gives the row as files hold it: without folders, and without a name that is hidden."""
        name = file_name(self.slide)
        reason = without_folders(self.reason, self.slide, self.output)
        if self.anonymous:
            last = last_part(self.slide)
            for hidden in filter(None, (self.slide, name, last, slide_stem(last))):
                reason = reason.replace(hidden, self.id)
            name = self.id
        return replace(self, slide=name, reason=reason)
