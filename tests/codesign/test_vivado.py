"""Vivado's scripts without Vivado: a Tcl interpreter runs them on a recorder that knows the IPs' names and rules.

Pins, parameters and names of the IPs are from AMD's documents PG082 (processing system), PG164 (resets) and PG247
(SmartConnect).
"""

import re
from pathlib import Path

import pytest

from codesign.boards.zynq import WRAPPER, vivado_files
from hardware.accelerator import Accelerator, load_accelerator
from hardware.board import ZynqBoard, board_names, load_board
from rtl.verilog import TOP, engine_verilog
from sim.synthesis import machine_cells, resources
from sim.yosys import run_yosys

tkinter = pytest.importorskip("tkinter", reason="Python's Tcl interpreter, Debian's package python3-tk")

PROCESSING, RESETS, SMART = (
    f"xilinx.com:ip:{name}" for name in ("processing_system7:5.5", "proc_sys_reset:5.0", "smartconnect:1.0")
)
HP = range(4)
PARAMETERS = {
    PROCESSING: {
        *("PCW_USE_M_AXI_GP0", "PCW_USE_FABRIC_INTERRUPT", "PCW_IRQ_F2P_INTR", "PCW_FPGA0_PERIPHERAL_FREQMHZ"),
        *(f"PCW_USE_S_AXI_HP{port}" for port in HP),
        *(f"PCW_S_AXI_HP{port}_DATA_WIDTH" for port in HP),
    },
    RESETS: set(),
    SMART: {"NUM_SI", "NUM_MI", "NUM_CLKS"},
}
BUILD = "codesign_0123456789abcdef"


class Refused(Exception):
    """What Vivado would stop at."""


class Recorder:
    """Vivado's commands: a block design that grows, and the order of the steps after it."""

    def __init__(self, folder: Path, wrapper: str, slack: str = "0.5", progress: str = "100%"):
        self.folder, self.wrapper, self.slack, self.progress = folder, wrapper, slack, progress
        self.cells: dict[str, str] = {}
        self.settings: dict[str, dict[str, str]] = {}
        self.buses: list[tuple[str, str]] = []
        self.nets: list[tuple[str, str]] = []
        self.done: list[str] = []
        self.made: list[str] = []
        self.failed: Exception | None = None
        self.exit_code = 0

    def pins(self, cell: str) -> dict[str, tuple[str, str]]:
        """A cell's pins by name: ``master``, ``slave``, ``out`` or ``in``, and what for."""
        kind, on = self.cells[cell], self.settings.get(cell, {})
        if kind == PROCESSING:
            found = {"FCLK_CLK0": ("out", "clock"), "FCLK_RESET0_N": ("out", "reset low")}
            if on.get("PCW_USE_M_AXI_GP0") == "1":
                found |= {"M_AXI_GP0": ("master", "AXI3"), "M_AXI_GP0_ACLK": ("in", "clock")}
            for port in HP:
                if on.get(f"PCW_USE_S_AXI_HP{port}") == "1":
                    found |= {f"S_AXI_HP{port}": ("slave", "AXI3"), f"S_AXI_HP{port}_ACLK": ("in", "clock")}
            if on.get("PCW_USE_FABRIC_INTERRUPT") == on.get("PCW_IRQ_F2P_INTR") == "1":
                found["IRQ_F2P"] = ("in", "interrupt")
            return found
        if kind == RESETS:
            found = {"slowest_sync_clk": ("in", "clock"), "ext_reset_in": ("in", "reset low")}
            return found | {"peripheral_reset": ("out", "reset high"), "peripheral_aresetn": ("out", "reset low")}
        if kind == SMART:
            found = {"S00_AXI": ("slave", "any"), "M00_AXI": ("master", "any")}
            return found | {"aclk": ("in", "clock"), "aresetn": ("in", "reset low")}
        return wrapper_pins(self.wrapper)

    def pin(self, name: str, bus: bool) -> tuple[str, str]:
        cell, pin = name.split("/")
        if cell not in self.cells or pin not in self.pins(cell):
            raise Refused(f"no pin {name}")
        found = self.pins(cell)[pin]
        if (found[0] in ("master", "slave")) != bus:
            raise Refused(f"{name} is {'no ' if bus else 'an '}interface")
        return found

    def call(self, name: str, *words: str) -> str:
        try:
            return getattr(self, f"do_{name}")(*words) or ""
        except Exception as error:  # Tcl would hide which one it was
            self.failed = self.failed or error
            raise

    def do_create_project(self, force, name, path, part, device):
        assert (force, part, device) == ("-force", "-part", load_board("pynq-z2").vendor_part)

    def do_get_board_parts(self, quiet, name):
        assert re.fullmatch(r"[\w.]+:[\w-]+:part0:\d\.\d", name)
        return name

    def do_set_property(self, name, *words):
        if name != "-dict":
            assert (name, words) in (
                ("board_part", (load_board("pynq-z2").vendor_board, "project")),
                ("top", ("system_wrapper", "fileset")),
            )
            return
        pairs = dict(zip(words[0].split()[::2], words[0].split()[1::2], strict=True))
        (cell,) = words[1:]
        for parameter, value in pairs.items():
            if not parameter.startswith("CONFIG.") or parameter[7:] not in PARAMETERS[self.cells[cell]]:
                raise Refused(f"{self.cells[cell]} has no parameter {parameter}")
            self.settings.setdefault(cell, {})[parameter[7:]] = value

    def do_add_files(self, norecurse, names):
        for name in names.split():
            assert (self.folder / "vivado" / name).is_file(), name

    def do_create_bd_cell(self, kind, what, how, name, cell):
        if (what, how) == ("ip", "-vlnv"):
            if name not in PARAMETERS:
                raise Refused(f"no IP {name}")
        else:
            assert (what, how, name) == ("module", "-reference", WRAPPER)
        self.cells[cell] = name
        return cell

    def do_connect_bd_intf_net(self, master, slave):
        ends = self.pin(master, True), self.pin(slave, True)
        if (ends[0][0], ends[1][0]) != ("master", "slave"):
            raise Refused(f"{master} and {slave} are no master and slave")
        self.buses.append((master, slave))

    def do_connect_bd_net(self, source, sink):
        ends = self.pin(source, False), self.pin(sink, False)
        if (ends[0][0], ends[1][0]) != ("out", "in") or ends[0][1] != ends[1][1]:
            raise Refused(f"{source} ({ends[0]}) does not drive {sink} ({ends[1]})")
        self.nets.append((source, sink))

    def do_validate_bd_design(self):
        joined = [pin for bus in self.buses for pin in bus] + [sink for _, sink in self.nets]
        wanted = [f"{cell}/{pin}" for cell in self.cells for pin, (way, _) in self.pins(cell).items() if way != "out"]
        if sorted(joined) != sorted(wanted):
            raise Refused(f"open or doubled: {set(joined) ^ set(wanted)}")
        assert "assign_bd_address" in self.done
        self.done.append("validate_bd_design")

    def do_launch_runs(self, run, to_step, step, jobs, number):
        assert (run, to_step, step) == ("impl_1", "-to_step", "write_bitstream")
        assert self.done[-2:] == ["save_bd_design", "make_wrapper"]
        self.done.append("launch_runs")

    def do_get_property(self, name, of):
        return {"PROGRESS": self.progress, "SLACK": self.slack}[name]

    def do_copy(self, force, source, target):
        self.made.append(Path(target).name)


