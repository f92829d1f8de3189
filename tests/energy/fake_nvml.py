"""A pretended NVIDIA driver: a module that takes the place of pynvml."""

import types
from types import SimpleNamespace

UUID = "GPU-11111111-2222-3333-4444-555555555555"


class FakeNvml(types.ModuleType):
    """One GPU, its counter in mJ, its powers in mW (None: not supported), and errors on demand."""

    class NVMLError(Exception):
        pass

    class NVMLError_NotSupported(NVMLError):
        pass

    class NVMLError_FunctionNotFound(NVMLError):
        pass

    class NVMLError_NotFound(NVMLError):
        pass

    class NVMLError_InvalidArgument(NVMLError):
        pass

    class NVMLError_LibraryNotFound(NVMLError):
        pass

    class NVMLError_DriverNotLoaded(NVMLError):
        pass

    class NVMLError_NoPermission(NVMLError):
        pass

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.uuids = {UUID}
        self.counter_mj: int | None = 5_000
        self.instant_mw: int | None = 100_000
        self.average_mw: int | None = 90_000
        self.limit_mw: int | None = 700_000
        self.mig: list[int] | None = None
        self.rates: tuple[int, int] | None = (80, 40)
        self.clocks_mhz: dict[int, int] | None = {1: 1_500, 2: 2_600}
        self.pids: list[int] | None = []
        self.errors: dict[str, Exception] = {}
        self.sessions = 0
        self.driver = "999.99"

    def _raise_planted(self, function):
        if function in self.errors:
            raise self.errors[function]

    def _supported(self, value):
        if value is None:
            raise self.NVMLError_NotSupported("Not Supported")
        return value

    def nvmlInit(self):
        self._raise_planted("nvmlInit")
        self.sessions += 1

    def nvmlShutdown(self):
        self.sessions -= 1
        self._raise_planted("nvmlShutdown")

    def nvmlSystemGetDriverVersion(self):
        self._raise_planted("nvmlSystemGetDriverVersion")
        return self.driver

    def nvmlDeviceGetHandleByUUID(self, uuid):
        self._raise_planted("nvmlDeviceGetHandleByUUID")
        if uuid not in self.uuids:
            raise self.NVMLError_NotFound("Not Found")
        return "handle"

    def nvmlDeviceGetName(self, handle):
        assert handle == "handle"
        return "NVIDIA Pretend 9000"

    def nvmlDeviceGetMigMode(self, handle):
        return self._supported(self.mig)

    def nvmlDeviceGetEnforcedPowerLimit(self, handle):
        return self._supported(self.limit_mw)

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        self._raise_planted("nvmlDeviceGetComputeRunningProcesses")
        return [SimpleNamespace(pid=pid) for pid in self._supported(self.pids)]

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        self._raise_planted("nvmlDeviceGetTotalEnergyConsumption")
        return self._supported(self.counter_mj)

    def nvmlDeviceGetPowerUsage(self, handle):
        self._raise_planted("nvmlDeviceGetPowerUsage")
        return self._supported(self.average_mw)

    def nvmlDeviceGetFieldValues(self, handle, field_ids):
        assert field_ids == [186]
        missing = self.instant_mw is None
        value = SimpleNamespace(dVal=-1.0, uiVal=self.instant_mw, ulVal=-1, ullVal=-1, sllVal=-1)
        return [SimpleNamespace(nvmlReturn=3 if missing else 0, valueType=1, value=value)]

    def nvmlDeviceGetUtilizationRates(self, handle):
        self._raise_planted("nvmlDeviceGetUtilizationRates")
        gpu, memory = self._supported(self.rates)
        return SimpleNamespace(gpu=gpu, memory=memory)

    def nvmlDeviceGetClockInfo(self, handle, kind):
        return self._supported(self.clocks_mhz)[kind]
