"""Quotas: a tenant over its own is refused with a true time, and others are not."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator

import pytest
from contract.calls import FIRST, prompt
from contract.conftest import Service
from samserve.core.caller import Caller, acting_for
from samserve.core.errors import Overloaded, QuotaSpent
from samserve.core.plan import Plan
from samserve.infra.quotas import Quota, Quotas
from samserve.infra.redis_link import RedisLink
from samserve.v1 import segmentation_pb2 as pb
from samserve.v1 import types_pb2 as types
from samserve.wire.status import error_of


@pytest.fixture
async def links(redis: str) -> AsyncIterator[list[RedisLink]]:
    made = [RedisLink(redis, 10) for _ in range(3)]
    yield made
    for link in made:
        await link.close()


def of(tenant: str, **plan: int) -> Caller:
    return Caller(tenant, tenant, Plan(**plan))


def tenant() -> str:
    return f"t{os.urandom(4).hex()}"


async def settled(quotas: Quotas) -> None:
    await asyncio.gather(*quotas._counting.values())


async def test_processes_share_a_quota_and_the_time_to_retry_is_true(
    links: list[RedisLink],
) -> None:
    now = [6000.0 + 45]
    all_quotas = [Quotas(link, clock=lambda: now[0]) for link in links]
    caller, allowed, waits = of(tenant(), requests=100), 0, set()
    for number in range(150):
        quotas = all_quotas[number % 3]
        try:
            with acting_for(caller):
                quotas.take(Quota.REQUESTS)
            allowed += 1
        except QuotaSpent as refusal:
            waits.add(refusal.retry_after)
        await settled(quotas)
    assert 90 <= allowed <= 103
    assert waits == {15}

    now[0] += 15
    with acting_for(caller):
        all_quotas[0].take(Quota.REQUESTS)


async def test_one_tenants_quota_is_nothing_to_another(links: list[RedisLink]) -> None:
    quotas = Quotas(links[0])
    spender, other = of(tenant(), requests=3), of(tenant(), requests=3)
    with acting_for(spender), pytest.raises(QuotaSpent):
        for _ in range(10):
            quotas.take(Quota.REQUESTS)
            await settled(quotas)
    with acting_for(other):
        quotas.take(Quota.REQUESTS)


async def test_the_defaults_hold_for_plans_that_do_not_say(links: list[RedisLink]) -> None:
    quotas = Quotas(links[0], Plan(requests=2))
    free, usual = of(tenant(), requests=0), of(tenant())
    with acting_for(free):
        for _ in range(20):
            quotas.take(Quota.REQUESTS)
    with acting_for(usual), pytest.raises(QuotaSpent, match="quota of 2 requests a minute"):
        for _ in range(20):
            quotas.take(Quota.REQUESTS)
            await settled(quotas)


async def test_a_click_waits_for_no_round_trip(links: list[RedisLink]) -> None:
    quotas, started = Quotas(links[0]), 0
    count = links[0].try_call

    async def counted(*args: object) -> object:
        nonlocal started
        started += 1
        return await count(*args)  # type: ignore[arg-type]

    links[0].try_call = counted  # type: ignore[method-assign, assignment]
    with acting_for(of(tenant(), requests=100_000)):
        for _ in range(10_000):
            quotas.take(Quota.REQUESTS)  # not awaited: it cannot wait
        await settled(quotas)
    assert started <= 20


async def test_a_call_over_the_quota_is_resource_exhausted_with_the_time(
    service: Service,
) -> None:
    service.servicer._quotas = Quotas(None, Plan(requests=2))
    request = pb.PredictRequest(ref=types.ImageRef(image_id="ab" * 32), prompts=[prompt(FIRST)])
    service.embeddings.known.add("ab" * 32)
    for _ in range(2):
        await service.stub.Predict(request)
    with pytest.raises(Exception) as refused:
        await service.stub.Predict(request)
    error = error_of(refused.value, "the decoder")
    assert isinstance(error, Overloaded)
    left = 60 - time.time() % 60
    assert abs(error.retry_after - left) < 5 or error.retry_after <= 60
