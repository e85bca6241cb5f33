"""A kernel that talks through files instead of network ports: parallel runs then never race for one."""

import os
import shutil
import signal
import tempfile
from contextlib import suppress

from jupyter_client.manager import AsyncKernelManager

RUNNING: set["IPCKernelManager"] = set()  # the kernels that this process has started and not yet seen end
ENDED: list[int] = []  # how the last of them ended: 0 or more its exit status, -9 by SIGKILL
# glibc's allocator, told to keep what it gets and to take it in large pages: the activations of every pass are new
# memory otherwise, cleared page by page. Up to a tenth of a training step goes there, and no number changes.
_KEEP = {"mmap_threshold": 4 << 30, "trim_threshold": 64 << 30, "hugetlb": 1}
ALLOCATOR = {"GLIBC_TUNABLES": ":".join(f"glibc.malloc.{name}={value}" for name, value in _KEEP.items())}
INHERITED: list[int] = []  # open files that a kernel holds as well: a lock then lasts until the kernel has gone


class IPCKernelManager(AsyncKernelManager):
    """Sockets in a temporary folder of the kernel's own: jupyter's default name would be one for all of a folder."""

    def __init__(self, **options):
        super().__init__(**options)
        self.transport = "ipc"
        self._process = None
        self._sockets = tempfile.mkdtemp(prefix="advlib-", dir=None if _short(tempfile.gettempdir()) else "/tmp")
        self.ip = f"{self._sockets}/kernel"

    async def _async_start_kernel(self, **options) -> None:
        await super()._async_start_kernel(**options, pass_fds=tuple(INHERITED))
        self._process = getattr(self.provisioner, "process", None)  # the provisioner forgets it when it has ended
        RUNNING.add(self)

    async def _async_cleanup_resources(self, restart: bool = False) -> None:
        await super()._async_cleanup_resources(restart)
        if not restart:
            RUNNING.discard(self)
            ENDED[:] = [] if self._process is None else [self._process.poll()]
            shutil.rmtree(self._sockets, ignore_errors=True)

    start_kernel = _async_start_kernel
    cleanup_resources = _async_cleanup_resources


def _short(folder: str) -> bool:
    """Whether the system takes the name of a socket in a folder of its own there: 103 bytes on a Mac, 107 on Linux."""
    return len(os.fsencode(f"{folder}/advlib-12345678/kernel-5")) <= 103


def ask_to_stop() -> bool:
    """Send SIGTERM to the kernels that run: they save and raise, or end where all is saved. Was there one?"""
    for kernel in RUNNING:
        with suppress(ProcessLookupError):  # where the whole group was signalled, it may have gone already
            os.kill(kernel.provisioner.pid, signal.SIGTERM)
    return bool(RUNNING)
