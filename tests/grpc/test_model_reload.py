"""Which checkpoint serves: the release that serving.json names, or a fixed one."""

from __future__ import annotations

import itertools
import json
import threading
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

from xtts_core.errors import ReleaseError
from xtts_core.settings import Environment
from xtts_core.store import sha256_file
from xtts_grpc.client import ServiceError, SynthesisClient
from xtts_grpc.logs import JsonFormatter
from xtts_grpc.model_store import Checkpoint
from xtts_grpc.reload import read_serving
from xtts_grpc.serve import choose_serving


def test_without_a_release_calls_are_refused_until_there_is_one(start, releases):
    service = start()
    service.health.wait_for("NOT_SERVING", "reload")
    assert service.health.status() == "NOT_SERVING"
    assert service.health.status("") == "NOT_SERVING"
    with pytest.raises(ServiceError) as caught:
        service.say()
    assert caught.value.code is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.service_reason == "no_model"
    waiting = service.client.get_model()
    assert not waiting.serving
    assert "There is no release" in waiting.last_error
    version = releases.publish(1)
    service.health.wait_for("SERVING")
    service.health.wait_for("SERVING", "reload")
    assert service.health.status("") == "SERVING"
    assert service.say().model_version == version
    assert service.client.get_model().last_error == ""


@pytest.mark.parametrize(
    ("publish", "reason"),
    [
        (lambda r: r.publish_damaged(2), "tone.json: The file's SHA-256 is"),
        (lambda r: r.publish(2, tone={"silence": True}), "The tone has no frequency"),
        (lambda r: r.publish(2, tone={"hz": 1.0, "mute": True}), "warm-up sentence is no audio"),
        (lambda r: r.point(2, "0" * 64, "releases/1"), "manifest's SHA-256"),
        (lambda r: r.point(2, "0" * 64), "has no manifest"),
        (lambda r: r.point(2, "0" * 64, "../elsewhere"), "lies outside"),
        (lambda r: r.point(2, "0" * 64, "/etc"), "lies outside"),
        (lambda r: r.serving.write_text("{"), "does not name a release"),
        (lambda r: r.serving.write_text("[]"), "does not name a release"),
        (lambda r: r.point(2, "0" * 64, "releases/\0"), "does not name a release"),
        (lambda r: r.point(-1, "0" * 64, "releases/1"), "does not name a release"),
        (lambda r: r.point(2**64, "0" * 64, "releases/1"), "does not name a release"),
        (lambda r: r.point(1.7, "0" * 64, "releases/1"), "does not name a release"),
        (lambda r: r.serving.write_text("[" * 100_000), "does not name a release"),
    ],
    ids=[
        "damaged",
        "does not load",
        "mute",
        "another manifest",
        "missing",
        "above the root",
        "absolute",
        "no JSON",
        "no object",
        "no path",
        "below one",
        "beyond 64 bits",
        "no whole number",
        "no end of it",
    ],
)
@pytest.mark.parametrize("policy", ["keep-serving", "free-first"])
def test_a_broken_release_keeps_the_old_model_and_is_reported(
    start, releases, publish, reason, policy
):
    good = releases.publish(1)
    service = start(reload={"policy": policy})
    service.health.wait_for("SERVING")
    publish(releases)
    with pytest.raises(ServiceError) as caught:
        service.client.reload_model()
    assert caught.value.code is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.service_reason == "invalid_release"
    assert reason in caught.value.what
    model = service.client.get_model()
    assert (model.serving, model.model_version, model.release) == (True, good, 1)
    assert reason in model.last_error
    assert model.last_error_at is not None
    assert service.health.status("reload") == "NOT_SERVING"
    assert service.health.status() == "SERVING"
    assert service.say().model_version == good
    # While no other attempt at it is under way.
    with service.service._follower._checking:
        assert sum(not engine.closed for engine in service.gate.engines) == 1
    better = releases.publish(3)
    service.health.wait_for("SERVING", "reload")
    assert service.say().model_version == better


def test_going_back_to_the_release_that_serves_clears_the_error(running, releases):
    good = releases.serving.read_bytes()
    releases.serving.write_text("{")
    running.health.wait_for("NOT_SERVING", "reload")
    releases.serving.write_bytes(good)
    running.health.wait_for("SERVING", "reload")
    assert running.client.get_model().last_error == ""
    assert len(running.gate.engines) == 1


def test_a_refused_release_that_is_named_again_is_tried_again(start, releases):
    tried: list[Path] = []
    releases.publish(1)
    service = start(before_load=tried.append, reload={"poll_s": 3_600.0})
    service.health.wait_for("SERVING")
    good = releases.serving.read_bytes()
    follower = service.service._follower
    releases.publish(2, tone={"silence": True})
    for _ in range(2):
        with pytest.raises(ReleaseError):
            follower.check()
        releases.serving.write_bytes(good)
        follower.check()
        assert service.client.get_model().last_error == ""
        releases.point(2, sha256_file(releases.root / "releases/2/manifest.json"))
    assert [directory.name for directory in tried] == ["1", "2", "2"]


