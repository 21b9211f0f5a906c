"""What is detected of a host, from the files in which such machines tell of themselves."""

# ruff: noqa: N802 - the functions of NVML have the names that it gave them

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Final

import machines
import pytest
from structlog.testing import capture_logs

from pmoves_mesh.agent.resources.amd import Amd
from pmoves_mesh.agent.resources.detection import Detection
from pmoves_mesh.agent.resources.jetson import Jetson
from pmoves_mesh.agent.resources.nvidia import Nvidia
from pmoves_mesh.core.load import Load
from pmoves_mesh.core.resources import Gpu, Resources, architecture, capabilities_of, described, gigabytes

GIB: Final = 2**30


class NvmlError(Exception):
    """What NVML's functions raise."""


class NotSupportedError(NvmlError):
    """A GPU cannot say that."""


class Nvml(ModuleType):
    """NVML with some GPUs, as (name, bytes, bytes used, percent busy); None for what one cannot say."""

    NVMLError = NvmlError
    NVMLError_NotSupported = NotSupportedError

    def __init__(self, *gpus: tuple[str, int | None, int | None, int | None]) -> None:
        super().__init__("pynvml")
        self.gpus = gpus
        self.begun = 0
        self.broken = False
        self.lost: frozenset[int] = frozenset()

    def nvmlInit(self) -> None:
        self.begun += 1

    def nvmlDeviceGetCount(self) -> int:
        if self.broken:
            raise NvmlError("GPU is lost")
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:
        if index in self.lost:
            raise NvmlError("GPU is lost")
        return self.gpus[index]

    def nvmlDeviceGetName(self, gpu: Any) -> bytes | str:
        return gpu[0].encode() if gpu[0].startswith("Tesla") else gpu[0]

    def nvmlDeviceGetMemoryInfo(self, gpu: Any) -> Any:
        return SimpleNamespace(total=told(gpu[1]), used=told(gpu[2]))

    def nvmlDeviceGetUtilizationRates(self, gpu: Any) -> Any:
        return SimpleNamespace(gpu=told(gpu[3]))

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.65.06"

    def nvmlSystemGetCudaDriverVersion(self) -> int:
        return 12080


RTX_5090: Final = ("NVIDIA GeForce RTX 5090", 32607 * 2**20, 8 * GIB, 10)
TESLA: Final = ("Tesla T4", 15360 * 2**20, 0, 55)
GB10: Final = ("NVIDIA GB10", None, None, 70)


def told(value: int | None) -> int:
    if value is None:
        raise NotSupportedError
    return value


def found_in(root: Path, *, nvml: Nvml | None = None, machine: str = "x86_64") -> Detection:
    kinds = (Jetson(), Nvidia(lambda: nvml or Nvml()), Amd())
    return Detection(root, root, kinds=kinds, machine=machine)


def test_a_pc_tells_of_its_cpu_its_memory_and_its_disk(tmp_path: Path):
    found = found_in(machines.host(tmp_path, cores=32, memory_gb=62.7)).resources()
    assert (found.arch, found.cpu_cores, found.memory_gb) == ("amd64", 32, 63)
    assert found.cpu_model == "AMD Ryzen 9 9950X 16-Core Processor"
    assert found.disk_gb > 0
    assert (found.board, found.soc, found.gpu_count, found.gpu) == ("", "", 0, ())
    assert capabilities_of(found) == ("amd64",)


def test_a_jetson_tells_of_its_gpu_which_has_the_memory_of_the_host(tmp_path: Path):
    found = found_in(machines.jetson(tmp_path), machine="aarch64").resources()
    assert (found.arch, found.soc, found.cpu_cores, found.cpu_model) == ("arm64", "tegra234", 6, "")
    assert found.board == "NVIDIA Jetson Orin Nano Developer Kit"
    assert found.gpu == (
        Gpu(
            vendor="nvidia",
            model="NVIDIA Jetson Orin Nano Developer Kit",
            memory_gb=7,
            driver="36.4.3",
            runtime="cuda",
            integrated=True,
        ),
    )
    assert {"arm64", "jetson", "gpu", "cuda", "vram:7gb"} <= set(capabilities_of(found))


