"""The command line, run by tests: in this process, or measured in one of its own."""

import subprocess
import sys

from typer.testing import CliRunner

from sentilora.cli.app import app

# Run in a process of its own: the command line, then what it cost.
MEASURED = """
import sys, time
from sentilora.cli.app import main
try:
    main()
finally:
    # Of this process, from its start: what others do on the machine counts little.
    print(f"\\n{time.process_time():.3f} {'torch' in sys.modules}", file=sys.stderr)
"""


def run(*arguments, input=None, folder=None, env=None):
    """(exit code, stdout, stderr) of the command line in this process."""
    done = CliRunner().invoke(app, [str(a) for a in arguments], input=input, env=env)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


def measured(*arguments, folder=None, input=b""):
    """(exit code, stdout, stderr, CPU seconds, torch imported?) in a process of its own."""
    command = [sys.executable, "-c", MEASURED, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, input=input, cwd=folder, check=False)
    *lines, cost = done.stderr.decode().rstrip("\n").split("\n")
    seconds, torch = cost.split()
    stderr = "\n".join(lines).rstrip("\n")
    return done.returncode, done.stdout.decode(), stderr, float(seconds), torch == "True"


def failed(code, said, *arguments, **kwargs):
    """Checks that a call ends with one error line; returns it."""
    exit_code, stdout, stderr = run(*arguments, **kwargs)
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert (exit_code, len(errors), stdout) == (code, 1, ""), stderr
    assert stderr.rstrip("\n").endswith(errors[0])  # nothing behind it, above all no traceback
    assert said in errors[0]
    return errors[0]


def predicted(*arguments, **kwargs):
    code, stdout, stderr = run("predict", *arguments, **kwargs)
    assert code == 0, stderr
    return stdout, stderr
