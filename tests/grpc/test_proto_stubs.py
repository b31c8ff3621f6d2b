"""The checked-in stubs, reflection, and what the proto's comments promise."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_tools import protoc

from xtts_grpc.v1 import synthesis_pb2 as pb

ROOT = Path(__file__).parents[2]
PROTO = "xtts_grpc/v1/synthesis.proto"


@pytest.fixture(scope="module")
def generated(tmp_path_factory) -> Path:
    """What protoc makes of the proto, with its descriptors and comments in `set.bin`."""
    folder = tmp_path_factory.mktemp("protoc")
    code = protoc.main(
        [
            "protoc",
            f"-Ixtts_grpc/v1={ROOT / 'protos/xtts/v1'}",
            f"-I{Path(protoc.__file__).parent / '_proto'}",
            f"--python_out={folder}",
            f"--pyi_out={folder}",
            f"--grpc_python_out={folder}",
            f"--descriptor_set_out={folder / 'set.bin'}",
            "--include_source_info",
            PROTO,
        ]
    )
    assert code == 0
    return folder


@pytest.fixture(scope="module")
def described(generated) -> FileDescriptorProto:
    files = FileDescriptorSet.FromString((generated / "set.bin").read_bytes()).file
    return files[0]


@pytest.mark.parametrize("name", ["synthesis_pb2.py", "synthesis_pb2.pyi", "synthesis_pb2_grpc.py"])
def test_the_checked_in_stubs_are_what_the_proto_gives(generated, name):
    made = (generated / "xtts_grpc/v1" / name).read_text()
    assert (ROOT / "xtts_grpc/v1" / name).read_text() == made, "run `make protos`"


def test_every_element_of_the_proto_is_commented(described):
    commented = {
        tuple(location.path)
        for location in described.source_code_info.location
        if location.leading_comments.strip()
    }
    wanted = {(6, 0): described.service[0].name}
    for index, method in enumerate(described.service[0].method):
        wanted[6, 0, 2, index] = method.name
    for number, message in enumerate(described.message_type):
        wanted[4, number] = message.name
        for index, field in enumerate(message.field):
            wanted[4, number, 2, index] = f"{message.name}.{field.name}"
    for number, enum in enumerate(described.enum_type):
        wanted[5, number] = enum.name
        for index, value in enumerate(enum.value):
            wanted[5, number, 2, index] = value.name
    assert [name for path, name in wanted.items() if path not in commented] == []


def test_the_proto_follows_bufs_standard_rules(described):
    assert described.package == "xtts.v1"
    [service] = described.service
    assert service.name.endswith("Service")
    for method in service.method:
        assert method.input_type == f".xtts.v1.{method.name}Request"
        assert method.output_type == f".xtts.v1.{method.name}Response"
    for enum in described.enum_type:
        prefix = "".join(f"_{c}" if c.isupper() else c.upper() for c in enum.name)[1:]
        assert enum.value[0].name == f"{prefix}_UNSPECIFIED"
        assert all(value.name.startswith(f"{prefix}_") for value in enum.value)
    for message in described.message_type:
        assert all(field.name.islower() for field in message.field)


def test_reflection_describes_the_service(running):
    with grpc.insecure_channel(running.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        requests = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(
                file_containing_symbol="xtts.v1.SynthesisService"
            ),
        ]
        services, files = list(stub.ServerReflectionInfo(iter(requests), timeout=30))
    names = {service.name for service in services.list_services_response.service}
    assert {"xtts.v1.SynthesisService", "grpc.health.v1.Health"} <= names
    found = {
        FileDescriptorProto.FromString(data).name
        for data in files.file_descriptor_response.file_descriptor_proto
    }
    assert pb.DESCRIPTOR.name == PROTO
    assert PROTO in found
