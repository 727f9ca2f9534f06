"""The system calls that a sandboxed process may not make, as the filter that bubblewrap loads. Standard library only.

A second wall: the namespaces already hide other processes, files and networks. It closes what they leave open: sockets
of any kind, tracing, shared memory and message queues (no resource limit counts them), namespaces of its own, limits
and priorities of the process that it comes from, and parts of the kernel that such code has no use for. A refused call
fails with EPERM; a call of another architecture ends the process.
"""

from __future__ import annotations

import errno
import platform
import struct

# Name: number on x86-64, number on ARM64 (Linux: arch/x86/entry/syscalls/syscall_64.tbl, asm-generic/unistd.h).
REFUSED = {
    "socket": (41, 198),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "unshare": (272, 97),
    "setns": (308, 268),
    "chroot": (161, 51),
    "pivot_root": (155, 41),
    "mount": (165, 40),
    "umount2": (166, 39),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "fanotify_init": (300, 262),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "syslog": (103, 116),
    "quotactl": (179, 60),
    "acct": (163, 89),
    "kexec_load": (246, 104),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
}
CLONE3 = 435  # its flags cannot be read by a filter; C libraries fall back to clone
CLONE = {"x86_64": 56, "aarch64": 220}
NEW_NAMESPACES = 0x7E020000  # CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}
PRLIMIT = {"x86_64": 302, "aarch64": 261}  # allowed on oneself only: process 0
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH
X32 = 0x40000000  # x86-64 numbers from here on name the calls again

# Classic BPF: what is loaded are fields of `struct seccomp_data`.
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER_FIELD, ARCHITECTURE_FIELD, FIRST_ARGUMENT_FIELD = 0, 4, 16
KILL, FAIL, ALLOW = 0x80000000, 0x00050000, 0x7FFF0000


def supported() -> bool:
    """Whether the filter is known for this machine's processor."""
    return platform.machine() in MACHINES


def program(machine: str | None = None) -> bytes:
    """The filter as an array of `struct sock_filter`, for `bwrap --seccomp`."""
    machine = machine or platform.machine()
    column, architecture = MACHINES[machine]
    code = bytearray()

    def add(operation: int, value: int, if_true: int = 0, if_false: int = 0) -> None:
        code.extend(struct.pack("=HBBI", operation, if_true, if_false, value))

    def answer(operation: int, value: int, what: int) -> None:
        """Return `what` where the comparison holds, else go on."""
        add(operation, value, 0, 1)
        add(RETURN, what)

    add(LOAD, ARCHITECTURE_FIELD)
    add(EQUAL, architecture, 1, 0)
    add(RETURN, KILL)
    add(LOAD, NUMBER_FIELD)
    answer(AT_LEAST, X32, KILL)
    answer(EQUAL, CLONE3, FAIL | errno.ENOSYS)
    for numbers in REFUSED.values():
        answer(EQUAL, numbers[column], FAIL | errno.EPERM)
    for number, bits in ((CLONE[machine], NEW_NAMESPACES), (PRLIMIT[machine], 0xFFFFFFFF)):
        add(EQUAL, number, 0, 4)
        add(LOAD, FIRST_ARGUMENT_FIELD)
        add(ANY_BIT, bits, 0, 1)
        add(RETURN, FAIL | errno.EPERM)
        add(RETURN, ALLOW)
    add(RETURN, ALLOW)
    return bytes(code)
