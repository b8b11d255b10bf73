// The machine alone in a plain C++ loop: no cocotb, no VPI, no timing, the memory in C++. The measure for the bench.
//
//   bare_loop IMAGE RESULT program memory_words result_address result_words latency cycles_per_word
//
// IMAGE holds little-endian 64-bit words; RESULT receives `result_words` of them from word `result_address` on.
// Prints the registers `error_code` and `cycles`. registers.h holds the offsets and masks of hardware.registers. The
// memory's signals and the reset reach the machine through registers (see bare_loop.py): what is driven before a rising edge is
// seen after it, and one evaluation per cycle computes all logic.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <vector>

#include "Vtop.h"
#include "registers.h"
#include "verilated.h"

namespace {

constexpr uint32_t BASE = 0x40000000;  // byte address of the memory

[[noreturn]] void fail(const char* what) {
    std::fprintf(stderr, "%s\n", what);
    std::exit(1);
}

// As sim/dram.sv without stalls: beat k of a read burst accepted in cycle t comes in cycle
// t + 1 + latency + k * cycles_per_word; writes are accepted every cycles_per_word cycles, and answered in the next.
class Memory {
public:
    Memory(std::vector<uint64_t> words, uint64_t latency, uint64_t cycles_per_word)
        : words(std::move(words)), latency(latency), interval(cycles_per_word) {}

    // What the machine will see in this cycle.
    void drive(Vtop& machine) const {
        machine.m_axi_0_arready = now >= read_free;
        const bool arrives = !beats.empty() && beats.front().due <= now;
        machine.m_axi_0_rvalid = arrives;
        if (arrives) {
            machine.m_axi_0_rdata = words[beats.front().address];
            machine.m_axi_0_rlast = beats.front().last;
        }
        machine.m_axi_0_awready = 1;
        machine.m_axi_0_wready = !bursts.empty() && now >= write_free;
        machine.m_axi_0_bvalid = answers != 0;
    }

    // What the machine did in it; behind this begins the next cycle.
    void take(const Vtop& machine) {
        if (machine.m_axi_0_rvalid && machine.m_axi_0_rready) beats.pop_front();
        if (machine.m_axi_0_arvalid && machine.m_axi_0_arready) {
            const uint64_t address = (machine.m_axi_0_araddr - BASE) >> 3, length = machine.m_axi_0_arlen + 1;
            check(address + length);
            for (uint64_t k = 0; k < length; k++)
                beats.push_back({now + 1 + latency + k * interval, address + k, k + 1 == length});
            read_free = now + length * interval;
        }
        if (machine.m_axi_0_bvalid && machine.m_axi_0_bready) answers--;
        if (machine.m_axi_0_wvalid && machine.m_axi_0_wready) {
            uint64_t mask = 0;
            for (int i = 0; i < 8; i++)
                if (machine.m_axi_0_wstrb >> i & 1) mask |= uint64_t{0xff} << 8 * i;
            uint64_t& word = words[bursts.front()++];
            word = (word & ~mask) | (machine.m_axi_0_wdata & mask);
            if (machine.m_axi_0_wlast) {
                bursts.pop_front();
                answers++;
            }
            write_free = now + interval;
        }
        if (machine.m_axi_0_awvalid && machine.m_axi_0_awready) {
            const uint64_t address = (machine.m_axi_0_awaddr - BASE) >> 3;
            check(address + machine.m_axi_0_awlen + 1);
            bursts.push_back(address);
        }
        now++;
    }

    std::vector<uint64_t> words;

private:
    struct Beat {
        uint64_t due, address;
        bool last;
    };

    void check(uint64_t end) const {
        if (end > words.size()) fail("a burst beyond the memory");
    }

    const uint64_t latency, interval;
    uint64_t now = 0, read_free = 0, write_free = 0, answers = 0;
    std::deque<Beat> beats;
    std::deque<uint64_t> bursts;  // word address of each burst's next beat
};

struct Loop {
    VerilatedContext context;
    Vtop machine{&context};
    Memory memory;

    explicit Loop(Memory memory) : memory(std::move(memory)) {}

    void cycle() {
        memory.take(machine);
        memory.drive(machine);
        machine.clk = 0;
        machine.eval();
        machine.clk = 1;
        machine.eval();
    }

    void write(uint16_t offset, uint32_t value) {
        machine.s_axi_awaddr = offset;
        machine.s_axi_wdata = value;
        machine.s_axi_awvalid = machine.s_axi_wvalid = machine.s_axi_bready = 1;
        for (bool taken = false; !taken;) {
            taken = machine.s_axi_awready && machine.s_axi_wready;
            cycle();
        }
        machine.s_axi_awvalid = machine.s_axi_wvalid = 0;
        while (!machine.s_axi_bvalid) cycle();
        if (machine.s_axi_bresp) fail("a register refused a write");
        cycle();
        machine.s_axi_bready = 0;
    }

    uint32_t read(uint16_t offset) {
        machine.s_axi_araddr = offset;
        machine.s_axi_arvalid = machine.s_axi_rready = 1;
        for (bool taken = false; !taken;) {
            taken = machine.s_axi_arready;
            cycle();
        }
        machine.s_axi_arvalid = 0;
        while (!machine.s_axi_rvalid) cycle();
        if (machine.s_axi_rresp) fail("a register refused a read");
        const uint32_t value = machine.s_axi_rdata;
        cycle();
        machine.s_axi_rready = 0;
        return value;
    }
};

std::vector<uint64_t> load(const char* name) {
    std::FILE* file = std::fopen(name, "rb");
    if (!file) fail("cannot open the image");
    std::fseek(file, 0, SEEK_END);
    std::vector<uint64_t> words(std::ftell(file) / sizeof(uint64_t));
    std::rewind(file);
    if (std::fread(words.data(), sizeof(uint64_t), words.size(), file) != words.size()) fail("the image is short");
    std::fclose(file);
    return words;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 9) fail("expected 8 arguments, see bare_loop.cpp");
    uint64_t number[9];
    for (int i = 3; i < 9; i++) number[i] = std::strtoull(argv[i], nullptr, 10);
    Loop loop(Memory(load(argv[1]), number[7], number[8]));
    Vtop& machine = loop.machine;
    machine.s_axi_wstrb = 0xf;
    machine.rst = 1;
    for (int i = 0; i < 3; i++) loop.cycle();
    machine.rst = 0;
    loop.cycle();
    loop.write(registers::MEMORY_BASE, BASE);
    loop.write(registers::MEMORY_WORDS, number[4]);
    loop.write(registers::PROGRAM, number[3]);
    loop.write(registers::WATCHDOG, 0);
    loop.write(registers::CONTROL, registers::CONTROL_INTERRUPT_ENABLE | registers::CONTROL_START);
    while (!machine.__SYM__interrupt) loop.cycle();  // so Verilator calls a port named like a word of C++
    const uint32_t error = loop.read(registers::ERROR_CODE);
    const uint64_t low = loop.read(registers::CYCLES), high = loop.read(registers::CYCLES + 4);
    std::printf("%u %llu\n", error, static_cast<unsigned long long>(high << 32 | low));

    std::FILE* file = std::fopen(argv[2], "wb");
    if (!file || std::fwrite(&loop.memory.words[number[5]], sizeof(uint64_t), number[6], file) != number[6])
        fail("cannot write the result");
    std::fclose(file);
    machine.final();
}
