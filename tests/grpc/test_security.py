"""TLS, mutual TLS and tokens over a real channel, with certificates that openssl made."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import grpc
import pytest

from xtts_core.errors import SettingsError
from xtts_grpc.client import ClientTls, ServiceDownError, ServiceError, SynthesisClient
from xtts_grpc.security import NEEDED, Tls, Tokens
from xtts_grpc.v1 import synthesis_pb2 as pb
from xtts_grpc.v1 import synthesis_pb2_grpc as pb_grpc

TEXT = "Bom dia."
SPEAK, CLONE, ADMIN = ("s" * 32, "c" * 32, "a" * 32)


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "tokens.txt"
    path.write_text(f"# who may call\n\nspeak {SPEAK}\nclone {CLONE}\nadmin {ADMIN}\n")
    return path


@pytest.fixture(scope="session")
def certificates(tmp_path_factory, missing_system_package):
    """An authority, and certificates of a service and of a caller that it signed."""
    folder = tmp_path_factory.mktemp("certificates")

    program = shutil.which("openssl") or missing_system_package("openssl")

    def openssl(*arguments):
        subprocess.run([program, *arguments], cwd=folder, check=True, capture_output=True)

    for name in ("ca", "stranger"):
        openssl(
            *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem"),
        )
    (folder / "extension").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    for name, signer in (("service", "ca"), ("caller", "ca"), ("intruder", "stranger")):
        openssl(
            *("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}"),
            *("-keyout", f"{name}.key", "-out", f"{name}.csr"),
        )
        openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", f"{signer}.pem", "-days", "2"),
            *("-CAkey", f"{signer}.key", "-CAcreateserial", "-extfile", "extension"),
            *("-out", f"{name}.pem"),
        )
    return folder


def calls(client, audio):
    """Each call by its name, and the role that it needs."""
    voice_id = "voice-0000000000000000"
    return {
        "Synthesize": (1, lambda: client.synthesize(TEXT, voice_id="dora")),
        "SynthesizeStream": (1, lambda: list(client.stream(TEXT, voice_id="dora"))),
        "ListVoices": (1, lambda: list(client.list_voices())),
        "GetVoice": (1, lambda: client.get_voice(voice_id)),
        "GetModel": (1, client.get_model),
        "CloneVoice": (2, lambda: client.clone_voice([audio])),
        "DeleteVoice": (3, lambda: client.delete_voice(voice_id)),
        "ReloadModel": (3, client.reload_model),
    }


@pytest.mark.parametrize(("token", "held"), [(None, 0), (SPEAK, 1), (CLONE, 2), (ADMIN, 3)])
def test_each_call_asks_for_the_role_that_it_needs(
    start, releases, token_file, audio_file, token, held
):
    releases.publish(1)
    running = start(token_file=token_file)
    running.health.wait_for("SERVING")
    with SynthesisClient(running.address, token=token, timeout_s=30) as client:
        for name, (needed, call) in calls(client, audio_file(4.0)).items():
            try:
                call()
                code = grpc.StatusCode.OK
            except ServiceError as error:
                code, reason = error.code, error.service_reason
            if held == 0:
                assert (name, code) == (name, grpc.StatusCode.UNAUTHENTICATED)
                assert reason == "unauthenticated"
            elif held < needed:
                assert (name, code) == (name, grpc.StatusCode.PERMISSION_DENIED)
                assert reason == "permission_denied"
            else:
                # There is no such voice, which only those are told who may ask.
                assert code in (grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND)


def test_every_call_of_the_service_has_its_role(running, audio_file):
    methods = pb.DESCRIPTOR.services_by_name["SynthesisService"].methods_by_name
    assert set(calls(running.client, audio_file(4.0))) == set(methods)
    assert set(NEEDED) == set(methods)


@pytest.mark.parametrize(
    "sent", ["", f"Bearer {SPEAK}x", SPEAK, f"Basic {SPEAK}", "Bearer", f"Bearer {SPEAK} {ADMIN}"]
)
def test_a_token_that_is_not_in_the_file_is_no_token(start, releases, token_file, sent):
    releases.publish(1)
    running = start(token_file=token_file)
    stub = pb_grpc.SynthesisServiceStub(grpc.insecure_channel(running.address))
    with pytest.raises(grpc.RpcError) as refused:
        stub.GetModel(pb.GetModelRequest(), metadata=(("authorization", sent),))
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert ("not known" if sent else "needs a token") in refused.value.details()
    assert SPEAK not in refused.value.details()


def test_tokens_change_with_their_file_and_a_broken_one_changes_nothing(
    start, releases, token_file
):
    releases.publish(1)
    running = start(token_file=token_file)

    def code(token):
        with SynthesisClient(running.address, token=token, timeout_s=30) as client:
            try:
                client.get_model()
            except ServiceError as error:
                return error.code
            return grpc.StatusCode.OK

    new = "n" * 32
    assert (code(SPEAK), code(new)) == (grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED)
    token_file.write_text(f"speak {new}\n")
    assert (code(SPEAK), code(new)) == (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.OK)
    token_file.write_text("speak\n")
    assert code(new) is grpc.StatusCode.OK
    token_file.write_text(f"# João\nspeak {SPEAK}\n", encoding="latin-1")
    assert code(new) is grpc.StatusCode.OK
    token_file.unlink()
    assert code(new) is grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "holds no token"),
        ("# nothing\n", "holds no token"),
        (f"\nking {SPEAK}", "Line 2 is not a role and a token"),
        (f"speak {SPEAK} extra", "Line 1 is not"),
        ("speak short", "Line 1 is not"),
        (f"speak {SPEAK}\nadmin {SPEAK}", "The token of line 2 stands twice"),
    ],
)
def test_a_token_file_that_cannot_be_used_is_refused_and_no_token_told(tmp_path, text, what):
    path = tmp_path / "tokens.txt"
    path.write_text(text)
    with pytest.raises(SettingsError, match=what) as refused:
        Tokens(path)
    assert SPEAK not in str(refused.value)


def read(folder, *names):
    return [(folder / name).read_bytes() for name in names]


def assert_kept_out(address, *callers):
    for tls in callers:
        with (
            SynthesisClient(address, tls=tls, timeout_s=10) as client,
            pytest.raises(ServiceDownError),
        ):
            client.get_model()


def test_with_tls_only_a_caller_that_trusts_the_authority_gets_through(
    start, releases, certificates
):
    releases.publish(1)
    running = start(tls=Tls(certificates / "service.pem", certificates / "service.key"))
    ca, stranger = read(certificates, "ca.pem", "stranger.pem")
    with SynthesisClient(running.address, tls=ClientTls(ca), timeout_s=30) as client:
        client.wait_until_serving(20)
        assert client.synthesize(TEXT, voice_id="dora").duration_s > 0
    assert_kept_out(running.address, ClientTls(stranger), None)


def test_with_mutual_tls_a_caller_has_to_show_a_certificate_of_the_authority(
    start, releases, certificates
):
    releases.publish(1)
    running = start(
        tls=Tls(certificates / "service.pem", certificates / "service.key", certificates / "ca.pem")
    )
    (ca,) = read(certificates, "ca.pem")
    own = ClientTls(ca, *read(certificates, "caller.pem", "caller.key"))
    with SynthesisClient(running.address, tls=own, timeout_s=30) as client:
        client.wait_until_serving(20)
        assert client.get_model().serving
    intruder = ClientTls(ca, *read(certificates, "intruder.pem", "intruder.key"))
    assert_kept_out(running.address, ClientTls(ca), intruder)


def test_a_certificate_and_a_key_are_needed_together_and_have_to_fit(
    start, releases, certificates, tmp_path
):
    pem, key = certificates / "service.pem", certificates / "service.key"
    assert Tls.chosen(None, None, None) is None
    assert Tls.chosen(pem, key, None) == Tls(pem, key)
    for half in ((pem, None, None), (None, key, None), (None, None, pem)):
        with pytest.raises(SettingsError, match="TLS needs a certificate and its key"):
            Tls.chosen(*half)
    with pytest.raises(SettingsError, match=r"XTTS_TLS_KEY .*none\.key"):
        Tls(pem, tmp_path / "none.key").credentials()
    with pytest.raises(SettingsError, match="the certificate and its key cannot be used"):
        start(tls=Tls(pem, certificates / "caller.key"))


def test_xtts_say_speaks_with_a_token_over_tls(start, releases, certificates, token_file, tmp_path):
    releases.publish(1)
    running = start(
        tls=Tls(
            certificates / "service.pem", certificates / "service.key", certificates / "ca.pem"
        ),
        token_file=token_file,
    )
    (tmp_path / "token.txt").write_text(f"{SPEAK}\n")
    options = [
        *(sys.executable, "-m", "xtts_grpc.say", TEXT, "--voice", "dora"),
        *("--out", str(tmp_path / "said.wav"), "--address", running.address),
        *("--tls-ca", str(certificates / "ca.pem")),
        *("--tls-cert", str(certificates / "caller.pem")),
    ]
    keyed = [*options, "--tls-key", str(certificates / "caller.key")]

    def said(arguments):
        return subprocess.run(
            arguments, capture_output=True, text=True, check=False, env=os.environ, timeout=60
        )

    done = said([*keyed, "--token-file", str(tmp_path / "token.txt")])
    assert (done.returncode, (tmp_path / "said.wav").is_file()) == (0, True), done.stderr
    assert "needs a token" in said(keyed).stderr
    assert "A certificate needs its key" in said(options).stderr
