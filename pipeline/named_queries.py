"""Queries that analysts ask again and again, by name; `pipeline.queries_page` documents them.

Every query answers each run by itself: losses
of other weights, sizes or taps are not comparable. Where a list of the worst is asked for, it is of
the 20 worst of every run.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.sql import QueryError


@dataclass(frozen=True)
class NamedQuery:
    """One query.

    Attributes:
        name: What `--named` takes.
        question: What it answers, and what its columns mean where their names do not say.
        sql: One SELECT over `metrics`, `flags` or `measures`.
        example: Arguments of `texsynth query` with this query in them.
    """

    name: str
    question: str
    sql: str
    example: str


QUERIES = (
    NamedQuery(
        "runs",
        "What are these runs, and which of their losses are comparable? Those with the same"
        " weights, height, width and taps.",
        """
SELECT run, count(*) AS row_count, count(delivered_loss) AS textures,
    any_value(preset) AS preset, any_value(weights) AS weights,
    left(any_value(weights_sha256), 12) AS weights_sha256,
    any_value(height) AS height, any_value(width) AS width,
    array_to_string(any_value(taps), ' ') AS taps,
    median(delivered_loss) AS median_delivered_loss, median(evaluations) AS median_evaluations
FROM metrics
GROUP BY run, config_fingerprint
ORDER BY run
""",
        "runs/a runs/b --named runs",
    ),
    NamedQuery(
        "worst-categories",
        "In which categories are the losses highest, and how many of their textures are accepted,"
        " copies, or below the threshold? The 20 worst by the median of the delivered loss.",
        """
SELECT run, category, count(delivered_loss) AS textures,
    count(*) - count(delivered_loss) AS without_texture,
    median(delivered_loss) AS median_delivered_loss, max(delivered_loss) AS max_delivered_loss,
    avg(accepted::INTEGER) AS accepted_share, avg("copy"::INTEGER) AS copy_share,
    avg(delivered_below_threshold::INTEGER) AS below_threshold_share
FROM metrics
GROUP BY run, category
QUALIFY row_number() OVER (
    PARTITION BY run ORDER BY median(delivered_loss) DESC NULLS LAST, category) <= 20
ORDER BY run, median_delivered_loss DESC NULLS LAST, category
""",
        "runs/photos --named worst-categories",
    ),
    NamedQuery(
        "worst-textures",
        "Which textures have the highest delivered loss? The 20 worst.",
        """
SELECT run, task_id, category, delivered_loss, float_loss, displacement_score, "copy", status, path
FROM metrics
WHERE delivered_loss IS NOT NULL
QUALIFY row_number() OVER (PARTITION BY run ORDER BY delivered_loss DESC, task_id) <= 20
ORDER BY run, delivered_loss DESC, task_id
""",
        "runs/photos --named worst-textures",
    ),
    NamedQuery(
        "copies",
        "Which textures are flagged as copies of their exemplars, the surest first?",
        """
SELECT run, task_id, category, displacement_score, layout_correlation, layout_correlation_shifted,
    delivered_loss, path
FROM metrics
WHERE "copy"
ORDER BY run, displacement_score, task_id
""",
        "runs/photos --named copies --format csv --output copies.csv",
    ),
    NamedQuery(
        "failures",
        "What went wrong, how often, and where is an example? Status, error and its first line.",
        """
SELECT run, status, error_type, trim(split_part(ltrim("error", E' \\n'), E'\\n', 1)) AS message,
    count(*) AS row_count, min(task_id) AS example
FROM metrics
WHERE status <> 'ok'
GROUP BY ALL
ORDER BY run, row_count DESC, status, message
""",
        "runs/photos --named failures",
    ),
    NamedQuery(
        "losses-by-category",
        "How are the delivered losses of each category distributed, and how many times the loss of"
        " the float image is that of the stored one (median)?",
        """
SELECT run, category, count(delivered_loss) AS textures, min(delivered_loss) AS least,
    quantile_cont(delivered_loss, 0.25) AS quarter, median(delivered_loss) AS median,
    quantile_cont(delivered_loss, 0.75) AS three_quarters, max(delivered_loss) AS greatest,
    median(delivered_loss / nullif(float_loss, 0)) AS delivered_over_float
