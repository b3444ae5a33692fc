"""What this machine has: cores, memory, GPUs, as far as this process may use them."""

import os
from pathlib import Path

GB = 2**30


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_memory_gb() -> float:
    """Memory that can be had, in GiB: of the system, and within the limit of the control group; infinite if unknown."""
    found = [float("inf")]
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        lines = dict(line.split(":", 1) for line in meminfo.read_text(encoding="ascii").splitlines())
        found.append(int(lines["MemAvailable"].split()[0]) * 1024 / GB)
    group = Path("/sys/fs/cgroup")
    limit, used = group / "memory.max", group / "memory.current"
    if limit.is_file() and used.is_file() and (most := limit.read_text(encoding="ascii").strip()) != "max":
        stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        found.append((int(most) - int(used.read_text(encoding="ascii")) + int(stat.get("inactive_file", 0))) / GB)
    return min(found)


def memory_of_gb(pid: int) -> tuple[float, float]:
    """(now, at most so far) resident memory of a process, in GiB; zeros where the system does not say."""
    status = Path(f"/proc/{pid}/status")
    try:
        lines = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError):
        return 0.0, 0.0
    return tuple(int(lines.get(key, "0").split()[0]) * 1024 / GB for key in ("VmRSS", "VmHWM"))  # type: ignore[return-value]  # two keys


def gpus() -> int:
    """How many GPUs PyTorch sees; imports it."""
    import torch

    return torch.cuda.device_count()


def gpu_name(number: int) -> str:
    """The entry of CUDA_VISIBLE_DEVICES for PyTorch's GPU of this number; the number itself where that is not set."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[number].strip() if visible else str(number)