def test_a_board_without_a_tegra_has_no_gpu(tmp_path: Path):
    machines.host(tmp_path)
    machines.write(tmp_path, "proc/device-tree/compatible", "raspberrypi,5-model-b\0brcm,bcm2712\0")
    machines.write(tmp_path, "proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0")
    found = found_in(tmp_path, machine="aarch64").resources()
    assert (found.board, found.soc, found.gpu) == ("Raspberry Pi 5 Model B Rev 1.0", "bcm2712", ())
    assert capabilities_of(found) == ("arm64",)


def test_amd_cards_are_found_but_not_their_connectors_nor_the_cards_of_others(tmp_path: Path):
    root = machines.amd_card(machines.amd_card(machines.host(tmp_path)), 1, memory_gb=8)
    machines.write(root, "sys/class/drm/card2/device/vendor", "0x8086\n")
    machines.write(root, "sys/class/drm/card1/device/product_name", "Radeon RX 7600\n")
    found = found_in(root).resources()
    assert found.gpu_count == 2
    assert [(gpu.vendor, gpu.model, gpu.memory_gb, gpu.runtime, gpu.driver) for gpu in found.gpu] == [
        ("amd", "AMD 0x744c", 24, "rocm", "6.8.0-52-generic"),
        ("amd", "Radeon RX 7600", 8, "rocm", "6.8.0-52-generic"),
    ]
    assert capabilities_of(found) == (
        "amd64",
        "gpu",
        "rocm",
        "gpu:0x744c",
        "vram:24gb",
        "gpu:rx7600",
        "vram:8gb",
    )


def test_an_amd_card_without_rocm_is_a_gpu_and_no_more(tmp_path: Path):
    root = machines.amd_card(machines.host(tmp_path))
    (root / "dev/kfd").unlink()
    assert "rocm" not in capabilities_of(found_in(root).resources())


def test_nvidia_gpus_are_read_through_nvml(tmp_path: Path):
    root = machines.nvidia_driver(machines.host(tmp_path))
    found = found_in(root, nvml=Nvml(RTX_5090, TESLA)).resources()
    assert found.gpu == (
        Gpu(
            vendor="nvidia",
            model="NVIDIA GeForce RTX 5090",
            memory_gb=32,
            driver="580.65.06",
            runtime="cuda",
            cuda="12.8",
        ),
        Gpu(vendor="nvidia", model="Tesla T4", memory_gb=15, driver="580.65.06", runtime="cuda", cuda="12.8"),
    )
    assert {"gpu", "cuda", "cuda:12.8", "gpu:rtx5090", "vram:32gb", "gpu:t4"} <= set(capabilities_of(found))


def test_an_nvidia_gpu_without_memory_of_its_own_has_that_of_the_host(tmp_path: Path):
    root = machines.nvidia_driver(machines.host(tmp_path, memory_gb=119.6))
    (gpu,) = found_in(root, nvml=Nvml(GB10)).resources().gpu
    assert (gpu.memory_gb, gpu.integrated) == (120, True)


def test_a_jetson_whose_gpu_nvml_shows_too_has_one_gpu(tmp_path: Path):
    root = machines.nvidia_driver(machines.jetson(tmp_path))
    found = found_in(root, nvml=Nvml(("Orin (nvgpu)", None, None, None))).resources()
    assert [gpu.model for gpu in found.gpu] == ["NVIDIA Jetson Orin Nano Developer Kit"]


def test_nvml_is_not_loaded_where_there_is_no_driver(tmp_path: Path):
    nvml = Nvml(RTX_5090)
    detection = found_in(machines.host(tmp_path), nvml=nvml)
    assert detection.resources().gpu == ()
    detection.load()
    assert not nvml.begun


