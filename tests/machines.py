"""Machines for tests: the files in which a kernel tells of a PC, a Jetson or a VPS, below any folder.

What they hold is what such machines show, cut to what is read.
"""

from __future__ import annotations

from pathlib import Path

GIB_KB = 2**20
JETSON_COMPATIBLE = "nvidia,p3768-0000+p3767-0003\0nvidia,p3767-0003\0nvidia,tegra234\0"
JETSON_MODEL = "NVIDIA Jetson Orin Nano Developer Kit\0"
JETSON_RELEASE = (
    "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan 8\n"
)


def write(root: Path, name: str, text: str | int) -> None:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(str(text))


def host(root: Path, *, cores: int = 4, memory_gb: float = 16, available_gb: float = 12) -> Path:
    """A host with a CPU and memory, and nothing else; returns its root."""
    lines = [cpu_line("cpu", busy=100, idle=300)]
    lines += [cpu_line(f"cpu{number}", busy=25, idle=75) for number in range(cores)]
    write(root, "proc/stat", "\n".join([*lines, "intr 12345 0 9", "ctxt 999", "procs_running 2\n"]))
    memory(root, memory_gb=memory_gb, available_gb=available_gb)
    write(root, "proc/cpuinfo", "processor\t: 0\nmodel name\t: AMD Ryzen 9 9950X 16-Core Processor\n")
    return root


def memory(root: Path, *, memory_gb: float, available_gb: float) -> None:
    """Lets so much memory be there, and so much be left."""
    told = {"MemTotal": memory_gb, "MemFree": 0.1, "MemAvailable": available_gb}
    lines = [f"{name}: {int(number * GIB_KB):>12} kB\n" for name, number in told.items()]
    write(root, "proc/meminfo", "".join(lines))


def cpu_line(name: str, *, busy: int, idle: int) -> str:
    """A line of /proc/stat: user nice system idle iowait irq softirq steal guest guest_nice."""
    waiting = idle // 2
    return f"{name} {busy - 10} 0 10 {idle - waiting} {waiting} 0 0 0 0 0"


def spend(root: Path, *, busy: int, idle: int) -> None:
    """Lets the cores have spent their time so."""
    stat = root / "proc/stat"
    _, *others = stat.read_text().splitlines()
    stat.write_text("\n".join([cpu_line("cpu", busy=busy, idle=idle), *others]))


def jetson(root: Path, *, memory_gb: float = 7.44, busy: int = 250) -> Path:
    """An Orin Nano; busy is in thousandths."""
    host(root, cores=6, memory_gb=memory_gb, available_gb=memory_gb * 0.75)
    write(root, "proc/cpuinfo", "processor\t: 0\nBogoMIPS\t: 62.50\nFeatures\t: fp asimd evtstrm\n")
    write(root, "proc/device-tree/compatible", JETSON_COMPATIBLE)
    write(root, "proc/device-tree/model", JETSON_MODEL)
    write(root, "etc/nv_tegra_release", JETSON_RELEASE)
    write(root, "sys/devices/platform/bus@0/17000000.gpu/load", f"{busy}\n")
    return root


def amd_card(
    root: Path, number: int = 0, *, memory_gb: float = 24, used_gb: float = 6, busy: int = 40
) -> Path:
    """A Radeon RX 7900 XTX, with ROCm and the connectors of its screens; returns the host's root."""
    card = f"sys/class/drm/card{number}"
    write(root, f"{card}/device/vendor", "0x1002\n")
    write(root, f"{card}/device/device", "0x744c\n")
    write(root, f"{card}/device/mem_info_vram_total", f"{int(memory_gb * 2**30)}\n")
    write(root, f"{card}/device/mem_info_vram_used", f"{int(used_gb * 2**30)}\n")
    write(root, f"{card}/device/gpu_busy_percent", f"{busy}\n")
    write(root, f"{card}-DP-1/status", "disconnected\n")
    write(root, "proc/sys/kernel/osrelease", "6.8.0-52-generic\n")
    write(root, "dev/kfd", "")
    return root


def nvidia_driver(root: Path, *models: str) -> Path:
    """An NVIDIA driver, as its kernel module tells of it; returns the host's root."""
    version = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 07:12:01 UTC 2025\n"
    write(root, "proc/driver/nvidia/version", version)
    for index, model in enumerate(models):
        lines = f"Model: \t\t {model}\nIRQ:   \t\t 102\nBus Type: \t PCIe\n"
        write(root, f"proc/driver/nvidia/gpus/0000:0{index + 1}:00.0/information", lines)
    return root