def test_calls_that_ask_for_a_release_while_it_is_tried_share_one_more_attempt(start, releases):
    trying, tried = threading.Event(), threading.Event()
    attempts: list[str] = []

    def hold(directory: Path) -> None:
        attempts.append(directory.name)
        if directory.name == "2":
            trying.set()
            assert tried.wait(30)

    releases.publish(1)
    service = start(before_load=hold, reload={"poll_s": 3_600.0})
    service.health.wait_for("SERVING")
    releases.publish(2, tone={"silence": True})
    with ThreadPoolExecutor(6) as pool:
        first = pool.submit(service.client.reload_model)
        assert trying.wait(30)
        others = [pool.submit(service.client.reload_model) for _ in range(4)]
        refused, *_ = wait(others, return_when=FIRST_COMPLETED).done
        assert refused.exception().service_reason == "overloaded"
        tried.set()
        errors = [call.exception().service_reason for call in (first, *others)]
    assert sorted(errors) == [*["invalid_release"] * 4, "overloaded"]
    assert attempts == ["1", "2", "2"]


@pytest.mark.parametrize(("policy", "again"), [("keep-serving", True), ("free-first", False)])
def test_only_a_model_that_goes_on_serving_is_tried_to_be_replaced_again(
    start, releases, monkeypatch, policy, again
):
    """Each look at the clock finds a day gone, so whatever may be tried again is."""
    days = itertools.count(0, 86_400)
    polls = threading.Semaphore(0)

    def read(path: Path) -> Checkpoint:
        polls.release()
        return read_serving(path)

    monkeypatch.setattr("xtts_grpc.reload.monotonic", lambda: next(days))
    monkeypatch.setattr("xtts_grpc.reload.read_serving", read)
    releases.publish(1)
    tried: list[Path] = []
    service = start(before_load=tried.append, reload={"policy": policy})
    service.health.wait_for("SERVING")
    releases.publish(2, tone={"silence": True})
    service.health.wait_for("NOT_SERVING", "reload")
    service.health.wait_for("SERVING")
    for _ in range(polls._value + 5):
        assert polls.acquire(timeout=30)
    assert ([directory.name for directory in tried].count("2") > 1) is again
    assert service.client.get_model().release == 1


@pytest.fixture
def coming_up(start, releases):
    """A service that loads release 2 until the event is set."""
    loading, loaded = threading.Event(), threading.Event()

    def hold(directory: Path) -> None:
        if directory.name == "2":
            loading.set()
            assert loaded.wait(30)

    releases.publish(1)
    service = start(before_load=hold)
    service.health.wait_for("SERVING")
    releases.publish(2)
    assert loading.wait(30)
    yield service, loaded
    loaded.set()


def test_a_call_that_waits_for_a_reload_may_leave(coming_up, logged):
    service, loaded = coming_up
    lines = logged(JsonFormatter())
    with SynthesisClient(service.address, timeout_s=0.2) as hasty, pytest.raises(ServiceError):
        hasty.reload_model()
    left = json.loads(lines.next_call())
    assert (left["method"], loaded.is_set()) == ("ReloadModel", False)
    loaded.set()
    assert service.client.reload_model().release == 2


def test_whatever_happens_the_next_release_is_looked_for(start, releases, monkeypatch):
    failures = iter([MemoryError("no room")])

    def fail(path: Path) -> Checkpoint:
        for failure in failures:
            raise failure
        return read_serving(path)

    monkeypatch.setattr("xtts_grpc.reload.read_serving", fail)
    releases.publish(1)
    start().health.wait_for("SERVING")
    assert next(failures, None) is None


def test_a_release_that_was_refused_for_days_is_still_told_of_as_what_it_is(start, releases):
    releases.publish(1)
    service = start(reload={"poll_s": 3_600.0})
    service.health.wait_for("SERVING")
    releases.publish(2, tone={"silence": True})
    service.service._follower._refusals = 2_000
    service.service._follower._refused = read_serving(releases.serving)
    with pytest.raises(ServiceError, match="cannot be served"):
        service.client.reload_model()


def test_what_a_call_could_not_foresee_is_told_to_all_that_share_the_attempt(
    running, releases, monkeypatch
):
    def fail(path: Path) -> Checkpoint:
        raise MemoryError("no room")

    monkeypatch.setattr("xtts_grpc.reload.read_serving", fail)
    with pytest.raises(ServiceError, match="no room") as caught:
        running.client.reload_model()
    assert caught.value.code is grpc.StatusCode.FAILED_PRECONDITION
    assert "no room" in running.client.get_model().last_error


