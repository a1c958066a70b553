"""Sets up `.venv` at the root of the checkout when a program from bin/ needs it, then runs the program there.

Standard library only, and only syntax that Python 3.6 reads too (hence no newer annotations), so that an old Python
says in words what it lacks. Slow imports wait until there is something to set up: once it is finished, a program from
bin/ starts with a look at the marker alone.
"""

import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
VENV_PYTHON = os.path.join(VENV, "bin", "python")
MARKER = os.path.join(VENV, "zraft-set-up-finished")
LOG = os.path.join(VENV, "zraft-set-up.log")
LOCK = os.path.join(ROOT, ".venv.lock")
OLDEST_PYTHON = (3, 10)

# What pip needs; then calls, attributes, dictionaries, tuples. Prints the shortest time of some.
SOME_WORK = """
import ctypes, ensurepip, ssl, sys, time
assert sys.implementation.name == "cpython"
class Thing:
    def __init__(self, number):
        self.number = number
    def pair(self, other):
        return other, self.number
def work():
    things = {number: Thing(number) for number in range(1000)}
    for number in range(10000):
        key, value = things[number % 1000].pair(number)
        things[value].number = key % 1000
times = []
for _ in range(9):
    start = time.perf_counter()
    work()
    times.append(time.perf_counter() - start)
print(min(times))
"""

NO_NETWORK_SIGNS = (
    "NewConnectionError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "ProxyError",
    "SSLError",
    "Temporary failure in name resolution",
)


class SetUpFailed(Exception):
    """The set-up cannot go on. The text is one line: what failed, and what to do."""


def run_module(module, for_tests=False):
    """Replace this process by `module` in the virtualenv, with this process's arguments; never returns.

    Makes the virtualenv first if need be; `for_tests` wants what the tests need in it as well.
    """
    ensure_venv(for_tests)
    os.execv(VENV_PYTHON, [VENV_PYTHON, "-m", module] + sys.argv[1:])


def ensure_venv(for_tests=False):
    """Return when `.venv` is complete; end the process with one line and status 1 if that cannot be."""
    if _is_finished(for_tests):
        return
    try:
        _set_up(for_tests)
    except SetUpFailed as failure:
        sys.exit(f"zraft set-up failed: {failure}")
    except OSError as error:
        sys.exit(f"zraft set-up failed: {error.filename or ROOT}: {error.strerror}")
    except KeyboardInterrupt:
        sys.exit("zraft set-up: interrupted; the next command starts over")


def _is_finished(for_tests):
    """Whether a set-up of what setup.cfg and pyproject.toml say now, in this very folder, was finished."""
    try:
        with open(MARKER, encoding="utf-8") as marker:
            fingerprint, extras = marker.read().split()
    except (OSError, ValueError):
        return False
    if for_tests and extras != "test":
        return False
    return fingerprint == _fingerprint() and os.path.exists(VENV_PYTHON)


def _fingerprint():
    import hashlib

    digest = hashlib.sha256(os.fsencode(ROOT))  # a virtualenv that was moved still imports from where it was made
    for name in ("setup.cfg", "pyproject.toml"):
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(b"\0" + file.read())
    return digest.hexdigest()


def _set_up(for_tests):
    _check_python()
    with open(LOCK, "ab") as lock:
        _take_lock(lock)
        if _is_finished(for_tests):
            return
        if os.path.exists(MARKER):
            os.remove(MARKER)
        _say(f"once, in {VENV} (takes up to a minute)")
        python = None if _is_usable_venv() else _fastest_python()
        try:
            if python is not None:
                _make_venv(python, lock)
            _install(for_tests, lock)
        except SetUpFailed as failure:
            if python in (None, sys.executable) or "network" in str(failure):
                raise
            _say(f"{failure}; once more, with {sys.executable}")
            _make_venv(sys.executable, lock)
            _install(for_tests, lock)
        _write_marker(for_tests)
        _say("finished")


def _check_python():
    if sys.version_info >= OLDEST_PYTHON:
        return
    import shutil

    names = [f"python3.{minor}" for minor in range(OLDEST_PYTHON[1], 30)]
    newer = [name for name in names if shutil.which(name)]
    program = os.path.relpath(sys.argv[0])
    hint = f"run {newer[-1]} {program}" if newer else "install one, then run this again"
    raise SetUpFailed(
        f"zraft needs Python {OLDEST_PYTHON[0]}.{OLDEST_PYTHON[1]} or newer and this is "
        f"{sys.version.split()[0]} ({sys.executable}); {hint}"
    )