FROM metrics
GROUP BY run, category
ORDER BY run, category
""",
        "runs/photos --named losses-by-category --format json",
    ),
    NamedQuery(
        "siblings",
        "How much do the variations of one exemplar differ in loss, the widest spread first?"
        " `spread` is the highest loss over the lowest.",
        """
SELECT run, exemplar_id, crop, any_value(category) AS category, count(*) AS variations,
    min(delivered_loss) AS least, max(delivered_loss) AS greatest,
    max(delivered_loss) / nullif(min(delivered_loss), 0) AS spread,
    count(*) FILTER ("copy") AS copies
FROM metrics
WHERE delivered_loss IS NOT NULL
GROUP BY run, exemplar_id, crop
HAVING count(*) > 1
ORDER BY run, spread DESC NULLS FIRST, exemplar_id, crop
""",
        "runs/photos --named siblings",
    ),
    NamedQuery(
        "best-seeds",
        "Which seed of each exemplar beats the others, copies left out, and by how much?"
        " `share_of_median` is its loss over the median of all its siblings; the largest gain"
        " first.",
        """
SELECT run, exemplar_id, crop, any_value(category) AS category, count(*) AS variations,
    arg_min(task_id, delivered_loss) AS best, arg_min(seed, delivered_loss) AS seed,
    min(delivered_loss) AS delivered_loss,
    min(delivered_loss) / nullif(median(delivered_loss), 0) AS share_of_median
FROM metrics
WHERE delivered_loss IS NOT NULL AND "copy" IS NOT TRUE
GROUP BY run, exemplar_id, crop
HAVING count(*) > 1
ORDER BY run, share_of_median, exemplar_id, crop
""",
        "runs/photos --named best-seeds --format parquet --output best.parquet",
    ),
    NamedQuery(
        "slowest",
        "Which textures took longest? The 20 slowest; lanes of one actor share its time.",
        """
SELECT run, task_id, category, seconds, evaluations, iterations, stop_reason, attempts, device
FROM metrics
WHERE seconds IS NOT NULL
QUALIFY row_number() OVER (PARTITION BY run ORDER BY seconds DESC, task_id) <= 20
ORDER BY run, seconds DESC, task_id
""",
        "runs/photos --named slowest",
    ),
    NamedQuery(
        "effort",
        "Why did textures stop, and what had they cost by then?",
        """
SELECT run, stop_reason, count(*) AS textures, median(evaluations) AS median_evaluations,
    max(evaluations) AS max_evaluations, median(iterations) AS median_iterations,
    median(seconds) AS median_seconds, median(delivered_loss) AS median_delivered_loss
FROM metrics
WHERE stop_reason IS NOT NULL
GROUP BY run, stop_reason
ORDER BY run, textures DESC, stop_reason
""",
        "runs/photos --named effort",
    ),
    NamedQuery(
        "flags",
        "How often is each flag true, false or unknown? Of every column of truth values;"
        " `true_share` is of those that are known.",
        """
SELECT run, flag, count(*) FILTER (value) AS true_count, count(*) FILTER (NOT value) AS false_count,
    count(*) FILTER (value IS NULL) AS unknown, avg(value::INTEGER) AS true_share
FROM flags
GROUP BY run, flag
ORDER BY run, flag
""",
        "runs/photos --named flags",
    ),
    NamedQuery(
        "measures",
        "How is every measure distributed: where would a threshold cut? Of every floating-point"
        " column; `p05` is what 5 % of its values are below, NaN left out.",
        """
SELECT run, measure, value_count, least, quantiles[1] AS p05, quantiles[2] AS p25,
    quantiles[3] AS median, quantiles[4] AS p75, quantiles[5] AS p95, greatest
FROM (
    SELECT run, measure, count(*) AS value_count, min(value) AS least, max(value) AS greatest,
        quantile_cont(value, [0.05, 0.25, 0.5, 0.75, 0.95]) AS quantiles
    FROM measures
    WHERE value IS NOT NULL AND NOT isnan(value)
    GROUP BY run, measure)
ORDER BY run, measure
""",
        "runs/photos --named measures",
    ),
)


def find_query(name: str) -> NamedQuery:
    """The query of a name.

    Raises:
        QueryError: There is none.
    """
    for query in QUERIES:
        if query.name == name:
            return query
    names = ", ".join(query.name for query in QUERIES)
    raise QueryError(f"named query: got {name!r}, expected one of {names}")
