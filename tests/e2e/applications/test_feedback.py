"""Feedback in a real Postgres: kept for so many days, and then gone from the table and from exports."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import psycopg
import pytest

from applications.sentiment import feedback as module
from applications.sentiment.door import Prediction, Row
from applications.sentiment.feedback import Feedback
from ext_authz.db.postgres import Pool

DAYS = 30


@pytest.fixture
async def feedback(database_url: str) -> AsyncIterator[Feedback]:
    pool = Pool(database_url, timeout=20)
    await pool.open()
    try:
        found = Feedback(pool, DAYS)
        await found.prepare()
        await found.prepare()
        yield found
    finally:
        await pool.close()


async def said(feedback: Feedback, text: str) -> str:
    prediction = Prediction(str(uuid4()), "1", (Row(text, "positive", 0.5),))
    assert await feedback.put("i", "alice", prediction, 0, "neutral")
    return prediction.decision_id


async def test_what_was_kept_long_enough_is_gone(
    feedback: Feedback, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", 2)
    old = [await said(feedback, "old") for _ in range(5)]
    await said(feedback, "new")
    with psycopg.connect(database_url, autocommit=True) as rows:
        age = "UPDATE sentiment_feedback SET at = now() - make_interval(days => %s, mins => %s)"
        age += " WHERE decision_id = ANY(%s)"
        rows.execute(age, (DAYS, -1, old))
        assert len(await feedback.everything()) == 6
        assert await feedback.expire() == 0
        rows.execute(age, (DAYS, 1, old))
        assert [row.text for row in await feedback.everything()] == ["new"], "before anything is deleted, too"
        assert await feedback.expire() == 5
        assert rows.execute("SELECT text FROM sentiment_feedback").fetchall() == [("new",)]


async def test_a_person_is_forgotten_altogether(feedback: Feedback, database_url: str) -> None:
    await said(feedback, "mine")
    assert (await feedback.delete("i", "bob"), await feedback.delete("j", "alice")) == (0, 0)
    assert await feedback.delete("i", "alice") == 1
    with psycopg.connect(database_url) as rows:
        assert rows.execute("SELECT count(*) FROM sentiment_feedback").fetchone() == (0,)
