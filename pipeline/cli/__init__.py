"""The command line: `texsynth COMMAND`.

Exit codes: 0 all done, 2 bad usage, refused, or broken off by an error, 3 finished with failed
rows, 130 or 143 stopped by Ctrl-C or SIGTERM, 141 its output no longer read, as by `head`.
Commands are imported when they are called, so that `--help` waits for nothing.
"""

import os
import select
import signal
import sys
from importlib import metadata
from types import FrameType

from cyclopts import App, CycloptsError
from pydantic import ValidationError

from pipeline.spinning import bound_spinning
from pipeline.storage import RemotePathError
from pipeline.terminal import visible_lines

bound_spinning()

EXIT_USAGE, EXIT_FAILED_ROWS, EXIT_INTERRUPTED, EXIT_TERMINATED = 2, 3, 130, 143
EXIT_PIPE = 141
"""As a shell has it for SIGPIPE, of which Python makes an error."""
STDOUT = 1


class _TerminatedError(KeyboardInterrupt):
    """SIGTERM, where no run catches it."""


app = App(
    name="texsynth",
    help="New textures from old ones at data-set scale.",
    version=lambda: metadata.version("texsynth"),
    suppress_keyboard_interrupt=False,
)
app.command(
    "pipeline.cli.manifest:app",
    name="manifest",
    help="Make a manifest: the list of textures that a run works through.",
)
app.command(
    "pipeline.cli.run:run",
    name="run",
    help="Synthesise the textures of a manifest into a run directory, or go on with it.",
)
app.command(
    "pipeline.cli.plan:plan",
    name="plan",
    help="Say what a run would cost: tasks, evaluations, memory, disk, hours.",
)
app.command(
    "pipeline.cli.verify:verify",
    name="verify",
    help="Prove that a run directory holds what it says, and say how to mend what does not.",
)
app.command(
    "pipeline.cli.leakcheck:leakcheck",
    name="leakcheck",
    help="Look for the images that a run was made from in the val and test of a manifest.",
)
app.command(
    "pipeline.cli.filter:filter_",
    name="filter",
    help="Write the part of a run that is safe to train on in one partition.",
)
app.command(
    "pipeline.cli.status:status",
    name="status",
    help="Say how far a run is, what works on it, what went wrong, and what to do next.",
)
app.command(
    "pipeline.cli.failures:failures",
    name="failures",
    help="List the rows of a run without a good texture, and what does them again.",
)
app.command(
    "pipeline.cli.replay:replay",
    name="replay",
    help="Make one row of a run again and say whether it is the same.",
)
app.command(
    "pipeline.cli.retry:retry",
    name="retry",
    help="Do the failed tasks of a run again.",
)
app.command(
    "pipeline.cli.finalize:finalize",
    name="finalize",
    help="Make one sorted data set of what a run has committed so far.",
)
app.command(
    "pipeline.cli.query:query",
    name="query",
    help="Ask one or several runs in SQL, or by a named query.",
)
app.command(
    "pipeline.cli.compare:compare",
    name="compare",
    help="Say which of two runs is better, measure by measure, on the textures of both.",
)
app.command(
    "pipeline.cli.reflag:reflag",
    name="reflag",
    help="Compute the flags of a run anew from its stored numbers, by other rules.",
)
app.command(
    "pipeline.cli.calibrate:calibrate",
    name="calibrate",
    help="Propose thresholds for the flags from a run's own numbers.",
)
app.command(
    "pipeline.cli.report:report",
    name="report",
    help="Write a page to look at what a run has made, worst textures first.",
)
app.command(
    "pipeline.cli.export:export",
    name="export",
    help="Write a run's textures for ImageFolder, WebDataset, Hugging Face or DTD loaders.",
)
app.command(
    "pipeline.cli.synthesize:synthesize",
    name="synthesize",
    help="Synthesise textures of single images, without a manifest.",
)
app.command(
    "pipeline.cli.score:score",
    name="score",
    help="Measure a texture beside its exemplar: any two images.",
)
app.command(
    "pipeline.cli.demo:demo",
    name="demo",
    help="Run the whole job on textures that come with scikit-image.",
)
app.command(
    "pipeline.cli.weights:app", name="weights", help="List the sources of weights, or fetch one."
)
app.command("pipeline.cli.cluster:app", name="cluster", help="Look at a cluster before a run.")
app.command(
    "pipeline.cli.config:app", name="config", help="Show the settings of a preset, as YAML."
)


def main() -> None:
    """Run the command line; errors that a user can mend are one message and exit code 2."""
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        app(sys.argv[1:], print_error=False, exit_on_error=False)
    except KeyboardInterrupt as stop:
        sys.stderr.write("\ninterrupted; a run goes on when the same command is given again\n")
        sys.exit(EXIT_TERMINATED if isinstance(stop, _TerminatedError) else EXIT_INTERRUPTED)
    except CycloptsError as error:
        sys.stderr.write(f"error: {_describe_usage(error)}\n")
        sys.exit(EXIT_USAGE)
    except SystemExit as end:
        # What Rich makes of an output that is no longer read has code 1, which is none of ours.
        if isinstance(end.__context__, BrokenPipeError):
            sys.exit(EXIT_PIPE)
        raise
    except (ValueError, OSError) as error:
        if isinstance(error, BrokenPipeError) and _reader_has_gone():
            sys.exit(EXIT_PIPE)
        if not _can_be_mended(error):
            raise
        sys.stderr.write(f"error: {visible_lines(str(error))}\n")
        sys.exit(EXIT_USAGE)
    finally:
        signal.signal(signal.SIGTERM, previous)


def _reader_has_gone() -> bool:
    """Whether it is our own output that nobody reads; Python shall not complain of it again."""
    output = select.poll()
    output.register(STDOUT, 0)
    if not output.poll(0):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)
    return True


def _can_be_mended(error: ValueError | OSError) -> bool:
    """Whether the system or a class of ours says what is wrong; a bare ValueError is a defect."""
    package = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError) or package in ("pipeline", "texsynth")


def _terminate(number: int, frame: FrameType | None) -> None:
    raise _TerminatedError


def _describe_usage(error: CycloptsError) -> str:
    if isinstance(error.__cause__, ValidationError):
        from pipeline.config_file import describe_validation

        return describe_validation(error.__cause__)
    if isinstance(error.__cause__, RemotePathError) and error.argument is not None:
        return f"{error.argument.name}: {error.__cause__}"
    return str(error)