def test_an_error_that_stays_keeps_the_time_at_which_it_was_found(start, releases):
    service = start()
    service.health.wait_for("NOT_SERVING", "reload")
    found = service.client.get_model().last_error_at
    for _ in range(3):
        with pytest.raises(ServiceError, match="There is no release"):
            service.client.reload_model()
    assert service.client.get_model().last_error_at == found


def test_a_nudge_that_waits_for_a_poll_says_that_the_model_changed(coming_up, monkeypatch):
    service, loaded = coming_up
    nudged = threading.Event()
    follower = service.service._follower
    check = follower.check

    def arrive(**how) -> None:
        if how:
            nudged.set()
        check(**how)

    monkeypatch.setattr(follower, "check", arrive)
    begun = datetime.now(UTC)
    with ThreadPoolExecutor(1) as pool:
        nudge = pool.submit(service.client.reload_model)
        assert nudged.wait(30)
        loaded.set()
        assert (nudge.result().changed, nudge.result().release) == (True, 2)
    assert service.client.get_model().loaded_at >= begun


def test_reloading_what_serves_already_changes_nothing(running):
    reloaded = running.client.reload_model()
    assert (reloaded.changed, reloaded.release) == (False, 1)
    assert len(running.gate.engines) == 1


def test_a_nudge_loads_a_release_that_no_poll_has_seen(start, releases):
    releases.publish(1)
    service = start(reload={"poll_s": 3_600.0})
    service.health.wait_for("SERVING")
    version = releases.publish(2)
    reloaded = service.client.reload_model()
    assert (reloaded.changed, reloaded.release, reloaded.model_version) == (True, 2, version)


def test_a_custom_checkpoint_is_served_and_releases_are_not_followed(
    start, releases, tmp_path, pitch_hz
):
    releases.publish(1)
    custom = tmp_path / "mine"
    releases.make(custom, {"hz": 900.0})
    service = start(Checkpoint(custom, "custom-checkpoint"))
    assert service.health.status() == "SERVING"
    assert pitch_hz(service.say().audio) == pytest.approx(900, abs=2)
    model = service.client.get_model()
    assert (model.source, model.release) == ("custom-checkpoint", 0)
    with pytest.raises(ServiceError, match="one fixed checkpoint") as caught:
        service.client.reload_model()
    assert caught.value.code is grpc.StatusCode.FAILED_PRECONDITION


def test_a_missing_custom_checkpoint_falls_back_to_the_base_model_and_says_so(
    start, releases, tmp_path, caplog, pitch_hz
):
    environment = Environment.load(
        {
            "XTTS_CORPUS_ROOT": str(releases.root),
            "XTTS_CUSTOM_CHECKPOINT": str(tmp_path / "nowhere"),
            "XTTS_BASE_MODEL": "tiny",
            "XTTS_CONFIG_DIR": str(tmp_path),
        }
    )
    releases.make(releases.root / "models" / "tiny", {"hz": 700.0})
    service = start(choose_serving(environment, strict=False))
    model = service.client.get_model()
    assert model.source == "base-model"
    assert "The custom checkpoint does not exist" in model.fallback_reason
    assert str(tmp_path / "nowhere") in model.fallback_reason
    assert pitch_hz(service.say().audio) == pytest.approx(700, abs=2)
    assert [r.levelname for r in caplog.records if "does not exist" in r.getMessage()] == ["ERROR"]


def test_strict_refuses_a_missing_custom_checkpoint(tmp_path):
    environment = Environment.load({"XTTS_CUSTOM_CHECKPOINT": str(tmp_path / "nowhere")})
    with pytest.raises(ReleaseError, match="does not exist"):
        choose_serving(environment, strict=True)


def test_the_custom_checkpoint_is_taken_exactly_and_else_serving_json(tmp_path):
    chosen = Environment.load({"XTTS_CUSTOM_CHECKPOINT": str(tmp_path)})
    assert choose_serving(chosen, strict=True) == Checkpoint(tmp_path, "custom-checkpoint")
    followed = Environment.load({"XTTS_CORPUS_ROOT": str(tmp_path)})
    assert choose_serving(followed, strict=True) == tmp_path / "serving.json"


def test_a_release_behind_a_link_out_of_the_root_is_refused(releases, tmp_path):
    outside = tmp_path / "outside"
    sha256 = releases.make(outside, {"hz": 1.0})
    (releases.root / "releases").mkdir(parents=True)
    (releases.root / "releases" / "1").symlink_to(outside)
    releases.point(1, sha256)
    with pytest.raises(ReleaseError, match="lies outside"):
        read_serving(releases.serving)
