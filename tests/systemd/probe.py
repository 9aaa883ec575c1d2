"""Tries what the service's sandbox forbids, and writes down what came of it (JSON). Standard library only."""

import ctypes
import errno
import json
import mmap
import os
import platform
import resource
import socket
import sys
import tempfile


def attempt(action):
    """``allowed``, or the error's name."""
    try:
        action()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "error")
    return "allowed"


def personality():
    libc = ctypes.CDLL(None, use_errno=True)
    # PER_LINUX32: what a 32-bit program would ask for
    if libc.personality(0x0008) == -1:
        raise OSError(ctypes.get_errno(), "personality")


def set_user_id():
    with tempfile.NamedTemporaryFile() as file:
        os.chmod(file.name, 0o4755)


def family(number):
    socket.socket(number, socket.SOCK_RAW if number == socket.AF_NETLINK else socket.SOCK_DGRAM).close()


def foreign_call():
    """``getpid`` by the 32-bit door of an x86-64 kernel, in a child: it is killed where that is shut."""
    if platform.machine() != "x86_64":
        return "unknown"
    child = os.fork()
    if child == 0:
        code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        code.write(
            b"\x53\xb8\x14\x00\x00\x00\xcd\x80\x5b\xc3"
        )  # push rbx; mov eax, 20; int 0x80; pop rbx; ret
        function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
        os._exit(0 if function() == os.getpid() else 1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return "allowed" if status == 0 else f"signal {-status}" if status < 0 else "refused"


def libc_call(name, *arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)


def another_namespace():
    """A user namespace, in a child: this process stays where it is."""
    child = os.fork()
    if child == 0:
        try:
            libc_call("unshare", 0x10000000)
        except OSError as error:
            os._exit(error.errno)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        raise OSError(code, "unshare")


def session_keyring():
    """The number of the kernel's session keyring (keyctl(2), KEYCTL_GET_KEYRING_ID, not made anew)."""
    number = {"x86_64": 250, "aarch64": 219}.get(platform.machine())
    return ctypes.CDLL(None).syscall(number, 0, -3, 0) if number else 0


def main():
    with open("/proc/self/status", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file)
    new_privileges = fields["NoNewPrivs"].strip()
    seen = {name: fields[name].strip() for name in ("Seccomp", "CapEff", "CapPrm")}
    mask = os.umask(0)
    os.umask(mask)
    found = {
        "NoNewPrivileges": new_privileges,
        "LockPersonality": attempt(personality),
        # Priority 0 is EINVAL to a kernel that is asked; the filter answers EPERM before. (An allowed priority would
        # depend on this user's limits.)
        "RestrictRealtime": attempt(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(0))),
        "RestrictSUIDSGID": attempt(set_user_id),
        "SystemCallArchitectures": foreign_call(),
        "RestrictAddressFamilies": attempt(lambda: family(socket.AF_PACKET)),
        "AF_UNIX": attempt(lambda: family(socket.AF_UNIX)),
        "AF_INET": attempt(lambda: family(socket.AF_INET)),
        "AF_INET6": attempt(lambda: family(socket.AF_INET6)),
        "AF_NETLINK": attempt(lambda: family(socket.AF_NETLINK)),
        "RestrictNamespaces": attempt(another_namespace),
        # A kernel that is asked answers EFAULT or EINVAL to these; the filter answers EPERM before.
        "ProtectHostname": attempt(lambda: libc_call("sethostname", None, 1)),
        "@debug": attempt(lambda: libc_call("ptrace", -1, 0, None, None)),
        "@mount": attempt(lambda: libc_call("umount2", b"/nowhere", 0)),
        "@clock": attempt(lambda: libc_call("adjtimex", ctypes.c_void_p(0))),
        "@swap": attempt(lambda: libc_call("swapoff", b"/nowhere")),
        "@privileged": attempt(lambda: libc_call("chroot", b"/nowhere")),
        "@reboot": attempt(lambda: libc_call("reboot", 1)),
        "KeyringMode": session_keyring(),
        "status": seen,
        "UMask": f"{mask:04o}",
        "LimitNOFILE": resource.getrlimit(resource.RLIMIT_NOFILE),
        "PATH": os.environ.get("PATH", ""),
        "watchdog": os.environ.get("WATCHDOG_USEC", ""),
    }
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main()
