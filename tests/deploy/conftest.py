"""A PostgreSQL server of the tests' own, and the files of deploy/ as data."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import psycopg2
import pytest
import yaml

USER = "dagster"


@dataclass(frozen=True)
class Server:
    """A running PostgreSQL server."""

    port: int
    password: str

    def run(self, statement: str, database: str = "postgres") -> list[Any]:
        """The rows that a statement gives."""
        connection = psycopg2.connect(
            host="127.0.0.1",
            port=self.port,
            user=USER,
            password=self.password,
            dbname=database,
        )
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            rows = cursor.fetchall() if cursor.description else []
        connection.close()
        return rows

    def create_database(self, name: str) -> dict[str, str]:
        """A new, empty database, as the variables of deploy/dagster.yaml."""
        self.run(f'CREATE DATABASE "{name}"')
        return {
            "DAGSTER_POSTGRES_HOST": "127.0.0.1",
            "DAGSTER_POSTGRES_PORT": str(self.port),
            "DAGSTER_POSTGRES_USER": USER,
            "DAGSTER_POSTGRES_PASSWORD": self.password,
            "DAGSTER_POSTGRES_DB": name,
        }


@pytest.fixture(scope="session")
def postgresql(missing_system_package: Callable[[str], NoReturn]) -> Iterator[Server]:
    """A PostgreSQL server in a folder of its own; gone after the tests."""
    programs = find_postgresql()
    if programs is None:
        missing_system_package("postgresql")
    # Not below pytest's folder, which the server's user may not enter.
    folder = Path(tempfile.mkdtemp(prefix="xtts-postgresql-"))
    try:
        password, port = secrets.token_hex(16), unused_port()
        (folder / "password").write_text(password)
        account = server_account(folder)

        def run(program: str, *arguments: str) -> None:
            subprocess.run(
                [programs / program, *arguments],
                check=True,
                stdout=subprocess.DEVNULL,
                cwd=folder,
                **account,
            )

        data = str(folder / "data")
        run(
            "initdb",
            f"--pgdata={data}",
            f"--username={USER}",
            f"--pwfile={folder / 'password'}",
            "--auth=scram-sha-256",
            "--no-sync",
        )
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        log = str(folder / "server.log")
        run("pg_ctl", "start", "--wait", "-D", data, "-o", options, "-l", log)
        try:
            yield Server(port, password)
        finally:
            run("pg_ctl", "stop", "--wait", "-D", data, "-m", "immediate")
    finally:
        shutil.rmtree(folder)


def find_postgresql() -> Path | None:
    """The folder of initdb and pg_ctl, which Debian keeps off the PATH."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    installed = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    newest = max(installed, key=lambda path: int(path.parts[-3]), default=None)
    return newest.parent if newest else None


def server_account(folder: Path) -> dict[str, Any]:
    """Who runs the server: PostgreSQL refuses root, so root hands the folder to `postgres`."""
    if os.geteuid() != 0:
        return {}
    account = pwd.getpwnam("postgres")
    for path in (folder, *folder.iterdir()):
        os.chown(path, account.pw_uid, account.pw_gid)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    return unused_port


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def deploy(project: Path) -> Path:
    return project / "deploy"


@pytest.fixture(scope="session")
def compose(deploy: Path) -> Mapping[str, Any]:
    """compose.yaml, its variables not filled in."""
    parsed: Mapping[str, Any] = yaml.safe_load((deploy / "compose.yaml").read_text())
    return parsed


@pytest.fixture(scope="session")
def dockerfile(deploy: Path) -> dict[str, list[tuple[str, str]]]:
    """Each stage of the Dockerfile, with its instructions in order: `(COPY, "a b")`."""
    text = (deploy / "Dockerfile").read_text().replace("\\\n", " ")
    stages: dict[str, list[tuple[str, str]]] = {}
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        instruction, _, rest = line.strip().partition(" ")
        if instruction == "FROM":
            stages[rest.split()[2]] = []
        list(stages.values())[-1].append((instruction, " ".join(rest.split())))
    return stages
