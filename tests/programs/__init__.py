"""Programs that tests start in processes of their own, and how they are started."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 600


def start(*arguments: str | Path, **environment: str | Path) -> subprocess.Popen[str]:
    """Starts `python ARGUMENTS` at the root of the repository, on the CPU, with pipes."""
    variables = {"JAX_PLATFORMS": "cpu"} | {name: str(value) for name, value in environment.items()}
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """What a process printed; an error unless it ends well, and in time."""
    try:
        output, errors = process.communicate(timeout=TIMEOUT)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, errors
    return output


def run(*arguments: str | Path, **environment: str | Path) -> str:
    """Runs `python ARGUMENTS` to its end and gives back what it printed."""
    return finish(start(*arguments, **environment))


def run_two(*arguments: str | Path, **environment: str | Path) -> Sequence[str]:
    """Runs `python ARGUMENTS` as the two processes of one distributed program."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    processes = [
        start(
            *arguments,
            JAX_COORDINATOR_ADDRESS=address,
            JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(index),
            **environment,
        )
        for index in range(2)
    ]
    try:
        return [finish(process) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
