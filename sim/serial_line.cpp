// A board's serial line: bytes from standard input go in at a pin, bit by bit, and what comes out at another one goes to
// standard output. The clock stands still but for these requests, so that a run is the same every time.
//
//   W <count: 4 bytes> <bytes>                  send so many bytes without a pause
//   R <count: 4 bytes> <limit: 8 bytes>         run until so many have come, or so many cycles have passed;
//                                               answered by <count: 4 bytes> <bytes> <cycles since the beginning: 8 bytes>
//
// Arguments: cycles per bit in 1/256, as the host's clock has them; a wave file.
#include "Vtop.h"
#include "verilated.h"
#if VM_TRACE_FST
#include "verilated_fst_c.h"
using Trace = VerilatedFstC;
#elif VM_TRACE_VCD
#include "verilated_vcd_c.h"
using Trace = VerilatedVcdC;
#endif
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <vector>

constexpr int POWER_UP = 256;  // cycles before anybody speaks: the FPGA resets itself meanwhile

struct Line {
    VerilatedContext context;
    Vtop top{&context};
    uint64_t cycles = 0, period;
    std::deque<uint8_t> received;
    uint64_t next_sample = 0;  // in 1/256 cycles
    int bits_left = 0;         // of the byte that is coming
    unsigned frame = 0;
#if VM_TRACE
    Trace trace;
#endif

    Line(uint64_t period, const char* waves) : period(period) {
#if VM_TRACE
        context.traceEverOn(true);
        top.trace(&trace, 99);
        trace.open(waves);
#endif
        top.rx = 1;
        for (int i = 0; i < POWER_UP; i++) cycle();
    }

    ~Line() {
#if VM_TRACE
        trace.close();
#endif
        top.final();
    }

    void evaluate(int clock) {
        top.clock = clock;
        top.eval();
#if VM_TRACE
        trace.dump(2 * cycles + !clock);
#endif
    }

    void cycle() {
        evaluate(1);
        evaluate(0);
        cycles++;
        if (bits_left == 0) {
            if (!top.tx) bits_left = 9, next_sample = 256 * cycles + period * 3 / 2;
        } else if (256 * cycles >= next_sample) {
            next_sample += period;
            frame = frame >> 1 | unsigned(top.tx) << 8;
            if (--bits_left == 0 && top.tx) received.push_back(frame & 0xff);
        }
    }

    void send(const std::vector<uint8_t>& bytes) {
        uint64_t edge = 256 * cycles;
        for (uint8_t byte : bytes) {
            const unsigned frame = 1u << 9 | unsigned(byte) << 1;
            for (int bit = 0; bit < 10; bit++) {
                top.rx = frame >> bit & 1;
                edge += period;
                while (256 * cycles < edge) cycle();
            }
        }
    }
};

template <typename T> T take() {
    T value;
    if (std::fread(&value, sizeof value, 1, stdin) != 1) std::exit(1);
    return value;
}

template <typename T> void give(T value) { std::fwrite(&value, sizeof value, 1, stdout); }

int main(int count, char** arguments) {
    Line line(count > 1 ? std::strtoull(arguments[1], nullptr, 10) : 0, count > 2 ? arguments[2] : "");
    for (int request; (request = std::getchar()) != EOF;) {
        const uint32_t size = take<uint32_t>();
        if (request == 'W') {
            std::vector<uint8_t> bytes(size);
            if (size && std::fread(bytes.data(), size, 1, stdin) != 1) return 1;
            line.send(bytes);
        } else if (request == 'R') {
            const uint64_t end = line.cycles + take<uint64_t>();
            while (line.received.size() < size && line.cycles < end) line.cycle();
            const uint32_t got = line.received.size() < size ? line.received.size() : size;
            give(got);
            for (uint32_t i = 0; i < got; i++) give(line.received.front()), line.received.pop_front();
            give(line.cycles);
            std::fflush(stdout);
        } else {
            return 1;
        }
    }
}