def _take_lock(lock):
    """Hold `lock` until this process ends, and, as pip inherits it, until a pip that outlived it has ended."""
    import fcntl

    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _say("another command is at it; waiting for it to finish")
        fcntl.flock(lock, fcntl.LOCK_EX)


def _is_usable_venv():
    """Whether `.venv` holds a Python that is new enough and has pip (a set-up that was killed may leave less)."""
    import subprocess

    check = f"import sys, pip; sys.exit(sys.version_info < {OLDEST_PYTHON!r} or sys.prefix == sys.base_prefix)"
    try:
        return subprocess.call([VENV_PYTHON, "-c", check], stderr=subprocess.DEVNULL) == 0
    except OSError:
        return False


def _make_venv(python, lock):
    _say(f"making the virtualenv with {python}")
    status, output = _run([python, "-m", "venv", "--clear", VENV], lock, None)
    if status != 0:
        last = output[-1] if output else "no output"
        raise SetUpFailed(f"python -m venv ended with status {status}: {last}; remove {VENV}, then run this again")


def _fastest_python():
    """This Python, or another build of the same version if that is faster by a tenth at least.

    One that was compiled without profile-guided optimization, as pyenv does it unless told otherwise, takes a fifth
    longer for everything than the system's.
    """
    import shutil

    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    pythons = [sys.executable]
    for folder in ["/usr/bin", "/usr/local/bin"] + os.get_exec_path():
        path = shutil.which(name, path=folder)
        if path and os.path.realpath(path) not in map(os.path.realpath, pythons):
            pythons.append(path)
    times = {}
    for _ in range(3):  # in turns, for a machine's speed changes
        for python in pythons:
            seconds = _seconds_of(python)
            if seconds is not None:
                times[python] = min(seconds, times.get(python, seconds))
    fastest = min(times, key=times.get, default=None)
    if fastest is None:
        raise SetUpFailed(
            f"this Python ({sys.executable}) cannot make virtualenvs, for it lacks ensurepip; on Debian or Ubuntu: "
            f"apt install {name}-venv, then run this again"
        )
    if times[fastest] > 0.9 * times.get(sys.executable, float("inf")):
        return sys.executable
    return fastest


def _seconds_of(python):
    """How long this Python takes for some work of the kind that zraft does; None: it lacks what a virtualenv needs."""
    import subprocess

    try:
        output = subprocess.check_output([python, "-I", "-c", SOME_WORK], stderr=subprocess.DEVNULL, timeout=10)
        return float(output)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _install(for_tests, lock):
    _say("installing zraft and what it needs" + (" and what its tests need" if for_tests else ""))
    what = ROOT + ("[test]" if for_tests else "")
    options = ["--disable-pip-version-check", "--no-input", "--retries", "2", "--editable"]
    status, output = _run([VENV_PYTHON, "-m", "pip", "install"] + options + [what], lock, LOG)
    if status == 0:
        return
    if any(sign in line for line in output for sign in NO_NETWORK_SIGNS):
        raise SetUpFailed(f"pip could not fetch packages; check the network, then run this again (details: {LOG})")
    errors = [line for line in output if line.startswith("ERROR")] or output or ["no output"]
    raise SetUpFailed(f"pip ended with status {status}: {errors[-1]} (details: {LOG})")


def _run(command, lock, log):
    """Run `command`, showing what pip fetches as progress; return its status and its lines of output."""
    import subprocess

    lines = []
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(lock.fileno(),),
    )
    for raw in process.stdout:
        line = raw.decode("utf-8", "replace").rstrip()
        if line.startswith(("Collecting ", "Installing collected", "  Downloading ")):
            _say(line.strip()[:100])
        if line.strip():
            lines.append(line.strip())
    status = process.wait()
    if log is not None:
        with open(log, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
    return status, lines


def _write_marker(for_tests):
    beside = MARKER + ".new"
    with open(beside, "w", encoding="utf-8") as file:
        file.write("{} {}\n".format(_fingerprint(), "test" if for_tests else "plain"))
    os.replace(beside, MARKER)


def _say(text):
    sys.stderr.write(f"zraft set-up: {text}\n")
    sys.stderr.flush()
