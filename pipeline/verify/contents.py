"""Every committed row of a run, read in full and looked at once, a row group at a time."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.committed import (
    FileProblem,
    Scan,
    UnreadableFileError,
    open_parquet,
    read_from_scan,
    select_winners,
)
from pipeline.resume import RunRecord
from pipeline.rundir import RunDirectory
from pipeline.storage import AnyPath
from pipeline.verify.checks import Check, Problems, counted
from pipeline.verify.images import find_png_problem
from pipeline.verify.rows import ROW_CHECKS, count_other_seeds, find_row_problems

PNG_CHECK = "images"
MENDS = {
    "identity": "the row is of another run: move its file away",
    "seeds": "the row is of another run, or was changed: move its file away",
    "values": "move the file away",
    "flags": "move the file away",
    PNG_CHECK: "move the file away",
}
AGAIN = "; its tasks are done again when the run is started again with its own command"


@dataclass(frozen=True)
class Expectation:
    """What the rows are compared with.

    Attributes:
        record: The run's; None where it cannot be read.
        images: Whether PNGs are decoded.
    """

    record: RunRecord | None
    images: bool


@dataclass
class FileContents:
    """What the rows of one file, or of all, have shown.

    Attributes:
        findings: Check and line of every problem.
        digests: SHA-256 that the rows give of their sources, by path.
        counts: Of `rows`, `images` decoded, and rows made again with an `other seed`.
    """

    findings: list[tuple[str, str]] = field(default_factory=list)
    digests: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, other: FileContents) -> None:
        """Take over what another has shown."""
        self.findings += other.findings
        self.counts += other.counts
        for path, digests in other.digests.items():
            self.digests[path] |= digests


@dataclass(frozen=True)
class Contents:
    """What is in the files of a run.

    Attributes:
        scan: Where the rows lie; also in files that turned out to be unreadable.
        unreadable: The files that were passed over.
        keys: As `Scan.keys`, of the readable files only.
        winners: Of `keys`, the rows that count.
        rows: What they have shown.
    """

    scan: Scan
    unreadable: tuple[FileProblem, ...]
    keys: pa.Table
    winners: pa.Table
    rows: FileContents


def read_contents(run: RunDirectory, expectation: Expectation) -> Contents:
    """Read every row of a run, superseded ones too.

    Where a finalize moves files meanwhile, it begins again.
    """

    def read(scan: Scan) -> Contents:
        rows = FileContents()
        unreadable = list(scan.problems)
        readable = []
        for index, path in enumerate(scan.files):
            try:
                rows.add(_read_file(run, path, expectation))
                readable.append(index)
            except UnreadableFileError as error:
                unreadable.append(error.problem)
        inside = pc.is_in(scan.keys["file"], pa.array(readable, pa.int32()))
        keys = scan.keys.filter(inside)
        return Contents(scan, tuple(unreadable), keys, select_winners(keys), rows)

    return read_from_scan(run, read)


def check_files(run: RunDirectory, contents: Contents) -> Check:
    """Whether every Parquet file could be read in full, page checksums verified."""
    problems = Problems()
    for problem in contents.unreadable:
        problems.add(f"{run.name_of(problem.path)}: {problem.reason}")
    files = len(contents.scan.files) + len(contents.scan.problems)
    found = f"{counted(files, 'file')}, {counted(contents.rows.counts['rows'], 'row')}"
    return problems.check("files", found, "move the file away" + AGAIN)


def check_rows(contents: Contents, expectation: Expectation) -> Iterator[Check]:
    """Whether the values of the rows are right, and their PNGs whole."""
    problems = {name: Problems() for name in (*ROW_CHECKS, PNG_CHECK)}
    for name, line in contents.rows.findings:
        problems[name].add(line)
    counts = contents.rows.counts
    compared = "" if expectation.record else "; not compared with run.json, which cannot be read"
    found = dict.fromkeys(problems, counted(counts["rows"], "row"))
    found["identity"] += compared
    found["seeds"] += compared
    if counts["other seed"]:
        again = counted(counts["other seed"], "row")
        found["seeds"] += f"; {again} made again with another seed"
    found[PNG_CHECK] = f"{counted(counts['images'], 'PNG')} decoded"
    if not expectation.images:
        found[PNG_CHECK] = "not checked: --no-images"
    for name, gathered in problems.items():
        yield gathered.check(name, found[name], MENDS[name] + AGAIN)


def _read_file(run: RunDirectory, path: AnyPath, expectation: Expectation) -> FileContents:
    contents = FileContents()
    with open_parquet(path) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, use_threads=False).combine_chunks()
            table.validate(full=True)
            _look_at(table, expectation, contents)
        contents.counts["rows"] = file.metadata.num_rows
    where = run.name_of(path)
    contents.findings = [(check, f"{where}: {line}") for check, line in contents.findings]
    return contents


def _look_at(table: pa.Table, expectation: Expectation, contents: FileContents) -> None:
    """Add what some rows show."""
    contents.findings += find_row_problems(table, expectation.record)
    if expectation.record:
        contents.counts["other seed"] += count_other_seeds(table, expectation.record)
    paths, digests = table["path"].to_pylist(), table["exemplar_sha256"].to_pylist()
    for path, digest in zip(paths, digests, strict=True):
        if path is not None and digest is not None:
            contents.digests[path].add(digest)
    if expectation.images:
        for line in _find_png_problems(table, contents):
            contents.findings.append((PNG_CHECK, line))


def _find_png_problems(table: pa.Table, contents: FileContents) -> Iterator[str]:
    names = ("task_id", "height", "width")
    columns = [table[name].to_pylist() for name in names]
    pngs = pc.struct_field(table["image"], "bytes")
    for png, task, height, width in zip(pngs, *columns, strict=True):
        data = png.as_py()
        if data is None:
            continue
        contents.counts["images"] += 1
        problem = find_png_problem(data, height, width)
        if problem:
            yield f"task {task!r}: {problem}"
