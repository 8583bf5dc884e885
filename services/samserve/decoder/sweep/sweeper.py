"""Segments everything: asks at a grid of points, and keeps each region once."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from samserve.core import runs
from samserve.core.errors import InvalidInput
from samserve.core.geometry import Size
from samserve.core.image_request import ImageRequest
from samserve.core.limits import MAX_SWEEP_MASKS
from samserve.decoder.masks.answer_size import AnswerSize
from samserve.decoder.masks.write import MaskAnswer, Output, check_output, write_runs
from samserve.decoder.registry import ServedModel
from samserve.decoder.sam.prepared_image import ReadyImage
from samserve.decoder.segmenter import FoundImage, Segmenter
from samserve.decoder.sweep.candidates import Question, ask, propose
from samserve.decoder.sweep.grid import GridCrop, grid_crops
from samserve.decoder.sweep.options import SweepOptions, check_options
from samserve.decoder.sweep.pool import SweepPool
from samserve.decoder.sweep.proposals import (
    ProposalOptions,
    Proposals,
    Sureness,
    check_sureness,
    in_order,
    read_regions,
)
from samserve.decoder.sweep.records import Record, best_of_cleaned, clean, without_repeats
from samserve.decoder.sweep.shortlist import Shortlist
from samserve.infra.metrics import DECODED
from samserve.infra.stages import StageClock

CONSIDERED = 32  # records that are compared in one piece of work


@dataclass(frozen=True, slots=True)
class SweepRequest:
    """What to segment.

    Attributes:
        image: The image.
        options: Where to ask, and what to keep.
        output: The forms of the masks; `max_masks` is of all together.
        propose: Regions that are accepted already; None to segment everything.
    """

    image: ImageRequest
    options: SweepOptions
    output: Output
    propose: ProposalOptions | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """The image is found; so many crops and points are to come."""

    image: FoundImage
    crops: int
    points: int


@dataclass(frozen=True, slots=True)
class Progress:
    """So many crops and points are done."""

    crops: int
    points: int


@dataclass(frozen=True, slots=True)
class Kept:
    """A mask that is kept; `sure` is of proposals only."""

    record: Record
    mask: MaskAnswer
    sure: bool


@dataclass(frozen=True, slots=True)
class Finished:
    """The end; so many masks were found, sent or not."""

    masks: int


Event = Started | Progress | Kept | Finished


class Sweeper:
    """Segments everything in an image, while others click."""

    def __init__(self, segmenter: Segmenter, pool: SweepPool) -> None:
        """Create a sweeper; `pool` has the threads that ask."""
        self._segmenter = segmenter
        self._pool = pool

    async def sweep(self, request: SweepRequest, clock: StageClock) -> AsyncGenerator[Event]:
        """Yield the start, progress, the masks that are kept, and the end.

        Everything that can be checked without the image is checked before it is looked for.

        Raises:
            InvalidInput: An option is invalid, or too many masks pass the thresholds.
            EmbeddingNotCached: The image or a crop must be embedded, and the bytes were not sent.
            Overloaded: Too many sweeps are in progress, or the queue is full.
        """
        model = self._segmenter.resolve(request.image.model)
        _check(request)

        with self._pool.sweep():
            run = _Sweep(self._segmenter, self._pool, model, request, clock)
            async with aclosing(run.events()) as events:
                async for event in events:
                    yield event


class _Sweep:
    """One sweep."""

    def __init__(
        self,
        segmenter: Segmenter,
        pool: SweepPool,
        model: ServedModel,
        request: SweepRequest,
        clock: StageClock,
    ) -> None:
        self._segmenter = segmenter
        self._pool = pool
        self._model = model
        self._request = request
        self._options = request.options
        self._clock = clock
        self._points = 0  # done

    async def events(self) -> AsyncGenerator[Event]:
        """Yield the events of the sweep."""
        image = await self._segmenter.find(self._request.image, self._model, self._clock)
        size = image.ready.size
        accepted = await self._read_accepted(size)
        grids = [_without(grid, accepted) for grid in grid_crops(size, self._options)]
        yield Started(image, len(grids), sum(len(grid.points) for grid in grids))

        # Ask at all points of one crop after the other.
        shortlist = Shortlist(self._options)
        with self._clock.stage("points"):
            for number, grid in enumerate(grids):
                async for _ in self._ask(image, grid, shortlist):
                    yield Progress(number, self._points)
                await self._pool.run(shortlist.end_crop)
        yield Progress(len(grids), self._points)

        # Keep each region once.
        with self._clock.stage("keep"):
            kept = await self._keep(shortlist)
            if self._request.propose is not None:
                kept = await self._propose(kept, accepted, self._request.propose.sureness)

        # Write the masks.
        most = min(self._request.output.max_masks or MAX_SWEEP_MASKS, MAX_SWEEP_MASKS)
        with self._clock.stage("masks"):
            async for event in self._write(kept[:most]):
                yield event
        yield Finished(len(kept))

    async def _read_accepted(self, size: Size) -> runs.Runs:
        """Return the accepted pixels; none if nothing is to be proposed."""
        propose = self._request.propose
        return await self._pool.run(read_regions, propose.accepted if propose else (), size)

    async def _ask(
        self, image: FoundImage, grid: GridCrop, shortlist: Shortlist
    ) -> AsyncIterator[None]:
        """Ask at the points of a crop; yield after so many."""
        if not len(grid.points):
            return
        ready = await self._ready(image, grid)
        judge = ask if self._request.propose is None else propose
        decoder = self._model.decoder
        size = image.ready.size

        def pieces() -> Iterator[partial[list[Record]]]:
            for point in grid.points:
                question = Question(ready, grid.crop, point, size)
                yield partial(judge, decoder, question, self._options, self._pool.pause())

        async for records in self._pool.results(pieces()):
            DECODED.labels(decoder.bundle.name).inc()
            shortlist.add(records)
            self._points += 1
            if self._points % self._options.points_per_batch == 0:
                yield

    async def _ready(self, image: FoundImage, grid: GridCrop) -> ReadyImage:
        if grid.layer == 0:
            return image.ready
        data = self._request.image.data
        return await self._segmenter.find_crop(image, self._model, data, grid.crop)

    async def _keep(self, shortlist: Shortlist) -> list[Record]:
        """Return each mask that is kept once, without small regions if asked for."""
        kept = await self._pool.run(shortlist.kept)
        least = self._options.min_mask_region_area
        if least:
            pieces = (partial(clean, record, least) for record in kept)
            cleaned = [record async for record in self._pool.results(pieces)]
            threshold = max(self._options.box_nms_thresh, self._options.crop_nms_thresh)
            kept = await self._pool.run(best_of_cleaned, cleaned, threshold)
        return await self._pool.run(lambda: list(without_repeats(kept)))

    async def _propose(
        self, records: list[Record], accepted: runs.Runs, sureness: Sureness
    ) -> list[Record]:
        """Return what is left beside accepted regions."""
        found = await self._pool.run(Proposals, accepted)
        records = in_order(records, sureness)
        for at in range(0, len(records), CONSIDERED):
            await self._pool.run(found.consider, records[at : at + CONSIDERED])
        return found.kept

    async def _write(self, records: Sequence[Record]) -> AsyncIterator[Kept]:
        answer_size = AnswerSize(self._request.output.max_bytes)
        propose = self._request.propose
        pieces = (
            partial(
                _written,
                record,
                propose is not None and propose.sureness.is_sure(record),
                self._request.output,
                answer_size,
            )
            for record in records
        )
        async for kept in self._pool.results(pieces):
            yield kept


def _written(record: Record, sure: bool, output: Output, answer_size: AnswerSize) -> Kept:
    answer_size.check()
    mask = write_runs(record.mask, (record.predicted_iou, record.stability), output)
    answer_size.add(mask.sent_bytes)
    return Kept(record, replace(mask, candidate=record.number), sure)


def _without(grid: GridCrop, accepted: runs.Runs) -> GridCrop:
    """Return the grid without the points on accepted pixels."""
    if not len(accepted.changes):
        return grid
    corner = np.array([grid.crop.x0, grid.crop.y0], np.float32)
    return replace(grid, points=grid.points[~runs.contains(accepted, grid.points + corner)])


def _check(request: SweepRequest) -> None:
    check_output(request.output)
    check_options(request.options)
    if request.output.low_res_logits:
        field = "output.low_res_logits"
        raise InvalidInput(field, f"{field} is not available here; use Predict at the points")

    if request.propose is None:
        return
    check_sureness(request.propose.sureness)
    for field, alone in (
        ("options.use_m2m", request.options.use_m2m),
        ("options.multimask_output", not request.options.multimask_output),
    ):
        if alone:
            raise InvalidInput(field, f"{field}: propose compares three candidates a point")