def wrapper_pins(wrapper: str) -> dict[str, tuple[str, str]]:
    """Interfaces and single pins, as Vivado reads the attributes."""
    found = {}
    infos = re.findall(r'X_INTERFACE_INFO = "xilinx\.com:(\w+):(\w+):1\.0 (\w+) (\w+)"', wrapper)
    polarity = "reset high" if 'X_INTERFACE_PARAMETER = "POLARITY ACTIVE_HIGH"' in wrapper else "reset low"
    uses = {"clock": ("in", "clock"), "reset": ("in", polarity), "interrupt": ("out", "interrupt")}
    for _, kind, bus, _ in infos:
        found[bus] = uses.get(kind, ("slave" if bus.startswith("s_") else "master", "AXI"))
    return found


NAMED = {"current_project": "project", "current_fileset": "fileset", "get_runs": "impl_1"}
PLAIN = ("assign_bd_address", "save_bd_design", "make_wrapper")
IGNORED = (
    *("create_bd_design", "update_compile_order", "apply_bd_automation", "wait_on_run", "open_run", "get_files"),
    *("report_utilization", "report_timing_summary", "get_timing_paths", "puts"),
)


def run_script(folder: Path, script: str, **answers: str) -> Recorder:
    """Run it; raise what Vivado would have stopped at."""
    recorder = Recorder(folder, (folder / f"vivado/{WRAPPER}.v").read_text(), **answers)
    tcl = tkinter.Tcl()
    for name in [one.removeprefix("do_") for one in dir(Recorder) if one.startswith("do_")]:
        tcl.createcommand(name, lambda *words, name=name: recorder.call(name, *words))
    for name in PLAIN:
        tcl.createcommand(name, lambda *_, name=name: recorder.done.append(name))
    for name in IGNORED:
        tcl.createcommand(name, lambda *_: "")
    for name, answer in NAMED.items():
        tcl.createcommand(name, lambda *_, answer=answer: answer)
    for name in ("get_bd_cells", "get_bd_pins", "get_bd_intf_pins"):
        tcl.createcommand(name, lambda word: word)

    def leave(code: str) -> None:
        recorder.exit_code = int(code)
        raise SystemExit

    tcl.createcommand("exit", leave)
    tcl.eval(
        "rename file real_file; proc file {how args} {if {$how eq {copy}} {copy {*}$args} {real_file $how {*}$args}}"
    )
    tcl.eval(f"proc glob args {{return {folder}/vivado/project/system.hwh}}")
    try:
        tcl.eval(script.replace("[info script]", f"{{{folder}/vivado/project.tcl}}"))
    except (tkinter.TclError, SystemExit):
        if recorder.failed:
            raise recorder.failed from None
        if not recorder.exit_code:
            raise
    return recorder


