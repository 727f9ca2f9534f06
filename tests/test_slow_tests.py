"""CI's choice among the slow tests: what is touched first, and never more than its time."""

import subprocess
import sys

from tools.slow_tests import ROOT, chosen, times

KNOWN = times()


def test_what_has_a_time_has_slow_tests() -> None:
    lines = (ROOT / "tests" / "slow.txt").read_text().splitlines()
    timed = {line.split()[1] for line in lines if not line.startswith("#")}
    assert timed <= KNOWN.keys()
    assert KNOWN["tests/test_kill_lora.py"] == 120  # not timed
    assert KNOWN["tests/plan/test_goals.py"] == 47


def test_what_is_touched_comes_first_and_the_time_is_kept() -> None:
    known = {"tests/plan/test_goals.py": 50, "tests/plan/test_forecast.py": 40, "tests/test_api.py": 5}
    known |= {"tests/samplers/gp/test_resume.py": 10, "tests/samplers/mads/test_resume.py": 9}
    assert chosen(known, ["meshtune/plan/goals.py"], 95) == [
        "tests/plan/test_goals.py",
        "tests/test_api.py",
        "tests/plan/test_forecast.py",
    ]
    assert chosen(known, ["meshtune/plan/goals.py"], 60) == ["tests/plan/test_goals.py", "tests/test_api.py"]
    assert chosen(known, ["tests/plan/test_forecast.py"], 40) == ["tests/plan/test_forecast.py"]
    resumes = ["tests/samplers/gp/test_resume.py", "tests/samplers/mads/test_resume.py"]
    assert chosen(known, ["meshtune/samplers/build.py"], 19) == ["tests/test_api.py", resumes[1]]
    assert chosen(known, ["meshtune/samplers/gp/resume.py"], 10) == resumes[:1]
    assert chosen(known, [], 1000) == []


def test_the_program_prints_files_that_pytest_takes() -> None:
    command = [
        sys.executable,
        "-m",
        "tools.slow_tests",
        subprocess.run(
            ["git", "hash-object", "-t", "tree", "/dev/null"], capture_output=True, text=True, check=True, cwd=ROOT
        ).stdout.strip(),
        "200",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    files = done.stdout.split()
    assert sum(KNOWN[file] for file in files) <= 200
    assert {line.split()[4] for line in done.stderr.splitlines()} == KNOWN.keys() - set(files)
