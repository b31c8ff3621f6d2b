"""The client for asyncio does what the other one does, over a real channel."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from xtts_grpc.client import (
    AsyncSynthesisClient,
    ClientTls,
    Encoding,
    ServiceDownError,
    ServiceError,
    StreamEnd,
    StreamStart,
)

TEXT = "Bom dia, tudo bem?"


def run(running, steps, **options):
    async def main():
        async with AsyncSynthesisClient(running.address, timeout_s=30, **options) as client:
            return await steps(client)

    return asyncio.run(main())


def test_speech_and_streams_are_those_of_the_other_client(running):
    async def steps(client):
        await client.wait_until_serving(20)
        speech = await client.synthesize(TEXT, voice_id="dora", seed=7, sample_rate_hz=16_000)
        parts = [part async for part in client.stream(TEXT, voice_id="dora", seed=7)]
        return speech, parts

    speech, parts = run(running, steps)
    expected = running.client.synthesize(TEXT, voice_id="dora", seed=7, sample_rate_hz=16_000)
    assert (speech.audio, speech.encoding) == (expected.audio, Encoding.WAV)
    assert isinstance(parts[0], StreamStart)
    assert isinstance(parts[-1], StreamEnd)
    streamed = list(running.client.stream(TEXT, voice_id="dora", seed=7))[1:-1]
    assert b"".join(parts[1:-1]) == b"".join(streamed)


def test_many_calls_run_side_by_side(running):
    async def steps(client):
        calls = (client.synthesize(TEXT, voice_id="dora", seed=seed) for seed in range(8))
        return await asyncio.gather(*calls)

    assert len({speech.audio for speech in run(running, steps)}) == 8


def test_voices_are_cloned_listed_and_deleted(running, audio_file):
    async def steps(client):
        voice = await client.clone_voice([audio_file(4.0)], label="Alex", text=TEXT, seed=1)
        listed = [found async for found in client.list_voices()]
        told = await client.get_voice(voice.voice_id)
        await client.delete_voice(voice.voice_id)
        return voice, listed, told, [found async for found in client.list_voices()]

    voice, listed, told, left = run(running, steps)
    assert voice.speech.duration_s > 0
    assert [told] == listed
    assert (told.voice_id, told.label, left) == (voice.voice_id, "Alex", [])


def test_the_model_is_told_and_reloaded(running, releases):
    async def steps(client):
        before = await client.get_model()
        releases.publish(2)
        return before, await client.reload_model(), await client.get_model()

    before, reloaded, after = run(running, steps)
    assert (before.release, reloaded.release, after.release) == (1, 2, 2)
    assert after == running.client.get_model()


def test_what_the_service_refuses_is_raised_with_its_reason(running):
    async def steps(client):
        await client.synthesize(TEXT, voice_id="nobody")

    with pytest.raises(ServiceError, match="There is no voice 'nobody'") as refused:
        run(running, steps)
    assert refused.value.code is grpc.StatusCode.NOT_FOUND
    assert refused.value.service_reason == "voice_not_found"


def test_a_service_that_is_not_there_is_down(running):
    async def steps(client):
        await client.get_model()

    with pytest.raises(ServiceDownError):
        run(running, steps, tls=ClientTls())


def test_a_cancelled_task_ends_the_call_on_the_service(start, releases):
    releases.publish(1)
    running = start(server={"max_concurrent_calls": 1})
    running.health.wait_for("SERVING")
    running.gate.shut()

    async def steps(client):
        call = asyncio.create_task(client.synthesize(TEXT, voice_id="dora"))
        await asyncio.to_thread(running.gate.wait_for_call)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        running.gate.open()
        # The only place is free again once the service has noticed.
        while True:
            try:
                return await client.synthesize(TEXT, voice_id="dora")
            except ServiceError as error:
                if error.code is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise

    assert run(running, steps).duration_s > 0