def test_without_the_library_the_driver_names_the_gpus_and_the_log_says_what_to_install(tmp_path: Path):
    def absent() -> ModuleType:
        raise ModuleNotFoundError("pynvml")

    root = machines.nvidia_driver(machines.host(tmp_path), "NVIDIA GeForce RTX 3090")
    detection = Detection(root, root, kinds=[Nvidia(absent)], machine="x86_64")
    with capture_logs() as lines:
        (gpu,) = detection.resources().gpu
        assert detection.resources().gpu == (gpu,)
    assert gpu == Gpu(vendor="nvidia", model="NVIDIA GeForce RTX 3090", driver="580.65.06", runtime="cuda")
    assert ["pmoves-mesh[nvidia]" in line["event"] for line in lines] == [True]


def test_a_jetson_is_not_told_to_install_what_it_does_not_need(tmp_path: Path):
    def absent() -> ModuleType:
        raise ModuleNotFoundError("pynvml")

    root = machines.nvidia_driver(machines.jetson(tmp_path))
    with capture_logs() as lines:
        found = Detection(root, root, kinds=[Jetson(), Nvidia(absent)], machine="aarch64").resources()
    assert found.gpu_count == 1
    assert not lines


def test_the_real_library_has_what_is_asked_of_it_and_its_failure_costs_its_own_part_alone(tmp_path: Path):
    library = pytest.importorskip("pynvml")
    asked = [name for name in vars(Nvml) if name.startswith("nvml")]
    assert len(asked) == 8
    assert all(callable(getattr(library, name)) for name in asked)
    assert issubclass(library.NVMLError_NotSupported, library.NVMLError)
    assert issubclass(library.NVMLError, Exception)
    root = machines.amd_card(machines.nvidia_driver(machines.host(tmp_path)))
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has a driver, so that the library does not fail")
    with capture_logs() as lines:
        found = Detection(root, root, machine="x86_64").resources()
    assert [gpu.vendor for gpu in found.gpu] == ["amd"]
    assert [line["part"] for line in lines] == ["nvidia"]


def test_a_part_that_fails_is_left_out_and_logged_once_until_it_has_worked_again(tmp_path: Path):
    nvml = Nvml(RTX_5090)
    root = machines.amd_card(machines.nvidia_driver(machines.host(tmp_path)))
    detection = found_in(root, nvml=nvml)
    assert detection.resources().gpu_count == 2
    nvml.broken = True
    with capture_logs() as lines:
        assert [gpu.vendor for gpu in detection.resources().gpu] == ["amd"]
        assert [gpu.vendor for gpu in detection.resources().gpu] == ["amd"]
    assert [(line["part"], "GPU is lost" in line["detail"]) for line in lines] == [("nvidia", True)]
    nvml.broken = False
    assert detection.resources().gpu_count == 2
    assert nvml.begun == 3


def test_a_gpu_that_is_lost_is_left_out_and_logged_once_and_the_others_stay(tmp_path: Path):
    nvml = Nvml(RTX_5090, TESLA, TESLA)
    detection = found_in(machines.nvidia_driver(machines.host(tmp_path)), nvml=nvml)
    nvml.lost = frozenset({0})
    with capture_logs() as lines:
        for _ in range(3):
            assert [gpu.model for gpu in detection.resources().gpu] == ["Tesla T4", "Tesla T4"]
            load = detection.load()
            assert load is not None
            assert load.gpu == 0.55
    assert [(line["index"], line["detail"]) for line in lines] == [(0, "GPU is lost")]
    nvml.lost = frozenset()
    assert detection.resources().gpu_count == 3
    nvml.lost = frozenset({0, 1, 2})
    with capture_logs() as lines:
        assert detection.resources().gpu_count == 0
    assert [line["part"] for line in lines if "part" in line] == ["nvidia"]