@pytest.fixture(scope="module")
def with_ports(machine):
    """``with_ports(2)``: a small machine of so many memory ports."""
    smallest = {1: {}, 2: {"dn": 4, "ports": 2}, 4: {"dm": 8, "dn": 8, "ports": 4}}
    return lambda ports: machine(**smallest[ports], clock_mhz=80.0)


PORTS = [1, 2, pytest.param(4, marks=pytest.mark.slow)]


def write(folder: Path, accelerator: Accelerator) -> str:
    """The files of a package that Vivado reads; the project's script."""
    verilog = engine_verilog(accelerator)
    (folder / "rtl").mkdir()
    (folder / "vivado").mkdir()
    (folder / "rtl" / f"{TOP}.v").write_text(verilog)
    for name, content in vivado_files(accelerator, load_board("pynq-z2"), verilog, BUILD).items():
        (folder / "vivado" / name).write_bytes(content)
    return (folder / "vivado/project.tcl").read_text()


@pytest.mark.parametrize("ports", PORTS)
def test_the_block_design_is_complete_and_ends_in_a_bitstream(tmp_path: Path, with_ports, ports: int) -> None:
    recorder = run_script(tmp_path, write(tmp_path, with_ports(ports)))
    assert ("machine/m_axi_0", "memory_0/S00_AXI") in recorder.buses
    assert len(recorder.buses) == 2 * (1 + ports)
    assert recorder.settings["ps"]["PCW_FPGA0_PERIPHERAL_FREQMHZ"] == "80"
    assert recorder.done[-1] == "launch_runs"
    assert recorder.made == [f"{BUILD}.hwh", f"{BUILD}.bit"]


def test_no_bitstream_is_kept_that_misses_its_clock_or_was_not_made(tmp_path: Path, with_ports) -> None:
    script = write(tmp_path, with_ports(1))
    for answers in ({"slack": "-0.1"}, {"progress": "42%"}):
        recorder = run_script(tmp_path, script, **answers)
        assert (recorder.exit_code, recorder.made) == (1, [])


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("PCW_USE_M_AXI_GP0", "PCW_USE_M_AXI_GPO"),
        ("PCW_IRQ_F2P_INTR 1", "PCW_IRQ_F2P_INTR 0"),
        ("processing_system7:5.5", "processing_system7:5.6"),
        ("ps/S_AXI_HP${port}_ACLK", ""),
        ("resets/peripheral_reset]", "resets/peripheral_aresetn]"),
        ("between registers ps/M_AXI_GP0 machine/s_axi", "between registers machine/s_axi ps/M_AXI_GP0"),
        ("between memory_$port machine/m_axi_$port", "between memory_$port machine/m_axi_0"),
        ("connect_bd_net [get_bd_pins machine/interrupt] [get_bd_pins ps/IRQ_F2P]", ""),
        ("assign_bd_address\n", ""),
    ],
)
def test_the_recorder_finds_what_vivado_would_refuse(tmp_path: Path, with_ports, text: str, wrong: str) -> None:
    script = write(tmp_path, with_ports(2))
    assert text in script
    with pytest.raises((Refused, AssertionError)):
        run_script(tmp_path, script.replace(text, wrong))


@pytest.mark.parametrize("ports", PORTS)
def test_the_wrapper_is_the_machine(tmp_path: Path, with_ports, ports: int) -> None:
    write(tmp_path, with_ports(ports))
    wrapper = tmp_path / f"vivado/{WRAPPER}.v"
    files = f"rtl/{TOP}.v vivado/{WRAPPER}.v"
    output = run_yosys(tmp_path, f"read_verilog {files}; hierarchy -check -top {WRAPPER}; proc; check -assert; stat")
    assert WRAPPER in output
    assert f"ASSOCIATED_BUSIF s_axi:{':'.join(f'm_axi_{port}' for port in range(ports))}," in wrapper.read_text()
    # Clock, reset, interrupt; AXI4-Lite; a memory port that writes, too; others only read.
    assert wrapper.read_text().count("X_INTERFACE_INFO") == 3 + 19 + 29 + 13 * (ports - 1)
    modes = re.findall(r"PROTOCOL AXI3, .* READ_WRITE_MODE (\w+)", wrapper.read_text())
    assert modes == ["READ_WRITE"] + ["READ_ONLY"] * (ports - 1)


