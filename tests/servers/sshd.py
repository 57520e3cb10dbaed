"""An sshd of this user on a loopback port, with keys and a home in a folder of its own, and a queue behind it.

The queue is a stand-in for Slurm: its commands start a job at once, list those that live, and know no others.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil

from tests.servers.ports import free_ports

HOST = "my-cluster"
SEARCHED = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
UP_S = 20.0

SERVER = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
PidFile {folder}/sshd.pid
AuthorizedKeysFile {folder}/mine.pub
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
ForceCommand HOME={folder}/home PATH={folder}/bin:$PATH exec bash -c "$SSH_ORIGINAL_COMMAND"
"""

CLIENT = """\
Host {host}
  HostName 127.0.0.1
  Port {port}
  IdentityFile {folder}/mine
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile {folder}/known_hosts
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
"""

PROFILE = """\
echo 'Welcome to the cluster; 3 jobs are running'
echo 'stty: no terminal' >&2
export PATH={folder}/bin:$PATH
"""

SBATCH = """\
#!/bin/bash
[ $# = 1 ] && [ -f "$1" ] || {{ echo "no script: $*" >&2; exit 1; }}
[ -e {folder}/before ] && . {folder}/before
exec 9> {folder}/lock; flock 9
id=$(( $(cat {folder}/next) + 1 )); echo $id > {folder}/next
name=$(sed -n 's/^#SBATCH --job-name=//p' "$1" | tr -d '"')
out=$(sed -n 's/^#SBATCH --output=//p' "$1"); err=$(sed -n 's/^#SBATCH --error=//p' "$1")
SLURM_JOB_ID=$id setsid bash "$1" > "$out" 2> "$err" < /dev/null 9>&- &
echo "$! $name" > {folder}/jobs/$id
[ -e {folder}/after ] && . {folder}/after
echo "Submitted batch job $id"
"""

SQUEUE = """\
#!/bin/bash
for file in {folder}/jobs/*; do
  read -r pid name < "$file" && grep -q '^State:.[^ZX]' /proc/$pid/status 2> /dev/null || continue
  echo "$(basename $file)<><> R<><> None<><> $name<><> me<><> main<><> 1:00:00<><> 1<><> 1<><> 0:01<><> 1G"
done
"""

SCONTROL = "#!/bin/bash\necho 'slurm_load_jobs error: Invalid job id specified' >&2\nexit 1\n"
SCANCEL = "#!/bin/bash\nread -r pid name < {folder}/jobs/${{!#}} && kill -TERM -- -$pid\n"


def reason_to_skip() -> str:
    """Why there can be no sshd here; empty if there can."""
    if missing := [name for name in ("sshd", "ssh", "ssh-keygen") if shutil.which(name, path=SEARCHED) is None]:
        return f"no {', '.join(missing)}: apt-get install openssh-server"
    return ""


class Sshd:
    """The server. `ssh -F config my-cluster` reaches it without a question."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config, self.port = folder / "ssh_config", free_ports()
        for name in ("home", "bin", "jobs"):
            (folder / name).mkdir(parents=True)
        for name in ("host", "mine", "strange"):
            line = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)]
            subprocess.run(line, check=True)
        host_key = (folder / "host.pub").read_text()
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {host_key}")
        (folder / "sshd_config").write_text(SERVER.format(folder=folder, port=self.port))
        self.config.write_text(CLIENT.format(folder=folder, port=self.port, host=HOST))
        (folder / "home" / ".bash_profile").write_text(PROFILE.format(folder=folder))
        (folder / "next").write_text("100\n")
        programs = {"sbatch": SBATCH, "squeue": SQUEUE, "scontrol": SCONTROL, "scancel": SCANCEL}
        for name, text in programs.items():
            self.program(name, text.format(folder=folder))

    def program(self, name: str, text: str) -> None:
        """Put a program on the path of those who log in."""
        (self.folder / "bin" / name).write_text(text)
        (self.folder / "bin" / name).chmod(0o755)

    def start(self) -> None:
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd of root wants it, and leaves it empty
        sshd = str(shutil.which("sshd", path=SEARCHED))
        line = [sshd, "-f", str(self.folder / "sshd_config"), "-E", str(self.folder / "sshd.log")]
        subprocess.run(line, check=True)
        deadline = time.monotonic() + UP_S
        while subprocess.run(
            ["ssh", "-F", str(self.config), HOST, "true"], capture_output=True, check=False
        ).returncode:
            assert time.monotonic() < deadline, (self.folder / "sshd.log").read_text()
            time.sleep(0.1)

    def kill(self) -> None:
        """End the server with all connections, as a lost network does; commands that run there go on."""
        with contextlib.suppress(OSError, ValueError, psutil.NoSuchProcess):
            server = psutil.Process(int((self.folder / "sshd.pid").read_text()))
            for process in [server, *(one for one in server.children(recursive=True) if one.name() == "sshd")]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGKILL)
        (self.folder / "sshd.pid").unlink(missing_ok=True)

    def stop(self) -> None:
        """End server and jobs; a shared connection ends with the server."""
        self.kill()
        for file in (self.folder / "jobs").iterdir():
            with contextlib.suppress(OSError, ValueError):
                os.killpg(int(file.read_text().split()[0]), signal.SIGKILL)

    @property
    def running(self) -> str:
        """What the queue says of the jobs that it has not ended; empty if there are none."""
        return subprocess.run([self.folder / "bin" / "squeue"], capture_output=True, check=True, text=True).stdout

    @property
    def submitted(self) -> list[str]:
        """Names of all jobs that the queue has been handed."""
        return [file.read_text().split()[1] for file in sorted((self.folder / "jobs").iterdir())]