def test_a_data_directory_that_is_not_there_costs_the_disk_alone(tmp_path: Path):
    detection = Detection(machines.host(tmp_path), tmp_path / "absent", kinds=[], machine="x86_64")
    found = detection.resources()
    assert (found.disk_gb, found.memory_gb) == (0, 16)
    assert "disk_gb" not in described(found)


def test_a_machine_that_tells_nothing_is_still_some_machine(tmp_path: Path):
    found = found_in(tmp_path).resources()
    assert found.cpu_cores > 0
    assert found.memory_gb > 0
    assert found_in(tmp_path).load() is None


@pytest.mark.parametrize("text", ["", "cpu", "cpu 1 2 3", "cpu a b c d e f g h", "\0\xff" * 20])
def test_files_that_say_something_else_are_no_load(tmp_path: Path, text: str):
    machines.write(machines.host(tmp_path), "proc/stat", text)
    assert found_in(tmp_path).load() is None


def test_the_load_of_the_cpu_is_that_since_the_last_look(tmp_path: Path):
    detection = found_in(machines.host(tmp_path, memory_gb=16, available_gb=4))
    machines.spend(tmp_path, busy=1000, idle=1000)
    assert detection.load() == Load(cpu=0.5, memory=0.75)
    machines.spend(tmp_path, busy=1900, idle=1100)
    assert detection.load() == Load(cpu=0.9, memory=0.75)
    assert detection.load() == Load(cpu=0.0, memory=0.75)


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [
        ([RTX_5090], 0.25),
        ([RTX_5090, TESLA], 0.25),
        ([TESLA], 0.55),
        ([GB10], 0.7),
        ([("NVIDIA GB10", None, None, None)], None),
    ],
)
def test_the_load_of_gpus_is_that_of_the_one_with_the_most_left(
    tmp_path: Path, gpus: Sequence[Any], expected: float | None
):
    root = machines.nvidia_driver(machines.host(tmp_path))
    load = found_in(root, nvml=Nvml(*gpus)).load()
    assert load is not None
    assert load.gpu == expected


def test_the_load_of_an_amd_card_and_of_a_jetson_is_of_their_time_or_their_memory(tmp_path: Path):
    card = found_in(machines.amd_card(machines.host(tmp_path / "pc"), used_gb=18, busy=40)).load()
    board = found_in(machines.jetson(tmp_path / "jetson", busy=900)).load()
    assert card is not None
    assert board is not None
    assert (card.gpu, board.gpu) == (0.75, 0.9)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, 0),
        (512 * 2**20, 0.5),
        (GIB - 2**26, 0.9),
        (8188 * 2**20, 8),
        (32607 * 2**20, 32),
        (int(62.7 * GIB), 63),
    ],
)
def test_sizes_are_rounded_to_what_was_bought(size: int, expected: float):
    assert gigabytes(size) == expected


def test_memory_that_wavers_between_two_starts_is_the_same_resource(tmp_path: Path):
    one = found_in(machines.host(tmp_path / "one", memory_gb=31.26)).resources()
    other = found_in(machines.host(tmp_path / "other", memory_gb=31.21)).resources()
    assert one == other


@pytest.mark.parametrize(
    ("machine", "name"),
    [
        ("x86_64", "amd64"),
        ("AMD64", "amd64"),
        ("aarch64", "arm64"),
        ("arm64", "arm64"),
        ("riscv64", "riscv64"),
    ],
)
def test_an_architecture_has_the_name_that_images_go_by(machine: str, name: str):
    assert architecture(machine) == name


def test_nothing_follows_from_nothing():
    assert capabilities_of(Resources()) == ()
    assert described(Resources()) == {}


def test_what_is_described_leaves_out_what_is_not_known():
    assert described(Resources(arch="arm64", cpu_cores=4)) == {"arch": "arm64", "cpu_cores": 4}
