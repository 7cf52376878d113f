"""How often the flags agree with a person who looked at the textures, and did not know the flags.

    python -m benchmarks.seen_by_eye [FILE]

FILE has a row for every texture: its exemplar, what was seen of it (`good`, and why not), and the
numbers that the rules of the flags compare; by default that of 120 photographs of the Describable
Textures Dataset. The standing rules are evaluated anew, so that a change of a rule shows here.

Columns of the file: `good` is whether the person would have trained on the texture under its
exemplar's label; `seen` says why not: `broken` structure, `smeared`, `speckle`, `warped`,
`distorted`, a `copy`, or an `object` that no texture can keep; `looked_at` numbers the sittings.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from benchmarks.environment import describe_environment
from pipeline.flags import FAULTS, RULES, evaluate_rules
from pipeline.schema import row_schema

FILE = Path(__file__).parent / "results" / "seen_by_eye_128px.csv"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", nargs="?", type=Path, default=FILE)
    print(render(load_textures(parser.parse_args().file)))


def load_textures(path: Path) -> pa.Table:
    """What was seen and measured, with the flags of the standing rules."""
    seen = pa.csv.read_csv(path)
    types = row_schema()
    rows = pa.table({name: _column(seen, types.field(name)) for name in types.names})
    flags = evaluate_rules(rows, RULES)
    for name in (*FAULTS, "accepted"):
        seen = seen.append_column(name, pc.fill_null(flags[name], False))
    return seen


def _column(seen: pa.Table, field: pa.Field) -> pa.Array | pa.ChunkedArray:
    """A column of a row as the file has it; null where it has none, and every row is a texture."""
    if field.name == "status":
        return pa.array(["ok"] * len(seen))
    # The thresholds of a run that sets none.
    thresholds = {"copy_displacement_threshold": 0.5, "copy_layout_threshold": 0.8}
    if field.name in thresholds:
        return pa.array([thresholds[field.name]] * len(seen))
    if field.name in seen.column_names:
        return seen[field.name].cast(field.type)
    return pa.nulls(len(seen), field.type)


def render(textures: pa.Table) -> str:
    """Precision and recall of `accepted`, then every fault and every category, as Markdown."""
    lines = [*describe_environment(), ""]
    lines += ["| textures | good | accepted | both | precision | recall |"]
    lines += ["| --- | ---: | ---: | ---: | ---: | ---: |", _agreement("all", textures)]
    for sitting in sorted(set(textures["looked_at"].to_pylist())):
        part = textures.filter(pc.equal(textures["looked_at"], sitting))
        lines.append(_agreement(f"sitting {sitting}", part))
    lines += ["", "| fault | textures | not good |", "| --- | ---: | ---: |"]
    for fault in FAULTS:
        part = textures.filter(textures[fault])
        lines.append(f"| `{fault}` | {len(part)} | {len(part) - _count(part['good'])} |")
    lines += ["", "| category | textures | good | accepted | both |"]
    lines += ["| --- | ---: | ---: | ---: | ---: |"]
    for category in sorted(set(textures["category"].to_pylist())):
        part = textures.filter(pc.equal(textures["category"], category))
        counts = " | ".join(map(str, _counts(part)))
        lines.append(f"| {category} | {counts} |")
    return "\n".join(lines)


def _agreement(name: str, textures: pa.Table) -> str:
    rows, good, accepted, both = _counts(textures)
    shares = f"{both / max(accepted, 1):.2f} | {both / max(good, 1):.2f}"
    return f"| {name}: {rows} | {good} | {accepted} | {both} | {shares} |"


def _counts(textures: pa.Table) -> tuple[int, int, int, int]:
    """Textures, good ones, accepted ones, and those that are both."""
    good, accepted = textures["good"], textures["accepted"]
    return len(textures), _count(good), _count(accepted), _count(pc.and_(good, accepted))


def _count(mask: pa.ChunkedArray) -> int:
    return int(pc.sum(mask).as_py() or 0)


if __name__ == "__main__":
    main()
