"""The pages of a list show every row once, even if rows are inserted in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from phema.shared.catalog import BadCursor, Catalog, Page, Transaction
from phema.shared.catalog.pagination import encode_cursor
from tests.catalog.conftest import ask
from tests.catalog.test_results import want, want_figures
from tests.catalog.test_snapshots import add


class Listing:
    """A listing, and how to insert its i-th row; `newest_first` tells where later rows appear."""

    def __init__(
        self,
        insert: Callable[[Transaction, str, int], object],
        page: Callable[[Transaction, str, str | None, int], Page],
        newest_first: bool,
    ) -> None:
        self.insert, self.page, self.newest_first = insert, page, newest_first


LISTINGS = {
    "runs": Listing(
        lambda tx, run_id, i: tx.runs.create(f"run {i}", {}, "hash", total_images=1).id,
        lambda tx, run_id, after, limit: tx.runs.list(after=after, limit=limit),
        newest_first=True,
    ),
    "jobs": Listing(
        lambda tx, run_id, i: tx.jobs.enqueue("evaluate", payload={}, content_key=f"{i}", priority=1)[0].id,
        lambda tx, run_id, after, limit: tx.jobs.list(kind="evaluate", after=after, limit=limit),
        newest_first=True,
    ),
    "snapshots": Listing(
        lambda tx, run_id, i: add(tx, run_id, 64 * (i // 2 + 1), (0.05, 0.1)[i % 2])[0].id,
        lambda tx, run_id, after, limit: tx.snapshots.page(run_id, after=after, limit=limit),
        newest_first=False,
    ),
    "history": Listing(
        lambda tx, run_id, i: tx.history.put(run_id, 64 * i, {"loss": 1.0}) or 64 * i,
        lambda tx, run_id, after, limit: tx.history.list(run_id, after=after, limit=limit),
        newest_first=False,
    ),
    "reconstructions": Listing(
        lambda tx, run_id, i: want(tx, run_id, 0.01 * (i + 1))[0].id,
        lambda tx, run_id, after, limit: tx.reconstructions.page(run_id, after=after, limit=limit),
        newest_first=True,
    ),
    "evaluations": Listing(
        lambda tx, run_id, i: (
            tx.evaluations.find_or_create(run_id=run_id, reconstruction_id=want(tx, run_id)[0].id, recipe={"seed": i})[
                0
            ].id
        ),
        lambda tx, run_id, after, limit: tx.evaluations.page(run_id, after=after, limit=limit),
        newest_first=True,
    ),
}


@pytest.fixture(params=LISTINGS)
def listing(request: pytest.FixtureRequest) -> Listing:
    return LISTINGS[request.param]


def identity(row: object) -> object:
    return getattr(row, "id", None) or row.num_images  # type: ignore[attr-defined]


def walk(catalog: Catalog, listing: Listing, run_id: str, limit: int) -> Iterator[list[object]]:
    after = None
    while True:
        with catalog.transaction(read_only=True) as tx:
            page = listing.page(tx, run_id, after, limit)
        yield [identity(row) for row in page.items]
        if page.next_cursor is None:
            return
        after = page.next_cursor


def test_every_row_once(catalog: Catalog, run_id: str, listing: Listing) -> None:
    with catalog.transaction() as tx:
        ids = [listing.insert(tx, run_id, i) for i in range(7)]
    for limit in (1, 3, 7, 8):
        pages = list(walk(catalog, listing, run_id, limit))
        assert all(len(page) == limit for page in pages[:-1])
        seen = [one for page in pages for one in page if one != run_id]
        assert seen == (ids[::-1] if listing.newest_first else ids)


def test_rows_inserted_during_the_walk_shift_nothing(catalog: Catalog, run_id: str, listing: Listing) -> None:
    with catalog.transaction() as tx:
        ids = [listing.insert(tx, run_id, i) for i in range(6)]
    seen: list[object] = []
    late: list[object] = []
    for page in walk(catalog, listing, run_id, 2):
        seen += [one for one in page if one != run_id]
        if len(late) < 3:
            with catalog.transaction() as tx:
                late.append(listing.insert(tx, run_id, 6 + len(late)))
    assert seen == (ids[::-1] if listing.newest_first else ids + late)


def test_an_empty_listing_is_an_empty_page(catalog: Catalog) -> None:
    with catalog.transaction(read_only=True) as tx:
        assert tx.jobs.list() == Page([], None)
        assert tx.snapshots.page("run-none") == Page([], None)


FOREIGN = ["", "x", "%%%", "é", "\x00", *map(encode_cursor, ["a", 2**63, True, 1.5]), encode_cursor(1, 2)]


def test_foreign_cursors(catalog: Catalog, run_id: str, listing: Listing) -> None:
    for cursor in FOREIGN:
        with pytest.raises(BadCursor, match="use next_cursor of the previous page"), catalog.transaction() as tx:
            listing.page(tx, run_id, cursor, 5)


def test_foreign_cursors_of_snapshots(catalog: Catalog, run_id: str) -> None:
    for position in [(1, 0.1, "\x00"), (2**63, 0.1, "a"), (1, 1, "a")]:
        with pytest.raises(BadCursor), catalog.transaction() as tx:
            tx.snapshots.page(run_id, after=encode_cursor(*position))


def test_of_one_run_or_of_all(catalog: Catalog, run_id: str) -> None:
    with catalog.transaction() as tx:
        other = tx.runs.create("other", {}, "hash", total_images=1).id
        mine, theirs = want(tx, run_id)[0], want(tx, other)[0]
        want_figures(tx, run_id)
        assert [row.id for row in tx.reconstructions.page().items] == [theirs.id, mine.id]
        assert [row.id for row in tx.reconstructions.page(other).items] == [theirs.id]
        assert tx.evaluations.page(other).items == []
    ask(catalog)
