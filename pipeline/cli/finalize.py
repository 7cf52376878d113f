"""`texsynth finalize RUN`: make one sorted data set of what is committed so far."""

from pathlib import Path

from pipeline.cli import EXIT_FAILED_ROWS
from pipeline.run import finalize_run
from pipeline.rundir import RunDirectory
from pipeline.terminal import visible


def finalize(run: Path, /) -> int:
    """Compact the committed rows of a run that has not ended; a run does so itself at its end.

    Exit codes: 0 every task has a row, 3 some are missing.

    Args:
        run: Run directory.
    """
    directory = RunDirectory(run)
    finalized = finalize_run(directory)
    print(f"{finalized.rows} rows in {directory.textures} and, without images, {directory.metrics}")
    for problem in finalized.problems:
        print(visible(f"unreadable, left alone: {problem.path}: {problem.reason}"))
    if not finalized.missing:
        return 0
    print(f"{len(finalized.missing)} tasks have no row; the command of the run goes on")
    return EXIT_FAILED_ROWS
