"""A kernel that talks through files instead of network ports: parallel runs then never race for one."""

import shutil
import tempfile

from jupyter_client.manager import AsyncKernelManager


class IPCKernelManager(AsyncKernelManager):
    """Sockets in a temporary folder of the kernel's own: jupyter's default name would be one for all of a folder."""

    def __init__(self, **options):
        super().__init__(**options)
        self.transport = "ipc"
        self._sockets = tempfile.mkdtemp(prefix="advlib-")  # a short path: a socket's name has about 100 characters
        self.ip = f"{self._sockets}/kernel"

    async def _async_cleanup_resources(self, restart: bool = False) -> None:
        await super()._async_cleanup_resources(restart)
        if not restart:
            shutil.rmtree(self._sockets, ignore_errors=True)

    cleanup_resources = _async_cleanup_resources