def package_ip(folder: Path, script: str, buses: int) -> tuple[list[str], dict[str, str], int]:
    """Commands of the script that packages the IP, the core's properties, and the exit code."""
    done: list[str] = []
    properties: dict[str, str] = {}
    codes = [0]
    tcl = tkinter.Tcl()

    def create_project(where: str, part: str, device: str) -> None:
        assert (where, part, device) == ("-in_memory", "-part", load_board("pynq-z2").vendor_part)

    def add_files(norecurse: str, names: str) -> None:
        assert all((folder / "vivado" / name).is_file() for name in names.split())

    def package_project(*words: str) -> None:
        options = dict(zip(words[0:8:2], words[1:8:2], strict=True))
        assert list(options) == ["-root_dir", "-vendor", "-library", "-taxonomy"]
        assert Path(options["-root_dir"]).name == "ip"
        assert words[8:] == ("-import_files", "-set_current", "true", "-force")
        assert properties["top"] == WRAPPER  # what is packaged is the project's top
        done.append("package_project")

    def set_property(name: str, value: str, of: str) -> None:
        assert of == ("fileset" if name == "top" else "core")
        assert name in ("top", "name", "version", "display_name", "supported_families")
        properties[name] = value

    def leave(code: str) -> None:
        codes[0] = int(code)
        raise SystemExit

    known = {"create_project": create_project, "add_files": add_files, "set_property": set_property, "exit": leave}
    known |= {"current_fileset": lambda: "fileset", "update_compile_order": lambda *_: "", "puts": lambda *_: ""}
    known |= {"ipx::package_project": package_project, "ipx::current_core": lambda: "core"}
    known["ipx::get_bus_interfaces"] = lambda of, core: " ".join(map(str, range(buses)))
    for name in ("create_xgui_files", "update_checksums", "check_integrity", "save_core"):
        known[f"ipx::{name}"] = lambda core, name=name: done.append(name) or ""
    tcl.eval("namespace eval ipx {}")
    for name, act in known.items():
        tcl.createcommand(name, act)
    try:
        tcl.eval(script.replace("[info script]", f"{{{folder}/vivado/package_ip.tcl}}"))
    except (tkinter.TclError, SystemExit):
        if not codes[0]:
            raise
    return done, properties, codes[0]


@pytest.mark.parametrize("ports", PORTS)
def test_the_ip_is_packaged_with_all_its_interfaces_or_not_at_all(tmp_path: Path, with_ports, ports: int) -> None:
    write(tmp_path, with_ports(ports))
    script = (tmp_path / "vivado/package_ip.tcl").read_text()
    interfaces = len(wrapper_pins((tmp_path / f"vivado/{WRAPPER}.v").read_text()))  # as Vivado reads the attributes
    done, properties, code = package_ip(tmp_path, script, interfaces)
    assert (done[0], done[-1], code) == ("package_project", "save_core", 0)
    assert properties["display_name"] == BUILD
    assert package_ip(tmp_path, script, interfaces - 1)[::2] == (["package_project"], 1)
    with pytest.raises(tkinter.TclError):
        package_ip(tmp_path, script.replace("-taxonomy", "-taxnomy"), interfaces)


@pytest.mark.slow  # minutes of synthesis
@pytest.mark.parametrize("name", [name for name in board_names() if isinstance(load_board(name), ZynqBoard)])
def test_what_is_exported_synthesises_and_fits_every_boards_part(name: str) -> None:
    accelerator, board = load_accelerator("bitserial-tiny"), load_board(name)
    verilog = engine_verilog(accelerator)
    files = vivado_files(accelerator, board, verilog, BUILD)
    used = resources(machine_cells(verilog + files[f"{WRAPPER}.v"].decode(), WRAPPER, "xc7z020"), "xc7z020")
    assert used.fits(board.device)
    assert 5_000 < used.lut < 20_000


@pytest.mark.parametrize("name", [name for name in board_names() if isinstance(load_board(name), ZynqBoard)])
def test_every_boards_scripts_name_its_part(name: str) -> None:
    accelerator, board = load_accelerator("bitserial-tiny"), load_board(name)
    files = vivado_files(accelerator, board, engine_verilog(accelerator), BUILD)
    assert f"-part {board.vendor_part}\n" in files["project.tcl"].decode()
    assert "$" not in files["clock.xdc"].decode()
