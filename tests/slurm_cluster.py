"""A SLURM of one node with accounting, for tests: its daemons (Debian's `slurm-wlm`, `slurmdbd`, `mariadb-server`)."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

PROGRAMS = ("munged", "mariadbd", "mariadb-install-db", "slurmdbd", "slurmctld", "slurmd", "sbatch", "sacct")


def missing() -> list[str]:
    """The programs that are not on this machine."""
    return [program for program in PROGRAMS if shutil.which(program, path=_path()) is None]


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def _port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class SlurmCluster:
    """A controller, a node and the database of accounts; `environment` makes the commands find them."""

    def __init__(self, folder: Path, cpus: int = 2):
        self.folder, self._running = folder, list[subprocess.Popen[bytes]]()
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
        self.environment = {**os.environ, "PATH": _path(), "SLURM_CONF": str(folder / "slurm.conf")}
        try:
            self._munge()
            self._database()
            self._slurm(cpus)
        except BaseException:
            self.close()
            raise

    def _munge(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        run = self.folder / "munge"
        run.mkdir(mode=0o755)
        options = {
            "key-file": key,
            "socket": run / "socket",
            "pid-file": run / "pid",
            "log-file": run / "log",
            "seed-file": run / "seed",
        }
        self._start("munged", "--foreground", "--force", *(f"--{name}={value}" for name, value in options.items()))
        self._until(lambda: (run / "socket").exists(), "munge")

    def _database(self) -> None:
        data, self._db = self.folder / "mariadb", _port()
        install = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--user=root", "--skip-test-db"]
        self._run(*install, "--auth-root-authentication-method=normal")
        own = ["--no-defaults", f"--datadir={data}", "--user=root", f"--socket={data}/s", "--bind-address=127.0.0.1"]
        self._start("mariadbd", *own, f"--port={self._db}", "--innodb-buffer-pool-size=64M")
        self._until(lambda: (data / "s").exists(), "the database")
        grant = "create database slurm_acct_db; create user 'slurm'@'%' identified by 'x'; "
        self._run("mariadb", f"--socket={data}/s", "-e", grant + "grant all on slurm_acct_db.* to 'slurm'@'%'")

    def _slurm(self, cpus: int) -> None:
        host = socket.gethostname().partition(".")[0]
        auth = f"AuthType=auth/munge\nAuthInfo=socket={self.folder}/munge/socket\n"
        accounts = _port()
        log = self.folder / "slurmdbd.log"
        (self.folder / "slurmdbd.conf").write_text(
            f"{auth}DbdHost={host}\nDbdAddr=127.0.0.1\nDbdPort={accounts}\nSlurmUser=root\nLogFile={log}\n"
            f"PidFile={self.folder}/slurmdbd.pid\nStorageType=accounting_storage/mysql\nStorageHost=127.0.0.1\n"
            f"StoragePort={self._db}\nStorageUser=slurm\nStoragePass=x\nStorageLoc=slurm_acct_db\n"
        )
        (self.folder / "slurmdbd.conf").chmod(0o600)
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        (self.folder / "slurm.conf").write_text(
            f"{auth}ClusterName=test\nSlurmctldHost={host}(127.0.0.1)\nSlurmUser=root\nSlurmdUser=root\n"
            f"SlurmctldPort={_port()}\nSlurmdPort={_port()}\nStateSaveLocation={self.folder}/state\n"
            f"SlurmdSpoolDir={self.folder}/spool\nSlurmctldLogFile={self.folder}/slurmctld.log\n"
            f"SlurmdLogFile={self.folder}/slurmd.log\nSlurmctldPidFile={self.folder}/slurmctld.pid\n"
            f"SlurmdPidFile={self.folder}/slurmd.pid\nProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\n"
            "SelectType=select/cons_tres\nSelectTypeParameters=CR_CPU\nAccountingStorageType=accounting_storage/slurmdbd\n"
            f"AccountingStorageHost=127.0.0.1\nAccountingStoragePort={accounts}\n"
            f"AccountingStoragePass={self.folder}/munge/socket\nJobAcctGatherType=jobacct_gather/none\n"
            "ReturnToService=2\nMpiDefault=none\nJobRequeue=1\nSchedulerParameters=sched_interval=1,batch_sched_delay=1\n"
            "MinJobAge=300\nKillWait=5\n"
            f"NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=2000 State=UNKNOWN\n"
            "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n"
        )
        self._start("slurmdbd", "-D")
        self._until(lambda: _listens(accounts), "slurmdbd")
        self.command("sacctmgr", "-i", "add", "cluster", "test")
        self._start("slurmctld", "-D", "-c")
        self._start("slurmd", "-D", "-c")
        self._until(lambda: "idle" in self.command("sinfo", "-h", "-o", "%T", check=False), "the node")

    def command(self, *arguments: str, check: bool = True) -> str:
        """What a command of SLURM prints."""
        done = subprocess.run(arguments, capture_output=True, text=True, env=self.environment, check=False)
        assert not check or done.returncode == 0, done.stderr
        return done.stdout

    def _run(self, *arguments: str) -> None:
        done = subprocess.run(arguments, capture_output=True, text=True, env=self.environment, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def _start(self, *arguments: str) -> None:
        log = (self.folder / f"{arguments[0]}.out").open("ab")
        with log:
            self._running.append(
                subprocess.Popen(arguments, stdout=log, stderr=log, env=self.environment, start_new_session=True)
            )

    def _until(self, true: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + 90
        while not true():
            dead = [process.args for process in self._running if process.poll() is not None]
            logs = "\n".join(path.read_text(errors="replace")[-1500:] for path in self.folder.glob("*.out"))
            assert not dead, f"{dead} ended\n{logs}"
            assert time.monotonic() < until, f"{what} did not come up\n{logs}"
            time.sleep(0.2)

    def close(self) -> None:
        """End all daemons."""
        for process in reversed(self._running):
            process.terminate()
        for process in self._running:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
