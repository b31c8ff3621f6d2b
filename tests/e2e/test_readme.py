"""Every command of the README, in its order, on a recording and the tiny model."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

RATE_HZ = 22_050
RUN_ELSEWHERE = {
    "make demo": "test_demo.py",
    "make test": "CI",
    "make install": "make demo, make test",
    "make dev": "test_dagster_dev.py",
}
REFUSED = {"xtts export voice/ --to coqui": "vocoder in one size"}
SERVERS = {"make serve": "serves", "tensorboard --logdir data/training": "Press CTRL+C to quit"}
COMMAND = re.compile(
    r"^ {4,}((?:make|xtts|xtts-say) .+)$|`((?:make|xtts|export|tensorboard) [^`]+)`", re.MULTILINE
)


class Terminal:
    """A user's terminal: one working folder, `.venv/bin` first, variables that stay."""

    def __init__(self, programs: Any, project: Path, home: Path, video_url: str) -> None:
        self._programs = programs
        self._project = project
        self._url = video_url
        self.home = home
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        self._variables = {
            **os.environ,
            **programs.environment,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "DAGSTER_HOME": str(home),
            "XTTS_CONFIG_DIR": str(project / "examples" / "demo" / "config"),
            "XTTS_GRPC_ADDRESS": address,
        }

    def type(self, line: str) -> None:
        """Run one line as the README has it."""
        if line.startswith("export "):
            name, _, value = line.removeprefix("export ").partition("=")
            self._variables[name] = value
        elif line in SERVERS:
            self._serve(line)
        else:
            result = subprocess.run(["bash", "-c", self._here(line)], **self._options(), text=True)
            said = f"{line}\n{result.stdout}{result.stderr}"
            if line in REFUSED:
                assert result.returncode == 2, said
                assert REFUSED[line] in result.stderr
            else:
                assert result.returncode == 0, said

    def _serve(self, line: str) -> None:
        log = self.home / "logs" / f"{line.split()[0]}.log"
        log.parent.mkdir(exist_ok=True)
        with log.open("w") as output:
            options = {**self._options(), "stdout": output, "stderr": subprocess.STDOUT}
            process = subprocess.Popen(
                ["bash", "-c", self._here(line)], **options, text=True, start_new_session=True
            )
        self._programs.started.append(process)
        self._programs.wait_for(log.parent, lambda: SERVERS[line] in log.read_text(), within_s=90)

    def _here(self, line: str) -> str:
        """The line for this machine: YouTube is out of reach, and the Makefile lies elsewhere."""
        line = re.sub(r"https://www\.youtube\.com/\S+(?=\")", self._url, line)
        return line.replace("make ", f"make -C '{self._project}' ")

    def _options(self) -> dict[str, Any]:
        return {
            "cwd": self.home,
            "env": self._variables,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        }


@pytest.fixture
def terminal(
    programs: Any, project: Path, demo: Path, site: tuple[str, list[str]], tmp_path: Path
) -> Terminal:
    """In a folder with a recording, its subtitles, and 8 s of somebody else."""
    shutil.copy(project / "dagster.yaml", tmp_path)
    (tmp_path / "recordings").mkdir()
    shutil.copy(demo / "cidade-alex.webm", tmp_path / "recordings" / "aula-01.webm")
    speech = decoded(demo / "feira-dora.webm")
    soundfile.write(tmp_path / "someone.wav", speech[5 * RATE_HZ : 13 * RATE_HZ], RATE_HZ)
    return Terminal(programs, project, tmp_path, site[0])


def decoded(video: Path) -> NDArray[np.int16]:
    """A video's sound at 22 050 Hz."""
    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE_HZ)
    with av.open(str(video)) as container:
        frames = [
            resampled.to_ndarray()[0]
            for frame in container.decode(audio=0)
            for resampled in resampler.resample(frame)
        ]
    return np.concatenate(frames)


def test_every_command_of_the_readme_works(terminal: Terminal, project: Path) -> None:
    text = (project / "README.md").read_text(encoding="utf-8")
    lines = [" ".join((block or inline).split()) for block, inline in COMMAND.findall(text)]
    assert {"xtts run", "xtts train", "make serve"} <= set(lines)
    for line in lines:
        if line not in RUN_ELSEWHERE:
            terminal.type(line)
    speech = soundfile.info(terminal.home / "bom-dia.wav")
    assert speech.samplerate == 24_000
    assert speech.duration > 0.5
    assert (terminal.home / "someone-says.wav").is_file()
