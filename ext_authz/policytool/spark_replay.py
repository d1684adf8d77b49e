"""A replay over Parquet files of `tollgate ledger export` by Spark, where one machine is too small for them.

    python -m ext_authz.policytool.spark_replay OLD NEW DIRECTORY

As `parquet_replay`, with the same evaluation: Spark finds the calls that are equal, its workers decide about each
group, and Spark sorts the calls of groups that depend on limits. The driver counts these, one after the other. Driver
and workers need this package and see the directory and both policies under the same paths. PySpark is no dependency.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click

from ext_authz.errors import ConfigError
from ext_authz.ledger import parquet
from ext_authz.policy.load import examine, load_policy
from ext_authz.policytool.comparison import Comparison, lines
from ext_authz.policytool.diff import substituted
from ext_authz.policytool.grouped import (
    ALIKE,
    LIGHTWEIGHT,
    ORDINARY,
    Call,
    GroupedReplay,
    by_token,
    group_of,
    moment,
)

_SOME = r"""CASE WHEN NOT {by_token} AND {name} RLIKE '^(?:{ordinary})\\z' AND NOT {name} RLIKE '^(?:{lightweight})\\z'
    THEN 'some' ELSE {name} END"""
_CALLS = """
SELECT unix_micros(occurred_at) AS at_us, decision_id, token_id, session, issued_at, expires_at,
    unix_micros(occurred_at) - issued_at * 1000000 AS age, expires_at - issued_at AS lifetime,
    {token} AS token, {session} AS of_session, issuer, subject, client, route, model, model_version, method, path,
    reason, code, policy, coalesce(record, '') AS record
FROM files
"""
_GROUPS = f"""
SELECT {", ".join(ALIKE)}, count(*) AS calls, min(at_us) AS first, max(at_us) AS last, min(age) AS youngest,
    min_by(issued_at, age) AS issued_to_youngest, max(age) AS oldest, max_by(issued_at, age) AS issued_to_oldest
FROM calls GROUP BY {", ".join(ALIKE)}
"""  # noqa: S608 - constants
_ORDERED = f"""
SELECT groups.id, {", ".join(f"calls.{name}" for name in Call.__struct_fields__)}
FROM calls JOIN groups USING ({", ".join(ALIKE)}) JOIN counted ON counted.id = groups.id
ORDER BY at_us, decision_id
"""  # noqa: S608 - constants
_PLANNED = "id long, first long, last long, calls long, depends boolean, known binary"

Policies = tuple[str, str]
"""Paths of the old one and of the new one."""


def compare(spark: Any, policies: Policies, directory: Path, environ: Mapping[str, str]) -> Comparison:  # noqa: ANN401 - Spark's
    """As `replay.compare` of the same decisions.

    Raises:
        ConfigError: a policy has faults, or the directory is not as it was written.
    """
    examined = [examine(Path(policy), environ) for policy in policies]
    old, new = (load_policy(Path(policy), environ) for policy in policies)
    manifest, replay = parquet.read(directory), GroupedReplay(old, new)
    if not manifest.files:
        return replay.found
    _define(spark, directory, manifest, is_by_token=by_token(old, new))
    mentioned = substituted([loaded.source for loaded in examined if loaded.source], environ)
    groups = spark.table("groups").rdd.mapPartitions(partial(planned, policies, mentioned))
    # Kept: made anew, groups could have other numbers.
    found = spark.createDataFrame(groups, _PLANNED).localCheckpoint()
    found.where("depends").select("id").createOrReplaceTempView("counted")
    counted = {}
    for row in found.toLocalIterator():
        known = pickle.loads(row.known)  # noqa: S301 - of our own workers
        replay.see(moment(row.first), moment(row.last), row.calls)
        if not replay.settle(known, row.calls):
            counted[row.id] = known
    asyncio.run(_count(replay, counted, spark.sql(_ORDERED).toLocalIterator()))
    return replay.found


def _define(spark: Any, directory: Path, manifest: parquet.Manifest, *, is_by_token: bool) -> None:  # noqa: ANN401
    """The views `files`, `calls` and `groups`."""
    words = {"by_token": str(is_by_token).lower(), "ordinary": ORDINARY, "lightweight": LIGHTWEIGHT}
    names = {"token": _SOME.format(name="token_id", **words), "session": _SOME.format(name="session", **words)}
    paths = [path.absolute().as_uri() for path in parquet.paths(directory, manifest)]
    spark.read.parquet(*paths).createOrReplaceTempView("files")
    spark.sql(_CALLS.format(**names)).createOrReplaceTempView("calls")
    groups = spark.sql(_GROUPS).selectExpr("monotonically_increasing_id() AS id", "*")
    groups.localCheckpoint().createOrReplaceTempView("groups")


def planned(policies: Policies, environ: Mapping[str, str], rows: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    """In a worker: what both policies decide of each of its groups."""
    replay = GroupedReplay(*(load_policy(Path(policy), environ) for policy in policies))
    with asyncio.Runner() as runner:
        for row in rows:
            known = runner.run(replay.known(group_of(row.asDict())))
            yield row.id, row.first, row.last, row.calls, known.depends_on_calls, pickle.dumps(known)


async def _count(replay: GroupedReplay, counted: Mapping[int, Any], rows: Iterable[Any]) -> None:
    for row in rows:
        values = row.asDict()
        await replay.count(counted[values.pop("id")], Call(**values))


@click.command()
@click.argument("old", type=click.Path(exists=True))
@click.argument("new", type=click.Path(exists=True))
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.pass_context
def main(context: click.Context, old: str, new: str, directory: Path) -> None:
    """List what a new policy decides otherwise in the decisions of a directory.

    Exit code 0: nothing. 1: something. 2: a policy or the directory has faults.
    """
    try:
        from pyspark.sql import SparkSession

        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        spark = SparkSession.builder.appName("tollgate replay").getOrCreate()
        found = compare(spark, (old, new), directory, os.environ)
    except ImportError:
        raise SystemExit("tollgate: this needs the package pyspark, which is not here: pip install pyspark") from None
    except ConfigError as wrong:
        click.echo(f"tollgate: {wrong}", err=True)
        context.exit(2)
    for line in lines(found):
        click.echo(line)
    context.exit(1 if found.changed else 0)


if __name__ == "__main__":
    main()
